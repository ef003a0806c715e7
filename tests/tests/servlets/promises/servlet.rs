//! Servlets.

use super::{
    Half, Join, Length, Stars, Unlisted, Where, builder, ensemble_error, hands, node_of, part, parts, pids,
    remote, say,
};
use ringmill::error::{MemberOutcome, RemoteCause};
use ringmill::{Cpus, Ensemble, ProcessServlet, Servlet, StartError, Switch, ThreadServlet};
use ringmill_tests::gate::Gate;
use ringmill_tests::host::{Crew, Host, on_both};
use ringmill_tests::pile::{hold, stream_all, wait_for_depth};
use ringmill_tests::process::cpus_of;
use ringmill_tests::wait_until;
use rkyv::string::ArchivedString;
use std::collections::BTreeSet;

/// The CPUs that a process may use.
fn affinity(pid: u32) -> Vec<usize> {
    cpus_of(&format!("/proc/{pid}/status"))
}

/// A process servlet has a process for each worker, pinned as configured or not at all; a CPU that is not ours is an error
/// before anything starts.
#[test]
fn servlet_01_process_has_a_process_for_each_worker_pinned_as_told() {
    let all = ringmill::cpu::allowed().to_vec();
    let cpu = *all.last().expect("we run on one");
    let nodes: BTreeSet<_> = all.iter().map(|&cpu| node_of(cpu).unwrap_or(0)).collect();
    let of_node =
        |node: &usize| all.iter().copied().filter(|&cpu| node_of(cpu).unwrap_or(0) == *node).collect();
    let servlet = || ProcessServlet::<Half>::new(());
    for (servlet, expected) in [
        (servlet(), vec![all.clone()]),
        (servlet().cpus(3), vec![all.clone(); 3]),
        (servlet().cpus([None, Some(cpu)]), vec![all.clone(), vec![cpu]]),
        (servlet().cpus([all.clone(), vec![cpu], vec![cpu]]), vec![all.clone(), vec![cpu], vec![cpu]]),
        (servlet().cpus(Cpus::per_numa_node(1)), nodes.iter().map(of_node).collect()),
    ] {
        let server = builder().start(servlet).expect("it starts");
        let pids = pids(&server);
        assert_eq!(pids.iter().map(|&pid| affinity(pid)).collect::<Vec<_>>(), expected);
        let others: BTreeSet<u32> = pids.into_iter().filter(|&pid| pid != std::process::id()).collect();
        assert_eq!(others.len(), expected.len());
    }
    let server = builder().start(servlet().cpus(Cpus::auto())).expect("it starts");
    let (chosen, callers) = (server.placement().workers(), server.placement().callers());
    let masks: Vec<_> = pids(&server).into_iter().map(affinity).collect();
    assert_eq!(masks, chosen.iter().map(|worker| worker.cpus.clone()).collect::<Vec<_>>());
    assert!(masks.iter().all(|mask| mask.len() == 1 && (mask != callers || all.len() == 1)), "{masks:?}");
    let none = all.iter().max().expect("we run on one") + 1;
    let error = builder().start(servlet().name("bold").cpus([cpu, none])).map(drop).expect_err("not ours");
    assert!(matches!(&error, StartError::Cpu { cpu, .. } if *cpu == none), "{error:?}");
    assert!(error.to_string().starts_with(&format!("servlet bold: CPU {none} is not among")), "{error}");
}

/// A thread servlet runs the same workers on the same rings in as many threads of this process, and needs no
/// list of them.
#[test]
fn servlet_02_thread_runs_the_same_workers_in_this_process() {
    let gate = Gate::new();
    let server = &hands(Host::Threads, &gate, "", Crew::of(3));
    assert_eq!(pids(server), [std::process::id(); 3]);
    std::thread::scope(|scope| {
        let calls = [(); 3].map(|()| scope.spawn(|| say(server, "stop")));
        let arrivals = gate.arrivals(3);
        let fourth = scope.spawn(|| say(server, "x"));
        wait_for_depth(server, 1); // in its ring, as with processes
        drop(arrivals);
        calls.into_iter().chain([fourth]).for_each(|call| assert!(call.join().expect("no panic").is_ok()));
    });
    let server = builder().start(ThreadServlet::<Unlisted>::new(())).expect("threads need no list");
    assert_eq!(*server.call(&41).expect("an answer"), 42);
    let error = builder().start(ProcessServlet::<Unlisted>::new(())).map(drop).expect_err("processes do");
    assert!(matches!(error, StartError::NotListed { .. }), "{error}");
}

/// The outcome of one stage is the input of the next; an item may overtake another on the way, and each caller still gets its
/// own. (A test in the documentation of `then` checks that types which do not fit do not compile.)
#[test]
fn servlet_03_sequential_feeds_each_stage_from_the_one_before() {
    on_both(|host| {
        let servlet = match host {
            Host::Processes => {
                ProcessServlet::<Length>::new(()).then(ProcessServlet::<Stars>::new(())).boxed()
            }
            Host::Threads => ThreadServlet::<Length>::new(()).then(ThreadServlet::<Stars>::new(())).boxed(),
        };
        let server = builder().start(servlet).expect("it starts");
        assert_eq!(server.call(&"four".into()).expect("an answer").as_str(), "****");

        let gate = Gate::new();
        let two_stages = part(host, &gate, "a", 2).then(part(host, &gate, "b", 2));
        let server = &builder().start(two_stages).expect("it starts");
        std::thread::scope(|scope| {
            let (arrival, first) = hold(scope, server, &gate, "stop a".into());
            assert_eq!(say(server, "second").expect("it overtakes"), "second>a>b");
            arrival.release();
            assert_eq!(first.join().expect("no panic").expect("an answer"), "stop a>a>b");
        });
    });
}

/// All members read the very bytes that the caller wrote, and the answer has their outcomes in member order, whichever was first.
#[test]
fn servlet_04_ensemble_members_read_one_input_and_answer_in_order() {
    let (process, thread) = (|| ProcessServlet::<Where>::new(()), || ThreadServlet::<Where>::new(()));
    let server =
        builder().start(Ensemble::of((process(), thread(), process(), thread()))).expect("it starts");
    for length in [10, 5000] {
        let lie = server.call(&vec![7; length]).expect("an answer").into_owned().expect("its own value");
        let all = [&lie.0, &lie.1, &lie.2, &lie.3];
        let file = server.segment_path().display().to_string();
        assert!(all.iter().all(|lies| **lies == lie.0 && lies.starts_with(&file)), "{lie:?}");
    }
    on_both(|host| {
        let gate = Gate::new();
        let server = &builder().start(Ensemble::each(parts(host, &gate, "abc"))).expect("it starts");
        std::thread::scope(|scope| {
            let call =
                scope.spawn(|| server.call(&"stop a, stop b".into()).and_then(|reply| reply.into_owned()));
            let mut arrivals = gate.arrivals(2);
            arrivals.sort_by_key(|arrival| arrival.label().to_string());
            arrivals.pop().expect("b's").release(); // b before a, and c before both
            wait_until("b has answered", || server.stats().servlets[1].batches().items == 1);
            drop(arrivals);
            let answers = call.join().expect("no panic").expect("an answer");
            assert_eq!(answers, ["a", "b", "c"].map(|label| Box::new(format!("stop a, stop b>{label}"))));
        });
    });
}

/// By default a member's error ends the item at once, and later outcomes of other members are dropped.
#[test]
fn servlet_04_ensemble_fails_fast_by_default() {
    on_both(|host| {
        let gate = Gate::new();
        let servlet = Ensemble::each(parts(host, &gate, "ab")).name("pair");
        let server = &builder().start(servlet).expect("it starts");
        std::thread::scope(|scope| {
            let call = scope
                .spawn(|| server.call(&"stop a, stop b, fail b".into()).and_then(|reply| reply.into_owned()));
            let mut arrivals = gate.arrivals(2);
            arrivals.sort_by_key(|arrival| arrival.label().to_string());
            arrivals.pop().expect("b's").release();
            let error = ensemble_error(call.join().expect("no panic"));
            assert_eq!((error.servlet.as_str(), error.members.len()), ("pair", 2));
            assert_eq!(error.members[0].outcome, MemberOutcome::Unfinished, "a is still at work");
            assert!(error.members[1].outcome.error().is_some_and(|e| e.servlet == "b"), "{error}");
            drop(arrivals);
        });
        wait_until("the late outcome is dropped", || server.backlog() == 0);
        assert_eq!(server.call(&"x".into()).expect("an answer").len(), 2);
    });
}

/// With errors kept, an ensemble waits for all members and gives values and errors side by side; only if there is no value at
/// all is the item an error.
#[test]
fn servlet_04_ensemble_keeps_errors_if_told_to() {
    on_both(|host| {
        let gate = Gate::new();
        let server =
            builder().start(Ensemble::each(parts(host, &gate, "abc")).keep_errors()).expect("it starts");
        let answers = server.call(&"fail b".into()).expect("two values").into_owned().expect("its own value");
        assert_eq!(answers[0], Ok(Box::new("fail b>a".into())));
        assert!(answers[1].as_ref().is_err_and(|error| error.servlet == "b"), "{answers:?}");
        assert_eq!(answers[2], Ok(Box::new("fail b>c".into())));
        let error = ensemble_error(server.call(&"fail a, fail b, fail c".into()));
        assert!(error.members.iter().all(|member| member.outcome.error().is_some()), "{error}");
    });
}

/// A function of the item says which member handles it; a number that no member has is an error of this item.
#[test]
fn servlet_05_switch_gives_an_item_to_the_member_that_its_function_names() {
    on_both(|host| {
        let gate = Gate::new();
        let choose = |text: &ArchivedString| text.len();
        let server = builder().start(Switch::new(choose, parts(host, &gate, "abc")).name("by length"));
        let server = server.expect("it starts");
        let outcomes = stream_all(&server, ["", "x", "long", "xy"].map(String::from));
        let answers: Vec<_> = outcomes.iter().map(|o| o.as_deref().unwrap_or("error")).collect();
        assert_eq!(answers, [">a", "x>b", "error", "xy>c"]);
        let error = remote(say(&server, "long"));
        assert_eq!(error.cause, RemoteCause::NoSuchMember { index: 4, members: 3 });
        assert_eq!(error.servlet, "by length");
        let seen: Vec<u64> = server.stats().servlets.iter().map(|servlet| servlet.batches().items).collect();
        assert_eq!(seen, [1, 1, 1], "no other member saw it");
    });
}

/// Servlets with the same input and output can replace each other, compound or not, in processes or in threads.
#[test]
fn servlet_06_nesting_has_no_end_and_mixes_processes_and_threads() {
    let gate = Gate::new();
    let p = |label: &str| part(Host::Processes, &gate, label, 1);
    let t = |label: &str| part(Host::Threads, &gate, label, 1);
    let by_first = |text: &ArchivedString| usize::from(text.starts_with('!'));
    let join = || ThreadServlet::<Join>::new(());
    let inner = Ensemble::each([p("a"), t("b").then(p("c")).boxed()]).then(join()).boxed();
    let chosen = Switch::new(by_first, (t("d"), inner)).boxed();
    let outer = Ensemble::each([p("e"), chosen, t("f")]).then(ProcessServlet::<Join>::new(())).then(t("g"));
    let server = builder().start(outer).expect("it starts");
    assert_eq!(say(&server, "x").expect("an answer"), "x>e x>d x>f>g");
    assert_eq!(say(&server, "!").expect("an answer"), "!>e !>a !>b>c !>f>g");
    let error = ensemble_error(server.call(&"!, fail c".into()));
    let nested = &error.members[1].outcome.error().expect("the switch's").cause;
    assert!(
        matches!(nested, RemoteCause::Ensemble { members } if members[1].outcome.error().is_some_and(|e| e.servlet == "c")),
        "{error}"
    );
}
