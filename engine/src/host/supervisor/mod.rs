//! The supervisor: one thread in the server's process that notices deaths, repairs what the dead left, answers their
//! requests, and restarts workers.
//!
//! # Protocol
//!
//! The supervisor sleeps in `poll` on the pidfds and [tethers](ringmill_shm::sys::tether) of all worker processes and
//! on one eventfd for commands of callers. It kills a process whose tether is closed while it lives, since that is no
//! worker any more. Each unit has one post: a worker's process with the rows of all its threads, or one thread of the
//! server's process, which ends early only by a fatal error. After a death the supervisor marks the rows DEAD; repairs
//! (with `WorkerDied` for the tasks on which the worker was working); rings all bells; schedules the restart, or gives
//! the worker up, as the servlet's [`Restarts`](crate::Restarts) say. A servlet whose last worker is given up is down:
//! its requests, in its ring and to come, are answered with an error that says why, until a worker that is started on
//! trial is ready.
//!
//! # Ordering
//!
//! * `[gate]`: the supervisor marks the node (`[down]` of `doorbell`), then empties its ring; a participant that pushes
//!   after that sees the mark and empties the ring again. If every request passes that node, the supervisor also closes
//!   the gate, so that callers are refused at once. When a worker is ready again, the mark is cleared first, then the
//!   gate opens: a caller that still sees either is refused, and a task that is pushed meanwhile is taken out by that
//!   worker or by its pusher.
//!
//! # Crash
//!
//! The supervisor dies with the server's process; then the workers leave and the segment is stale. If its thread panics
//! all the same (panics of the log's listeners are caught), no thread is left that notices a death: every servlet is
//! down from then on, its processes are killed, and their requests are answered; but not a request that the supervisor
//! itself was handling.
#![expect(unsafe_code, reason = "the contracts of rows, and of leases that the server holds or shares")]

mod burial;
mod clients;
mod connected;
mod job;
pub(crate) mod lever;
mod levers;
mod limits;
mod masks;
mod post;
mod pulled;
mod restart;
mod retire;
mod shared;
mod stage;
mod state;

pub(crate) use shared::{Limits, SILENCE, Shared};
pub(crate) use state::Supervisor;

use crate::error::StartError;
use crate::host::child;
use crate::host::control::Controller;
use crate::host::events::relay::{Relay, Source};
use crate::host::janitor::Janitor;
use crate::host::order::{Order, Origin};
use crate::host::recipe::{Begins, Recipe};
use crate::host::report::Report;
use crate::host::spawn::{self, Ended, KILL_LIMIT, Process, SpawnError, Spawned, Unwatched};
use crate::panics::{joined, say};
use crate::plan::PlanNode;
use crate::policy::patience::Wait;
use crate::policy::placement::Placement;
use crate::text::OneLine;
use crate::worker::{Live, Seat, Unit};
use burial::Ending;
use connected::Connected;
use limits::{say_it_survives, stage_of};
use post::{Body, Farewell, Post, Starter, UnwatchedUnit, posts};
use restart::{failed_start, is_shortage};
use ringmill_shm::participant::Entry;
use ringmill_shm::repair::wake_everyone;
use ringmill_shm::segment::Run;
use ringmill_shm::stats::Snapshot;
use ringmill_shm::sys::birth::Birth;
use ringmill_shm::sys::cpu::{cpus_of, pin_thread};
use ringmill_shm::sys::process::{is_ending, user_id, wait_readable};
use ringmill_shm::token::Token;
use shared::Command;
use stage::{Looks, Seen, Stage};
use state::EarlyDeaths;
use std::os::fd::AsRawFd;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tracing::level_filters::LevelFilter;

/// How often a thread that waits for the supervisor looks at the command.
const LOOK_AT_COMMANDS: Duration = Duration::from_millis(500);

/// A handle to the running supervisor.
#[derive(Debug)]
pub(crate) struct Handle {
    thread: Mutex<Option<JoinHandle<()>>>,
    over: Arc<Over>,
    early_deaths: Arc<Mutex<EarlyDeaths>>,
    started: Arc<AtomicBool>,
    /// By node: the program that its workers run, if that becomes a worker by a call.
    called: Vec<Option<PathBuf>>,
    birth: Birth,
}

impl Handle {
    /// From now on dead workers are restarted.
    pub(crate) fn server_is_ready(&self, shared: &Shared) {
        self.started.store(true, Ordering::SeqCst);
        shared.commands.signal(); // a worker may have died since it was ready
    }

    /// The error for a worker that ended before it was ready.
    pub(crate) fn early_death(&self, servlet: String, node: u32, worker: u32, row: u32) -> StartError {
        if let Some(reason) = self.reason(row) {
            return StartError::Join { servlet, worker, reason };
        }
        let deaths = self.early_deaths.lock().unwrap_or_else(|e| e.into_inner());
        let death = deaths.iter().find(|(of, ..)| *of == row);
        let status = death.map(|(_, status, _)| *status);
        let text = status.map_or("ended".into(), |status| status.to_string());
        let (code, program) = (status.and_then(Ended::code), self.called(node));
        StartError::Died { servlet, worker, status: text, code, program }
    }

    /// The error for a worker that was not ready in time.
    pub(crate) fn late(
        &self,
        servlet: String,
        node: u32,
        worker: u32,
        row: u32,
        limit: Duration,
    ) -> StartError {
        match self.reason(row) {
            Some(reason) => StartError::Join { servlet, worker, reason },
            None => StartError::Timeout { servlet, worker, limit, program: self.called(node) },
        }
    }

    /// Why a worker cannot attach, as it has said.
    fn reason(&self, row: u32) -> Option<String> {
        let deaths = self.early_deaths.lock().unwrap_or_else(|e| e.into_inner());
        deaths.iter().find(|(of, ..)| *of == row)?.2.clone()
    }

    /// The program of a node's workers, if that becomes a worker by a call.
    fn called(&self, node: u32) -> Option<PathBuf> {
        self.called.get(node as usize).cloned().flatten()
    }

    /// Waits until every worker has gone, up to the instant that `until` returns, which may change.
    pub(crate) fn join(&self, until: impl Fn() -> Instant) {
        let mut is_over = self.over.is_over();
        while !*is_over {
            let left = until().saturating_duration_since(Instant::now());
            if left.is_zero() {
                say(|| {
                    tracing::error!(
                        "the supervisor does not end: a listener of the log, or a switch's function, holds it up"
                    )
                });
                return;
            }
            let waited = self.over.changed.wait_timeout(is_over, left.min(LOOK_AT_COMMANDS));
            is_over = waited.unwrap_or_else(|e| e.into_inner()).0;
        }
        drop(is_over);
        let thread = self.thread.lock().unwrap_or_else(|e| e.into_inner()).take();
        thread.map(joined); // a panic has been handled by `resign`
    }
}

/// The supervisor's thread is on a worker's CPUs; dropped, it goes back to those on which it was.
struct Visit<'a> {
    placement: &'a Placement,
    before: Vec<usize>,
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        // Refused once the kernel has taken all of these CPUs away: the worker's are not to be kept either.
        if pin_thread(&self.before).is_err() {
            let _ = pin_thread(self.placement.allowed());
        }
    }
}

/// Whether the supervisor's thread has done its last work.
#[derive(Debug, Default)]
struct Over {
    is_over: Mutex<bool>,
    changed: Condvar,
}

impl Over {
    fn is_over(&self) -> MutexGuard<'_, bool> {
        self.is_over.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Sets [`Over`] when it is dropped.
struct Tell(Arc<Over>);

impl Drop for Tell {
    fn drop(&mut self) {
        *self.0.is_over() = true;
        self.0.changed.notify_all();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // A forked child has no such thread, and the handle may belong to another thread by now.
        if !self.birth.is_here() {
            std::mem::forget(self.thread.get_mut().unwrap_or_else(|e| e.into_inner()).take());
        }
    }
}

impl Supervisor {
    /// Prepares the rows and starts all workers in parallel.
    ///
    /// # Errors
    /// If a process or thread cannot be started; those that were started are killed.
    pub(crate) fn start(
        shared: Arc<Shared>,
        nodes: &[PlanNode],
        server_name: &str,
        wait: Wait,
        events: LevelFilter,
    ) -> Result<Handle, StartError> {
        let limits = [shared.limits.start, shared.limits.shutdown];
        let looks = Looks::for_limits(nodes.iter().filter_map(|node| node.exec_timeout).chain(limits));
        let posts = posts(&shared.segment, nodes, server_name, wait)?;
        let called = (0..).zip(nodes).map(|(node, _)| {
            let post = posts.iter().find(|post| post.node == node)?;
            post.called().map(Path::to_path_buf)
        });
        let called = called.collect();
        let supervisor = Self {
            relay: start_relay(&shared, &posts, events)?,
            controller: Some(start_controller(&shared, server_name)?),
            posts,
            clients: Connected::rows(&shared.segment),
            server_name: server_name.into(),
            shared,
            early_deaths: Arc::default(),
            started: Arc::default(),
            group: 0,
            finished: vec![0; nodes.len()],
            looks,
            jobs: Vec::new(),
            types: nodes.iter().map(|node| node.type_elsewhere).collect(),
            silent_until: None,
            cpus: Vec::new(),
            cpus_taken: Vec::new(),
        };
        let (early_deaths, started) = (Arc::clone(&supervisor.early_deaths), Arc::clone(&supervisor.started));
        let (told, tell) = std::sync::mpsc::channel();
        let over = Arc::<Over>::default();
        let tell_over = Tell(Arc::clone(&over));
        let shared = Arc::clone(&supervisor.shared);
        let thread = std::thread::Builder::new().name("ringmill-supervisor".into()).spawn(move || {
            let _tell_over = tell_over; // dropped last
            let mut supervisor = supervisor;
            supervisor.shared.enter();
            if let Err(error) = supervisor.shared.placement.keep_off() {
                say(|| tracing::debug!(%error, "the supervisor stays on the CPUs of the thread that started it"));
            }
            supervisor.cpus = ringmill_shm::sys::cpu::allowed().unwrap_or_default();
            let launched = supervisor.launch_all();
            let failed = launched.is_err();
            let _ = told.send(launched); // the receiver waits for it
            if failed {
                supervisor.shared.kill();
            }
            if let Err(panic) = crate::panics::caught(AssertUnwindSafe(|| supervisor.watch())) {
                supervisor.resign(&panic);
            }
            if let Some((relay, _)) = supervisor.relay.take() {
                relay.end();
            }
        });
        let thread =
            thread.map_err(|error| StartError::System { what: "start the supervisor's thread", error })?;
        let thread = Mutex::new(Some(thread));
        let handle = Handle { thread, over, early_deaths, started, called, birth: Birth::here() };
        let join = || handle.join(shared.over_by(2 * KILL_LIMIT));
        // A limit also on starting a process: the standard library waits for ever if the child cannot report.
        match tell.recv_timeout(shared.limits.start) {
            Ok(Ok(())) => Ok(handle),
            Ok(Err(error)) => {
                join();
                Err(error)
            }
            Err(RecvTimeoutError::Timeout) => {
                shared.segment.set_run(Run::Stopping); // for a process that only that thread knows
                wake_everyone(&shared.segment);
                shared.kill();
                join();
                let error = std::io::ErrorKind::TimedOut.into();
                Err(StartError::System { what: "start the workers within the start_timeout", error })
            }
            Err(RecvTimeoutError::Disconnected) => {
                join();
                Err(StartError::System {
                    what: "run the supervisor",
                    error: std::io::ErrorKind::Other.into(),
                })
            }
        }
    }

    fn launch_all(&mut self) -> Result<(), StartError> {
        for index in (0..self.posts.len()).filter(|&index| self.posts[index].staffed).collect::<Vec<_>>() {
            self.launch(index)?;
            crash_point!("supervisor.launched");
        }
        self.hire_janitor();
        Ok(())
    }

    /// Starts a janitor if this process may lose the right to remove its files: see [`janitor`](crate::host::janitor).
    fn hire_janitor(&self) {
        let own = self.posts.iter().find_map(|post| match &post.starter {
            Starter::Process(recipe) if recipe.program.is_own && recipe.begins == Begins::BeforeMain => {
                Some(recipe)
            }
            _ => None,
        });
        let Some(recipe) = own.filter(|_| user_id() == 0) else { return };
        match Janitor::hire(recipe, &self.shared.segment, &self.server_name) {
            Ok(janitor) => drop(self.shared.janitor.set(janitor)), // empty: this is the only call
            Err(error) => say(|| {
                tracing::warn!(%error, "cannot start a janitor: if this process drops its privileges, its files stay");
            }),
        }
    }

    /// Starts the worker of one post. If a process was started and cannot be watched, it is ended, and what it left is
    /// repaired; if it does not end, the post has it for a body.
    fn launch(&mut self, index: usize) -> Result<(), StartError> {
        self.posts[index].span = self.posts[index].draw_span();
        self.posts[index].launches += 1;
        let post = &self.posts[index];
        let segment = &self.shared.segment;
        let at_start = post.counters(segment); // before the new worker can count
        // SAFETY: its row, by `entries`. Its former unit has ended, if there was one: a post is launched only while its
        // body is none, and `bury` and `look_at_the_unwatched`, which take one from it, have seen its end.
        let prepare = |(row, entry): (u32, &Entry)| unsafe { entry.prepare(row) };
        let tokens: Vec<Token> = post.rows.clone().zip(post.entries(segment)).map(prepare).collect();
        crash_point!("supervisor.prepared");
        let body = match &post.starter {
            Starter::Process(recipe) => match self.spawn_process(post, recipe, tokens.clone(), &at_start) {
                Ok(process) => Body::Process(process),
                Err((error, survivor)) => {
                    match survivor {
                        Some(process) => {
                            say_it_survives(&post.title, process.pid());
                            let (how, is_shortage) = (failed_start(&error), is_shortage(&error));
                            let left = UnwatchedUnit { process, tokens, how, is_shortage };
                            self.posts[index].body = Body::Unwatched(left);
                        }
                        None => self.forget(index, &tokens),
                    }
                    return Err(error);
                }
            },
            Starter::Thread(live) => self.spawn_thread(post, tokens[0], Arc::clone(live))?,
        };
        let post = &mut self.posts[index];
        post.body = body;
        post.tokens = tokens;
        post.since = Instant::now();
        post.at_start = at_start;
        post.overran = false;
        post.retiring = None;
        post.killing = None;
        post.overdue = None;
        post.stage = Seen::new(Stage::Starting);
        post.refusals = 0;
        Ok(())
    }

    /// Moves this thread to the CPUs of a worker, until the value is dropped: what it starts meanwhile inherits them, so that
    /// all memory that the worker touches lies there from the first page on.
    fn visit(&self, post: &Post) -> Visit<'_> {
        let (cpus, placement) = (post.cpus(&self.shared.segment), &self.shared.placement);
        let before = cpus_of(0).unwrap_or_default();
        // The kernel may have taken CPUs away since the start. The worker says so itself if it cannot be pinned.
        let there = !cpus.is_empty() && pin_thread(&cpus).is_ok();
        // If another program has moved this thread, as it moves all threads of the service, the worker follows.
        if !there && before == self.cpus {
            let _ = pin_thread(placement.allowed());
        }
        Visit { placement, before }
    }

    /// Starts a worker's process. An error comes with a process that was started and has not ended.
    fn spawn_process(
        &self,
        post: &Post,
        recipe: &Recipe,
        tokens: Vec<Token>,
        at_start: &Snapshot,
    ) -> Result<Process, (StartError, Option<Unwatched>)> {
        let segment = &self.shared.segment;
        let origin = Origin::of(segment)
            .map_err(|error| (StartError::System { what: "look at the server's lease", error }, None))?;
        let order = Order {
            row: post.rows.start,
            tokens,
            wait: post.wait,
            max_requests: post.span.requests,
            origin,
            descriptors: None,
            config: None,
            type_hash: None,
            build: None,
            name: String::new(),
            events: None,
            segment: segment.location().clone(),
        };
        let level = self.relay.as_ref().map(|(_, level)| *level);
        let spawned = {
            let _there = self.visit(post);
            spawn::spawn(recipe, &post.title, order, segment, self.shared.janitor.get(), level)
        };
        let Spawned { process, events, warning } = spawned.map_err(|SpawnError { error, survivor }| {
            let servlet = segment.nodes()[post.node as usize].name.clone();
            let path = recipe.program.image.path().to_path_buf();
            (StartError::Executable { servlet, path, error }, survivor)
        })?;
        if let (Some((relay, _)), Some(line)) = (&self.relay, events) {
            let (worker, pid, row) = (post.title.clone(), process.child.id(), post.rows.start);
            relay.add(Source { line, worker, pid, row, dropped: at_start.events_dropped });
        }
        if let Some(warning) = warning {
            say(|| tracing::warn!(worker = %post.title, "a worker was started another way: {warning}"));
        }
        Ok(process)
    }

    fn spawn_thread(&self, post: &Post, token: Token, live: Live) -> Result<Body, StartError> {
        let segment = Arc::clone(&self.shared.segment);
        let system = |what| move |error| StartError::System { what, error };
        // [lease before deeds].
        let row = post.rows.start;
        segment.lease().hold(token).map_err(system("take a worker's lease"))?;
        let cpus = segment.participants()[row as usize].cpus();
        let complain = |worker: &str, what: &str| {
            let pid = std::process::id();
            say(|| tracing::error!(%worker, pid, "{}", OneLine(what)));
        };
        let unit = Arc::new(Unit::new(post.rows.clone(), complain, post.span.requests));
        let router = Arc::clone(&self.shared.router);
        let config = post.config.as_ref().map(|(bytes, _)| Arc::clone(bytes));
        let Some(seat) = Seat::new(segment, row, token, post.wait, router, Arc::clone(&unit), config) else {
            // SAFETY: no worker has the token.
            unsafe { self.shared.segment.lease().release(token) };
            return Err(system("find a worker's row")(std::io::ErrorKind::NotFound.into()));
        };
        let left = Arc::new(AtomicBool::new(false));
        let farewell = Farewell { left: Arc::clone(&left), shared: Arc::clone(&self.shared) };
        let shared = Arc::clone(&self.shared);
        let body = move || {
            let _farewell = farewell; // dropped last
            if !cpus.is_empty() {
                // The plan checked the CPUs against the allowed set; it may have shrunk since.
                if let Err(error) = pin_thread(&cpus) {
                    say(|| tracing::warn!(?cpus, %error, "cannot pin a worker's thread"));
                }
            }
            let seat = Arc::new(seat);
            shared.enter();
            seat.entry().arrive();
            child::occupy(&seat, &live)
        };
        let name = format!("ringmill-{}", post.title.rsplit_once('/').map_or("worker", |(path, _)| path));
        let _there = self.visit(post);
        match std::thread::Builder::new().name(name).spawn(body) {
            Ok(thread) => Ok(Body::Thread { thread, left, unit }),
            Err(error) => {
                // SAFETY: the thread for which the token was meant was not started.
                unsafe { self.shared.segment.lease().release(token) };
                Err(system("start a worker's thread")(error))
            }
        }
    }

    /// The supervisor's life: until every worker has gone.
    fn watch(&mut self) {
        loop {
            self.obey();
            if let Some(janitor) = self.shared.janitor.get() {
                let held = self.posts.iter().find_map(|post| match &post.starter {
                    Starter::Process(recipe) => Some(&recipe.held),
                    Starter::Thread(_) => None,
                });
                janitor.tell_if_needed(|| held.is_some_and(|held| held.root.has_changed()));
            }
            let timeout = self.next_timer().map(|at| at.saturating_duration_since(Instant::now()));
            let mut fds = vec![self.shared.commands.as_raw_fd()];
            let mut owners = vec![usize::MAX];
            for (index, post) in self.posts.iter().enumerate() {
                if let Body::Process(process) = &post.body {
                    fds.push(process.pidfd.as_raw_fd());
                    owners.push(index);
                    fds.extend(process.tether.iter().map(AsRawFd::as_raw_fd));
                    owners.resize(fds.len(), index);
                }
            }
            // What is readable is looked at below, as all of them.
            fds.extend(self.clients.iter().filter_map(Connected::fd));
            owners.resize(fds.len(), usize::MAX);
            if self.over() {
                return;
            }
            let ready = wait_readable(&fds, timeout);
            if ready[0] {
                self.shared.commands.clear();
            }
            let is_post = |index: &usize| *index != usize::MAX;
            for (&index, _) in owners.iter().zip(&ready).filter(|(index, ready)| **ready && is_post(index)) {
                self.listen(index);
                self.reap(index);
            }
            if self.looks.next() <= Instant::now() {
                // If the system refuses the wait, no descriptor ever gets ready.
                for index in 0..self.posts.len() {
                    self.listen(index);
                    self.reap(index);
                }
            }
            self.join_threads();
            self.look_at_clients();
            self.look_at_ages();
            self.look_at_limits();
            self.look_at_the_unwatched();
            self.say_what_stays();
            self.end_trials();
            self.work_for_levers();
            self.restart_due();
            self.empty_rings_of_the_down();
        }
    }

    fn stopping(&self) -> bool {
        self.shared.commanded() != Command::Watch
    }

    /// Whether no worker is left to watch.
    fn over(&self) -> bool {
        let gone = |post: &Post| match &post.body {
            // It obeys no signal and no order, which `look_at_the_killed` reports.
            Body::Process(_) => post.survives(),
            // Likewise, and `launch` has said so.
            Body::Unwatched(_) => true,
            // A thread cannot be killed: after the deadline the supervisor leaves it.
            Body::Thread { left, .. } => left.load(Ordering::SeqCst) || self.past_deadline(),
            Body::Awaiting(_) | Body::GivenUp(_) | Body::None => true,
        };
        self.stopping() && self.posts.iter().all(gone)
    }

    fn past_deadline(&self) -> bool {
        match self.shared.commanded() {
            Command::Watch => false,
            Command::Stop(deadline) => Instant::now() >= deadline,
            Command::Kill => true,
        }
    }

    /// How long a shutdown waits for workers; `None` if it is not to wait.
    fn shutdown_limit(&self) -> Option<Duration> {
        (self.shared.commanded() != Command::Kill).then_some(self.shared.limits.shutdown)
    }

    /// Obeys the command.
    fn obey(&mut self) {
        if self.stopping() && !matches!(self.shared.segment.run(), Run::Stopping) {
            self.shared.segment.set_run(Run::Stopping);
            wake_everyone(&self.shared.segment);
            self.silent_until = Some(Instant::now() + SILENCE);
        }
        if !self.past_deadline() {
            return;
        }
        if !self.started.load(Ordering::SeqCst) {
            return self.posts.iter_mut().for_each(Post::kill); // a start that has failed, and says why
        }
        let limit = self.shutdown_limit();
        for post in &mut self.posts {
            let stage = stage_of(post, &self.shared.segment);
            post.kill_at_shutdown(limit, stage);
        }
    }

    /// When to look again without a wake.
    fn next_timer(&self) -> Option<Instant> {
        let restart = self.posts.iter().filter_map(|post| match post.body {
            Body::Awaiting(at) | Body::GivenUp(Some(at)) if self.restarts_workers() => Some(at),
            _ => None,
        });
        let deadline = match self.shared.commanded() {
            Command::Stop(at) if !self.past_deadline() => Some(at),
            _ => None,
        };
        let ages = self
            .posts
            .iter()
            .filter(|_| self.restarts_workers())
            .filter_map(|post| post.leaves_at(&self.shared.segment));
        restart.chain(ages).chain(deadline).chain(self.silent_until).chain([self.looks.next()]).min()
    }

    /// Handles the reports of a process, or the end of its tether.
    fn listen(&mut self, index: usize) {
        let post = &mut self.posts[index];
        let Body::Process(process) = &mut post.body else { return };
        let was_tied = process.tether.is_some();
        for report in process.reports() {
            match report {
                Report::Reason(reason) => {
                    // Its program may take its time to end, or not end.
                    if !self.started.load(Ordering::SeqCst) {
                        let mut deaths = self.early_deaths.lock().unwrap_or_else(|e| e.into_inner());
                        deaths
                            .extend(post.rows.clone().map(|row| (row, Ended::Somehow, Some(reason.clone()))));
                    }
                    process.reason = Some(reason);
                }
                Report::Warning(warning) => {
                    say(|| tracing::warn!(worker = %post.title, "a worker {warning}"));
                }
                Report::Complaint(what) => {
                    let (pid, what) = (process.child.id(), OneLine(&what));
                    say(|| tracing::error!(worker = %post.title, pid, "{what}"));
                }
                // A script's: which program it execs is known once that runs.
                Report::Build(build) => {
                    if let Starter::Process(recipe) = &mut post.starter {
                        recipe.program.build.get_or_insert(build);
                    }
                }
            }
        }
        // A process that is ending closes its tether too.
        if was_tied && process.tether.is_none() {
            let ending = is_ending(process.child.id());
            process.strayed = ending == Some(false);
            if ending != Some(true) {
                post.kill();
            }
        }
    }

    /// Handles a process that has ended.
    fn reap(&mut self, index: usize) {
        let post = &mut self.posts[index];
        let Body::Process(process) = &mut post.body else { return };
        let Some(end) = process.ended() else { return };
        let Process { child, reason, strayed, .. } = process;
        let mut text = end.to_string();
        let strayed = *strayed && end.signal() == Some(libc::SIGKILL);
        if strayed {
            text = "it ran another program in its place, or closed its descriptors, and was killed".into();
        }
        let (pid, signal, code, reason) = (child.id(), end.signal(), end.code(), reason.take());
        let ending = Ending { pid, signal, code, text, reason, strayed };
        // SAFETY: the process has ended.
        unsafe { post.unlock_spare() };
        if !self.started.load(Ordering::SeqCst) {
            let mut deaths = self.early_deaths.lock().unwrap_or_else(|e| e.into_inner());
            deaths.extend(post.rows.clone().map(|row| (row, end, ending.reason.clone())));
        }
        crash_point!("supervisor.reaped");
        self.bury(index, &ending);
    }

    /// Handles threads that have ended.
    fn join_threads(&mut self) {
        for index in 0..self.posts.len() {
            let left =
                matches!(&self.posts[index].body, Body::Thread { left, .. } if left.load(Ordering::SeqCst));
            if !left {
                continue;
            }
            let post = &mut self.posts[index];
            let Body::Thread { thread, .. } = std::mem::replace(&mut post.body, Body::None) else { continue };
            let code = joined(thread); // panics of user code are caught within
            for &token in &post.tokens {
                // SAFETY: its thread has ended.
                unsafe { self.shared.segment.lease().release(token) };
            }
            let text = "its thread is over".into();
            let (pid, signal, reason) = (std::process::id(), None, None);
            self.bury(index, &Ending { pid, signal, code, text, reason, strayed: false });
        }
    }
}

/// Starts the thread that emits events of worker processes up to this level, if there are to be any.
fn start_relay(
    shared: &Arc<Shared>,
    posts: &[Post],
    level: LevelFilter,
) -> Result<Option<(Relay, LevelFilter)>, StartError> {
    if level == LevelFilter::OFF || !posts.iter().any(|post| matches!(post.starter, Starter::Process(_))) {
        return Ok(None);
    }
    let what = "start the thread for the workers' events";
    let relay = Relay::start(Arc::clone(shared)).map_err(|error| StartError::System { what, error })?;
    Ok(Some((relay, level)))
}

/// Starts the thread that serves the control page.
fn start_controller(shared: &Arc<Shared>, server_name: &str) -> Result<Controller, StartError> {
    let what = "start the thread that serves the control page";
    Controller::start(shared, server_name).map_err(|error| StartError::System { what, error })
}

impl Drop for Supervisor {
    /// However the thread ends, no process stays that can be killed.
    fn drop(&mut self) {
        *self.shared.pulls() = None; // threads that wait for an answer go on
        self.controller.take().into_iter().for_each(Controller::end);
        self.posts.iter_mut().for_each(Post::kill);
        for post in &mut self.posts {
            if let Body::Process(process) = &mut post.body
                && !post.killing.is_some_and(|killing| killing.is_told)
                && process.await_end(KILL_LIMIT).is_none()
            {
                say_it_survives(&post.title, process.child.id());
            }
        }
        // Threads cannot be killed.
        if self.shared.segment.run() != Run::Closed {
            self.shared.segment.set_run(Run::Stopping);
            wake_everyone(&self.shared.segment);
        }
    }
}
