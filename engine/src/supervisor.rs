//! The supervisor: one thread in the server's process that notices deaths, repairs what they left,
//! answers the requests of the dead, and starts workers anew.
//!
//! # Protocol
//!
//! It sleeps in `poll` on the pidfds of all worker processes and on one eventfd for orders. What dies and is
//! started again together has one post: a worker's process with the places of all its threads, or one thread
//! of the server's process, which ends before its time only by a fatal error. After a death: mark the places
//! DEAD; repair (with `WorkerDied` for what the worker was working on); wake everybody;
//! schedule the restart, or give the worker up, as the servlet's [`Restarts`] say. A servlet whose last worker is
//! given up is *down*: its requests, in its ring and to come, are answered with an error that says why, until a
//! worker that is started again on trial is ready.
//!
//! # Ordering
//!
//! * *down*: the supervisor marks the node (`doorbell`), then empties its ring; who pushes into it after
//!   that sees the mark and empties it again. Callers are told at once where every request comes by that
//!   node: the gate is closed too. When a worker is ready again the mark goes first, then the gate opens: who
//!   still saw either is refused, and what anybody pushes meanwhile, that worker or he himself takes out.
//!
//! # Crash
//!
//! The supervisor dies with the server's process; then the workers leave and the segment is stale. Should its
//! thread panic all the same (panics of the log's listeners are caught), nobody is left who would notice a death:
//! every servlet is down from then on, its processes are killed, and what they had is answered; not what the
//! supervisor itself had in its hands.

use crate::error::{RemoteCause, RemoteError, STOPPED_BY_ERROR, StartError};
use crate::launch::{self, Order, status_text};
use crate::on_death::{Fate, OnDeath, look_every};
use crate::patience::Wait;
use crate::plan::{Launch, Live, PlanNode};
use crate::restarts::{Next, Record, Restarts};
use crate::route::{Mover, Router};
use crate::run::Seat;
use crate::unit::Unit;
use crate::worker::title;
use ringmill_shm::arena::{At, Claimed, Join};
use ringmill_shm::participant::{Entry, Life};
use ringmill_shm::repair::{Orphan, repair, wake_everyone};
use ringmill_shm::segment::{Run, Segment};
use ringmill_shm::sys::process::{EventFd, PidFd, is_unwaited_child, wait_readable};
use ringmill_shm::token::Token;
use std::ffi::OsString;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// No sleep of who waits for a worker on trial is longer: the backstop for a wake that a dying waker owed.
const SLEEP_LIMIT: Duration = Duration::from_secs(1);

/// Back-off while the system has no process, descriptor or memory left for a worker.
const FIRST_SHORTAGE: Duration = Duration::from_millis(10);
const LONGEST_SHORTAGE: Duration = Duration::from_millis(500);

/// What callers and the supervisor share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) segment: Arc<Segment>,
    pub(crate) server: Token,
    pub(crate) router: Arc<Router>,
    /// By node: why it is down.
    down: Vec<Mutex<Option<String>>>,
    /// By node: whether every request comes by it.
    pub(crate) mandatory: Vec<bool>,
    /// A node that every request comes by is down, or the server is: the callers' gate.
    pub(crate) gate_closed: AtomicBool,
    orders: EventFd,
    order: Mutex<Wish>,
}

/// What the supervisor is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Wish {
    #[default]
    Watch,
    /// Workers leave in order, until the deadline.
    Stop(Instant),
    /// Workers are killed.
    Kill,
}

impl Shared {
    pub(crate) fn new(
        segment: Arc<Segment>,
        server: Token,
        nodes: &[PlanNode],
        router: Arc<Router>,
    ) -> Result<Self, StartError> {
        let orders = EventFd::new()
            .map_err(|source| StartError::System { what: "make an event descriptor", source })?;
        Ok(Self {
            segment,
            server,
            router,
            down: nodes.iter().map(|_| Mutex::default()).collect(),
            mandatory: nodes.iter().map(|node| node.mandatory).collect(),
            gate_closed: AtomicBool::new(false),
            orders,
            order: Mutex::default(),
        })
    }

    /// The server's process as a mover.
    #[inline]
    pub(crate) fn mover(&self) -> Mover<'_> {
        Mover {
            segment: &self.segment,
            router: &self.router,
            client: self.server,
            me: self.server,
            outbox: None,
        }
    }

    /// After the last worker has gone: whatever is in a ring, or still comes, is answered with an error.
    pub(crate) fn close(&self) {
        self.gate_closed.store(true, Ordering::SeqCst); // *down*
        for node in 0..self.segment.shape().nodes {
            self.shut(node, &RemoteCause::ShutDown);
            crash_point!("supervisor.shut_some");
        }
    }

    /// Why a node is down; `None` if it is not.
    pub(crate) fn down(&self, node: usize) -> MutexGuard<'_, Option<String>> {
        self.down[node].lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Somebody reads the ring of `node` again.
    fn reopen(&self, node: u32) {
        *self.down(node as usize) = None;
        if let Some(parts) = self.segment.node(node) {
            parts.doorbell().set_up(); // *down*
        }
        crash_point!("supervisor.reopens");
        let down = (0..self.down.len()).any(|node| self.mandatory[node] && self.down(node).is_some());
        self.gate_closed.store(down, Ordering::SeqCst);
    }

    /// Nobody reads the ring of `node` any more: what is in it is answered, now and from now on.
    fn shut(&self, node: u32, cause: &RemoteCause) {
        if let Some(parts) = self.segment.node(node) {
            parts.doorbell().set_down(); // *down*
        }
        self.mover().answer_all_in_ring(node, cause);
    }

    /// Tells the workers to leave; those that have not by the deadline are killed.
    pub(crate) fn stop(&self, deadline: Instant) {
        self.wish(Wish::Stop(deadline));
    }

    /// Kills the workers.
    pub(crate) fn kill(&self) {
        self.wish(Wish::Kill);
    }

    fn wish(&self, wish: Wish) {
        let mut order = self.order.lock().unwrap_or_else(|e| e.into_inner());
        // From killing there is no way back, and a sooner deadline stays.
        match (*order, wish) {
            (Wish::Kill, _) => {}
            (Wish::Stop(was), Wish::Stop(new)) => *order = Wish::Stop(was.min(new)),
            _ => *order = wish,
        }
        drop(order);
        self.orders.signal();
    }

    fn wished(&self) -> Wish {
        *self.order.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// What runs in a worker's place.
#[derive(Debug)]
enum Body {
    Process {
        child: Child,
        pidfd: PidFd,
    },
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
enum Starter {
    Process { program: PathBuf, env: Vec<(OsString, OsString)> },
    Thread(Live),
}

/// How what ran in a post ended.
struct Ending {
    pid: u32,
    signal: Option<i32>,
    code: Option<i32>,
    /// In words.
    text: String,
}

/// What a dead worker, or one of its threads, was working on.
struct Left<'s> {
    /// Which worker.
    worker: u32,
    tasks: Vec<Claimed<'s>>,
    joins: Vec<Join<'s>>,
}

impl Left<'_> {
    /// How many of the tasks may be tried again.
    fn suspects(&self) -> usize {
        self.tasks.iter().filter(|task| task.task().at() != At::Spoilt).count()
    }
}

/// Tells the supervisor that a worker's thread is about to end, in whatever way. The thread itself counts
/// as finished only later, and of that nobody is told.
struct Farewell {
    left: Arc<AtomicBool>,
    shared: Arc<Shared>,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        self.left.store(true, Ordering::SeqCst);
        self.shared.orders.signal();
    }
}

/// One worker's places: of all threads of its process, or of one thread of the server's.
struct Post {
    places: Range<u32>,
    node: u32,
    title: String,
    wait: Wait,
    starter: Starter,
    /// Of its last incarnation, one for each place: whose death is repaired is not asked of the segment.
    tokens: Vec<Token>,
    body: Body,
    since: Instant,
    restarts: Restarts,
    on_death: OnDeath,
    exec_timeout: Option<Duration>,
    /// By place: which call goes on, and since when it was seen to.
    calls: Vec<(u64, Instant)>,
    /// A call took too long, so its process is killed.
    overran: bool,
    record: Record,
    /// Started again after it was given up, or while its servlet is down, and not ready yet.
    on_trial: bool,
    /// How often in a row the system had no room for it.
    refusals: u32,
}

impl Post {
    fn entries<'s>(&self, segment: &'s Segment) -> impl Iterator<Item = &'s Entry> + use<'s> {
        segment.participants()[self.places.start as usize..self.places.end as usize].iter()
    }
}

/// The supervisor's own state.
pub(crate) struct Supervisor {
    shared: Arc<Shared>,
    posts: Vec<Post>,
    /// How workers ended before the server was ready, by place.
    early_deaths: Arc<Mutex<Vec<(u32, ExitStatus)>>>,
    started: Arc<AtomicBool>,
    /// The last group of tasks that are to be tried together.
    group: u32,
    /// When to look again whether calls take too long.
    next_look: Option<Instant>,
}

/// A handle to the running supervisor.
#[derive(Debug)]
pub(crate) struct Handle {
    thread: Mutex<Option<JoinHandle<()>>>,
    pub(crate) early_deaths: Arc<Mutex<Vec<(u32, ExitStatus)>>>,
    started: Arc<AtomicBool>,
}

impl Handle {
    /// From now on workers that die are started again.
    pub(crate) fn server_is_ready(&self, shared: &Shared) {
        self.started.store(true, Ordering::SeqCst);
        shared.orders.signal(); // one may have died since it was ready
    }

    /// Waits until every worker has gone.
    pub(crate) fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(|e| e.into_inner()).take();
        if let Some(thread) = thread {
            let _ = thread.join(); // its panics are ours to have prevented; nothing is left to do here
        }
    }
}

impl Supervisor {
    /// Prepares the places and starts all workers, side by side.
    ///
    /// # Errors
    /// If a process or thread cannot be started; those that were are killed.
    pub(crate) fn start(
        shared: Arc<Shared>,
        nodes: &[PlanNode],
        server_name: &str,
        wait: Wait,
    ) -> Result<Handle, StartError> {
        let mut supervisor = Self {
            posts: posts(&shared.segment, nodes, server_name, wait),
            shared,
            early_deaths: Arc::default(),
            started: Arc::default(),
            group: 0,
            next_look: None,
        };
        let (early_deaths, started) = (Arc::clone(&supervisor.early_deaths), Arc::clone(&supervisor.started));
        // Workers inherit the affinity of the thread that starts them: this one's, which is unpinned first.
        let (told, tell) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("ringmill-supervisor".into()).spawn(move || {
            let _ = ringmill_shm::sys::cpu::pin_thread(crate::cpus::allowed());
            let launched = supervisor.launch_all();
            let failed = launched.is_err();
            let _ = told.send(launched);
            if failed {
                supervisor.shared.kill();
            }
            if let Err(panic) = crate::panics::caught(AssertUnwindSafe(|| supervisor.watch())) {
                supervisor.resign(&panic);
            }
        });
        let thread =
            thread.map_err(|source| StartError::System { what: "start the supervisor's thread", source })?;
        let handle = Handle { thread: Mutex::new(Some(thread)), early_deaths, started };
        match tell.recv() {
            Ok(Ok(())) => Ok(handle),
            Ok(Err(error)) => {
                handle.join();
                Err(error)
            }
            Err(_gone) => {
                handle.join();
                Err(StartError::System {
                    what: "run the supervisor",
                    source: std::io::ErrorKind::Other.into(),
                })
            }
        }
    }

    fn launch_all(&mut self) -> Result<(), StartError> {
        for index in 0..self.posts.len() {
            self.launch(index)?;
            crash_point!("supervisor.launched");
        }
        Ok(())
    }

    /// Starts the worker of one post.
    fn launch(&mut self, index: usize) -> Result<(), StartError> {
        let post = &self.posts[index];
        let segment = &self.shared.segment;
        let tokens: Vec<Token> = post
            .places
            .clone()
            .zip(post.entries(segment))
            .map(|(place, entry)| entry.prepare(place))
            .collect();
        crash_point!("supervisor.prepared");
        let of_last = tokens.clone();
        let servlet = || segment.nodes()[post.node as usize].name.clone();
        let body = match &post.starter {
            Starter::Process { program, env } => {
                let origin = launch::Origin::of(segment)
                    .map_err(|source| StartError::System { what: "look at the server's lease", source })?;
                let (place, segment) = (post.places.start, segment.place().clone());
                let order = Order { place, tokens, wait: post.wait, origin, segment };
                let error =
                    |source| StartError::Executable { servlet: servlet(), path: program.clone(), source };
                let mut child = launch::spawn(program, &post.title, env, &order).map_err(error)?;
                crash_point!("supervisor.started");
                match PidFd::of_child(child.id()) {
                    Ok(pidfd) => Body::Process { child, pidfd },
                    Err(source) => {
                        // Without a descriptor its death could not be noticed. If it has gone already, its pid
                        // may be another's.
                        if is_unwaited_child(child.id()) {
                            let _ = child.kill();
                            let _ = child.wait();
                        }
                        return Err(StartError::System { what: "watch a worker's process", source });
                    }
                }
            }
            Starter::Thread(live) => self.spawn_thread(post, tokens[0], Arc::clone(live))?,
        };
        let post = &mut self.posts[index];
        post.body = body;
        post.tokens = of_last;
        post.since = Instant::now();
        post.overran = false;
        post.refusals = 0;
        Ok(())
    }

    fn spawn_thread(&self, post: &Post, token: Token, live: Live) -> Result<Body, StartError> {
        let segment = Arc::clone(&self.shared.segment);
        let system = |what| move |source| StartError::System { what, source };
        // *lease before deeds*.
        let place = post.places.start;
        segment.lease().hold(place).map_err(system("take a worker's lease"))?;
        let cpus = segment.participants()[place as usize].cpus();
        let unit = Arc::new(Unit::new(post.places.clone()));
        let router = Arc::clone(&self.shared.router);
        let Some(seat) = Seat::new(segment, place, token, post.wait, router, unit) else {
            self.shared.segment.lease().release(place);
            return Err(system("find a worker's place")(std::io::ErrorKind::NotFound.into()));
        };
        let left = Arc::new(AtomicBool::new(false));
        let farewell = Farewell { left: Arc::clone(&left), shared: Arc::clone(&self.shared) };
        let body = move || {
            let _farewell = farewell; // dropped last
            if !cpus.is_empty() {
                // Checked against the allowed set when planned; it may have shrunk since.
                if let Err(error) = ringmill_shm::sys::cpu::pin_thread(&cpus) {
                    say(|| tracing::warn!(?cpus, %error, "cannot pin a worker's thread"));
                }
            }
            let seat = Arc::new(seat);
            seat.entry().arrive();
            launch::occupy(&seat, &live)
        };
        let name = format!("ringmill-{}", post.title.rsplit_once('/').map_or("worker", |(path, _)| path));
        match std::thread::Builder::new().name(name).spawn(body) {
            Ok(thread) => Ok(Body::Thread { thread, left }),
            Err(source) => {
                self.shared.segment.lease().release(place);
                Err(system("start a worker's thread")(source))
            }
        }
    }

    /// The supervisor's life: until every worker has gone.
    fn watch(&mut self) {
        loop {
            self.obey();
            let timeout = self.next_timer().map(|at| at.saturating_duration_since(Instant::now()));
            let mut fds = vec![self.shared.orders.as_raw_fd()];
            let mut owners = vec![usize::MAX];
            for (index, post) in self.posts.iter().enumerate() {
                if let Body::Process { pidfd, .. } = &post.body {
                    fds.push(pidfd.as_raw_fd());
                    owners.push(index);
                }
            }
            if self.over() {
                return;
            }
            let ready = wait_readable(&fds, timeout);
            if ready[0] {
                self.shared.orders.clear();
            }
            for (&index, _) in owners.iter().zip(&ready).skip(1).filter(|(_, ready)| **ready) {
                self.reap(index);
            }
            self.join_threads();
            self.look_at_calls();
            self.end_trials();
            self.restart_due();
            self.empty_rings_of_the_down();
        }
    }

    fn stopping(&self) -> bool {
        self.shared.wished() != Wish::Watch
    }

    /// Whether there is nothing left to watch.
    fn over(&self) -> bool {
        let gone = |post: &Post| match &post.body {
            Body::Process { .. } => false,
            // A thread cannot be killed: after the deadline it is left to itself.
            Body::Thread { left, .. } => left.load(Ordering::SeqCst) || self.past_deadline(),
            Body::Awaiting(_) | Body::GivenUp(_) | Body::None => true,
        };
        self.stopping() && self.posts.iter().all(gone)
    }

    fn past_deadline(&self) -> bool {
        match self.shared.wished() {
            Wish::Watch => false,
            Wish::Stop(deadline) => Instant::now() >= deadline,
            Wish::Kill => true,
        }
    }

    /// Does what has been ordered.
    fn obey(&mut self) {
        if self.stopping() && !matches!(self.shared.segment.run(), Run::Stopping) {
            self.shared.segment.set_run(Run::Stopping);
            wake_everyone(&self.shared.segment);
        }
        if self.past_deadline() {
            for post in &self.posts {
                if let Body::Process { pidfd, .. } = &post.body {
                    launch::kill(pidfd);
                }
            }
        }
    }

    /// When to look again without being woken.
    fn next_timer(&self) -> Option<Instant> {
        let restart = self.posts.iter().filter_map(|post| match post.body {
            Body::Awaiting(at) | Body::GivenUp(Some(at)) if self.restarts_workers() => Some(at),
            _ => None,
        });
        let deadline = match self.shared.wished() {
            Wish::Stop(at) if !self.past_deadline() => Some(at),
            _ => None,
        };
        restart.chain(deadline).chain(self.next_look).min()
    }

    /// A process has ended.
    fn reap(&mut self, index: usize) {
        let post = &mut self.posts[index];
        let Body::Process { child, .. } = &mut post.body else { return };
        let status = match child.try_wait() {
            Ok(Some(status)) => status,
            Ok(None) => return,
            // Somebody else has waited for our child; it is gone all the same.
            Err(_) => ExitStatus::from_raw(0),
        };
        let ending = Ending {
            pid: child.id(),
            signal: status.signal(),
            code: status.code(),
            text: status_text(status),
        };
        if !self.started.load(Ordering::SeqCst) {
            let mut deaths = self.early_deaths.lock().unwrap_or_else(|e| e.into_inner());
            deaths.extend(post.places.clone().map(|place| (place, status)));
        }
        crash_point!("supervisor.reaped");
        self.bury(index, &ending);
    }

    /// What ran in a post has ended: repairs what it left, and sees to its successor.
    fn bury(&mut self, index: usize, ending: &Ending) {
        let segment = Arc::clone(&self.shared.segment);
        let started = self.started.load(Ordering::SeqCst);
        self.posts[index].body = Body::None;
        let post = &self.posts[index];
        let (tokens, node) = (post.tokens.clone(), post.node);
        let left_in_order = self.stopping() && post.entries(&segment).all(|e| e.life() == Life::Leaving);
        let failed = post.entries(&segment).any(|e| e.life() == Life::Failed);
        let message = post.entries(&segment).find_map(|e| launch::read_boot_message(&e.message()));
        let how = match message {
            Some(error) if ending.code == Some(STOPPED_BY_ERROR) => {
                format!("was stopped by a fatal error: {}", error.cause)
            }
            Some(error) => format!("could not start: {}", error.cause),
            None => format!("ended: {}", ending.text),
        };
        // While the server is starting, the error record of a worker that failed must stay readable, and
        // nobody beside it may look like the first to have failed.
        if !failed || started {
            post.entries(&segment).for_each(|entry| entry.set_life(Life::Dead));
        }
        crash_point!("supervisor.marked");
        let left: Vec<Left<'_>> =
            tokens.into_iter().map(|dead| self.repair_after(&segment, dead, node)).collect();
        let on_death = self.posts[index].on_death;
        let next = if left_in_order {
            Body::None
        } else if left.iter().any(|left| on_death.halves(left.suspects())) {
            say(
                || tracing::warn!(worker = %self.posts[index].title, "a worker {how}; its batch is tried again in halves"),
            );
            self.posts[index].on_trial = false;
            Body::Awaiting(Instant::now())
        } else {
            let lived = self.posts[index].since.elapsed();
            self.plan_restart(index, &how, ending.pid, lived)
        };
        let restarting = matches!(next, Body::Awaiting(_));
        for left in left {
            self.settle(index, left, ending, restarting);
        }
        crash_point!("supervisor.repaired");
        self.posts[index].body = next;
        self.give_up_if_last(node, &how);
    }

    /// Whether workers that have died are started again.
    fn restarts_workers(&self) -> bool {
        !self.stopping() && self.started.load(Ordering::SeqCst)
    }

    /// What comes in the place of a dead worker that had lived so long.
    fn plan_restart(&mut self, index: usize, how: &str, pid: u32, lived: Duration) -> Body {
        if self.stopping() {
            return Body::None;
        }
        if !self.started.load(Ordering::SeqCst) {
            return Body::Awaiting(Instant::now()); // if the server gets ready all the same
        }
        let post = &mut self.posts[index];
        post.on_trial = false;
        match post.record.death(&post.restarts, lived) {
            Next::Restart(backoff) => match Instant::now().checked_add(backoff) {
                Some(at) => {
                    say(
                        || tracing::warn!(worker = %post.title, pid, ?backoff, "a worker {how}; it will be restarted"),
                    );
                    Body::Awaiting(at)
                }
                None => {
                    say(
                        || tracing::error!(worker = %post.title, pid, ?backoff, "a worker {how}; its back-off has no end"),
                    );
                    Body::GivenUp(None)
                }
            },
            Next::GiveUp(rest) => {
                let deaths = post.record.young_deaths();
                say(
                    || tracing::error!(worker = %post.title, pid, deaths, ?rest, "a worker {how}; it is given up"),
                );
                Body::GivenUp(rest.and_then(|rest| Instant::now().checked_add(rest)))
            }
        }
    }

    /// For what the system had no room for. That is no fault of the worker, and passes: it is tried for as long
    /// as it takes.
    fn await_room(&mut self, index: usize, how: &str) -> Body {
        let post = &mut self.posts[index];
        let backoff = (FIRST_SHORTAGE * 2_u32.pow(post.refusals.min(8))).min(LONGEST_SHORTAGE);
        post.refusals += 1;
        say(|| tracing::warn!(worker = %post.title, ?backoff, "a worker {how}; it will be tried again"));
        let at = Instant::now() + backoff;
        match std::mem::take(&mut post.on_trial) {
            true => Body::GivenUp(Some(at)),
            false => Body::Awaiting(at),
        }
    }

    /// After a panic of this very thread: see the module, *Crash*. Whatever was half done is done again, as after
    /// a death.
    fn resign(&mut self, panic: &RemoteCause) {
        let reason = format!("the server's supervisor has failed: {panic}");
        let quietly = |work: &mut dyn FnMut()| {
            let _ = crate::panics::caught(AssertUnwindSafe(work)); // once is enough to know
        };
        say(|| tracing::error!("{reason}; every servlet is down"));
        let segment = Arc::clone(&self.shared.segment);
        self.shared.kill();
        segment.set_run(Run::Stopping); // for threads, which cannot be killed
        for node in 0..segment.shape().nodes {
            self.shared.down(node as usize).get_or_insert_with(|| reason.clone());
        }
        self.shared.gate_closed.store(true, Ordering::SeqCst); // *down*
        wake_everyone(&segment);
        for index in 0..self.posts.len() {
            let mut ending = Ending { pid: 0, signal: None, code: None, text: String::new() };
            match std::mem::replace(&mut self.posts[index].body, Body::None) {
                // What it has in its hands it still answers.
                Body::Thread { left, .. } if !left.load(Ordering::SeqCst) => continue,
                Body::Process { mut child, pidfd } => {
                    launch::kill(&pidfd);
                    ending.signal = child.wait().ok().and_then(|status| status.signal());
                }
                _ => {}
            }
            let node = self.posts[index].node;
            for dead in self.posts[index].tokens.clone() {
                let entry = &segment.participants()[dead.index() as usize];
                ending.pid = entry.pid();
                entry.set_life(Life::Dead);
                quietly(&mut || {
                    let left = self.repair_after(&segment, dead, node);
                    self.settle(index, left, &ending, false);
                });
            }
        }
        quietly(&mut || self.empty_rings_of_the_down());
    }

    /// Repairs what a dead worker of a node left, and moves on what only had to be moved on.
    fn repair_after<'s>(&self, segment: &'s Segment, dead: Token, node: u32) -> Left<'s> {
        let info = &segment.nodes()[node as usize];
        let worker = (dead.index() - info.first_participant) / info.threads;
        let mover = self.shared.mover();
        let mut left = Left { worker, tasks: Vec::new(), joins: Vec::new() };
        let summary = repair(segment, dead, self.shared.server, |orphan| match orphan {
            Orphan::Join(join) => left.joins.push(join),
            Orphan::Task(task) => match mover.resume(task) {
                Some(task) if task.is_abandoned() => mover.discard(task), // nobody tries it again
                suspect => left.tasks.extend(suspect),
            },
        });
        say(|| tracing::debug!(%dead, ?summary, "repaired"));
        left
    }

    /// Decides what becomes of what a dead worker was working on.
    fn settle(&mut self, index: usize, left: Left<'_>, ending: &Ending, restarting: bool) {
        let post = &self.posts[index];
        let (node, on_death) = (post.node, post.on_death);
        let (signal, code) = (ending.signal, ending.code);
        let cause = match post.exec_timeout.filter(|_| post.overran) {
            Some(limit) => RemoteCause::Overran { limit_ns: limit.as_nanos() as u64, restarting },
            None => RemoteCause::Died { signal, code, restarting },
        };
        let (worker, pid, mover) = (left.worker, ending.pid, self.shared.mover());
        let servlet = || self.shared.segment.nodes()[node as usize].name.clone();
        let error = |attempt, cause| RemoteError { servlet: servlet(), worker, pid, attempt, cause };
        let suspects = left.suspects();
        for join in left.joins {
            let error = error(join.attempt(), cause.clone());
            mover.join_again(join, error);
        }
        // Halves, where they are to be tried apart; then one that is alone stays so.
        let (mut number, mut group) = (0, self.group);
        for task in left.tasks {
            let attempt = task.attempt();
            let fate = match task.task().at() {
                At::Spoilt => Fate::Fail,
                _ => on_death.fate(suspects, attempt),
            };
            match fate {
                Fate::Fail => mover.fail(task, error(attempt, cause.clone())),
                Fate::Again { counts } => {
                    if on_death.keeps_apart() && (number == 0 || number == suspects.div_ceil(2)) {
                        group = group % (At::GROUP_LIMIT - 1) + 1;
                    }
                    number += 1;
                    mover.try_again(task, node, counts, if on_death.keeps_apart() { group } else { 0 });
                }
                Fate::Poisonous => {
                    let deaths = u32::from(attempt) + 1;
                    mover.fail(task, error(attempt, RemoteCause::Poisonous { deaths, signal, code }));
                }
            }
        }
        self.group = group;
    }

    /// Kills workers whose calls take too long.
    fn look_at_calls(&mut self) {
        let now = Instant::now();
        if self.next_look.is_some_and(|at| at > now) {
            return;
        }
        let mut next_look: Option<Instant> = None;
        for post in &mut self.posts {
            let Some(limit) = post.exec_timeout else { continue };
            next_look = next_look.into_iter().chain(now.checked_add(look_every(limit))).min();
            let Body::Process { pidfd, .. } = &post.body else { continue };
            let places = post.places.start as usize..post.places.end as usize;
            for (entry, call) in self.shared.segment.participants()[places].iter().zip(&mut post.calls) {
                let number = entry.counters().call().unwrap_or(0);
                if number != call.0 {
                    *call = (number, now);
                } else if number != 0 && now.duration_since(call.1) >= limit && !post.overran {
                    say(
                        || tracing::warn!(worker = %post.title, ?limit, "a call takes too long; its worker is killed"),
                    );
                    post.overran = true;
                    launch::kill(pidfd);
                }
            }
        }
        self.next_look = next_look;
    }

    /// If all workers of a node are given up, its requests are answered with an error from now on.
    fn give_up_if_last(&mut self, node: u32, how: &str) {
        let posts = || self.posts.iter().filter(|post| post.node == node);
        let is_given_up = |post: &Post| matches!(post.body, Body::GivenUp(_)) || post.on_trial;
        let Some(post) = posts().next().filter(|_| self.restarts_workers()) else { return };
        if !posts().all(is_given_up) {
            return;
        }
        let reason = post.restarts.giving_up(how);
        if let Some(first) =
            posts().find(|post| !post.on_trial).and_then(|p| p.entries(&self.shared.segment).next())
        {
            first.fail(reason.as_bytes()); // for whoever looks, and who answers in other processes
        }
        *self.shared.down(node as usize) = Some(reason);
        crash_point!("supervisor.gives_up");
        if self.shared.mandatory[node as usize] {
            self.shared.gate_closed.store(true, Ordering::SeqCst);
        }
        self.empty_rings_of_the_down();
    }

    fn empty_rings_of_the_down(&self) {
        for node in 0..self.shared.segment.shape().nodes {
            let reason = self.shared.down(node as usize).clone();
            if let Some(reason) = reason {
                self.shared.shut(node, &RemoteCause::Down { reason });
            }
        }
    }

    /// Looks after threads that have ended.
    fn join_threads(&mut self) {
        for index in 0..self.posts.len() {
            let left =
                matches!(&self.posts[index].body, Body::Thread { left, .. } if left.load(Ordering::SeqCst));
            if !left {
                continue;
            }
            let post = &mut self.posts[index];
            let Body::Thread { thread, .. } = std::mem::replace(&mut post.body, Body::None) else { continue };
            let code = thread.join().ok(); // user code's panics are caught inside
            for place in post.places.clone() {
                self.shared.segment.lease().release(place);
            }
            let text = "its thread is over".into();
            self.bury(index, &Ending { pid: std::process::id(), signal: None, code, text });
        }
    }

    /// Where a worker on trial is ready, its servlet takes requests again.
    fn end_trials(&mut self) {
        for index in 0..self.posts.len() {
            let post = &mut self.posts[index];
            if !post.on_trial || !post.entries(&self.shared.segment).all(|e| e.life() == Life::Ready) {
                continue;
            }
            post.on_trial = false;
            if self.shared.down(post.node as usize).is_some() {
                say(
                    || tracing::warn!(worker = %post.title, "a worker is ready; its servlet takes requests again"),
                );
                self.shared.reopen(post.node);
            }
        }
    }

    /// Has the supervisor look again once a worker on trial is ready, or is not going to be.
    fn watch_trial(&self, places: Range<u32>) -> std::io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let watch = move || {
            let bell = shared.segment.startup();
            let entries = || &shared.segment.participants()[places.start as usize..places.end as usize];
            loop {
                let count = bell.count();
                if entries().iter().all(|e| e.life() != Life::Starting) || shared.wished() != Wish::Watch {
                    break;
                }
                bell.sleep(count, Some(SLEEP_LIMIT)); // a repair rings it too
            }
            shared.orders.signal();
        };
        std::thread::Builder::new().name("ringmill-trial".into()).spawn(watch).map(|_detached| ())
    }

    fn restart_due(&mut self) {
        if !self.restarts_workers() {
            return;
        }
        for index in 0..self.posts.len() {
            let due = |at: Instant| at <= Instant::now();
            self.posts[index].on_trial = match self.posts[index].body {
                // Its trial may have failed late, or in the middle of a batch: only a trial opens a servlet again.
                Body::Awaiting(at) if due(at) => self.shared.down(self.posts[index].node as usize).is_some(),
                Body::GivenUp(Some(at)) if due(at) => true,
                _ => continue,
            };
            if let Err(error) = self.launch(index) {
                let node = self.posts[index].node;
                let how = format!("could not be started: {error}");
                let post = &self.posts[index];
                post.entries(&self.shared.segment).for_each(|entry| entry.set_life(Life::Dead));
                self.posts[index].body = match is_shortage(&error) {
                    true => self.await_room(index, &how),
                    false => self.plan_restart(index, &how, 0, Duration::ZERO), // its executable has gone: as another death
                };
                self.give_up_if_last(node, &how);
            } else if self.posts[index].on_trial
                && let Err(error) = self.watch_trial(self.posts[index].places.clone())
            {
                // Nobody would tell us when it is ready: it counts as ready.
                say(|| tracing::warn!(%error, "cannot start the thread that watches a trial"));
                self.posts[index].on_trial = false;
                self.shared.reopen(self.posts[index].node);
            }
        }
    }
}

impl Drop for Supervisor {
    /// However the thread ends, no process is left behind.
    fn drop(&mut self) {
        for post in &mut self.posts {
            if let Body::Process { child, pidfd } = &mut post.body {
                launch::kill(pidfd);
                let _ = child.wait();
            }
        }
    }
}

/// Tells the log. Its listeners are user code: a panic of theirs is no reason to let go of what the dead have left.
fn say(log: impl FnOnce()) {
    let _ = crate::panics::caught(AssertUnwindSafe(log));
}

/// Whether a worker was not started because the system has no process, descriptor or memory for it.
fn is_shortage(error: &StartError) -> bool {
    let (StartError::Executable { source, .. } | StartError::System { source, .. }) = error else {
        return false;
    };
    matches!(source.raw_os_error(), Some(libc::EAGAIN | libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}

/// A post for every worker of a plan.
fn posts(segment: &Segment, nodes: &[PlanNode], server_name: &str, wait: Wait) -> Vec<Post> {
    let mut posts = Vec::new();
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
                calls: vec![(0, since); places.len()],
                overran: false,
                record: Record::default(),
                on_trial: false,
                refusals: 0,
                places,
            });
        };
        let threads = info.threads;
        for worker in 0..info.workers / threads {
            let places = worker * threads..(worker + 1) * threads;
            match &node.launch {
                Launch::Process { program, env } => {
                    let program = program.clone().unwrap_or_else(launch::own_executable);
                    let starter = Starter::Process { program, env: env.of(worker) };
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
    posts
}

/// How a worker on these CPUs waits; none: it may run on any. Where more may spin than there are CPUs to spin
/// on, each that does keeps another one from working. Of the workers of a node one spins at a time; on any CPU
/// there may also be a caller.
fn wait_on(cpus: &[usize], nodes: &[PlanNode], wait: Wait) -> Wait {
    let meets = |worker: &Vec<usize>| worker.is_empty() || worker.iter().any(|cpu| cpus.contains(cpu));
    let (spinners, cpus) = match cpus.len() {
        0 => (nodes.len() + 1, crate::cpus::allowed().len()),
        n => (nodes.iter().filter(|node| node.workers.iter().any(meets)).count(), n),
    };
    wait.among(spinners, cpus)
}
