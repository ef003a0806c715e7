//! `shmtool requests`: the requests in progress of one segment, and their branches.

pub(crate) mod args;
pub(crate) mod text;
pub(crate) mod typed;

use crate::error::ToolError;
use crate::survey::{Liveness, Survey};
use crate::who::Holder;
use ringmill_shm::arena::{Content, Seen, Task};
use ringmill_shm::segment::{Run, Segment};
use ringmill_shm::sys::time::now_ns;
use ringmill_shm::text::{shown, shown_path};
use ringmill_shm::word::Phase;
use serde::{Serialize, Serializer};
use std::time::Duration;
use typed::{Printers, WHOLE_BYTES};

/// Which requests to report, and how much of them.
#[derive(Debug, Default)]
pub(crate) struct Choice {
    /// Those that are known to be older.
    pub(crate) older_than: Option<Duration>,
    /// Those that are at this node or fork, or have a branch there.
    pub(crate) servlet: Option<String>,
    /// Those that are in this phase, or have a branch that is.
    pub(crate) phase: Option<Phase>,
    /// How many bytes of each payload to show.
    pub(crate) payload_bytes: usize,
}

/// The requests of one segment that were in progress.
#[derive(Debug, Serialize)]
pub(crate) struct InProgress {
    /// The argument that commands take.
    name: String,
    /// The file.
    path: String,
    /// Whether it is in use.
    state: Liveness,
    /// The server's last report.
    run: Run,
    /// Requests that can be in progress.
    capacity: u32,
    /// Requests that are, chosen or not.
    in_progress: u32,
    /// Those left out because their age is unknown.
    without_age: u32,
    /// The oldest first; those of unknown age last.
    pub(crate) requests: Vec<Request>,
}

/// A request in progress.
#[derive(Debug, Serialize)]
pub(crate) struct Request {
    id: u32,
    /// Since when it is in progress; none: no clock was read.
    age_s: Option<f64>,
    /// Until its deadline, negative after it; none: it has none.
    deadline_s: Option<f64>,
    caller_gone: bool,
    /// The caller sleeps until the outcome is there.
    caller_asleep: bool,
    /// The caller is a future or a stream, which is told.
    wants_notice: bool,
    #[serde(flatten)]
    task: InUse,
    branches: Vec<Branch>,
}

/// A branch of a request.
#[derive(Debug, Serialize)]
pub(crate) struct Branch {
    ensemble: String,
    /// Its number among the ensemble's members.
    member: u32,
    #[serde(flatten)]
    task: InUse,
}

/// What requests and branches have in common.
#[derive(Debug, Serialize)]
pub(crate) struct InUse {
    /// Its number in the segment; of a request, its id.
    task: u32,
    generation: u16,
    #[serde(serialize_with = "by_name")]
    phase: Phase,
    /// The node or ensemble where it is.
    servlet: Option<String>,
    /// User code of that node may have seen it.
    begun: bool,
    /// The participant that must act next; none: it is forked.
    owner: Option<Holder>,
    attempt: u8,
    /// Since when it is queued there; none: no clock was read.
    queued_s: Option<f64>,
    payload: Payload,
}

#[derive(Debug, Serialize)]
struct Payload {
    content: Content,
    bytes: u32,
    /// The header names a place where no such payload can lie.
    impossible: bool,
    /// The size of the block that it lies in; none: in line.
    block_bytes: Option<u64>,
    /// The task whose memory it is.
    of_task: Option<u32>,
    /// The name of its type; none: it is unknown, or the payloads were not asked for.
    #[serde(rename = "type")]
    type_name: Option<String>,
    /// The value in words; none: the type is not one that can be printed, or the payload is not whole.
    value: Option<String>,
    /// Its first bytes, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "in_hex")]
    hex: Option<Vec<u8>>,
}

fn by_name<S: Serializer>(phase: &Phase, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(phase.name())
}

fn in_hex<S: Serializer>(bytes: &Option<Vec<u8>>, to: S) -> Result<S::Ok, S::Error> {
    let hex = |bytes: &Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    bytes.as_ref().map(hex).serialize(to)
}

/// Reads the requests of a segment.
pub(crate) fn requests(name: &str, choice: &Choice, printers: &Printers) -> Result<InProgress, ToolError> {
    let (survey, segment) = Survey::open(name)?;
    of(&survey, &segment, choice, Some(printers))
}

/// Reads the requests of an open segment.
pub(crate) fn of(
    survey: &Survey,
    segment: &Segment,
    choice: &Choice,
    printers: Option<&Printers>,
) -> Result<InProgress, ToolError> {
    if let Some(servlet) = &choice.servlet {
        known(segment, servlet)?;
    }
    let capacity = segment.shape().requests;
    let mut report = InProgress {
        name: shown(&survey.location.to_text()),
        path: shown_path(&survey.location.path()),
        state: survey.state,
        run: segment.run(),
        capacity,
        in_progress: 0,
        without_age: 0,
        requests: Vec::new(),
    };
    for task in (0..capacity).filter_map(|id| Task::new(segment, id)) {
        let Some(seen) = task.look(choice.read_bytes()) else { continue };
        report.in_progress += 1;
        let request = Request::of(&seen, choice, printers);
        if !request.is_at(choice) {
            continue;
        }
        match (choice.older_than, request.age_s) {
            (Some(_), None) => report.without_age += 1,
            (Some(least), Some(age_s)) if age_s < least.as_secs_f64() => {}
            _ => report.requests.push(request),
        }
    }
    // Of one age, or of unknown age, by id.
    report.requests.sort_by(|a, b| b.age_s.unwrap_or(-1.0).total_cmp(&a.age_s.unwrap_or(-1.0)));
    Ok(report)
}

/// Whether the plan has a servlet of this name, as reports show it.
fn known(segment: &Segment, servlet: &str) -> Result<(), ToolError> {
    let nodes = segment.nodes().iter().map(|node| &node.name);
    let names: Vec<_> =
        nodes.chain(segment.routes().forks.iter().map(|fork| &fork.name)).map(|n| shown(n)).collect();
    match names.iter().any(|name| name == servlet) {
        true => Ok(()),
        false => Err(ToolError::NoServlet { servlet: servlet.into(), all: names.join(", ") }),
    }
}

impl Choice {
    /// How many bytes of each payload to read.
    fn read_bytes(&self) -> usize {
        if self.payload_bytes > 0 { self.payload_bytes.max(WHOLE_BYTES) } else { 0 }
    }
}

impl Payload {
    fn of(seen: &Seen<'_>, choice: &Choice, printers: Option<&Printers>) -> Self {
        let of = &seen.payload;
        let is_asked = choice.payload_bytes > 0;
        let type_name = seen.payload_type().filter(|_| is_asked);
        let is_whole = of.place.is_some() && of.bytes.len() == of.length as usize && seen.at_once;
        let value = type_name.zip(printers).filter(|_| is_whole);
        Self {
            content: of.content,
            bytes: of.length,
            impossible: of.place.is_none(),
            block_bytes: of.place.and_then(|place| place.block_bytes),
            of_task: of.place.map(|place| place.task),
            type_name: type_name.map(shown),
            value: value.and_then(|(name, printers)| printers.text(name, &of.bytes)),
            hex: is_asked.then(|| of.bytes[..of.bytes.len().min(choice.payload_bytes)].to_vec()),
        }
    }
}

impl Request {
    fn of(seen: &Seen<'_>, choice: &Choice, printers: Option<&Printers>) -> Self {
        let now_ns = now_ns();
        let since = |ns: u64| now_ns.saturating_sub(ns) as f64 / 1e9;
        let until = |ns: u64| if ns >= now_ns { (ns - now_ns) as f64 / 1e9 } else { -since(ns) };
        let task = |seen: &Seen<'_>| InUse {
            task: seen.task.id(),
            generation: seen.state.generation(),
            phase: seen.phase,
            servlet: seen.stage_name().map(shown),
            begun: seen.is_begun(),
            owner: seen.state.owner().map(|token| Holder::of(seen.task.segment(), token, "callers")),
            attempt: seen.state.attempt(),
            queued_s: seen.queued_ns().map(since),
            payload: Payload::of(seen, choice, printers),
        };
        let branch = |seen: &Seen<'_>| {
            let (fork, member) = seen.member()?;
            let fork = seen.task.segment().routes().forks.get(fork as usize)?;
            Some(Branch { ensemble: shown(&fork.name), member, task: task(seen) })
        };
        Self {
            id: seen.task.id(),
            age_s: seen.task.begun_ns().map(since),
            deadline_s: seen.deadline_ns().map(until),
            caller_gone: seen.state.is_cancelled(),
            caller_asleep: seen.state.is_waiting(),
            wants_notice: seen.state.wants_notice(),
            task: task(seen),
            branches: seen.branches(choice.read_bytes()).filter_map(|seen| branch(&seen)).collect(),
        }
    }

    /// Whether a participant must act next on it, or on a branch of it.
    pub(crate) fn is_held_by(&self, participant: u32) -> bool {
        self.tasks().any(|task| task.owner.as_ref().is_some_and(|owner| owner.participant == participant))
    }

    /// Itself and its branches.
    fn tasks(&self) -> impl Iterator<Item = &InUse> {
        std::iter::once(&self.task).chain(self.branches.iter().map(|branch| &branch.task))
    }

    /// Whether it, or a branch of it, is at the chosen servlet in the chosen phase.
    fn is_at(&self, choice: &Choice) -> bool {
        self.tasks().any(|task| {
            choice.phase.is_none_or(|phase| task.phase == phase)
                && (choice.servlet.is_none() || task.servlet == choice.servlet)
        })
    }
}
