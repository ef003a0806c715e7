//! A start that is planned, and what is to be done when it is given up.

use super::home::{Home, create};
use super::progress::{OnProgress, Teller};
use crate::client::free_ids::FreeIds;
use crate::client::{Core, End, Host, Rows, Service};
use crate::error::{MemoryError, StartError};
use crate::host::supervisor::{Limits, Shared, Supervisor};
use crate::panics::say;
use crate::plan::{Blocks, Plan, Site};
use crate::policy::memory::{self, NumaMemory};
use crate::policy::patience::{Patience, Wait};
use crate::policy::sample::Timing;
use crate::route::Router;
use crate::servlet::Pin;
use ringmill_shm::layout::{PARTIAL_BYTES_LIMIT, PartialRings, REQUEST_LIMIT, SLOTS_LIMIT, TRACES_LIMIT};
pub(super) use ringmill_shm::segment::Service as Offer;
use ringmill_shm::segment::{Demand, HugePages, Memory, Prefault, Reserve, Segment, Spec};
use ringmill_shm::sys::numa::nodes_with_memory;
use ringmill_shm::sys::pages::lock_limit_bytes;
use ringmill_shm::sys::process::open_standard_descriptors;
use ringmill_shm::token::Token;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Duration;
use tracing::level_filters::LevelFilter;

/// The options of a server.
#[derive(Debug, Clone)]
pub(super) struct Options {
    pub(super) name: String,
    pub(super) home: Home,
    pub(super) capacity: usize,
    pub(super) clients: Clients,
    pub(super) blocks: Blocks,
    pub(super) partials: usize,
    pub(super) max_partial: usize,
    pub(super) wait: Wait,
    pub(super) timing: Timing,
    pub(super) reserve: Reserve,
    pub(super) prefault: Prefault,
    pub(super) lock_memory: bool,
    pub(super) numa_memory: NumaMemory,
    pub(super) strict_memory: bool,
    pub(super) huge_pages: HugePages,
    pub(super) traces: usize,
    pub(super) start_timeout: Duration,
    pub(super) shutdown_timeout: Duration,
    pub(super) handle_signals: bool,
    pub(super) on_progress: Option<OnProgress>,
    /// Of the workers' events.
    pub(super) forward_events: LevelFilter,
    /// Where the callers run.
    pub(super) callers: Pin,
    /// Whether workers are pinned.
    pub(super) pins: bool,
}

/// The client processes of a server.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Clients {
    pub(super) most: usize,
    pub(super) requests: Option<usize>,
}

impl Clients {
    /// How many there can be, and the requests of each: by default as many as the server's own.
    fn checked(self, capacity: u32) -> Result<(u32, u32), StartError> {
        let range = |what, value: usize, least, most| {
            let refuse = StartError::Range { servlet: None, what, value: value as u64, least, most };
            u32::try_from(value).ok().filter(|&v| (least..=most).contains(&v.into())).ok_or(refuse)
        };
        let most = range("clients", self.most, 0, (Token::INDEX_LIMIT - 2).into())?;
        let requests = self
            .requests
            .map_or(Ok(capacity), |requests| range("client_requests", requests, 1, REQUEST_LIMIT.into()))?;
        Ok((most, requests))
    }
}

impl Options {
    /// Which pages the segment gets at its creation.
    pub(super) fn reserved(&self) -> Reserve {
        let needs_all = self.lock_memory || self.prefault == Prefault::Everything;
        if needs_all { Reserve::Everything } else { self.reserve }
    }

    fn check_timing(&self) -> Result<(), StartError> {
        match self.timing {
            Timing::OneOf(count) if !(1..=Timing::MOST).contains(&count) => Err(StartError::Range {
                servlet: None,
                what: "number of requests of which one is timed",
                value: count.into(),
                least: 1,
                most: Timing::MOST.into(),
            }),
            _ => Ok(()),
        }
    }

    /// Where the server is to run, as the calling thread sees it.
    pub(super) fn site(&self) -> Result<Site, StartError> {
        let allowed = crate::policy::cpus::still_allowed();
        let callers = match self.callers.cpus() {
            Some(stated) => {
                if let Some(&cpu) = stated.iter().find(|cpu| !allowed.contains(cpu)) {
                    return Err(StartError::Cpu { servlet: None, cpu, allowed });
                }
                if let Some(twice) = stated.windows(2).find(|pair| pair[0] == pair[1]) {
                    return Err(StartError::CpuTwice { servlet: None, cpu: twice[0] });
                }
                stated.to_vec()
            }
            None => {
                let mut here = ringmill_shm::sys::cpu::allowed().unwrap_or_default();
                here.retain(|cpu| allowed.contains(cpu));
                if here.len() < allowed.len() { here } else { Vec::new() }
            }
        };
        Ok(Site { allowed, callers, pins: self.pins })
    }

    pub(super) fn traces(&self) -> Result<u32, StartError> {
        within("traces", self.traces, TRACES_LIMIT)
    }

    pub(super) fn partial_rings(&self) -> Result<PartialRings, StartError> {
        let slots = within("partials", self.partials, SLOTS_LIMIT)?;
        Ok(PartialRings {
            slots,
            bytes: within("max_partial in bytes", self.max_partial, PARTIAL_BYTES_LIMIT)?,
        })
    }
}

fn within(what: &'static str, value: usize, most: u32) -> Result<u32, StartError> {
    let refuse =
        || StartError::Range { servlet: None, what, value: value as u64, least: 0, most: most.into() };
    u32::try_from(value).ok().filter(|&value| value <= most).ok_or_else(refuse)
}

/// A start that is planned.
pub(super) struct Launch {
    pub(super) options: Options,
    pub(super) capacity: u32,
    /// What clients send and get.
    pub(super) service: Offer,
    pub(super) plan: Plan,
    pub(super) router: Arc<Router>,
}

impl Launch {
    /// What the segment is made from.
    pub(super) fn spec(&self) -> Result<Spec, StartError> {
        let Self { options, capacity, plan, .. } = self;
        let (partials, traces) = (options.partial_rings()?, options.traces()?);
        let clients = options.clients.checked(*capacity)?;
        let spec = plan.spec(*capacity, clients, &options.blocks, partials, traces, options.reserved())?;
        let spec = Spec { service: self.service.clone(), ..spec };
        let servlets: Vec<&str> = plan.nodes.iter().map(|node| node.spec.name.as_str()).collect();
        let memory =
            options.numa_memory.asked(&nodes_with_memory(), &plan.placement, &servlets, plan.entry)?;
        Ok(Spec { memory, huge_pages: options.huge_pages, ..spec })
    }

    /// Starts the server, and waits until it is ready; `None` if it was asked to stop meanwhile. Leaves nothing behind
    /// unless it succeeds.
    pub(super) fn run(self, stop: Option<&Stop>) -> Result<Option<Arc<Core>>, StartError> {
        let stopped = || stop.is_some_and(Stop::is_asked);
        open_standard_descriptors(); // before any other file is opened
        self.plan.nodes.iter().try_for_each(crate::host::registry::check)?;
        let spec = self.spec()?;
        self.options.check_timing()?;
        if stopped() {
            return Ok(None);
        }
        let Self { options, capacity, plan, router, .. } = self;
        let (name, segment) = create(options.name, options.home, &spec)?;
        let segment = Arc::new(segment);
        segment.set_allowed_cpus(plan.placement.allowed());
        segment.set_timed_every(options.timing.raw());
        segment.set_to_prefault(options.prefault);
        prefault(&segment);
        if options.lock_memory {
            lock(&segment)?;
        }
        if let Some(stop) = stop {
            stop.watch(&segment);
        }
        let limits = Limits { start: options.start_timeout, shutdown: options.shutdown_timeout };
        let mut placement = plan.placement.clone();
        let mut warnings = plan.warnings(capacity);
        warnings.extend(segment.huge_refused().map(ToString::to_string));
        if spec.memory != Memory::Anywhere {
            let (lying, errors) = memory::look(&segment);
            placement.set_memory(lying);
            warnings.extend(told(errors, options.strict_memory)?);
        }
        let shared = Arc::new(Shared::new(Arc::clone(&segment), &plan.nodes, router, limits, placement)?);
        warnings.extend(short_of_memory(&segment));
        if options.handle_signals {
            warnings.extend(super::signals::warnings());
        }
        for warning in &warnings {
            say(|| tracing::warn!(server = %name, "{warning}"));
        }
        let free_ids = FreeIds::new(segment.home_requests());
        // This starts the first process. No code that could panic comes before the core can end it.
        let events = options.forward_events;
        let supervisor = Supervisor::start(Arc::clone(&shared), &plan.nodes, &name, options.wait, events);
        // A thread that was started may keep the segment, so the files are removed here.
        let supervisor = supervisor.inspect_err(|_| shared.remove_files())?;
        let core = Arc::new_cyclic(|me| Core {
            me: Weak::clone(me),
            reactor: OnceLock::new(),
            name,
            capacity,
            entry: plan.entry,
            birth: segment.birth(),
            pid: std::process::id(),
            stamps: plan.stamps(),
            rows: Rows::new(options.timing, segment.home_caller_rows()),
            free_ids,
            patience: Patience::of_callers(options.wait),
            reserved: AtomicU32::new(0),
            cut_off: AtomicBool::new(false),
            router: Arc::clone(&shared.router),
            placement: shared.placement.clone(),
            host: Host::Server(Box::new(Service {
                end: End::default(),
                shutdown_timeout: options.shutdown_timeout,
                handle_signals: options.handle_signals,
                warnings,
                supervisor,
                shared,
            })),
            segment,
        });
        let unready = Unready(Some(core));
        let core = unready.core();
        let mut teller = Teller::new(options.on_progress);
        let Host::Server(service) = &core.host else { return Ok(None) };
        let is_ready = core.await_workers(service, options.start_timeout, || {
            teller.look(&core.segment);
            !stopped()
        })?;
        if !is_ready {
            return Ok(None);
        }
        service.supervisor.server_is_ready(&service.shared);
        Ok(Some(unready.into_ready()))
    }
}

/// Maps the pages into this process. If the system does not, their first uses will.
fn prefault(segment: &Segment) {
    if let Err(error) = segment.prefault() {
        say(|| tracing::debug!(%error, "cannot map pages of the segment before they are used"));
    }
}

/// Warnings of memory that does not lie where it is to lie.
///
/// # Errors
/// The first, if that is to be an error.
fn told(errors: Vec<MemoryError>, is_strict: bool) -> Result<Vec<String>, StartError> {
    const MOST: usize = 3;
    let more = errors.len().saturating_sub(MOST);
    let mut warnings = Vec::new();
    for error in errors {
        if is_strict {
            return Err(error.into());
        }
        warnings.push(error.to_string());
    }
    warnings.truncate(MOST);
    if more > 0 {
        warnings.push(format!("memory is not where it is to be: {more} more parts of the segment"));
    }
    Ok(warnings)
}

/// Says how much memory the server has, and may take; a warning if the system has less than that left.
fn short_of_memory(segment: &Segment) -> Option<String> {
    let Demand { reserved_bytes, to_come_bytes, left_bytes } = segment.demand();
    say(|| tracing::info!(reserved_bytes, to_come_bytes, "memory of the segment"));
    let left_bytes = left_bytes.filter(|&left| left < to_come_bytes)?;
    Some(format!(
        "payload blocks may come to take {to_come_bytes} bytes more, and {left_bytes} are left: requests that find no memory then end with NoMemory; lower capacity, max_payload or payload_classes, or give its file system and its control group more"
    ))
}

fn lock(segment: &Segment) -> Result<(), StartError> {
    segment.lock_in_memory().map_err(|error| StartError::LockMemory {
        needed_bytes: segment.total_bytes(),
        limit_bytes: lock_limit_bytes(),
        error,
    })
}

/// A server that is being started; dropping it kills the server.
struct Unready(Option<Arc<Core>>);

impl Unready {
    fn core(&self) -> Arc<Core> {
        Arc::clone(self.0.as_ref().expect("taken only by value"))
    }

    fn into_ready(mut self) -> Arc<Core> {
        self.0.take().expect("taken only by value")
    }
}

impl Drop for Unready {
    fn drop(&mut self) {
        if let Some(core) = &self.0 {
            core.kill();
        }
    }
}

/// Asks a start to stop.
#[derive(Debug, Default)]
pub(super) struct Stop(Mutex<Asked>);

#[derive(Debug, Default)]
struct Asked {
    is_asked: bool,
    /// Once it is there: the start sleeps at a bell of it.
    segment: Option<Arc<Segment>>,
}

/// Locks; a panic under the lock leaves nothing half done.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Stop {
    pub(super) fn is_asked(&self) -> bool {
        locked(&self.0).is_asked
    }

    /// From now on asking rings the bell of the start.
    pub(super) fn watch(&self, segment: &Arc<Segment>) {
        locked(&self.0).segment = Some(Arc::clone(segment));
    }

    /// The start is over, and no longer asked.
    pub(super) fn forget(&self) {
        locked(&self.0).segment = None;
    }

    pub(super) fn ask(&self) {
        let mut asked = locked(&self.0);
        asked.is_asked = true;
        if let Some(segment) = &asked.segment {
            segment.startup().ring();
        }
    }
}
