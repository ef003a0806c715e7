//! A worker's place, with whatever runs in it.

use super::shared::Shared;
use super::stage::{Killing, Seen, Stage};
use crate::error::StartError;
use crate::host::recipe::{Held, Recipe};
use crate::host::spawn::{self, Process};
use crate::plan::{Launch, PlanNode};
use crate::policy::on_death::OnDeath;
use crate::policy::patience::Wait;
use crate::policy::restarts::{Record, Restarts};
use crate::worker::{Live, title};
use ringmill_shm::participant::Entry;
use ringmill_shm::segment::Segment;
use ringmill_shm::stats::Snapshot;
use ringmill_shm::sys::image::Image;
use ringmill_shm::token::Token;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What runs in a worker's place.
#[derive(Debug)]
pub(super) enum Body {
    Process(Process),
    Thread {
        /// Ends with what the process of such a worker would exit with.
        thread: JoinHandle<i32>,
        /// See [`Farewell`].
        left: Arc<AtomicBool>,
    },
    /// Dead; to be started again then.
    Awaiting(Instant),
    /// Dead too often; to be started on trial then, if at all.
    GivenUp(Option<Instant>),
    /// Nothing yet, or gone in order.
    None,
}

/// How a post's workers are started.
pub(super) enum Starter {
    Process(Recipe),
    Thread(Live),
}

/// Tells the supervisor that a worker's thread is about to end, in whatever way. The thread itself counts
/// as finished only later, and of that nobody is told.
pub(super) struct Farewell {
    pub(super) left: Arc<AtomicBool>,
    pub(super) shared: Arc<Shared>,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        self.left.store(true, Ordering::SeqCst);
        self.shared.orders.signal();
    }
}

/// One worker's places: of all threads of its process, or of one thread of the server's.
pub(super) struct Post {
    pub(super) places: Range<u32>,
    pub(super) node: u32,
    pub(super) title: String,
    pub(super) wait: Wait,
    pub(super) starter: Starter,
    /// Of its last incarnation, one for each place: whose death is repaired is not asked of the segment.
    pub(super) tokens: Vec<Token>,
    pub(super) body: Body,
    pub(super) since: Instant,
    pub(super) restarts: Restarts,
    pub(super) on_death: OnDeath,
    pub(super) exec_timeout: Option<Duration>,
    /// By place: which call goes on; 0: none.
    pub(super) calls: Vec<Seen<u64>>,
    /// What it is doing.
    pub(super) stage: Seen<Stage>,
    /// What it has been doing for too long, and the limit.
    pub(super) overdue: Option<(Stage, Duration)>,
    /// It was not ready in time, or a thread does not go on; and it has not been ready since.
    pub(super) hangs: bool,
    /// A call took too long, so its process is killed.
    pub(super) overran: bool,
    /// Its process has been killed, and has not ended yet.
    pub(super) killing: Option<Killing>,
    pub(super) record: Record,
    /// What its places' counters said when it was started.
    pub(super) at_start: Snapshot,
    /// Batches that former incarnations have finished.
    pub(super) finished_before: u64,
    /// Started again after it was given up, or while its servlet is down, and not ready yet.
    pub(super) on_trial: bool,
    /// How often in a row the system had no room for it.
    pub(super) refusals: u32,
}

impl Post {
    pub(super) fn entries<'s>(&self, segment: &'s Segment) -> impl Iterator<Item = &'s Entry> + use<'s> {
        segment.participants()[self.places.start as usize..self.places.end as usize].iter()
    }

    /// Kills its process, if it has one.
    pub(super) fn kill(&mut self) {
        if let Body::Process(process) = &self.body {
            spawn::kill(process);
            self.killing.get_or_insert_default();
        }
    }

    /// Whether it lives on although it was killed, long enough ago.
    pub(super) fn survives(&self) -> bool {
        self.killing.is_some_and(|killing| killing.is_told)
    }

    /// What its places' counters say.
    pub(super) fn counters(&self, segment: &Segment) -> Snapshot {
        self.entries(segment).fold(Snapshot::default(), |sum, e| sum.merged(e.counters().snapshot()))
    }

    /// How many batches it has finished since it was started. One in which it gave up is none, unless it has
    /// answered an item of it.
    pub(super) fn finished(&self, segment: &Segment, gave_up: bool) -> u64 {
        let (now, then) = (self.counters(segment), self.at_start);
        let in_progress = self.entries(segment).filter(|entry| entry.counters().call().is_some()).count();
        let since = |counter: fn(&Snapshot) -> u64| counter(&now).saturating_sub(counter(&then));
        let answered = since(|c| c.items) > since(|c| c.errors).saturating_add(since(|c| c.skipped));
        since(|c| c.batches).saturating_sub(in_progress as u64 + u64::from(gave_up && !answered))
    }
}

/// A post for every worker of a plan.
///
/// # Errors
/// If there is no executable that its process can be started from.
pub(super) fn posts(
    segment: &Segment,
    nodes: &[PlanNode],
    server_name: &str,
    wait: Wait,
) -> Result<Vec<Post>, StartError> {
    let mut posts = Vec::new();
    let mut pantry = Pantry::default();
    for (index, (node, info)) in nodes.iter().zip(segment.nodes()).enumerate() {
        let mut post = |places: Range<u32>, title, starter| {
            let first = info.first_participant;
            let places = first + places.start..first + places.end;
            let since = Instant::now();
            posts.push(Post {
                node: index as u32,
                title: format!("{server_name}/{title}"),
                wait: wait_on(&segment.participants()[places.start as usize].cpus(), nodes, wait),
                starter,
                tokens: Vec::new(),
                body: Body::None,
                since,
                restarts: node.restarts,
                on_death: node.on_death,
                exec_timeout: node.exec_timeout,
                calls: vec![Seen::new(0); places.len()],
                stage: Seen::new(Stage::Starting),
                overdue: None,
                hangs: false,
                overran: false,
                killing: None,
                record: Record::default(),
                at_start: Snapshot::default(),
                finished_before: 0,
                on_trial: false,
                refusals: 0,
                places,
            });
        };
        let threads = info.facts.threads;
        for worker in 0..info.places / threads {
            let places = worker * threads..(worker + 1) * threads;
            match &node.launch {
                Launch::Process { program, env } => {
                    let image = pantry.image(program.as_deref()).map_err(|error| StartError::Executable {
                        servlet: info.name.clone(),
                        path: program.clone().unwrap_or_else(|| "/proc/self/exe".into()),
                        error,
                    })?;
                    crate::host::registry::check_image(node, &image)?;
                    let system = |what| move |error| StartError::System { what, error };
                    let starter = Starter::Process(Recipe {
                        build: image.build().cloned(),
                        is_own: program.is_none(),
                        image,
                        env: env.of(worker),
                        held: pantry.held().map_err(system("open /dev/null"))?,
                        spare: segment.lease().open_again().map_err(system("open the lease again"))?,
                    });
                    post(places, title(&info.name, worker, 0, 1), starter);
                }
                Launch::Thread { live } => {
                    for (thread, place) in (0..).zip(places) {
                        let starter = Starter::Thread(Arc::clone(live));
                        post(place..place + 1, title(&info.name, worker, thread, threads), starter);
                    }
                }
            }
        }
    }
    Ok(posts)
}

/// What posts share.
#[derive(Default)]
struct Pantry {
    images: BTreeMap<Option<PathBuf>, Arc<Image>>,
    held: Option<Arc<Held>>,
}

impl Pantry {
    /// The executable of a program; of this one, if none is named.
    fn image(&mut self, program: Option<&Path>) -> io::Result<Arc<Image>> {
        if let Some(image) = self.images.get(&program.map(Path::to_path_buf)) {
            return Ok(Arc::clone(image));
        }
        let image = Arc::new(program.map_or_else(Image::own, Image::open)?);
        self.images.insert(program.map(Path::to_path_buf), Arc::clone(&image));
        Ok(image)
    }

    fn held(&mut self) -> io::Result<Arc<Held>> {
        let held = match self.held.take() {
            Some(held) => held,
            None => Arc::new(Held::new()?),
        };
        Ok(Arc::clone(self.held.insert(held)))
    }
}

/// How a worker on these CPUs waits; none: it may run on any. Where more may spin than there are CPUs to spin
/// on, each that does keeps another one from working. Of the workers of a node one spins at a time; on any CPU
/// there may also be a caller.
fn wait_on(cpus: &[usize], nodes: &[PlanNode], wait: Wait) -> Wait {
    let meets = |worker: &Vec<usize>| worker.is_empty() || worker.iter().any(|cpu| cpus.contains(cpu));
    let (spinners, cpus) = match cpus.len() {
        0 => (nodes.len() + 1, crate::policy::cpus::allowed().len()),
        n => (nodes.iter().filter(|node| node.spec.workers.iter().any(meets)).count(), n),
    };
    wait.among(spinners, cpus)
}
