//! The levers of a running server: workers are scaled, restarted, replaced and killed, servlets drained, while callers call;
//! and every answer is checked.

use ringmill::error::LeverError;
use ringmill::server::Replacement;
use ringmill::{
    BoxError, CallError, CallOptions, Context, Handle, OnDeath, ProcessServlet, Restarts, Server, Servlet,
    StartError, Switch, ThreadServlet, Worker,
};
use ringmill_shm::participant::Life;
use ringmill_shm::segment::Run;
use ringmill_tests::gate::{Gate, stop_at};
use ringmill_tests::guard::guarded;
use ringmill_tests::host::{Host, on_both};
use ringmill_tests::name::Name;
use ringmill_tests::pile::{hold, wait_for_depth};
use ringmill_tests::stats::{await_permits, segment_of, workers};
use ringmill_tests::wait_until;
use rkyv::Archived;
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

ringmill::init!(Multiplier);

/// How a [`Multiplier`] is built.
#[derive(Debug, Clone, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct Plan {
    factor: u64,
    /// Where it stops at 0.
    gate: String,
    /// Workers from this index on are not built.
    sound_below: u64,
    /// Nor is the worker with this index.
    unsound: u64,
    /// What a worker does that takes the place of another: one of [`successors`].
    successors: u8,
}

mod successors {
    pub(super) const WORK: u8 = 0;
    pub(super) const FAIL: u8 = 1;
    /// It stops at its gate before it is ready.
    pub(super) const HANG: u8 = 2;
}

impl Plan {
    fn times(factor: u64) -> Self {
        let (gate, successors) = (String::new(), successors::WORK);
        Self { factor, gate, sound_below: u64::MAX, unsound: u64::MAX, successors }
    }
}

/// Multiplies by a number of its configuration; says which worker it is, and in which process. 0 stops at its gate.
struct Multiplier {
    plan: Plan,
    index: u64,
}

/// The product, the worker's index, its process.
type Product = (u64, u64, u32);

impl Worker for Multiplier {
    type Config = Plan;
    type In = u64;
    type Out = Product;

    fn new(plan: Plan, context: &Context) -> Result<Self, BoxError> {
        let index = context.worker_index() as u64;
        let is_successor = context.restarts() > 0;
        if is_successor && plan.successors == successors::HANG {
            stop_at(&plan.gate, "new");
        }
        let fails = is_successor && plan.successors == successors::FAIL;
        if index >= plan.sound_below || index == plan.unsound || fails {
            return Err(BoxError::msg(format!("worker {index} is not to be")));
        }
        Ok(Self { plan, index })
    }

    fn call(&mut self, number: &Archived<u64>) -> Result<Product, BoxError> {
        if *number == 0 {
            stop_at(&self.plan.gate, "held");
        }
        Ok((self.plan.factor * number.to_native(), self.index, std::process::id()))
    }
}

fn multiplier(plan: Plan) -> ProcessServlet<Multiplier> {
    ProcessServlet::new(plan).name("times").on_death(OnDeath::Retry(3))
}

/// A server of this many workers, and at most so many more.
fn start(host: Host, name: &Name, plan: Plan, first: usize, most: usize) -> Server<u64, Product> {
    let builder = name.builder().shutdown_timeout(Duration::from_secs(60));
    match host {
        Host::Processes => builder.start(multiplier(plan).cpus(first).max_workers(most)),
        Host::Threads => {
            builder.start(ThreadServlet::<Multiplier>::new(plan).name("times").cpus(first).max_workers(most))
        }
    }
    .expect("it starts")
}

/// Pulls levers while three threads call: each answer is the product with one of these factors. Returns how many calls there
/// were.
#[track_caller]
fn under_load(server: &Server<u64, Product>, factors: &[u64], pull: impl FnOnce()) -> u64 {
    let (done, calls) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let mut callers = Vec::new();
        for caller in 1..=3_u64 {
            let (done, calls) = (&done, &calls);
            callers.push(scope.spawn(move || {
                let mut number = caller;
                while !done.load(Ordering::Relaxed) {
                    let product = match server.call(&number) {
                        Ok(reply) => reply.0.to_native(),
                        Err(CallError::ServletDrained { .. }) => continue, // sent once more
                        Err(error) => panic!("{number}: {error}"),
                    };
                    assert!(factors.iter().any(|factor| product == factor * number), "{number}: {product}");
                    number += 3;
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        let pulled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(pull));
        done.store(true, Ordering::Relaxed);
        for caller in callers {
            caller.join().expect("its answers are right");
        }
        pulled.expect("the levers do as they are told");
    });
    await_permits(server);
    assert_eq!(ringmill_shm::check::check(&segment_of(server)), []);
    calls.into_inner()
}

fn ready(server: &Server<u64, Product>) -> Vec<usize> {
    let all = workers(server).into_iter();
    all.filter(|worker| worker.ready).map(|worker| worker.index as usize).collect()
}

#[test]
fn workers_are_scaled_between_their_bounds_under_load() {
    guarded(|| {
        on_both(|host| {
            let name = Name::new("scaled");
            let server = start(host, &name, Plan::times(7), 2, 4);
            assert_eq!(ready(&server), [0, 1]);
            assert_eq!(workers(&server)[2].state, Life::Vacant);
            under_load(&server, &[7], || {
                for count in [4, 1, 3, 1, 2, 2] {
                    server.scale("times", count).unwrap();
                    assert_eq!(ready(&server), (0..count).collect::<Vec<_>>());
                    assert!(workers(&server)[count..].iter().all(|worker| worker.state == Life::Vacant));
                }
            });
            let deaths = server.stats().deaths;
            assert_eq!((deaths.deaths, deaths.retired), (0, 3 + 2), "{deaths:?}");
            for count in [0, 5, usize::MAX] {
                match server.scale("times", count) {
                    Err(LeverError::Range { what: "number of workers", least: 1, most: 4, .. }) => {}
                    other => panic!("{other:?}"),
                }
            }
        });
    });
}

#[test]
fn workers_restart_one_after_another_under_load() {
    guarded(|| {
        on_both(|host| {
            let name = Name::new("restarted");
            let server = start(host, &name, Plan::times(5), 2, 2);
            let tokens = || -> Vec<_> {
                segment_of(&server).participants()[1..].iter().map(|entry| entry.token()).collect()
            };
            under_load(&server, &[5], || {
                for round in 0..6 {
                    let before = tokens();
                    server.restart_worker("times", round % 2).unwrap();
                    let after = tokens();
                    assert_ne!(before[round % 2], after[round % 2], "it is another one");
                    assert_eq!(before[1 - round % 2], after[1 - round % 2], "the other stays");
                    assert_eq!(ready(&server), [0, 1]);
                }
            });
            let deaths = server.stats().deaths;
            assert_eq!((deaths.deaths, deaths.retired, deaths.restarts), (0, 6, 6), "{deaths:?}");
        });
    });
}

#[test]
fn workers_are_replaced_under_load() {
    guarded(|| {
        on_both(|host| {
            // With a seat that is free, and without one.
            for most in [2, 3] {
                let name = Name::new("replaced");
                let server = start(host, &name, Plan::times(2), 2, most);
                let replace = |factor| {
                    let by = Replacement::new().config::<Multiplier>(Plan::times(factor));
                    server.replace("times", by).unwrap();
                };
                under_load(&server, &[2, 3], || replace(3));
                assert_eq!(ready(&server), [0, 1]);
                assert_eq!(server.call(&10).unwrap().0, 30);
                assert_eq!(server.stats().deaths.deaths, 0);
                // A worker that is restarted later has the new configuration too.
                server.restart_worker("times", 0).unwrap();
                server.restart_worker("times", 1).unwrap();
                let products: BTreeSet<u64> =
                    (0..20).map(|_| server.call(&10).unwrap().0.to_native()).collect();
                assert_eq!(products, [30].into());
            }
        });
    });
}

#[test]
fn what_cannot_start_replaces_nothing() {
    guarded(|| {
        on_both(|host| {
            for most in [2, 3] {
                let name = Name::new("unreplaced");
                let server = start(host, &name, Plan::times(2), 2, most);
                let tokens = || -> Vec<_> {
                    segment_of(&server).participants()[1..3].iter().map(|entry| entry.token()).collect()
                };
                let before = tokens();
                under_load(&server, &[2], || {
                    let by =
                        Replacement::new().config::<Multiplier>(Plan { sound_below: 0, ..Plan::times(9) });
                    match server.replace("times", by) {
                        Err(LeverError::NotReplaced { replaced: 0, workers: 2, reason, .. }) => {
                            assert!(reason.contains("is not to be"), "{reason}");
                        }
                        other => panic!("{other:?}"),
                    }
                });
                wait_until("the former workers are there", || ready(&server) == [0, 1]);
                let unchanged = before.iter().zip(tokens()).filter(|(a, b)| *a == b).count();
                assert_eq!(unchanged, if most == 3 { 2 } else { 1 }, "a free seat is tried first");
                assert_eq!(server.call(&10).unwrap().0, 20);
            }
        });
    });
}

#[test]
fn a_worker_that_cannot_start_is_not_added() {
    guarded(|| {
        let name = Name::new("unadded");
        let plan = Plan { sound_below: 2, ..Plan::times(2) };
        let server = start(Host::Processes, &name, plan, 1, 3);
        match server.scale("times", 3) {
            Err(LeverError::NotStarted { worker: 2, reason, .. }) => {
                assert!(reason.contains("worker 2 is not to be"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
        wait_until("those that started stay", || ready(&server) == [0, 1]);
        assert_eq!(workers(&server)[2].state, Life::Vacant);
        assert_eq!(server.call(&10).unwrap().0, 20);
        server.scale("times", 1).unwrap();
        server.scale("times", 2).unwrap();
    });
}

/// The file that the process of worker 0 runs.
fn executable(server: &Server<u64, Product>) -> u64 {
    let pid = workers(server)[0].pid;
    std::fs::metadata(format!("/proc/{pid}/exe")).expect("it runs").ino()
}

/// Puts a copy of a file there, as an installation does: another file of that name.
fn install(from: &Path, to: &Path) {
    let new = to.with_extension("new");
    std::fs::copy(from, &new).expect("room");
    std::fs::rename(&new, to).expect("one directory");
}

#[test]
fn a_new_executable_is_taken_from_the_same_path() {
    guarded(|| {
        let name = Name::new("installed");
        let directory = tempfile::tempdir().unwrap();
        let (own, path) = (std::env::current_exe().unwrap(), directory.path().join("worker"));
        install(&own, &path);
        let server = name.builder().start(multiplier(Plan::times(2)).program(&path)).unwrap();
        let first = executable(&server);
        install(&own, &path);
        under_load(&server, &[2], || server.replace("times", Replacement::new()).unwrap());
        let second = executable(&server);
        assert!(first != second && second == std::fs::metadata(&path).unwrap().ino());
        install(Path::new("/bin/true"), &path);
        match server.replace("times", Replacement::new()) {
            Err(LeverError::Unusable(error)) => {
                assert!(matches!(*error, StartError::Program { .. }), "{error}")
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(executable(&server), second, "no worker was touched");
        // By another path, and with a configuration.
        let by = Replacement::new().program(&own).config::<Multiplier>(Plan::times(3));
        server.replace("times", by).unwrap();
        assert_eq!(server.call(&10).unwrap().0, 30);
        assert_eq!(executable(&server), std::fs::metadata(&own).unwrap().ino());
    });
}

#[test]
fn a_killed_worker_is_restarted_and_its_requests_are_retried() {
    guarded(|| {
        let name = Name::new("killed");
        let server = start(Host::Processes, &name, Plan::times(2), 2, 2);
        under_load(&server, &[2], || {
            for worker in [0, 1, 0] {
                let pid = workers(&server)[worker].pid;
                server.kill_worker("times", worker).unwrap();
                wait_until("its successor is ready", || {
                    let now = &workers(&server)[worker];
                    now.ready && now.pid != pid
                });
            }
        });
        assert_eq!(server.stats().deaths.deaths, 3);
        let server = start(Host::Threads, &Name::new("unkilled"), Plan::times(2), 1, 1);
        assert!(matches!(server.kill_worker("times", 0), Err(LeverError::InThreads { .. })));
    });
}

/// A worker in the midst of a call finishes it first; one that does not leave in time is killed.
#[test]
fn a_worker_that_does_not_leave_is_killed() {
    guarded(|| {
        let (name, gate) = (Name::new("lingers"), Gate::new());
        let plan = Plan { gate: gate.name(), ..Plan::times(2) };
        let servlet = ProcessServlet::<Multiplier>::new(plan).name("times");
        let server = name.builder().shutdown_timeout(Duration::from_millis(100)).start(servlet).unwrap();
        std::thread::scope(|scope| {
            let (held, outcome) = hold(scope, &server, &gate, 0);
            server.restart_worker("times", 0).unwrap();
            assert!(matches!(outcome.join().unwrap(), Err(CallError::WorkerDied(_))));
            drop(held);
        });
        assert_eq!(server.stats().deaths.deaths, 1);
        assert_eq!(server.call(&4).unwrap().0, 8);
    });
}

#[test]
fn a_worker_finishes_its_call_before_it_leaves() {
    guarded(|| {
        on_both(|host| {
            let (name, gate) = (Name::new("finishes"), Gate::new());
            let server = start(host, &name, Plan { gate: gate.name(), ..Plan::times(2) }, 1, 1);
            std::thread::scope(|scope| {
                let (held, outcome) = hold(scope, &server, &gate, 0);
                let restarting = scope.spawn(|| server.restart_worker("times", 0));
                let waiting = scope.spawn(|| server.call(&21).map(|reply| reply.0.to_native()));
                wait_for_depth(&server, 1);
                assert!(!restarting.is_finished() && !waiting.is_finished());
                held.release();
                assert_eq!(outcome.join().unwrap().unwrap().0, 0);
                restarting.join().unwrap().unwrap();
                assert_eq!(waiting.join().unwrap().unwrap(), 42);
            });
            let deaths = server.stats().deaths;
            assert_eq!((deaths.deaths, deaths.retired), (0, 1), "{deaths:?}");
        });
    });
}

/// The products of ten with all workers of a server: callers call side by side until each worker has answered one.
fn tens(server: &Server<u64, Product>) -> BTreeSet<u64> {
    let mut answers = BTreeSet::new();
    wait_until("each worker has answered", || {
        let call = || {
            let reply = server.call(&10).unwrap();
            (reply.1.to_native(), reply.0.to_native())
        };
        std::thread::scope(|scope| {
            let calls: Vec<_> = (0..8).map(|_| scope.spawn(call)).collect();
            answers.extend(calls.into_iter().map(|call| call.join().unwrap()));
        });
        let by: BTreeSet<u64> = answers.iter().map(|(worker, _)| *worker).collect();
        by.len() == ready(server).len()
    });
    answers.into_iter().map(|(_, product)| product).collect()
}

#[test]
fn a_shutdown_after_a_drain_waits_for_what_is_inside() {
    guarded(|| {
        on_both(|host| {
            let (name, gate) = (Name::new("drained-down"), Gate::new());
            let server = start(host, &name, Plan { gate: gate.name(), ..Plan::times(2) }, 1, 1);
            std::thread::scope(|scope| {
                let (held, outcome) = hold(scope, &server, &gate, 0);
                let queued = scope.spawn(|| server.call(&21).map(|reply| reply.0.to_native()));
                wait_for_depth(&server, 1);
                match server.drain_servlet("times", Duration::ZERO) {
                    Err(LeverError::NotEmpty { left: 2, .. }) => {}
                    other => panic!("{other:?}"),
                }
                let ending = scope.spawn(|| server.shutdown());
                wait_until("it shuts down", || segment_of(&server).run() != Run::Running);
                held.release();
                assert_eq!(outcome.join().unwrap().unwrap().0, 0);
                assert_eq!(queued.join().unwrap().unwrap(), 42);
                ending.join().unwrap();
            });
        });
    });
}

#[test]
fn workers_that_come_after_a_replacement_are_new_ones() {
    guarded(|| {
        on_both(|host| {
            let name = Name::new("grown");
            let server = start(host, &name, Plan::times(2), 1, 4);
            let by = Replacement::new().config::<Multiplier>(Plan::times(3));
            server.replace("times", by).unwrap();
            server.scale("times", 4).unwrap();
            assert_eq!(tens(&server), [30].into());
        });
    });
}

#[test]
fn a_replacement_that_fails_leaves_no_stand_in() {
    guarded(|| {
        on_both(|host| {
            let name = Name::new("stand-in");
            let server = start(host, &name, Plan::times(2), 2, 4);
            let by = Replacement::new().config::<Multiplier>(Plan { unsound: 1, ..Plan::times(3) });
            match server.replace("times", by) {
                Err(LeverError::NotReplaced { worker: 1, replaced: 1, workers: 2, .. }) => {}
                other => panic!("{other:?}"),
            }
            wait_until("the former worker is back", || ready(&server) == [0, 1]);
            assert_eq!(workers(&server)[2].state, Life::Vacant);
            assert_eq!(tens(&server), [20, 30].into(), "worker 0 had been replaced");
            server.scale("times", 4).unwrap();
            let ours = |product: &u64| [20, 30].contains(product);
            assert!(tens(&server).iter().all(ours));
        });
    });
}

#[test]
fn a_worker_that_hung_can_be_replaced() {
    guarded(|| {
        let (name, gate) = (Name::new("unhung"), Gate::new());
        let hanging = Plan { gate: gate.name(), successors: successors::HANG, ..Plan::times(2) };
        let builder = name.builder().start_timeout(Duration::from_secs(2));
        let server = builder.start(multiplier(hanging).restarts(Restarts::unlimited())).expect("it starts");
        server.kill_worker("times", 0).unwrap();
        let hung = gate.arrivals(1);
        wait_until("it was killed for that", || server.stats().deaths.deaths >= 2);
        let by = Replacement::new().config::<Multiplier>(Plan::times(3));
        server.replace("times", by).unwrap();
        assert_eq!(server.call(&10).unwrap().0, 30);
        drop(hung);
    });
}

#[test]
fn a_servlet_whose_last_sound_worker_is_scaled_away_is_down() {
    guarded(|| {
        let name = Name::new("last-sound");
        let failing = Plan { successors: successors::FAIL, ..Plan::times(2) };
        let hour = Duration::from_secs(3600);
        let restarts = Restarts::default().limit(1).backoff(hour, hour).for_good();
        let server = name.builder().start(multiplier(failing).cpus(2).restarts(restarts)).expect("it starts");
        for _ in 0..2 {
            // The second time it is given up.
            match server.restart_worker("times", 0) {
                Err(LeverError::NotStarted { worker: 0, .. }) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(server.call(&10).unwrap().0, 20, "by the other");
        server.kill_worker("times", 1).unwrap();
        wait_until("it waits for its restart", || workers(&server)[1].state == Life::Dead);
        server.scale("times", 1).unwrap();
        match server.call(&10) {
            Err(CallError::ServletDown { .. }) => {}
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn workers_that_start_together_and_fail_all_go() {
    guarded(|| {
        on_both(|host| {
            let name = Name::new("all-fail");
            let server = start(host, &name, Plan { sound_below: 1, ..Plan::times(2) }, 1, 3);
            assert!(matches!(server.scale("times", 3), Err(LeverError::NotStarted { .. })));
            assert_eq!(ready(&server), [0]);
            assert!(workers(&server)[1..].iter().all(|worker| worker.state == Life::Vacant));
            assert_eq!(server.call(&10).unwrap().0, 20);
        });
    });
}

#[test]
fn a_drain_ends_when_its_servlet_is_resumed() {
    guarded(|| {
        let (name, gate) = (Name::new("resumed"), Gate::new());
        let server = start(Host::Processes, &name, Plan { gate: gate.name(), ..Plan::times(2) }, 1, 1);
        std::thread::scope(|scope| {
            let (held, outcome) = hold(scope, &server, &gate, 0);
            let draining = scope.spawn(|| server.drain_servlet("times", Duration::MAX));
            // Until then a call waits behind the one that is held.
            let soon = || CallOptions::new().timeout(Duration::from_millis(1));
            wait_until("it is drained", || {
                matches!(server.call_with(&1, soon()), Err(CallError::ServletDrained { .. }))
            });
            server.resume_servlet("times").unwrap();
            assert!(matches!(draining.join().unwrap(), Err(LeverError::Resumed { .. })));
            held.release();
            outcome.join().unwrap().unwrap();
        });
    });
}

#[test]
fn a_drained_servlet_finishes_what_it_has_and_refuses_the_rest() {
    guarded(|| {
        on_both(|host| {
            let (name, gate) = (Name::new("drained"), Gate::new());
            let server = start(host, &name, Plan { gate: gate.name(), ..Plan::times(2) }, 1, 1);
            std::thread::scope(|scope| {
                let (held, outcome) = hold(scope, &server, &gate, 0);
                match server.drain_servlet("times", Duration::ZERO) {
                    Err(LeverError::NotEmpty { left: 1, .. }) => {}
                    other => panic!("{other:?}"),
                }
                match server.call(&1) {
                    Err(error @ CallError::ServletDrained { .. }) => assert!(error.is_retryable()),
                    other => panic!("{other:?}"),
                }
                let draining = scope.spawn(|| server.drain_servlet("times", Duration::MAX));
                held.release();
                draining.join().unwrap().unwrap();
                assert_eq!(outcome.join().unwrap().unwrap().0, 0);
            });
            assert!(
                server.stream(0..3).all(|outcome| matches!(outcome, Err(CallError::ServletDrained { .. })))
            );
            server.resume_servlet("times").unwrap();
            assert_eq!(server.call(&4).unwrap().0, 8);
        });
    });
}

#[test]
fn a_drained_member_of_a_switch_leaves_the_others_alone() {
    guarded(|| {
        on_both(|host| {
            let name = Name::new("drained-member");
            let part = |name: &str, factor| match host {
                Host::Processes => multiplier(Plan::times(factor)).name(name).boxed(),
                Host::Threads => ThreadServlet::<Multiplier>::new(Plan::times(factor)).name(name).boxed(),
            };
            let choose = |number: &Archived<u64>| (number.to_native() % 2) as usize;
            let server =
                name.builder().start(Switch::new(choose, vec![part("even", 2), part("odd", 3)])).unwrap();
            server.drain_servlet("odd", Duration::from_secs(60)).unwrap();
            assert_eq!(server.call(&10).unwrap().0, 20);
            match server.call(&5) {
                Err(CallError::ServletDrained { servlet }) => assert_eq!(servlet, "odd"),
                other => panic!("{other:?}"),
            }
            server.resume_servlet("odd").unwrap();
            assert_eq!(server.call(&5).unwrap().0, 15);
        });
    });
}

static OWN: OnceLock<Handle<u64, bool>> = OnceLock::new();

/// Says whether it was refused as it restarted itself.
struct Suicidal;

impl Worker for Suicidal {
    type Config = ();
    type In = u64;
    type Out = bool;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, _: &Archived<u64>) -> Result<bool, BoxError> {
        let own = OWN.get().ok_or_else(|| BoxError::msg("no handle"))?;
        Ok(matches!(own.restart_worker("suicidal", 0), Err(LeverError::Within)))
    }
}

#[test]
fn levers_that_cannot_be_pulled_say_so() {
    guarded(|| {
        let name = Name::new("unpulled");
        let server = start(Host::Threads, &name, Plan::times(2), 1, 2);
        match server.restart_worker("time", 0) {
            Err(LeverError::NoSuchServlet { servlet, known }) => {
                assert_eq!((servlet.as_str(), known.as_slice()), ("time", &["times".to_string()][..]));
            }
            other => panic!("{other:?}"),
        }
        match server.restart_worker("times", 1) {
            Err(LeverError::Range { what: "index of a worker", value: 1, least: 0, most: 0, .. }) => {}
            other => panic!("{other:?}"),
        }
        let foreign = server.replace("times", Replacement::new().config::<Suicidal>(()));
        assert!(matches!(foreign, Err(LeverError::OtherWorker { .. })), "{foreign:?}");
        let program = server.replace("times", Replacement::new().program("/bin/true"));
        assert!(matches!(program, Err(LeverError::InThreads { .. })), "{program:?}");
        let handle = server.handle();
        drop(server);
        assert!(matches!(handle.scale("times", 2), Err(LeverError::ShuttingDown)));
        let server = Name::new("within").builder().start(ThreadServlet::<Suicidal>::new(())).unwrap();
        OWN.set(server.handle()).expect("once");
        assert!(*server.call(&0).unwrap());
        let most = |most| ThreadServlet::<Multiplier>::new(Plan::times(1)).cpus(2).max_workers(most);
        for bad in [1, 65] {
            match Name::new("bounds").builder().start(most(bad)) {
                Err(StartError::Range { what: "max_workers", least: 2, most: 64, .. }) => {}
                other => panic!("{other:?}"),
            }
        }
    });
}

/// Whose workers were all given up, for good: each lever that starts a worker has it serve again.
#[test]
fn a_servlet_that_is_down_serves_again_by_a_lever() {
    guarded(|| {
        let replace = |server: &Server<u64, Product>| {
            server.replace("times", Replacement::new().config::<Multiplier>(Plan::times(3)))
        };
        type Pull<'p> = &'p dyn Fn(&Server<u64, Product>) -> Result<(), LeverError>;
        let levers: [(&str, Pull<'_>, u64, usize, &[usize]); 4] = [
            ("restarted", &|server| server.restart_worker("times", 0), 2, 1, &[0]),
            ("scaled", &|server| server.scale("times", 2), 2, 2, &[1]),
            ("replaced", &replace, 3, 1, &[0]),
            ("replaced-with-a-stand-in", &replace, 3, 2, &[0]),
        ];
        for (tag, lever, factor, most, left) in levers {
            let name = Name::new(&format!("down-{tag}"));
            let never = Restarts::default().limit(0).for_good();
            let servlet = multiplier(Plan::times(2)).restarts(never).max_workers(most);
            let server = name.builder().start(servlet).expect("it starts");
            server.kill_worker("times", 0).unwrap();
            wait_until("it is down", || matches!(server.call(&1), Err(CallError::ServletDown { .. })));
            lever(&server).unwrap_or_else(|error| panic!("{tag}: {error}"));
            assert_eq!(server.call(&10).unwrap_or_else(|error| panic!("{tag}: {error}")).0, 10 * factor);
            assert_eq!(ready(&server), left, "{tag}");
        }
    });
}

/// A short storm: all levers in turn, and deaths between them.
#[test]
fn no_answer_is_lost_while_all_levers_are_pulled() {
    guarded(|| {
        let name = Name::new("lever-storm");
        let servlet = multiplier(Plan::times(2)).cpus(2).max_workers(4).stream_threads(2).max_requests(500);
        let server = name.builder().start(servlet).unwrap();
        let calls = under_load(&server, &[2, 3], || {
            for round in 0..4 {
                server.scale("times", 1 + round % 4).unwrap();
                server.kill_worker("times", 0).unwrap();
                server.restart_worker("times", 0).unwrap();
                let by = Replacement::new().config::<Multiplier>(Plan::times(2 + round as u64 % 2));
                server.replace("times", by).unwrap();
                server.drain_servlet("times", Duration::ZERO).ok();
                server.resume_servlet("times").unwrap();
            }
        });
        assert!(calls > 0);
        assert_eq!(server.stats().deaths.died, 0);
    });
}
