//! A worker's life: warming up, several batches at once, preprocessing, fatal errors, logging, its
//! environment, cleaning up.

use ringmill::error::RemoteCause;
use ringmill::servlet::RESTART_LIMIT;
use ringmill::worker::Stop;
use ringmill::{
    Batch, BatchWorker, BoxError, CallError, Context, ProcessServlet, Server, StartError, Worker,
};
use ringmill_shm::participant::Life;
use ringmill_shm::segment::{Location, Segment};
use ringmill_tests::gate::{Gate, report, stop_at};
use ringmill_tests::guard::guarded;
use ringmill_tests::host::{Crew, Host, on_both};
use ringmill_tests::listener::scribe;
use ringmill_tests::name::Name;
use ringmill_tests::pile::{hold, pile_up, stream_all, wait_for_depth};
use ringmill_tests::process::signal;
use ringmill_tests::program::Program;
use ringmill_tests::stats::{assert_sound, segment_of, workers};
use ringmill_tests::traces::assert_gone;
use ringmill_tests::{fresh_name, wait_until};
use rkyv::string::ArchivedString;
use std::collections::BTreeSet;
use std::time::Duration;

ringmill::init!(Doorman, Early, Hand, Quitter, Chronicler, Resident, ringmill_tests::actor::Actor);

/// The text of an error of the worker's side, without its worker.
fn cause<Out>(outcome: Result<Out, CallError>) -> Result<Out, String> {
    outcome.map_err(|error| match error {
        CallError::Remote(error) => error.cause.to_string(),
        other => panic!("{other:?}"),
    })
}

// Preprocessing.

/// Parses texts into small numbers; its configuration says what it does with them.
struct Doorman {
    gate: String,
    way: String,
    calls: u32,
}

impl BatchWorker for Doorman {
    type Config = (String, String);
    type In = String;
    /// A number, the sum of all that passed with it, and how many batches came before.
    type Out = (u32, u32, u32);

    fn new((gate, way): (String, String), _: &Context) -> Result<Self, BoxError> {
        Ok(Self { gate, way, calls: 0 })
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        let before = self.calls;
        self.calls += 1;
        if batch.inputs().any(|text| text.as_str() == "0") {
            stop_at(&self.gate, "stopped");
        }
        let batch = batch.preprocess(|text| match text.as_str().parse::<u32>()? {
            13 => panic!("unlucky"),
            number @ 0..100 => Ok(number),
            large => Err(BoxError::msg(format!("{large} is too large"))),
        });
        assert_eq!((batch.len(), batch.is_empty()), (batch.values().len(), batch.values().is_empty()));
        let (numbers, sum) = (batch.values().to_vec(), batch.values().iter().sum());
        let outcomes = numbers.iter().map(|&number| (number, sum, before));
        match self.way.as_str() {
            "in order" => batch.reply_all(outcomes),
            "too few" if !numbers.contains(&0) => batch.reply_all(outcomes.skip(1)),
            "too many" if !numbers.contains(&0) => batch.reply_all(outcomes.chain([(0, 0, 0)])),
            "error" if !numbers.contains(&0) => Err(BoxError::msg("the rest is bad")),
            _ => {
                assert_eq!(batch.len(), numbers.len());
                for ((item, number), outcome) in batch.into_iter().zip(outcomes) {
                    assert_eq!(item.input().as_str().parse(), Ok(number), "each with its own value");
                    item.reply(outcome);
                }
                Ok(())
            }
        }
    }
}

type Doormen = Server<String, (u32, u32, u32)>;
type Outcomes = Vec<Result<(u32, u32, u32), String>>;

/// Gives a doorman one batch of these texts.
fn preprocessed(host: Host, way: &str, texts: &[&str]) -> (Doormen, Outcomes) {
    let gate = Gate::new();
    let builder = Server::builder(fresh_name("workers"));
    let server = host.start::<Doorman>(builder, (gate.name(), way.into()), Crew::of(1).greedy(8));
    let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
    let count = texts.len() as u64;
    let outcomes = pile_up(&server, &gate, "0".to_string(), texts);
    assert_eq!(server.stats().servlets[0].batches().max, count, "they were one batch");
    (server, outcomes.into_iter().map(cause).collect())
}

#[test]
fn an_item_that_preprocess_refuses_fails_alone() {
    on_both(|host| {
        for way in ["in order", "one by one"] {
            let (server, outcomes) = preprocessed(host, way, &["1", "500", "2", "13", "x7", "3"]);
            let passed = [0, 2, 5].map(|index| outcomes[index].clone());
            assert_eq!(passed, [Ok((1, 6, 1)), Ok((2, 6, 1)), Ok((3, 6, 1))], "{way}");
            assert_eq!(outcomes[1], Err("500 is too large".to_string()));
            assert!(
                outcomes[3].as_ref().is_err_and(|e| e.starts_with("panicked: unlucky at ")),
                "{outcomes:?}"
            );
            assert!(outcomes[4].as_ref().is_err_and(|e| e.ends_with("invalid digit found in string")));
            // A batch of which nothing is left, then a good one.
            assert!(server.call(&"400".into()).is_err());
            assert_eq!(*server.call(&"5".into()).expect("an answer"), (5, 5, 3));
            let total = server.stats().servlets[0].total();
            assert_eq!((total.errors, total.panics), (4, 1));
            assert_sound(&server);
        }
    });
}

#[test]
fn a_wrong_number_of_outcomes_after_preprocess_is_an_error_for_each_item_that_passed() {
    on_both(|host| {
        for (way, given) in [("too few", 1), ("too many", 3)] {
            let (server, outcomes) = preprocessed(host, way, &["1", "500", "2"]);
            let wrong = format!("the worker's call gave {given} outcomes for a batch of 2; none was used");
            let refused = "500 is too large".to_string();
            assert_eq!(outcomes, [Err(wrong.clone()), Err(refused), Err(wrong)], "{way}");
            assert_sound(&server);
        }
    });
}

#[test]
fn an_error_after_preprocess_touches_only_items_that_have_passed() {
    on_both(|host| {
        let (_server, outcomes) = preprocessed(host, "error", &["1", "500"]);
        assert_eq!(outcomes, ["the rest is bad", "500 is too large"].map(|e| Err(e.to_string())));
    });
}

// Warming up.

/// Warms up as its configuration says; answers with how often it has.
struct Early {
    gate: String,
    way: String,
    warm: u32,
}

impl Worker for Early {
    type Config = (String, String);
    type In = ();
    type Out = u32;

    fn new((gate, way): (String, String), _: &Context) -> Result<Self, BoxError> {
        Ok(Self { gate, way, warm: 0 })
    }

    fn warm_up(&mut self, context: &Context) -> Result<(), BoxError> {
        match self.way.as_str() {
            "stop" => stop_at(&self.gate, &context.name()),
            "fail" => return Err(BoxError::msg("no kernel for this device")),
            "panic" => panic!("out of memory"),
            _ => {}
        }
        self.warm += 1;
        Ok(())
    }

    fn call(&mut self, _: &()) -> Result<u32, BoxError> {
        Ok(self.warm)
    }

    fn cleanup(&mut self, reason: &Stop) {
        report(&self.gate, &format!("{reason:?}"));
    }
}

#[test]
fn a_worker_is_ready_when_it_is_warm() {
    on_both(|host| {
        let (gate, name) = (Gate::new(), fresh_name("workers"));
        std::thread::scope(|scope| {
            let builder = Server::builder(&name);
            let config = (gate.name(), "stop".to_string());
            let starting = scope.spawn(move || host.start::<Early>(builder, config, Crew::of(1)));
            let arrival = gate.arrival();
            assert_eq!(arrival.label(), format!("{name}/early/0"));
            let segment = Segment::inspect(Location::named(&name).expect("a name")).expect("it is there");
            assert_eq!(segment.participants()[1].life(), Life::Starting);
            assert!(!starting.is_finished());
            arrival.release();
            let server = starting.join().expect("it starts");
            assert_eq!(*server.call(&()).expect("an answer"), 1);
        });
    });
}

#[test]
fn a_warm_up_that_fails_fails_the_start() {
    on_both(|host| {
        for (way, says) in [("fail", "no kernel for this device"), ("panic", "panicked: out of memory at ")] {
            let (gate, name) = (Gate::new(), fresh_name("workers"));
            let config = (gate.name(), way.to_string());
            let error = host.try_start::<Early>(Server::builder(&name), config, Crew::of(2));
            let error = error.map(drop).expect_err("it cannot warm up");
            let StartError::Worker(remote) = &error else { panic!("{error:?}") };
            assert!(remote.cause.to_string().starts_with(says), "{error}");
            assert!(error.to_string().starts_with("worker early/"), "{error}");
            assert_gone(&name);
        }
    });
}

// Several batches at once.

/// Where an item was answered: worker, thread, process, restarts.
type Origin = (u32, u32, u32, u32);

/// Names itself, and obeys each item.
struct Hand {
    gate: String,
    context: Context,
}

impl Worker for Hand {
    /// The gate, and the order for the constructor: nothing, stop at the gate, or fail in thread 1.
    type Config = (String, String);
    type In = String;
    type Out = Origin;

    fn new((gate, birth): (String, String), context: &Context) -> Result<Self, BoxError> {
        match (birth.as_str(), context.thread_index(), context.restarts()) {
            ("stop", ..) => stop_at(&gate, &context.name()),
            ("fail", 1, _) => return Err(BoxError::msg("only one of us can be")),
            ("fail again", 1, 1) => return Err(BoxError::msg("only once")),
            _ => {}
        }
        Ok(Self { gate, context: context.clone() })
    }

    fn call(&mut self, input: &ArchivedString) -> Result<Origin, BoxError> {
        let me = &self.context;
        match input.as_str() {
            "stop" => stop_at(&self.gate, &me.name()),
            "fatal" => return Err(BoxError::msg("the device is lost").fatal()),
            "plain" => return Err(BoxError::msg("only this one")),
            _ => {}
        }
        Ok((me.worker_index() as u32, me.thread_index() as u32, std::process::id(), me.restarts()))
    }

    fn cleanup(&mut self, reason: &Stop) {
        report(&self.gate, &format!("{reason:?} {}", self.context.thread_index()));
    }
}

fn ask(server: &Server<String, Origin>, item: &str) -> Result<Origin, CallError> {
    server.call(&item.to_string())?.into_owned()
}

fn hands(host: Host, gate: &Gate, birth: &str, crew: Crew) -> Server<String, Origin> {
    let config = (gate.name(), birth.to_string());
    host.start::<Hand>(Server::builder(fresh_name("workers")), config, crew)
}

#[test]
fn one_worker_has_as_many_batches_in_progress_as_it_has_threads() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &hands(host, &gate, "", Crew::of(1).threads(3));
        std::thread::scope(|scope| {
            let calls: Vec<_> = (0..3).map(|_| scope.spawn(|| ask(server, "stop"))).collect();
            let arrivals = gate.arrivals(3);
            let names: BTreeSet<&str> = arrivals.iter().map(|arrival| arrival.label()).collect();
            let name = server.name();
            let expected = (0..3).map(|thread| format!("{name}/hand/0.{thread}")).collect::<Vec<_>>();
            assert_eq!(names, expected.iter().map(String::as_str).collect());
            drop(arrivals);
            let origins: BTreeSet<Origin> =
                calls.into_iter().map(|call| call.join().expect("no panic").expect("an answer")).collect();
            let pid = workers(server)[0].pid;
            assert_eq!(origins, (0..3).map(|thread| (0, thread, pid, 0)).collect());
            assert_eq!(pid == std::process::id(), host == Host::Threads);
        });
        let shown: Vec<_> = workers(server).iter().map(|w| (w.index, w.thread, w.counters.items)).collect();
        assert_eq!(shown, [(0, 0, 1), (0, 1, 1), (0, 2, 1)]);
    });
}

#[test]
fn threads_of_several_workers_are_told_apart() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &hands(host, &gate, "", Crew::of(2).threads(2));
        let shown: Vec<_> = workers(server).iter().map(|w| (w.index, w.thread)).collect();
        assert_eq!(shown, [(0, 0), (0, 1), (1, 0), (1, 1)]);
        let pids: Vec<u32> = workers(server).iter().map(|w| w.pid).collect();
        assert_eq!((pids[0], pids[2]), (pids[1], pids[3]), "one process a worker");
        assert_eq!(pids[0] == pids[2], host == Host::Threads);
        std::thread::scope(|scope| {
            let stop = || ask(server, "stop");
            let calls: Vec<_> = (0..4).map(|_| scope.spawn(stop)).collect();
            drop(gate.arrivals(4));
            for call in calls {
                let (worker, thread, pid, _) = call.join().expect("no panic").expect("an answer");
                assert_eq!(pid, pids[(2 * worker + thread) as usize]);
            }
        });
        // An error names the worker.
        let error = ask(server, "plain").expect_err("it fails");
        let remote = error.remote_error().expect("a worker's");
        assert_eq!(remote.pid, pids[2 * remote.worker as usize]);
    });
}

#[test]
fn every_outcome_of_many_threads_is_that_of_its_item() {
    on_both(|host| {
        let builder = Server::builder(fresh_name("workers")).capacity(64);
        let crew = Crew::of(2).threads(3).greedy(4);
        let server = host.start::<Doorman>(builder, (String::new(), "in order".into()), crew);
        let texts: Vec<String> = (0..2000).map(|i| (i % 99 + 1).to_string()).collect();
        for (outcome, text) in stream_all(&server, texts.clone()).into_iter().zip(texts) {
            match text.as_str() {
                "13" => assert!(cause(outcome).is_err_and(|e| e.starts_with("panicked: unlucky"))),
                text => assert_eq!(outcome.expect("an answer").0.to_string(), text),
            }
        }
        assert_sound(&server);
    });
}

#[test]
fn a_number_of_threads_out_of_range_is_an_error_with_its_limits() {
    on_both(|host| {
        for (workers, threads, most) in [(1, 0, 64), (1, 65, 64), (3, 22, 21), (64, 2, 1)] {
            let (gate, name) = (Gate::new(), fresh_name("workers"));
            let config = (gate.name(), String::new());
            let crew = Crew::of(workers).threads(threads);
            let error = host.try_start::<Hand>(Server::builder(&name), config, crew);
            let error = error.map(drop).expect_err("out of range").to_string();
            assert_eq!(error, format!("servlet hand: stream_threads is {threads}, must be in 1..={most}"));
            assert_gone(&name);
        }
    });
}

#[test]
fn all_threads_of_a_pinned_process_are_pinned() {
    let gate = Gate::new();
    let cpu = *ringmill::cpu::allowed().last().expect("there is one");
    let server = hands(Host::Processes, &gate, "", Crew::on([cpu]).threads(3));
    let tasks = std::fs::read_dir(format!("/proc/{}/task", workers(&server)[0].pid)).expect("it lives");
    let status = tasks.flatten().map(|task| std::fs::read_to_string(task.path().join("status")));
    let pinned: Vec<bool> =
        status.map(|s| s.expect("it lives").contains(&format!("Cpus_allowed_list:\t{cpu}\n"))).collect();
    assert!(pinned.len() > 3 && pinned.iter().all(|&pinned| pinned), "{pinned:?}, one of them the watcher");
}

/// How many threads of a process sleep on a futex.
fn in_futex(pid: u32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it lives").flatten();
    // A thread that ends meanwhile is none.
    let calls = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("syscall")).ok());
    calls.filter(|call| call.starts_with(&format!("{} ", libc::SYS_futex))).count()
}

#[test]
fn a_worker_is_ready_when_all_its_threads_are() {
    let (gate, name) = (Gate::new(), fresh_name("workers"));
    std::thread::scope(|scope| {
        let (builder, config) = (Server::builder(&name), (gate.name(), "stop".to_string()));
        let crew = Crew::of(1).threads(2);
        let starting = scope.spawn(move || Host::Processes.start::<Hand>(builder, config, crew));
        let mut arrivals = gate.arrivals(2);
        let last = arrivals.pop().expect("two");
        drop(arrivals);
        let segment = Segment::inspect(Location::named(&name).expect("a name")).expect("it is there");
        let lives = || segment.participants()[1..].iter().map(|entry| entry.life()).collect::<Vec<_>>();
        // One thread is through its constructor and sleeps, but reports nothing yet.
        let pid = segment.participants()[1].pid();
        wait_until("it sleeps", || in_futex(pid) == 1);
        assert_eq!(lives(), [Life::Starting, Life::Starting]);
        assert!(!starting.is_finished());
        last.release();
        drop(starting.join().expect("it starts"));
    });
}

#[test]
fn a_thread_that_cannot_be_built_fails_the_start() {
    on_both(|host| {
        let (gate, name) = (Gate::new(), fresh_name("workers"));
        let config = (gate.name(), "fail".to_string());
        let error = host.try_start::<Hand>(Server::builder(&name), config, Crew::of(1).threads(3));
        let error = error.map(drop).expect_err("it cannot be built").to_string();
        assert_eq!(error, "worker hand/0 failed to start: only one of us can be");
        assert_gone(&name);
    });
}

#[test]
fn a_process_that_dies_costs_what_all_its_threads_had_and_comes_back_whole() {
    let gate = Gate::new();
    let server = &hands(Host::Processes, &gate, "", Crew::of(1).threads(3));
    let before = workers(server)[0].pid;
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..3).map(|_| scope.spawn(|| ask(server, "stop"))).collect();
        let arrivals = gate.arrivals(3);
        let queued = scope.spawn(|| ask(server, "well"));
        wait_for_depth(server, 1);
        signal(before, libc::SIGKILL);
        for call in calls {
            let outcome = call.join().expect("no panic");
            let Err(CallError::WorkerDied(error)) = outcome else { panic!("{outcome:?}") };
            let killed = RemoteCause::Died { signal: Some(libc::SIGKILL), code: None, restarting: true };
            assert_eq!((error.worker, error.pid, error.cause), (0, before, killed));
        }
        drop(arrivals);
        let (_, _, pid, restarts) = queued.join().expect("no panic").expect("a later one answers");
        assert_ne!(pid, before);
        assert_eq!(restarts, 1);
    });
    assert_sound(server);
    let after = workers(server);
    assert!(after.iter().all(|w| w.restarts == 1 && w.pid == after[0].pid && w.pid != before), "{after:?}");
}

#[test]
fn a_thread_that_cannot_be_rebuilt_restarts_its_process() {
    let gate = Gate::new();
    let server = &hands(Host::Processes, &gate, "fail again", Crew::of(1).threads(2));
    signal(workers(server)[0].pid, libc::SIGKILL);
    wait_until("both are back", || workers(server).iter().all(|w| w.ready && w.restarts == 2));
    assert!(ask(server, "well").is_ok());
    assert_sound(server);
}

#[test]
fn every_thread_cleans_up() {
    on_both(|host| {
        let gate = Gate::new();
        let server = hands(host, &gate, "", Crew::of(1).threads(3));
        let name = server.name().to_owned();
        drop(server);
        let labels: BTreeSet<String> = (0..3).map(|_| gate.arrival().label().to_owned()).collect();
        assert_eq!(labels, (0..3).map(|thread| format!("Shutdown {thread}")).collect());
        assert!(gate.arrival_if_any().is_none(), "once each");
        assert_gone(&name);
    });
}

// Fatal errors.

/// Gives up as the first item of a batch says; says why it leaves.
struct Quitter {
    gate: String,
    cleanup_panics: bool,
    restarts: u32,
}

impl BatchWorker for Quitter {
    type Config = (String, bool);
    type In = String;
    /// How often it had been restarted.
    type Out = u32;

    fn new((gate, cleanup_panics): (String, bool), context: &Context) -> Result<Self, BoxError> {
        Ok(Self { gate, cleanup_panics, restarts: context.restarts() })
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        let lost = || BoxError::msg("the device is lost").fatal();
        let first = batch.input(0).to_string();
        match first.as_str() {
            "stop" => stop_at(&self.gate, "stopped"),
            "fatal" => return Err(lost()),
            "fatal after one" | "fatal item" | "fatal item, then an error" | "fatal item, then a panic" => {
                let mut items = batch.into_iter();
                let one = items.next().expect("a batch has one");
                if first == "fatal after one" {
                    one.reply(self.restarts);
                    return Err(lost());
                }
                one.fail(lost());
                match first.as_str() {
                    "fatal item" => return Ok(()),
                    "fatal item, then an error" => return Err(BoxError::msg("plain")),
                    _ => panic!("too"),
                }
            }
            "fatal preprocess" => {
                let batch = batch.preprocess(|text| match text.as_str() {
                    "fatal preprocess" => Err(lost()),
                    _ => Ok(()),
                });
                let outcomes = vec![self.restarts; batch.len()];
                return batch.reply_all(outcomes);
            }
            _ => {}
        }
        let outcomes = vec![self.restarts; batch.len()];
        batch.reply_all(outcomes)
    }

    fn cleanup(&mut self, reason: &Stop) {
        report(&self.gate, &format!("{reason:?}"));
        assert!(!self.cleanup_panics, "as its configuration says");
    }
}

#[test]
fn after_a_fatal_error_the_rest_of_the_batch_has_it_and_the_worker_restarts() {
    on_both(|host| {
        let lost = || Err("the device is lost".to_string());
        for (what, expected) in [
            ("fatal", [lost(), lost(), lost()]),
            ("fatal after one", [Ok(0), lost(), lost()]),
            ("fatal item", [lost(), lost(), lost()]),
            ("fatal item, then an error", [lost(), Err("plain".into()), Err("plain".into())]),
            ("fatal preprocess", [lost(), Ok(0), Ok(0)]),
        ] {
            for cleanup_panics in [false, true] {
                let gate = Gate::new();
                let builder = Server::builder(fresh_name("workers"));
                let config = (gate.name(), cleanup_panics);
                let server = host.start::<Quitter>(builder, config, Crew::of(1).greedy(3));
                let before = workers(&server)[0].pid;
                // Two batches: a fatal one, and one that lies in the ring meanwhile.
                let items = [what, "b", "c", "d", "e", "f"].map(String::from).into();
                let outcomes = pile_up(&server, &gate, "stop".to_string(), items);
                let outcomes: Vec<_> = outcomes.into_iter().map(cause).collect();
                assert_eq!(outcomes[..3], expected, "{what}");
                assert_eq!(outcomes[3..], [Ok(1), Ok(1), Ok(1)], "the next one's: nothing is lost");
                assert_eq!(gate.arrival().label(), "Fatal");
                let after = workers(&server).remove(0);
                assert_eq!(after.restarts, 1);
                assert_eq!(after.pid == before, host == Host::Threads);
                assert_sound(&server);
                drop(server);
                assert_eq!(gate.arrival().label(), "Shutdown");
                assert!(gate.arrival_if_any().is_none(), "once each");
            }
        }
    });
}

#[test]
fn a_panic_after_a_fatal_error_changes_nothing() {
    on_both(|host| {
        let gate = Gate::new();
        let builder = Server::builder(fresh_name("workers"));
        let server = host.start::<Quitter>(builder, (gate.name(), false), Crew::of(1).greedy(3));
        let items = ["fatal item, then a panic", "b"].map(String::from).into();
        let outcomes = pile_up(&server, &gate, "stop".to_string(), items);
        let outcomes: Vec<_> = outcomes.into_iter().map(cause).collect();
        assert_eq!(outcomes[0], Err("the device is lost".to_string()));
        assert!(outcomes[1].as_ref().is_err_and(|e| e.starts_with("panicked: too at ")), "{outcomes:?}");
        assert_eq!(gate.arrival().label(), "Fatal");
        assert_eq!(*server.call(&"well".into()).expect("an answer"), 1);
    });
}

#[test]
fn a_fatal_error_of_a_single_item_worker_ends_its_batch() {
    on_both(|host| {
        let gate = Gate::new();
        let server = hands(host, &gate, "", Crew::of(1).greedy(8));
        let items = ["well", "plain", "fatal", "well", "plain"].map(String::from).into();
        let outcomes = pile_up(&server, &gate, "stop".to_string(), items);
        let outcomes: Vec<_> = outcomes.into_iter().map(|o| cause(o).map(|origin| origin.3)).collect();
        let lost = || Err("the device is lost".to_string());
        assert_eq!(outcomes, [Ok(0), Err("only this one".to_string()), lost(), lost(), lost()]);
        assert_eq!(ask(&server, "well").expect("an answer").3, 1);
        assert_sound(&server);
    });
}

#[test]
fn plain_errors_and_panics_stop_no_worker() {
    on_both(|host| {
        let gate = Gate::new();
        let server = hands(host, &gate, "", Crew::of(1));
        for _ in 0..2 * RESTART_LIMIT {
            assert!(ask(&server, "plain").is_err());
        }
        assert_eq!(ask(&server, "well").expect("an answer").3, 0);
        assert!(gate.arrival_if_any().is_none(), "no worker has left");
    });
}

#[test]
fn a_fatal_error_in_one_thread_lets_the_others_of_its_process_end_their_batches() {
    let gate = Gate::new();
    let server = &hands(Host::Processes, &gate, "", Crew::of(1).threads(2));
    let before = workers(server)[0].pid;
    std::thread::scope(|scope| {
        let (arrival, held) = hold(scope, server, &gate, "stop".to_string());
        let text = cause(ask(server, "fatal")).expect_err("it is fatal");
        assert_eq!(text, "the device is lost");
        let quitter = gate.arrival();
        assert!(quitter.label().starts_with("Fatal "), "{quitter:?}");
        // Items that come now are for the next process: this one takes nothing any more.
        let queued = scope.spawn(|| ask(server, "well"));
        wait_for_depth(server, 1);
        arrival.release();
        let (.., pid, restarts) = held.join().expect("no panic").expect("it has ended its batch");
        assert_eq!((pid, restarts), (before, 0));
        let fellow = gate.arrival();
        assert!(fellow.label().starts_with("Fatal ") && fellow.label() != quitter.label(), "{fellow:?}");
        let (.., pid, restarts) = queued.join().expect("no panic").expect("an answer");
        assert_ne!(pid, before);
        assert_eq!(restarts, 1);
    });
    assert_sound(server);
    assert!(workers(server).iter().all(|worker| worker.restarts == 1));
}

#[test]
fn a_fatal_error_in_one_thread_ends_the_batch_windows_of_its_process() {
    let gate = Gate::new();
    let crew = Crew::of(1).threads(2).patient(2, Duration::from_secs(3600));
    let server = &hands(Host::Processes, &gate, "", crew);
    std::thread::scope(|scope| {
        let (arrival, pair) = {
            // Pushed one after the other, so that the fatal item is the second of its batch.
            let first = scope.spawn(|| ask(server, "stop"));
            wait_for_depth(server, 1);
            let second = scope.spawn(|| ask(server, "fatal"));
            (gate.arrival(), [first, second])
        };
        // The other thread collects a batch that is not full.
        let waiting = scope.spawn(|| ask(server, "well"));
        wait_for_depth(server, 1);
        let segment = segment_of(server);
        let lock = || segment.node(0).expect("the only node").lock().holder();
        wait_until("it holds the lock", || lock().is_some());
        arrival.release();
        let [first, second] = pair.map(|call| cause(call.join().expect("no panic")).map(|origin| origin.3));
        assert_eq!((first, second), (Ok(0), Err("the device is lost".to_string())));
        let (.., restarts) = waiting.join().expect("no panic").expect("an answer");
        assert_eq!(restarts, 0, "by the thread that had it in its window");
    });
    wait_until("both are back", || workers(server).iter().all(|w| w.ready && w.restarts == 1));
    assert_sound(server);
}

#[test]
fn a_fatal_error_in_a_thread_of_the_server_leaves_the_others_alone() {
    let gate = Gate::new();
    let server = &hands(Host::Threads, &gate, "", Crew::of(1).threads(2));
    std::thread::scope(|scope| {
        let (arrival, held) = hold(scope, server, &gate, "stop".to_string());
        assert!(ask(server, "fatal").is_err());
        assert!(gate.arrival().label().starts_with("Fatal "));
        assert_eq!(ask(server, "well").expect("an answer").3, 1);
        arrival.release();
        assert_eq!(held.join().expect("no panic").expect("an answer").3, 0);
    });
    let mut restarts: Vec<u32> = workers(server).iter().map(|worker| worker.restarts).collect();
    restarts.sort_unstable();
    assert_eq!(restarts, [0, 1]);
    assert_sound(server);
}

#[test]
fn nothing_is_lost_while_workers_give_up() {
    on_both(|host| {
        let builder = Server::builder(fresh_name("workers")).capacity(32);
        let config = (String::from("no gate"), false);
        let server = host.start::<Quitter>(builder, config, Crew::of(2).threads(2).greedy(4));
        // Too few fatal errors to give a worker up, even if all were of one worker.
        let fatal = RESTART_LIMIT as usize - 1;
        let items: Vec<String> =
            (0..fatal * 200).map(|i| if i % 200 == 100 { "fatal" } else { "well" }.into()).collect();
        let outcomes = stream_all(&server, items.clone());
        assert_eq!(outcomes.len(), items.len());
        let mut lost = 0;
        for (outcome, item) in outcomes.into_iter().zip(items) {
            match cause(outcome) {
                // A fatal item may be any of its batch, not only the first.
                Ok(_) => {}
                Err(text) => {
                    assert_eq!(text, "the device is lost", "{item}");
                    lost += 1;
                }
            }
        }
        assert!(lost <= 4 * fatal, "no more than a batch each: {lost}");
        assert_sound(&server);
    });
}

#[test]
fn a_worker_that_gives_up_again_and_again_is_given_up() {
    on_both(|host| {
        let gate = Gate::new();
        let server = hands(host, &gate, "", Crew::of(1));
        for death in 0..=RESTART_LIMIT {
            let text = cause(ask(&server, "fatal")).expect_err("it is fatal");
            assert_eq!(text, "the device is lost", "{death}");
        }
        let error = ask(&server, "well").expect_err("no worker is left");
        let CallError::ServletDown { servlet, reason } = &error else { panic!("{error:?}") };
        assert_eq!(servlet, "hand");
        let last =
            "the last one was stopped by a fatal error: the device is lost; it is started on trial after 30s";
        assert!(reason.ends_with(last), "{reason}");
    });
}

// Logging.

/// Logs to a gate.
struct Chronicler {
    gate: String,
    _listening: tracing::subscriber::DefaultGuard,
}

impl BatchWorker for Chronicler {
    /// Where it stops, and where it logs.
    type Config = (String, String);
    type In = u32;
    type Out = u32;

    fn new((gate, log): (String, String), _: &Context) -> Result<Self, BoxError> {
        Ok(Self { gate, _listening: tracing::subscriber::set_default(scribe(log)) })
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        let numbers: Vec<u32> = batch.inputs().map(|number| number.to_native()).collect();
        if numbers.contains(&0) {
            stop_at(&self.gate, "stopped");
        }
        batch.reply_all(numbers)
    }
}

#[test]
fn batches_are_logged_at_their_cadence_since_the_last_line() {
    on_both(|host| {
        let (gate, log) = (Gate::new(), Gate::new());
        let builder = Server::builder(fresh_name("workers"));
        let config = (gate.name(), log.name());
        let crew = Crew::of(1).greedy(4).logging_every(3);
        let server = host.start::<Chronicler>(builder, config, crew);
        // Batches of 1, 4 and 3.
        assert_eq!(pile_up(&server, &gate, 0, vec![1; 7]).len(), 7);
        let line = |rest| format!("message=batches servlet=\"chronicler\" worker=0 thread=0 {rest}");
        assert_eq!(log.arrival().label(), line("count=3 min=1 max=4 mean=2.6666666666666665"));
        // Three of 1.
        for number in 1..=3 {
            assert_eq!(*server.call(&number).expect("an answer"), number);
        }
        assert_eq!(log.arrival().label(), line("count=3 min=1 max=1 mean=1.0"));
        drop(server);
        assert!(log.arrival_if_any().is_none(), "no more than that");
    });
}

#[test]
fn nothing_is_logged_without_batches_or_a_cadence() {
    on_both(|host| {
        for crew in [Crew::of(1).logging_every(1), Crew::of(1).greedy(4).logging_every(0)] {
            let (gate, log) = (Gate::new(), Gate::new());
            let builder = Server::builder(fresh_name("workers"));
            let server = host.start::<Chronicler>(builder, (gate.name(), log.name()), crew);
            for number in 1..=3 {
                assert_eq!(*server.call(&number).expect("an answer"), number);
            }
            drop(server);
            assert!(log.arrival_if_any().is_none());
        }
    });
}

// Environment variables.

/// Reports its environment to the gate.
#[derive(Debug)]
struct Resident;

const ALL: &str = "RINGMILL_TEST_ALL";
const OWN: &str = "RINGMILL_TEST_OWN";

impl Worker for Resident {
    type Config = String;
    type In = ();
    type Out = ();

    fn new(gate: String, context: &Context) -> Result<Self, BoxError> {
        let value = |key| std::env::var(key).unwrap_or_else(|_| "nothing".into());
        report(&gate, &format!("{} {} {}", context.worker_index(), value(ALL), value(OWN)));
        Ok(Self)
    }

    fn call(&mut self, _: &()) -> Result<(), BoxError> {
        Ok(())
    }
}

#[test]
fn each_worker_process_has_its_environment_after_restarts() {
    let gate = Gate::new();
    let servlet = ProcessServlet::<Resident>::new(gate.name())
        .cpus(3)
        .env_for(1, OWN, "own-secret")
        .env(ALL, "all-secret")
        .env(OWN, "default");
    assert!(!format!("{servlet:?}").contains("secret"), "values stay out of logs");
    let server = Server::builder(fresh_name("workers")).start(servlet).expect("it starts");
    let labels: BTreeSet<String> = (0..3).map(|_| gate.arrival().label().to_owned()).collect();
    let expected = ["0 all-secret default", "1 all-secret own-secret", "2 all-secret default"];
    assert_eq!(labels, expected.map(String::from).into());
    signal(workers(&server)[1].pid, libc::SIGKILL);
    assert_eq!(gate.arrival().label(), expected[1]);
    let segment = std::fs::read(server.segment_path()).expect("its file");
    assert!(!segment.windows(6).any(|bytes| bytes == b"secret"), "the segment does not contain it");
    assert_eq!(std::env::var_os(ALL), None, "nor is it the server's");
}

#[test]
fn a_variable_of_a_worker_that_does_not_exist_is_an_error() {
    let name = fresh_name("workers");
    let servlet = ProcessServlet::<Resident>::new(String::new()).cpus(2).env_for(2, OWN, "x");
    let error = Server::builder(&name).start(servlet).map(drop).expect_err("there are 0 and 1").to_string();
    assert_eq!(error, "servlet resident: worker index of an environment variable is 2, must be in 0..=1");
    assert_gone(&name);
}

// The server is gone.

#[test]
fn workers_whose_server_has_gone_clean_up_with_that_reason() {
    guarded(|| {
        for options in
            [&["workers=2"][..], &["workers=2", "cleanup-panics"], &["workers=1", "stream-threads=2"]]
        {
            let (name, gate) = (Name::new("gone"), ringmill_tests::actor_gate::ActorGate::new());
            let (program, _) = Program::start_ready(&name, &gate, options);
            signal(program.pid(), libc::SIGKILL);
            for _ in 0..2 {
                assert_eq!(gate.next().kind, "cleanup-gone");
            }
            let end = program.end(); // and of all its workers, which have its output
            assert_eq!((end.stdout.as_str(), end.stderr.as_str()), ("", ""), "no error is printed");
            name.assert_nothing_left();
        }
    });
}
