//! Servlets made of servlets: sequences, ensembles, switches, over processes and threads alike.

use ringmill::error::{EnsembleError, MemberOutcome, RemoteCause, RemoteError};
use ringmill::servlet::BoxServlet;
use ringmill::{
    BoxError, CallError, CallOptions, Context, Ensemble, ProcessServlet, Reserve, Restarts, Server, Servlet,
    StartError, Switch, ThreadServlet, Worker,
};
use ringmill_shm::check::check;
use ringmill_shm::segment::{Location, Run, Segment};
use ringmill_tests::gate::{Gate, stop_at};
use ringmill_tests::host::{Host, on_both};
use ringmill_tests::traces::assert_gone;
use ringmill_tests::{fresh_name, wait_until};
use rkyv::Archived;
use rkyv::string::ArchivedString;
use std::time::Duration;

type Three = (Box<String>, Box<String>, Box<u64>);
type Strings = Vec<Box<String>>;
type Results = Vec<Result<Box<String>, Box<RemoteError>>>;

ringmill::make_worker!(Head: String => String, |s: &ArchivedString| s.chars().take(1).collect::<String>());
ringmill::make_worker!(Tail: String => String, |s: &ArchivedString| s.chars().last().map(String::from).unwrap_or_default());
ringmill::make_worker!(Length: String => u64, |s: &ArchivedString| s.len() as u64);
ringmill::make_worker!(Combine: Three => String, |three: &Archived<Three>| {
    format!("{}{}", three.0.as_str(), three.1.as_str()).repeat(three.2.to_native() as usize)
});
ringmill::make_worker!(Greet: String => String, |s: &ArchivedString| format!("Hello, {}!", s.as_str()));
// Where its input lies, in the memory of this process.
ringmill::make_worker!(Whereabouts: String => u64, |s: &ArchivedString| s.as_ptr() as u64);
ringmill::make_worker!(Nothing: String => (), |_: &ArchivedString| ());
ringmill::make_worker!(Join: Strings => String, |parts: &Archived<Strings>| {
    parts.iter().map(|part| part.as_str()).collect::<Vec<_>>().join("+")
});

ringmill::init!(Head, Tail, Length, Combine, Greet, Hand, Join, Nothing);

/// Obeys an item that names its label: `stop a`, `fail b`, `die c`; otherwise puts its label before the item.
struct Hand {
    gate: String,
    label: String,
}

impl Worker for Hand {
    type Config = (String, String);
    type In = String;
    type Out = String;

    fn new((gate, label): (String, String), _: &Context) -> Result<Self, BoxError> {
        Ok(Self { gate, label })
    }

    fn call(&mut self, input: &ArchivedString) -> Result<String, BoxError> {
        for order in input.split(", ") {
            // Earlier stages have put their labels before it.
            match order.rsplit_once([' ', ':']).map(|(verb, label)| (verb.rsplit(':').next(), label)) {
                Some((Some("stop"), label)) if label == self.label => stop_at(&self.gate, label),
                Some((Some("fail"), label)) if label == self.label => {
                    return Err(BoxError::msg(format!("{label} fails")));
                }
                Some((Some("die"), label)) if label == self.label => std::process::abort(),
                _ => {}
            }
        }
        // Read after the stop: the input must still be there.
        Ok(format!("{}:{}", self.label, input.as_str()))
    }
}

fn hand(host: Host, gate: &Gate, label: &str) -> BoxServlet<String, String> {
    let config = (gate.name(), label.to_string());
    match host {
        Host::Processes => ProcessServlet::<Hand>::new(config).name(label).boxed(),
        Host::Threads => ThreadServlet::<Hand>::new(config).name(label).boxed(),
    }
}

/// A hand that is not restarted.
fn mortal(gate: &Gate, label: &str) -> BoxServlet<String, String> {
    let config = (gate.name(), label.to_string());
    ProcessServlet::<Hand>::new(config).name(label).restarts(Restarts::default().limit(0)).boxed()
}

fn hands(host: Host, gate: &Gate, labels: &str) -> Vec<BoxServlet<String, String>> {
    labels.chars().map(|label| hand(host, gate, &label.to_string())).collect()
}

/// Starts a server; at the end of the body every permit is back, the segment is consistent, no block is in use,
/// and after the shutdown nothing is left.
fn with_server<S: Servlet>(servlet: S, body: impl FnOnce(&Server<S::In, S::Out>)) {
    let name = fresh_name("compound");
    let server = Server::builder(&*name).capacity(4).start(servlet).expect("the server starts");
    body(&server);
    wait_until("every permit is back", || server.backlog() == 0);
    let segment = Segment::inspect(Location::named(&name).unwrap()).unwrap();
    assert_eq!(check(&segment), []);
    assert!(ringmill_shm::pool::in_use(&segment).iter().all(|&blocks| blocks == 0), "blocks are left");
    drop(server);
    assert_gone(&name);
}

/// How many branches have an outcome.
fn branches_done<In, Out>(server: &Server<In, Out>) -> usize {
    let segment = Segment::inspect(Location::named(server.name()).unwrap()).unwrap();
    let phase = |id| ringmill_shm::arena::Task::new(&segment, id).unwrap().word().load().phase();
    let branches = segment.shape().requests..segment.shape().tasks();
    branches.filter(|&id| phase(id) == Some(ringmill_shm::word::Phase::Done)).count()
}

#[track_caller]
fn ensemble_error<T: std::fmt::Debug>(outcome: Result<T, CallError>) -> EnsembleError {
    match outcome {
        Err(CallError::Ensemble(error)) => *error,
        other => panic!("not an ensemble's error: {other:?}"),
    }
}

/// The example of the reference library's documentation: three members that take the head, the tail and the
/// length of a string, a thread stage that combines them, a last process stage.
#[test]
fn hello_wdwdwdwdwd() {
    let members = Ensemble::of((
        ProcessServlet::<Head>::new(()),
        ProcessServlet::<Tail>::new(()),
        ProcessServlet::<Length>::new(()),
    ));
    let servlet = members.then(ThreadServlet::<Combine>::new(())).then(ProcessServlet::<Greet>::new(()));
    with_server(servlet, |server| {
        assert_eq!(server.call(&"world".to_string()).unwrap().as_str(), "Hello, wdwdwdwdwd!");
        let inputs = (0..1000).map(|i| format!("w{}d", "x".repeat(i % 5)));
        for (index, outcome) in server.stream(inputs).enumerate() {
            assert_eq!(outcome.unwrap(), format!("Hello, {}!", "wd".repeat(index % 5 + 2)));
        }
    });
}

#[test]
fn a_sequence_runs_its_stages_in_order() {
    on_both(|host| {
        let gate = Gate::new();
        let [a, b, c] = ["a", "b", "c"].map(|label| hand(host, &gate, label));
        with_server(a.then(b).then(c), |server| {
            assert_eq!(server.call(&"x".to_string()).unwrap().as_str(), "c:b:a:x");
        });
    });
}

#[test]
fn an_error_skips_the_later_stages() {
    on_both(|host| {
        let gate = Gate::new();
        let [a, b, c] = ["a", "b", "c"].map(|label| hand(host, &gate, label));
        with_server(a.then(b).then(c), |server| {
            let error = server.call(&"fail b".to_string()).unwrap_err();
            let remote = error.remote_error().unwrap();
            assert_eq!((remote.servlet.as_str(), remote.cause.to_string().as_str()), ("b", "b fails"));
            let items = |stage: usize| server.stats().servlets[stage].batches().items;
            assert_eq!((items(0), items(1), items(2)), (1, 1, 0));
        });
    });
}

#[test]
fn members_of_an_ensemble_read_one_and_the_same_input() {
    let whereabouts = || ThreadServlet::<Whereabouts>::new(());
    let ensemble = Ensemble::each((0..5).map(|_| whereabouts()))
        .then(Switch::new(|_| 0, (ThreadServlet::<ringmill::PassThrough<Vec<Box<u64>>>>::new(()),)));
    with_server(ensemble, |server| {
        for text in ["short".to_string(), "long ".repeat(1000)] {
            let addresses = server.call(&text).unwrap();
            assert_eq!(addresses.len(), 5);
            assert!(addresses.iter().all(|address| **address == *addresses[0]), "moved: {addresses:?}");
        }
    });
    // And so do members within members.
    let inner = Ensemble::of((whereabouts(), whereabouts()));
    with_server(Ensemble::of((whereabouts(), inner)), |server| {
        let addresses = server.call(&"nested".to_string()).unwrap();
        assert_eq!((*addresses.0, *addresses.0), (*addresses.1.0, *addresses.1.1));
    });
}

#[test]
fn outcomes_come_in_member_order_whichever_is_first() {
    on_both(|host| {
        let gate = Gate::new();
        with_server(Ensemble::each(hands(host, &gate, "abc")), |server| {
            std::thread::scope(|scope| {
                let call =
                    scope.spawn(|| server.call(&"stop a, stop b".to_string()).and_then(|r| r.into_owned()));
                let mut held = gate.arrivals(2);
                held.sort_by_key(|arrival| arrival.label().to_string());
                held.pop().unwrap().release(); // b is before a, and c was before both
                held.pop().unwrap().release();
                let outcomes = call.join().unwrap().unwrap();
                let labels: Vec<&str> = outcomes.iter().map(|text| &text[..2]).collect();
                assert_eq!(labels, ["a:", "b:", "c:"]);
            });
        });
    });
}

#[test]
fn a_tuple_may_have_eight_members_of_any_types() {
    let (s, n) = (ThreadServlet::<Greet>::new(()), || ThreadServlet::<Nothing>::new(()));
    let length = || ThreadServlet::<Length>::new(());
    let eight =
        Ensemble::of((length(), n(), s, length(), n(), length(), n(), ThreadServlet::<Tail>::new(())));
    with_server(eight, |server| {
        for text in ["you".to_string(), "y".repeat(5000)] {
            let reply = server.call(&text).unwrap();
            let length = text.len() as u64;
            assert_eq!((*reply.0, *reply.3, *reply.5), (length.into(), length.into(), length.into()));
            assert_eq!(*reply.2.as_str(), format!("Hello, {text}!"));
            assert_eq!(reply.7.as_str(), &text[text.len() - 1..]);
        }
    });
    with_server(Ensemble::of((length(),)), |server| {
        assert_eq!(*server.call(&"alone".to_string()).unwrap().0, 5);
    });
}

#[test]
fn a_list_may_have_any_length() {
    for count in [1, 2, 64, 65, 200] {
        let gate = Gate::new();
        let members = (0..count).map(|i| hand(Host::Threads, &gate, &format!("m{i}")));
        with_server(Ensemble::each(members).then(ThreadServlet::<Join>::new(())), |server| {
            let reply = server.call(&"x".to_string()).unwrap();
            let expected: Vec<String> = (0..count).map(|i| format!("m{i}:x")).collect();
            assert_eq!(reply.as_str(), expected.join("+"));
        });
    }
}

#[test]
fn the_first_error_ends_the_item_and_late_members_are_dropped() {
    on_both(|host| {
        let gate = Gate::new();
        with_server(Ensemble::each(hands(host, &gate, "ab")).name("pair"), |server| {
            let text = format!("stop a, stop b, fail b, {}", "input ".repeat(500));
            std::thread::scope(|scope| {
                let call = scope.spawn(|| server.call(&text).and_then(|reply| reply.into_owned()));
                let mut held = gate.arrivals(2); // b fails only once a has begun
                held.sort_by_key(|arrival| arrival.label().to_string());
                held.pop().unwrap().release();
                let late = held.pop().unwrap();
                let error = ensemble_error(call.join().unwrap());
                assert_eq!(error.servlet, "pair");
                assert_eq!(error.members[0].name, "a");
                assert_eq!(error.members[0].outcome, MemberOutcome::Unfinished);
                let failed = error.members[1].outcome.error().unwrap();
                assert_eq!(failed.cause.to_string(), "b fails");
                assert!(
                    error.to_string().starts_with("ensemble pair: 1 of 2 members failed: b/0 (pid"),
                    "{error}"
                );
                assert!(!error.to_string().contains('\n'), "{error}");
                assert!(format!("{error:#}").contains("\na: not finished"), "{error:#}");
                // Its permit is taken as long as the late member works; other requests go on.
                assert_eq!(server.backlog(), 1);
                assert!(matches!(server.call(&"fail b".to_string()), Err(CallError::Ensemble(_))));
                late.release();
            });
            wait_until("the late member has arrived", || server.backlog() == 0);
            assert_eq!(server.call(&"x".to_string()).unwrap().len(), 2);
        });
    });
}

#[test]
fn members_that_have_not_begun_are_skipped_once_the_item_has_failed() {
    let gate = Gate::new();
    with_server(Ensemble::each(hands(Host::Processes, &gate, "ab")), |server| {
        std::thread::scope(|scope| {
            // a is busy with another item; so the second item's branch waits in its ring.
            let first =
                scope.spawn(|| server.call(&"stop a".to_string()).and_then(|reply| reply.into_owned()));
            let busy = gate.arrival();
            ensemble_error(server.call(&"fail b".to_string()));
            busy.release();
            assert!(first.join().unwrap().is_ok());
        });
        wait_until("every permit is back", || server.backlog() == 0);
        let skipped: u64 = server.stats().servlets.iter().map(|servlet| servlet.total().skipped).sum();
        assert_eq!(skipped, 1);
    });
}

#[test]
fn an_ensemble_that_keeps_errors_gives_values_and_errors() {
    on_both(|host| {
        let gate = Gate::new();
        with_server(Ensemble::each(hands(host, &gate, "abc")).keep_errors(), |server| {
            let outcomes: Results = server.call(&"fail b".to_string()).unwrap().into_owned().unwrap();
            assert_eq!(**outcomes[0].as_ref().unwrap(), "a:fail b");
            assert_eq!(outcomes[1].as_ref().unwrap_err().cause.to_string(), "b fails");
            assert_eq!(**outcomes[2].as_ref().unwrap(), "c:fail b");
            let error = ensemble_error(server.call(&"fail a, fail b, fail c".to_string()));
            assert_eq!(error.members.iter().filter(|member| member.outcome.error().is_some()).count(), 3);
        });
        let pair = Ensemble::of((hand(host, &gate, "a"), hand(host, &gate, "b"))).keep_errors();
        with_server(pair, |server| {
            let (a, b) = server.call(&"fail a".to_string()).unwrap().into_owned().unwrap();
            assert_eq!((a.is_err(), b.unwrap().as_str()), (true, "b:fail a"));
        });
    });
}

#[test]
fn an_ensembles_error_has_the_values_of_its_other_members() {
    let gate = Gate::new();
    with_server(Ensemble::each(hands(Host::Threads, &gate, "ab")), |server| {
        std::thread::scope(|scope| {
            let call = scope
                .spawn(|| server.call(&"stop b, fail b".to_string()).and_then(|reply| reply.into_owned()));
            let held = gate.arrival();
            wait_until("a has answered", || server.stats().servlets[0].batches().items == 1);
            // Its outcome is there a moment after its batch was counted.
            wait_until("a's branch has arrived", || branches_done(server) == 1);
            held.release();
            let error = ensemble_error(call.join().unwrap());
            assert_eq!(error.members[0].outcome.value::<String>().as_deref(), Some("a:stop b, fail b"));
        });
    });
}

#[test]
fn a_switch_gives_each_item_to_the_member_that_its_function_names() {
    on_both(|host| {
        let gate = Gate::new();
        let by_length = |text: &ArchivedString| text.len();
        // First in the tree, behind a stage, and within an ensemble's member.
        let first = Switch::new(by_length, hands(host, &gate, "abc"));
        with_server(first, |server| {
            for (text, member) in [("", "a"), ("x", "b"), ("xy", "c")] {
                assert_eq!(server.call(&text.to_string()).unwrap().as_str(), format!("{member}:{text}"));
            }
            let items: Vec<u64> = server.stats().servlets.iter().map(|s| s.batches().items).collect();
            assert_eq!(items, [1, 1, 1]);
        });
        let behind = hand(host, &gate, "s")
            .then(Switch::new(|text: &ArchivedString| text.len() - 2, hands(host, &gate, "abc")));
        with_server(behind, |server| {
            let outcomes: Vec<_> =
                server.stream(["", "x", "xy", "x"].map(String::from)).map(Result::unwrap).collect();
            assert_eq!(outcomes, ["a:s:", "b:s:x", "c:s:xy", "b:s:x"]);
        });
    });
}

#[test]
fn an_index_without_a_member_is_an_error_for_that_item_alone() {
    on_both(|host| {
        let gate = Gate::new();
        let choose = |text: &ArchivedString| text.len();
        let first = Switch::new(choose, hands(host, &gate, "ab")).name("by-length");
        let behind = hand(host, &gate, "s")
            .then(Switch::new(|t: &ArchivedString| t.len() - 2, hands(host, &gate, "ab")).name("by-length"));
        for servlet in [first.boxed(), behind.boxed()] {
            with_server(servlet, |server| {
                let outcomes: Vec<_> = server.stream(["", "xyz", "x"].map(String::from)).collect();
                assert!(outcomes[0].is_ok() && outcomes[2].is_ok(), "{outcomes:?}");
                let error = outcomes[1].as_ref().unwrap_err();
                let remote = error.remote_error().unwrap();
                assert_eq!(remote.cause, RemoteCause::NoSuchMember { index: 3, members: 2 });
                assert_eq!(remote.servlet, "by-length");
                assert!(
                    error.to_string().contains("its function chose member 3, the switch has 2"),
                    "{error}"
                );
            });
        }
    });
}

#[test]
fn a_panic_in_a_switchs_function_is_an_error_for_that_item_alone() {
    let gate = Gate::new();
    let choose = |text: &ArchivedString| if text.is_empty() { panic!("nothing to choose by") } else { 0 };
    with_server(Switch::new(choose, hands(Host::Threads, &gate, "a")), |server| {
        let error = server.call(&String::new()).unwrap_err();
        let cause = &error.remote_error().unwrap().cause;
        assert!(
            matches!(cause, RemoteCause::Panicked { message, .. } if message.starts_with("nothing to choose by")),
            "{error}"
        );
        assert_eq!(server.call(&"x".to_string()).unwrap().as_str(), "a:x");
    });
}

#[test]
fn without_members_a_server_does_not_start() {
    let none = || Vec::<ThreadServlet<Length>>::new();
    let start =
        |servlet: BoxServlet<String, u64>| Server::builder(fresh_name("none")).start(servlet).unwrap_err();
    let error = start(Switch::new(|_| 0, none()).name("empty").boxed());
    assert!(
        matches!(&error, StartError::Range { servlet: Some(name), value: 0, least: 1, .. } if name == "empty"),
        "{error}"
    );
    let error = Server::builder(fresh_name("none")).start(Ensemble::each(none()).name("hollow")).unwrap_err();
    assert!(
        error.to_string().starts_with("servlet hollow: number of members is 0, must be in 1..="),
        "{error}"
    );
}

#[test]
fn a_tree_that_needs_more_memory_than_there_is_does_not_start() {
    let members = (0..100).map(|_| ThreadServlet::<Length>::new(()));
    let name = fresh_name("vast");
    let builder = Server::builder(&*name).capacity(1 << 16).max_payload(1 << 20).reserve(Reserve::Everything);
    let error = builder.start(Ensemble::each(members)).unwrap_err();
    assert!(matches!(error, StartError::Segment(_)), "{error}");
    let text = error.to_string();
    assert!(text.contains(" free, the segment needs "), "{text}");
    assert_gone(&name);
    let too_many = (0..5000).map(|_| ThreadServlet::<Length>::new(()));
    let error = Server::builder(&*name).start(Ensemble::each(too_many)).unwrap_err();
    assert!(error.to_string().contains("is 5001, must be in 1..=4096"), "{error}");
}

#[test]
fn a_call_that_times_out_in_an_ensemble_gives_its_permit_back() {
    on_both(|host| {
        let gate = Gate::new();
        with_server(Ensemble::each(hands(host, &gate, "ab")), |server| {
            let options = CallOptions::new().timeout(Duration::from_millis(1));
            let outcome = server.call_with(&"stop a, stop b".to_string(), options);
            assert!(matches!(outcome, Err(CallError::Timeout { .. })), "{outcome:?}");
            // A member may not have begun its branch, and then it never does.
            while server.backlog() > 0 {
                if let Some(arrival) = gate.arrival_if_any() {
                    arrival.release();
                }
                std::thread::yield_now();
            }
        });
    });
}

#[test]
fn a_members_death_is_reported_with_its_signal() {
    let gate = Gate::new();
    with_server(Ensemble::each(hands(Host::Processes, &gate, "ab")), |server| {
        let error = ensemble_error(server.call(&"die b".to_string()));
        let died = &error.members[1].outcome.error().unwrap().cause;
        let expected = RemoteCause::Died { signal: Some(libc::SIGABRT), code: None, restarting: true };
        assert_eq!(*died, expected);
        wait_until("b is back", || server.call(&"x".to_string()).is_ok());
    });
    with_server(Ensemble::each(hands(Host::Processes, &gate, "ab")).keep_errors(), |server| {
        let outcomes: Results = server.call(&"die a".to_string()).unwrap().into_owned().unwrap();
        assert!(matches!(outcomes[0].as_ref().unwrap_err().cause, RemoteCause::Died { .. }), "{outcomes:?}");
        assert!(outcomes[1].is_ok());
    });
}

#[test]
fn shutting_down_waits_for_every_stage() {
    on_both(|host| {
        let gate = Gate::new();
        let name = fresh_name("stages");
        let servlet = Ensemble::each(hands(host, &gate, "ab"))
            .then(ThreadServlet::<Join>::new(()))
            .then(hand(host, &gate, "z"));
        let server = Server::builder(&*name).start(servlet).unwrap();
        std::thread::scope(|scope| {
            let call =
                scope.spawn(|| server.call(&"stop b".to_string()).and_then(|reply| reply.into_owned()));
            let held = gate.arrival();
            let closing = scope.spawn(|| server.shutdown());
            let segment = Segment::inspect(Location::named(&name).unwrap()).unwrap();
            wait_until("it is shutting down", || segment.run() != Run::Running);
            held.release();
            assert_eq!(call.join().unwrap().unwrap(), "z:a:stop b+b:stop b");
            closing.join().unwrap();
        });
        assert_gone(&name);
    });
}

/// Has the process worker that this item kills given up.
fn take_down(server: &Server<String, Results>, die: &str) {
    // The log has each death, then the servlet's state; once it is down nothing is restarted any more.
    wait_until("it is down", || {
        let outcomes = server.call(&die.to_string()).and_then(|reply| reply.into_owned());
        let down = |error: &RemoteError| matches!(error.cause, RemoteCause::Down { .. });
        outcomes.is_ok_and(|outcomes| outcomes.iter().any(|o| o.as_ref().is_err_and(|error| down(error))))
    });
}

/// Symptom: items of a stream waited for ever, between an ensemble with a member that is down and the next stage. Cause: a
/// participant that pushes to a node that is down answers its items; that joined the ensemble and added to the outbox, behind
/// the items being flushed. Fix: flush until nothing is left.
#[test]
fn a_member_that_is_down_does_not_keep_the_item_from_the_next_stage() {
    let gate = Gate::new();
    let members = vec![hand(Host::Threads, &gate, "a"), mortal(&gate, "b")];
    let pass = ThreadServlet::<ringmill::PassThrough<Results>>::new(());
    // Its batches go on together; so some of the ensembles are joined while the rest is being flushed.
    let first = ThreadServlet::<ringmill::PassThrough<String>>::new(()).batch_size(32);
    let servlet =
        first.batch_wait_time(Duration::from_millis(50)).then(Ensemble::each(members).keep_errors());
    let server = Server::builder(fresh_name("down")).start(servlet.then(pass)).unwrap();
    take_down(&server, "die b");
    for _ in 0..50 {
        let options = ringmill::StreamOptions::new().timeout(Duration::from_secs(20));
        for outcome in server.stream_with((0..32).map(|_| "x".to_string()), options) {
            let outcomes = outcome.unwrap();
            assert_eq!(outcomes[0].as_ref().unwrap().as_str(), "a:x");
            assert!(matches!(outcomes[1].as_ref().unwrap_err().cause, RemoteCause::Down { .. }));
        }
    }
}

/// Symptom: an item ended because its process could not run the switch's function. Cause: a switch behind an ensemble that keeps
/// errors had no node of its own if the ensemble's members end in threads, although the last of them may fail in a process on
/// the way.
#[test]
fn a_switch_behind_an_ensemble_whose_member_fails_in_a_process() {
    let gate = Gate::new();
    let members = vec![
        hand(Host::Processes, &gate, "a").then(hand(Host::Threads, &gate, "b")).boxed(),
        hand(Host::Threads, &gate, "c"),
    ];
    let pass = || ThreadServlet::<ringmill::PassThrough<Results>>::new(());
    let servlet = Ensemble::each(members).keep_errors().then(Switch::new(|_| 1, (pass(), pass())));
    with_server(servlet, |server| {
        std::thread::scope(|scope| {
            let call =
                scope.spawn(|| server.call(&"stop a, fail a".to_string()).and_then(|r| r.into_owned()));
            let held = gate.arrival();
            wait_until("c's branch has arrived", || branches_done(server) == 1);
            held.release();
            let outcomes = call.join().unwrap().unwrap();
            assert_eq!(outcomes[0].as_ref().unwrap_err().cause.to_string(), "a fails");
            assert_eq!(outcomes[1].as_ref().unwrap().as_str(), "c:stop a, fail a");
        });
    });
}

/// Symptom: an item whose other members had values ended with "the outcome has … bytes". Cause: the error of an inner ensemble
/// lists its values, and did not fit beside the values of the outer one. Fix: errors are shortened.
#[test]
fn a_long_error_leaves_room_for_the_values() {
    let gate = Gate::new();
    let inner = || Ensemble::each(hands(Host::Threads, &gate, "abc")).then(ThreadServlet::<Join>::new(()));
    let members = vec![inner().boxed(), hand(Host::Threads, &gate, "d"), hand(Host::Threads, &gate, "e")];
    let builder = Server::builder(fresh_name("room")).max_payload(4096);
    let server = builder.start(Ensemble::each(members).keep_errors()).unwrap();
    let input = format!("stop c, fail c, {}", "x".repeat(1000));
    std::thread::scope(|scope| {
        let call = scope.spawn(|| server.call(&input).and_then(|reply| reply.into_owned()));
        let held = gate.arrival();
        wait_until("the others have arrived", || branches_done(&server) == 4);
        held.release();
        let outcomes = call.join().unwrap().unwrap();
        let RemoteCause::Ensemble { members } = &outcomes[0].as_ref().unwrap_err().cause else {
            panic!("{outcomes:?}")
        };
        assert_eq!(members[2].outcome.error().unwrap().cause.to_string(), "c fails");
        assert_eq!(members[0].outcome, MemberOutcome::Value { payload: None });
        assert_eq!(**outcomes[1].as_ref().unwrap(), format!("d:{input}"));
    });
}

#[test]
fn each_servlet_that_is_down_is_named() {
    let gate = Gate::new();
    let members = vec![mortal(&gate, "a"), mortal(&gate, "b")];
    let choose = |text: &ArchivedString| usize::from(text.contains('b'));
    let server = Server::builder(fresh_name("names")).start(Switch::new(choose, members)).unwrap();
    for label in ["a", "b"] {
        wait_until("it is down", || {
            let outcome = server.call(&format!("die {label}"));
            matches!(outcome, Err(CallError::ServletDown { .. }))
        });
    }
    for label in ["a", "b"] {
        match server.call(&label.to_string()) {
            Err(CallError::ServletDown { servlet, .. }) => assert_eq!(servlet, label),
            other => panic!("{other:?}"),
        }
    }
}

/// Unusual trees, and segments without a block.
#[test]
fn odd_trees_work() {
    let gate = Gate::new();
    let nothing = || ThreadServlet::<Nothing>::new(());
    let odd = |capacity: usize, payload: usize| {
        Server::builder(fresh_name("odd")).capacity(capacity).max_payload(payload)
    };
    // Outcomes without a byte.
    let server = odd(1, 96).start(Ensemble::of((nothing(), Ensemble::of((nothing(), nothing()))))).unwrap();
    for _ in 0..3 {
        assert!(server.call(&"x".to_string()).is_ok());
    }
    let keep = Ensemble::each((0..3).map(|_| nothing())).keep_errors();
    let server = odd(1, 96).start(Ensemble::each([keep])).unwrap();
    assert_eq!(server.call(&"x".to_string()).unwrap()[0].len(), 3);
    // Many members, no blocks: too large a value, and errors of all of them.
    for count in [1, 8, 200] {
        let member = |i| hand(Host::Threads, &gate, ["a", "b"][i % 2]);
        let server = odd(1, 16).start(Ensemble::each((0..count).map(member)).keep_errors()).unwrap();
        for text in ["x", "fail a", "fail b", "fail a, fail b"] {
            let outcome = server.call(&text.to_string()).map(|reply| reply.len());
            match outcome {
                Ok(members) => assert_eq!(members, count),
                Err(CallError::Remote(error)) => {
                    assert!(matches!(error.cause, RemoteCause::OutcomeTooLarge { .. }), "{error}");
                }
                Err(CallError::Ensemble(_)) => assert!(text.starts_with("fail a")),
                other => panic!("{other:?}"),
            }
            wait_until("its permit is back", || server.backlog() == 0);
        }
    }
    // Ensembles one after the other, first and last, within switches within ensembles, behind processes.
    let ensemble =
        || Ensemble::each(hands(Host::Processes, &gate, "ab")).then(ThreadServlet::<Join>::new(()));
    let switch = || Switch::new(|_| 0, vec![ensemble().boxed(), hand(Host::Threads, &gate, "c")]);
    let nested = Switch::new(|_| 1, vec![hand(Host::Threads, &gate, "d"), switch().boxed()]);
    let tree = ensemble().then(hand(Host::Processes, &gate, "p")).then(nested);
    let tree = tree.then(Ensemble::of((switch(), Ensemble::of((switch(), ensemble())))));
    let server = odd(1, 4096).start(tree).unwrap();
    for _ in 0..20 {
        let reply = server.call(&"x".to_string()).unwrap();
        let once = |text: &str| format!("a:{text}+b:{text}");
        let expected = once(&once(&format!("p:{}", once("x"))));
        assert_eq!(
            (reply.0.as_str(), reply.1.0.as_str(), reply.1.1.as_str()),
            (&*expected, &*expected, &*expected)
        );
    }
    // A member's outcome, and the joined value, that fit no block.
    let tree = Ensemble::each(hands(Host::Threads, &gate, "abcde")).then(ThreadServlet::<Join>::new(()));
    let server = odd(2, 1024).start(tree).unwrap();
    for length in [10, 300, 1004, 1008] {
        match server.call(&"x".repeat(length)) {
            Ok(_) => assert_eq!(length, 10),
            Err(CallError::Remote(error)) => {
                assert!(matches!(error.cause, RemoteCause::OutcomeTooLarge { .. }), "{error}");
            }
            Err(CallError::Ensemble(error)) => {
                let cause = &error.members.iter().find_map(|m| m.outcome.error()).unwrap().cause;
                assert!(matches!(cause, RemoteCause::OutcomeTooLarge { .. }), "{error}");
            }
            other => panic!("{length}: {other:?}"),
        }
        wait_until("its permit is back", || server.backlog() == 0);
    }
}

/// Symptom: an `EnsembleError` of expired members, where a servlet alone gives a `Timeout`. Cause: the caller looked only at a
/// single servlet's error. Fix: it looks at members' errors too.
#[test]
fn a_deadline_that_is_over_within_an_ensemble_is_a_timeout() {
    let gate = Gate::new();
    with_server(Ensemble::each(hands(Host::Threads, &gate, "ab")), |server| {
        std::thread::scope(|scope| {
            let call =
                scope.spawn(|| server.call(&"stop a".to_string()).and_then(|reply| reply.into_owned()));
            let held = gate.arrival();
            let deadline = std::time::Instant::now() + Duration::from_millis(20);
            let mut late =
                server.submit_with(&"x".to_string(), CallOptions::new().deadline(deadline)).unwrap();
            wait_until("it is late", || std::time::Instant::now() >= deadline);
            held.release();
            call.join().unwrap().unwrap();
            let segment = Segment::inspect(Location::named(server.name()).unwrap()).unwrap();
            let done = || {
                let phase = |id| ringmill_shm::arena::Task::new(&segment, id).unwrap().word().load().phase();
                (0..segment.shape().requests).any(|id| phase(id) == Some(ringmill_shm::word::Phase::Done))
            };
            wait_until("a has refused it", done);
            let outcome = late.try_take().unwrap();
            assert!(matches!(outcome, Err(CallError::Timeout { .. })), "{outcome:?}");
        });
    });
}
