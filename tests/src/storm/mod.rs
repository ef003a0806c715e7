//! Storms: a killer kills and stops worker processes at random instants, and makes them fork and exec; the service
//! forks; its levers are pulled; all this while callers stream, call, hurry and go. Every request ends exactly once,
//! with the right value or an error that a death or a refusal explains; a forked child gets `CallError::Forked` and
//! nothing else; nothing is left.
//!
//! * [`clients`]: the callers, and the outcomes they accept;
//! * [`weather`]: which worker is killed when;
//! * `operator`: the levers that are pulled, and what must be so after that;
//! * `children`: forks, and how the children end;
//! * [`service`]: a service of its own, which execs another program amid calls;
//! * [`report`]: the counts.
//!
//! *Quiet moments* interrupt a storm: the callers end what they have begun, the killer waits, and then nothing may be
//! in progress: every permit, task and block is free, the segment checks clean, no servlet's code has run for a request
//! more often than its policy allows, and the callers can make as many requests as there are permits.
//!
//! A storm asserts no time, except that a request hangs if it takes longer than the watchdog's patience: then the storm
//! prints the state of every request in progress, and ends the program.

mod children;
pub mod clients;
mod operator;
pub mod report;
pub mod service;
pub mod weather;

use crate::book::Book;
use crate::dice::Dice;
use crate::tree::{self, Circumstances, Item, LARGEST, Tree};
use children::Children;
use clients::Clients;
use operator::Operated;
use report::Counts;
use ringmill::{CallError, CallOptions, Restarts, Server, Wait};
use ringmill_shm::arena::Task;
use ringmill_shm::participant::{Entry, Life, Role};
use ringmill_shm::segment::{Location, NodeInfo, Segment};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use weather::{Killer, Victims, Weather};

/// A patience that no storm outlives.
const ENDLESS: Duration = Duration::from_secs(24 * 3600);
/// How often something is looked at that cannot be waited for.
const LOOK: Duration = Duration::from_millis(1);

/// How many workers a servlet may have beyond those that it begins with, if levers are pulled.
const SPARE: usize = 2;

/// A storm over one server.
#[derive(Debug, Clone)]
pub struct Storm {
    /// The tree of servlets.
    pub tree: Tree,
    /// How many worker processes are killed.
    pub kills: Kills,
    /// The weathers that it has, in turn.
    pub weathers: Vec<Weather>,
    /// How many requests can be in progress.
    pub capacity: usize,
    /// How callers and workers wait.
    pub wait: Wait,
    /// Kills between two quiet moments.
    pub quiet_every: u64,
    /// The seed of all random choices.
    pub seed: u64,
    /// A request that takes longer hangs.
    pub patience: Duration,
}

/// How long a storm lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kills {
    /// For this many kills; workers are restarted however often they die.
    Many(u64),
    /// Until every worker process has died once, without a restart: all servlets of processes are down.
    UntilDown,
}

impl Storm {
    /// A storm of all weathers; until every servlet is down, of all but [`Levers`](Weather::Levers), which revive
    /// workers.
    #[must_use]
    pub fn over(tree: Tree, kills: Kills, seed: u64) -> Self {
        let fits = |weather: &Weather| *weather != Weather::Levers || kills != Kills::UntilDown;
        Self {
            tree,
            kills,
            weathers: Weather::ALL.into_iter().filter(fits).collect(),
            capacity: 24,
            wait: Wait::Adaptive,
            quiet_every: 250,
            seed,
            patience: Duration::from_secs(60),
        }
    }

    /// Whether levers are pulled: then workers leave and come without a death.
    #[must_use]
    pub fn has_levers(&self) -> bool {
        self.weathers.contains(&Weather::Levers)
    }

    /// Runs the storm over a server of this name, and adds to `counts`.
    ///
    /// # Errors
    /// The first broken promise.
    ///
    /// # Panics
    /// If the server does not start.
    pub fn pass(&self, name: &str, counts: &Counts) -> Result<(), String> {
        let book = Book::new().map_err(|error| format!("no book: {error}"))?;
        let (path, soon) = (book.path(), Duration::from_millis(1));
        let restarts = match self.kills {
            Kills::Many(_) => Restarts::unlimited().backoff(soon, 4 * soon),
            Kills::UntilDown => Restarts::default().limit(0).for_good(),
        };
        let spare = if self.has_levers() { SPARE } else { 0 };
        let circumstances = Circumstances { book: &path, restarts, spare, ..Circumstances::default() };
        let builder = Server::builder(name)
            .capacity(self.capacity)
            .max_payload(LARGEST)
            .partials(1)
            .wait(self.wait)
            .shutdown_timeout(self.patience); // also of workers that are to leave, which no lever kills here
        let server = builder
            .start(self.tree.servlet(&circumstances))
            .map_err(|error| format!("the server does not start: {error}"))?;
        let location = Location::named(name).map_err(|error| error.to_string())?;
        let segment = Segment::inspect(location).map_err(|error| error.to_string())?;
        let children = Children::new();
        let sky = Sky {
            storm: self,
            server: &server,
            segment: &segment,
            book,
            counts,
            victims: Victims::default(),
            operated: Operated::default(),
            children: &children,
            forks_wanted: AtomicU32::new(0),
            gate: RwLock::new(()),
            over: AtomicBool::new(false),
        };
        let outcome = sky.pass();
        let restarts: u32 = sky.victims_rows().map(Entry::restarts).sum();
        // Relaxed, both: counts.
        counts.restarts.fetch_add(restarts.into(), Ordering::Relaxed);
        counts.retired.fetch_add(server.stats().deaths.retired, Ordering::Relaxed);
        let Sky { book, .. } = sky; // workers that start open it
        let ended = match outcome.is_ok() && self.has_levers() {
            true => operator::end_amid_levers(server),
            false => {
                drop(server);
                Ok(())
            }
        };
        outcome.and(ended)?;
        drop(book);
        let left = crate::traces::files_of(name);
        if !left.is_empty() {
            return Err(format!("left behind: {left:?}"));
        }
        // Some children have outlived the server.
        children.release();
        let begun = Instant::now();
        while !children.is_empty() {
            children.reap()?;
            if begun.elapsed() > self.patience {
                return Err(format!("children do not end: {children:?}"));
            }
            std::thread::sleep(LOOK); // how often to look
        }
        Ok(())
    }
}

/// What all threads of a storm share.
struct Sky<'s> {
    storm: &'s Storm,
    server: &'s Server<Item, Item>,
    segment: &'s Segment,
    book: Book,
    counts: &'s Counts,
    victims: Victims,
    operated: Operated,
    children: &'s Children,
    /// How many forks callers are asked for.
    forks_wanted: AtomicU32,
    /// Held shared by each caller during a request, and alone in a quiet moment.
    gate: RwLock<()>,
    over: AtomicBool,
}

impl Sky<'_> {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed) // Relaxed: a flag of its own
    }

    fn victims_rows(&self) -> impl Iterator<Item = &Entry> {
        let entries = (0..).zip(self.segment.participants());
        entries.filter(|&(row, _)| self.is_victim(row)).map(|(_, entry)| entry)
    }

    /// Whether this row is of the first thread of a worker's process.
    fn is_victim(&self, row: u32) -> bool {
        self.segment.worker_of(row).is_some_and(|of| (of.0.role, of.2) == (Role::ProcessWorker, 0))
    }

    /// The node whose worker has a row.
    fn node_of(&self, entry: &Entry) -> &NodeInfo {
        let mut entries = (0..).zip(self.segment.participants());
        let row = entries.find(|(_, of)| std::ptr::eq(*of, entry)).map(|(row, _)| row);
        row.and_then(|row| self.segment.worker_of(row)).expect("a worker's").0
    }

    fn pass(&self) -> Result<(), String> {
        let clients = Clients::new(self);
        let failure = std::sync::Mutex::new(None);
        let fail = |what: &str, panic: Box<dyn std::any::Any + Send>| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            let mut failure = failure.lock().unwrap_or_else(|e| e.into_inner());
            failure.get_or_insert(format!("{what}: {}", text.unwrap_or_default()));
            self.over.store(true, Ordering::Relaxed); // Relaxed: a flag of its own
        };
        let fail = &fail;
        std::thread::scope(|scope| {
            let callers: Vec<_> = clients
                .all()
                .map(|client| {
                    scope.spawn(move || {
                        catch_unwind(AssertUnwindSafe(|| client.run()))
                            .unwrap_or_else(|e| fail(client.name(), e));
                    })
                })
                .collect();
            let (done, wait) = std::sync::mpsc::channel::<()>();
            let watchdog = scope.spawn(|| self.watch(&clients, wait));
            let killing = AssertUnwindSafe(|| Killer::new(self).run());
            catch_unwind(killing).unwrap_or_else(|e| fail("the killer", e));
            self.over.store(true, Ordering::Relaxed);
            self.victims.continue_all();
            callers.into_iter().for_each(|caller| drop(caller.join()));
            if failure.lock().unwrap_or_else(|e| e.into_inner()).is_none() {
                catch_unwind(AssertUnwindSafe(|| self.end())).unwrap_or_else(|e| fail("in the end", e));
            }
            drop(done);
            drop(watchdog.join());
        });
        match failure.into_inner().unwrap_or_else(|e| e.into_inner()) {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    /// Ends the program if a request hangs, and prints the state of all requests.
    fn watch(&self, clients: &Clients<'_>, over: std::sync::mpsc::Receiver<()>) {
        let look = Duration::from_millis(200);
        while over.recv_timeout(look) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            if let Some(client) = clients.all().find(|client| client.is_stuck(self.storm.patience)) {
                self.give_up(&format!("{} waits for more than {:?}", client.name(), self.storm.patience));
            }
        }
    }

    /// Prints the state of all callers, and ends the program; its workers leave with it.
    fn give_up(&self, what: &str) -> ! {
        let state = serde_json::to_string_pretty(&self.server.debug_info()).unwrap_or_default();
        let problems = ringmill_shm::check::check(self.segment);
        let (tree, seed) = (&self.storm.tree, self.storm.seed);
        // Not by `eprintln`: a test's output would be held back, and be lost.
        let _ = writeln!(std::io::stderr(), "{state}\n{problems:#?}\n{tree}: {what}; seed {seed}");
        let _ = writeln!(std::io::stderr(), "{}", self.threads());
        self.children.release();
        std::process::exit(2)
    }

    /// What each thread of this process and of the workers waits for, by `/proc`.
    fn threads(&self) -> String {
        let pids = self.victims_rows().map(Entry::pid).chain([std::process::id()]);
        let mut lines = String::new();
        for pid in pids {
            let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            for task in tasks {
                let read = |file: &str| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
                let stat = read("stat");
                let stat: String = stat.split(' ').take(4).collect::<Vec<_>>().join(" ");
                let (channel, call) = (read("wchan"), read("syscall"));
                lines += &format!("{stat}: {channel} {}\n", call.trim_end());
            }
        }
        lines
    }

    /// Waits until a condition holds.
    fn eventually(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !holds() {
            if begun.elapsed() > self.storm.patience {
                self.give_up(&format!("never came: {what}"));
            }
            std::thread::sleep(LOOK); // how often to look
        }
    }

    /// A quiet moment: see the module.
    fn be_quiet(&self) {
        self.victims.continue_all(); // callers wait for them
        let _alone = self.gate.write().unwrap_or_else(|e| e.into_inner());
        self.look_around();
        self.operated.forget();
        let calm = self.take_all_permits();
        self.eventually("all permits come back", || self.server.backlog() == 0);
        assert!(calm <= self.storm.capacity);
        self.look_around();
    }

    fn look_around(&self) {
        self.eventually("all permits come back", || self.server.backlog() == 0);
        let problems = ringmill_shm::check::check(self.segment);
        assert!(problems.is_empty(), "{problems:?}");
        let info = self.server.debug_info();
        assert!(info.requests.is_empty() && info.backlog == 0, "{:?}", info.requests);
        let tasks = (0..self.segment.shape().tasks()).filter_map(|id| Task::new(self.segment, id));
        let taken: Vec<_> =
            tasks.filter(|task| !task.is_free()).map(|task| (task.id(), task.word())).collect();
        assert!(taken.is_empty(), "{taken:?}");
        let blocks = ringmill_shm::pool::in_use(self.segment);
        assert!(blocks.iter().all(|&n| n == 0), "blocks are left: {blocks:?}");
        let (runs, excess) = self.book.read(&self.storm.tree.most_runs());
        assert!(excess.is_empty(), "code that ran too often (request, servlet, times): {excess:?}");
        let strays = self.book.strays();
        assert!(strays.is_none(), "workers of a replaced edition ran (times, servlet, edition): {strays:?}");
        // Relaxed, both: counts.
        self.counts.runs.fetch_add(runs, Ordering::Relaxed);
        self.counts.checks.fetch_add(1, Ordering::Relaxed);
    }

    /// Makes as many requests as there are permits, and no more; returns how many gave a value.
    fn take_all_permits(&self) -> usize {
        let options = CallOptions::new().timeout(ENDLESS);
        let mut dice = Dice::new(self.storm.seed);
        let mut item = || tree::item(self.book.begin().expect("read just now"), &mut dice);
        let inputs: Vec<Item> = (0..self.storm.capacity).map(|_| item()).collect();
        let mut pending = Vec::new();
        for input in &inputs {
            match self.server.submit_with(input, options) {
                Ok(sent) => pending.push(Some(sent)),
                Err(CallError::ServletDown { .. }) if self.storm.kills == Kills::UntilDown => {
                    pending.push(None)
                }
                Err(error) => panic!("a permit is missing: {error}"),
            }
        }
        if pending.iter().all(Option::is_some) {
            let error = self.server.submit_with(&item(), options).map(drop);
            assert!(
                matches!(error, Err(CallError::ServerBacklogFull { .. })),
                "a permit too many: {error:?}"
            );
        }
        let mut values = 0;
        for (input, sent) in inputs.iter().zip(pending) {
            let Some(mut sent) = sent else { continue };
            let begun = Instant::now();
            let outcome = loop {
                if let Some(outcome) = sent.wait_timeout(Duration::from_secs(1)) {
                    break outcome.and_then(|reply| reply.into_owned());
                }
                if begun.elapsed() > self.storm.patience {
                    self.give_up("a request of a quiet moment hangs");
                }
            };
            values += usize::from(outcome.is_ok());
            self.judge(input, &outcome);
        }
        values
    }

    /// After the storm: all workers are restarted, and everything is as before it.
    fn end(&self) {
        self.be_quiet();
        if self.storm.kills == Kills::UntilDown {
            return;
        }
        let is_back = |e: &Entry| {
            e.life() == Life::Ready && e.token().is_some_and(|token| !self.segment.is_dead(token))
        };
        let workers = || self.segment.participants()[1..].iter().filter(|e| e.life() != Life::Vacant);
        // A worker that has just been killed still looks alive.
        self.eventually("all workers are back", || self.victims.are_gone() && workers().all(is_back));
        let restarts = self.victims_rows().map(|entry| u64::from(entry.restarts())).sum::<u64>();
        let kills = self.victims.count();
        assert!(self.storm.has_levers() || restarts == kills, "{restarts} restarts after {kills} kills");
        let mut dice = Dice::new(self.storm.seed);
        for _ in 0..2 * self.storm.capacity {
            let input = tree::item(self.book.begin().expect("read just now"), &mut dice);
            let fates = self.storm.tree.fates(&input, false);
            let outcome = self.server.call(&input).and_then(|reply| reply.into_owned());
            match &outcome {
                Ok(value) => assert!(fates.values.contains(value), "{input:?}: {value:?}"),
                Err(error) => assert!(fates.error, "{input:?}: {error}"),
            }
            self.judge(&input, &outcome);
            // An ensemble that has failed may have late members.
            self.eventually("its permit comes back", || self.server.backlog() == 0);
        }
        self.look_around();
    }
}
