//! A post: the supervisor's record of one unit, and what runs there.
#![expect(unsafe_code, reason = "the contract of rows, passed on to the caller")]

use super::shared::Shared;
use super::stage::{Killing, Retiring, Seen, Stage};
use crate::error::StartError;
use crate::host::recipe::{Begins, Held, Program, Recipe};
use crate::host::spawn::{self, Process, Unwatched};
use crate::panics::say;
use crate::plan::{Launch, PlanNode};
use crate::policy::lifespan::{Lifespan, Span};
use crate::policy::on_death::OnDeath;
use crate::policy::patience::Wait;
use crate::policy::restarts::{Record, Restarts};
use crate::worker::{Live, Unit, title};
use ringmill_shm::participant::{Entry, Lease};
use ringmill_shm::placed::Placed;
use ringmill_shm::segment::Segment;
use ringmill_shm::stats::Snapshot;
use ringmill_shm::sys::image::Image;
use ringmill_shm::token::Token;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What runs in a post.
#[derive(Debug)]
pub(super) enum Body {
    Process(Process),
    Thread {
        /// Returns the code with which the process of such a worker would exit.
        thread: JoinHandle<i32>,
        /// See [`Farewell`].
        left: Arc<AtomicBool>,
        unit: Arc<Unit>,
    },
    /// A process that could be neither watched nor ended.
    Unwatched(UnwatchedUnit),
    /// Dead; to be restarted at this instant.
    Awaiting(Instant),
    /// Given up; to be started on trial at this instant, if at all.
    GivenUp(Option<Instant>),
    /// Not started yet, or gone in order.
    None,
}

/// A process that was started, and could be neither watched nor ended; and what is to be known once it has ended. Its
/// rows stay its own until then, since it may still come to act under its tokens.
#[derive(Debug)]
pub(super) struct UnwatchedUnit {
    pub(super) process: Unwatched,
    pub(super) tokens: Vec<Token>,
    /// How its start went, in words.
    pub(super) how: String,
    /// Whether it failed because the system lacks a process, descriptor or memory.
    pub(super) is_shortage: bool,
}

/// How the supervisor starts a post's unit.
pub(super) enum Starter {
    Process(Recipe),
    Thread(Live),
}

/// When dropped, tells the supervisor that a worker's thread is about to end. The thread counts as finished only later,
/// and no event reports that.
pub(super) struct Farewell {
    pub(super) left: Arc<AtomicBool>,
    pub(super) shared: Arc<Shared>,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        self.left.store(true, Ordering::SeqCst);
        self.shared.commands.signal();
    }
}

/// One unit: all threads of a worker's process, or one thread of the server's.
pub(super) struct Post {
    pub(super) rows: Range<u32>,
    pub(super) node: u32,
    /// The index of its worker.
    pub(super) worker: u32,
    /// Whether there is to be a unit.
    pub(super) staffed: bool,
    /// How often it was launched, and how often that failed before the unit was ready; and how it did last.
    pub(super) launches: u64,
    pub(super) failures: u64,
    pub(super) last_failure: String,
    /// The configuration of its workers, if it is not that in the segment.
    pub(super) config: Option<(Arc<Vec<u8>>, Arc<File>)>,
    pub(super) title: String,
    pub(super) wait: Wait,
    pub(super) starter: Starter,
    /// The tokens of its last incarnation, one for each row: a repair takes the dead's token from here, not from the
    /// segment.
    pub(super) tokens: Vec<Token>,
    pub(super) body: Body,
    pub(super) since: Instant,
    pub(super) restarts: Restarts,
    pub(super) on_death: OnDeath,
    pub(super) exec_timeout: Option<Duration>,
    pub(super) lifespan: Lifespan,
    /// Of the present incarnation.
    pub(super) span: Span,
    /// Set while its unit has been told to leave.
    pub(super) retiring: Option<Retiring>,
    /// By row: the call in progress; 0: none.
    pub(super) calls: Vec<Seen<u64>>,
    /// Which stage it is in.
    pub(super) stage: Seen<Stage>,
    /// The stage in which it has been for too long, and the limit.
    pub(super) overdue: Option<(Stage, Duration)>,
    /// Whether it was not ready in time, or a thread does not go on, or its process could be neither watched nor ended;
    /// and it has not been ready since.
    pub(super) hangs: bool,
    /// Whether a call took too long, so that its process is killed.
    pub(super) overran: bool,
    /// Set while its process has been killed and has not ended.
    pub(super) killing: Option<Killing>,
    pub(super) record: Record,
    /// Its rows' counters when it was started.
    pub(super) at_start: Snapshot,
    /// How many batches its former incarnations finished.
    pub(super) finished_before: u64,
    /// Whether it was started after it was given up, or while its servlet is down, and is not ready yet.
    pub(super) on_trial: bool,
    /// How often in a row the system had no process, descriptor or memory for it.
    pub(super) refusals: u32,
    /// Which of its CPUs were taken away, when the supervisor last looked.
    pub(super) cpus_taken: Vec<usize>,
}

impl Post {
    pub(super) fn entries<'s>(&self, segment: &'s Segment) -> impl Iterator<Item = &'s Entry> + use<'s> {
        segment.participants()[self.rows.start as usize..self.rows.end as usize].iter()
    }

    /// Its program, if that becomes a worker by a call.
    pub(super) fn called(&self) -> Option<&Path> {
        match &self.starter {
            Starter::Process(recipe) if recipe.begins == Begins::ByCall => Some(recipe.program.image.path()),
            Starter::Process(_) | Starter::Thread(_) => None,
        }
    }

    /// The CPUs to which its unit is pinned; none: it is not.
    pub(super) fn cpus(&self, segment: &Segment) -> Vec<usize> {
        segment.participants()[self.rows.start as usize].cpus()
    }

    /// Marks its rows as dead.
    ///
    /// # Safety
    /// Its unit acts no more: its process or thread has ended, or was never started.
    pub(super) unsafe fn mark_dead(&self, segment: &Segment) {
        // SAFETY: as the caller promises; a unit is all that acts under the tokens of its rows.
        self.entries(segment).for_each(|entry| unsafe { entry.bury() });
    }

    /// Unlocks what its process has locked through the description of the lease that the server shares with it.
    ///
    /// # Safety
    /// The process has ended. (The post has one at a time, and no other post has this description.)
    pub(super) unsafe fn unlock_spare(&self) {
        if let Starter::Process(recipe) = &self.starter {
            // SAFETY: as the caller promises.
            unsafe { Lease::release_all(&recipe.spare) };
        }
    }

    /// Kills its process, if it has one.
    pub(super) fn kill(&mut self) {
        if let Body::Process(process) = &self.body {
            spawn::kill(process);
            self.killing.get_or_insert_default();
        }
    }

    /// Kills its process, if it has one, because the server shuts down. The first time it says so, with the limit that
    /// is over, if there was one, and the stage in which the worker is.
    pub(super) fn kill_at_shutdown(&mut self, limit: Option<Duration>, stage: Stage) {
        if let Body::Process(process) = &self.body
            && self.killing.is_none()
        {
            let (pid, was) = (process.child.id(), stage.in_words());
            say(|| match limit {
                Some(limit) => tracing::warn!(
                    worker = %self.title, pid, ?limit,
                    "the shutdown kills a worker that has not ended within the shutdown_timeout: {was}"
                ),
                None => tracing::warn!(
                    worker = %self.title, pid,
                    "the shutdown was told not to wait, and kills a worker: {was}"
                ),
            });
            self.killing = Some(Killing { by_shutdown: true, ..Killing::default() });
        }
        self.kill();
    }

    /// Whether its process ended by this signal because the server shuts down.
    pub(super) fn was_killed_at_shutdown(&self, signal: Option<i32>) -> bool {
        signal == Some(libc::SIGKILL) && self.killing.is_some_and(|killing| killing.by_shutdown)
    }

    /// Whether it was killed long enough ago and still lives.
    pub(super) fn survives(&self) -> bool {
        self.killing.is_some_and(|killing| killing.is_told)
    }

    /// The sum of its rows' counters.
    pub(super) fn counters(&self, segment: &Segment) -> Snapshot {
        self.entries(segment).fold(Snapshot::default(), |sum, e| sum.merged(e.counters().snapshot()))
    }

    /// How many batches it has finished since it was started. The batch at which it gave up counts only if it has
    /// answered an item of it.
    pub(super) fn finished(&self, segment: &Segment, gave_up: bool) -> u64 {
        let (now, then) = (self.counters(segment), self.at_start);
        let in_progress = self.entries(segment).filter(|entry| entry.counters().call().is_some()).count();
        let since = |counter: fn(&Snapshot) -> u64| counter(&now).saturating_sub(counter(&then));
        let answered = since(|c| c.items) > since(|c| c.errors).saturating_add(since(|c| c.skipped));
        since(|c| c.batches).saturating_sub(in_progress as u64 + u64::from(gave_up && !answered))
    }
}

/// The posts for all workers of a plan.
///
/// # Errors
/// If a worker's executable cannot be opened.
pub(super) fn posts(
    segment: &Segment,
    nodes: &[PlanNode],
    server_name: &str,
    wait: Wait,
) -> Result<Vec<Post>, StartError> {
    let mut posts = Vec::new();
    let mut pantry = Pantry::default();
    for (index, (node, info)) in nodes.iter().zip(segment.nodes()).enumerate() {
        let mut post = |worker: u32, rows: Range<u32>, title, starter| {
            let first = info.first_participant;
            let rows = first + rows.start..first + rows.end;
            let since = Instant::now();
            posts.push(Post {
                node: index as u32,
                worker,
                staffed: worker < node.staffed,
                launches: 0,
                failures: 0,
                last_failure: String::new(),
                config: None,
                title: format!("{server_name}/{title}"),
                wait: wait_on(&segment.participants()[rows.start as usize].cpus(), nodes, wait),
                starter,
                tokens: Vec::new(),
                body: Body::None,
                since,
                restarts: node.restarts,
                on_death: node.on_death,
                exec_timeout: node.exec_timeout,
                lifespan: node.lifespan,
                span: Span::default(),
                retiring: None,
                calls: vec![Seen::new(0); rows.len()],
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
                cpus_taken: Vec::new(),
                rows,
            });
        };
        let threads = info.facts.threads;
        for worker in 0..info.rows / threads {
            let rows = worker * threads..(worker + 1) * threads;
            match &node.launch {
                Launch::Process { program, env } => {
                    let path = program.path.as_deref();
                    let image = pantry.image(path).map_err(|error| StartError::Executable {
                        servlet: info.name.clone(),
                        path: path.unwrap_or(Path::new("/proc/self/exe")).into(),
                        error,
                    })?;
                    crate::host::registry::check_image(node, &image)?;
                    let system = |what| move |error| StartError::System { what, error };
                    let starter = Starter::Process(Recipe {
                        program: Program {
                            build: image.build().cloned(),
                            is_own: path.is_none(),
                            image,
                            type_hash: None,
                        },
                        arguments: program.arguments.clone(),
                        begins: match program.lists_as {
                            Some(_) => Begins::ByCall,
                            None => Begins::BeforeMain,
                        },
                        config: None,
                        env: env.of(worker),
                        held: pantry.held().map_err(system("open /dev/null"))?,
                        spare: segment.lease().reopen().map_err(system("open the lease again"))?,
                    });
                    post(worker, rows, title(&info.name, worker, 0, 1), starter);
                }
                Launch::Thread { live } => {
                    for (thread, row) in (0..).zip(rows) {
                        let starter = Starter::Thread(Arc::clone(live));
                        post(worker, row..row + 1, title(&info.name, worker, thread, threads), starter);
                    }
                }
            }
        }
    }
    Ok(posts)
}

/// What the posts share: each executable is opened once.
#[derive(Default)]
struct Pantry {
    images: BTreeMap<Option<PathBuf>, Arc<Image>>,
    held: Option<Arc<Held>>,
}

impl Pantry {
    /// The executable of a program; this program's, if none is named.
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

/// How a worker on these CPUs waits (an empty list: it may run on any). If more threads may spin than there are CPUs
/// for them, each spinner keeps another thread from working. Of the workers of a node one spins at a time; on any CPU
/// there may also be a caller.
fn wait_on(cpus: &[usize], nodes: &[PlanNode], wait: Wait) -> Wait {
    let meets = |worker: &Placed| worker.cpus.is_empty() || worker.cpus.iter().any(|cpu| cpus.contains(cpu));
    let (spinners, cpus) = match cpus.len() {
        0 => (nodes.len() + 1, crate::policy::cpus::allowed().len()),
        n => (nodes.iter().filter(|node| node.spec.workers.iter().any(meets)).count(), n),
    };
    wait.among(spinners, cpus)
}
