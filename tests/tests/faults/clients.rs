//! Client processes: they call beside each other and the server's own process, die in every state, and are told of the
//! server's end.

use ringmill::error::ConnectError;
use ringmill::{CallError, Client, ServerBuilder};
use ringmill_shm::participant::{Life, Role};
use ringmill_shm::segment::{Gate, Segment};
use ringmill_shm::word::Phase;
use ringmill_tests::actor::{Act, Actor, Answer};
use ringmill_tests::actor_gate::{ActorGate, Visit};
use ringmill_tests::caller::Caller;
use ringmill_tests::guard::guarded;
use ringmill_tests::name::Name;
use ringmill_tests::process::{go_on, stop};
use ringmill_tests::program::Program;
use ringmill_tests::wait_until;
use std::time::Duration;

ringmill::init!(Actor);

type Actors = Client<Act, Answer>;

/// A server's options with this many clients.
fn builder(name: &Name, clients: usize) -> ServerBuilder {
    name.builder().capacity(8).clients(clients).client_requests(4)
}

/// How many clients' rows are in use.
fn in_use(segment: &Segment) -> usize {
    let lives = segment.client_rows().map(|row| segment.participants()[row as usize].life());
    lives.filter(|life| *life != Life::Vacant).count()
}

/// Waits until the supervisor has repaired what all clients left.
#[track_caller]
fn await_vacant(name: &Name) {
    let segment = name.inspect();
    wait_until("all rows of clients are free", || in_use(&segment) == 0);
}

/// Requests that are not free.
fn busy(segment: &Segment, client: u32) -> Vec<Phase> {
    let tasks = segment.shape().requests_of(client);
    let phase = |id| ringmill_shm::arena::Task::new(segment, id)?.word().load().phase();
    tasks.filter_map(phase).filter(|phase| *phase != Phase::Free).collect()
}

#[test]
fn another_program_calls_in_every_way() {
    guarded(|| {
        Name::each("client-ways", |name| {
            let gate = ActorGate::new();
            let server = builder(&name, 2).start(gate.processes(2).batch_size(4)).expect("a start");
            let (mut caller, first) = Caller::start(&name);
            assert_eq!(first, "connected 4");
            for (command, answer) in [
                ("double 21", "= 42"),
                ("future 4", "= 8"),
                ("stream 1000", "= 1000"),
                ("unordered 1000", "= 1000"),
                ("async 1000", "= 1000"),
                ("double 2", "= 4"),
            ] {
                assert_eq!(caller.ask(command), answer, "{command}");
                assert_eq!(server.call(&Act::Double(5)).expect("it lives").value, 10);
            }
            let segment = name.inspect();
            let rows: Vec<_> = segment.client_rows().map(|row| segment.role_of(row)).collect();
            assert_eq!(rows, [Some(Role::Client); 2]);
            let used = |row: &u32| segment.participants()[*row as usize].pid() == caller.pid();
            assert_eq!(segment.client_rows().filter(used).count(), 1, "its process has a row");
            drop(segment);
            assert_eq!(caller.ask("leave"), "= 0");
            await_vacant(&name);
            name.assert_consistent();
            drop(server);
            name.assert_nothing_left();
        });
    });
}

#[test]
fn a_share_is_a_bound_and_a_guarantee() {
    guarded(|| {
        let (name, gate) = (Name::new("client-share"), ActorGate::new());
        let server = builder(&name, 2).start(gate.processes(6)).expect("a start");
        let (mut full, mut other) = (Caller::connected(&name), Caller::connected(&name));
        assert_eq!(full.ask("fill"), "= 4", "its share, and no more");
        let visits: Vec<_> = (0..4).map(|_| gate.next()).collect();
        assert_eq!(full.ask("limit 1"), "= 0");
        assert!(
            full.ask("double 1").starts_with("error all permits of the server (4) are in use"),
            "it waits"
        );
        assert_eq!(other.ask("double 1"), "= 2");
        assert_eq!(server.call(&Act::Double(2)).expect("its own permits").value, 4);
        visits.into_iter().for_each(Visit::let_go);
        for number in 1000..1004 {
            assert_eq!(full.ask("await"), format!("= {}", 2 * number));
        }
        assert_eq!(full.ask("limit 60000"), "= 0");
        assert_eq!(full.ask("double 3"), "= 6");
    });
}

/// A client that calls as much as it can does not keep the others from getting their answers.
#[test]
fn a_flood_starves_no_other() {
    guarded(|| {
        let (name, gate) = (Name::new("client-flood"), ActorGate::new());
        let server = builder(&name, 2).start(gate.processes(1).batch_size(4)).expect("a start");
        let (mut flood, mut other) = (Caller::connected(&name), Caller::connected(&name));
        assert_eq!(flood.ask("flood 8"), "= 0");
        assert_eq!(other.ask("stream 2000"), "= 2000");
        for number in 0..200 {
            assert_eq!(server.call(&Act::Double(number)).expect("it lives").value, 2 * number);
        }
        flood.kill();
        assert_eq!(other.ask("double 1"), "= 2");
        drop(other);
        await_vacant(&name);
        wait_until("what the dead had in progress has ended", || {
            let segment = name.inspect();
            busy(&segment, 1).is_empty() && busy(&segment, 2).is_empty()
        });
        name.assert_consistent();
    });
}

#[test]
fn what_a_dead_client_had_in_progress_is_cancelled_and_its_row_used_again() {
    guarded(|| {
        Name::each("client-death", |name| {
            let gate = ActorGate::new();
            let server = builder(&name, 1).start(gate.processes(1)).expect("a start");
            let mut caller = Caller::connected(&name);
            assert_eq!(caller.ask("hold 1"), "sent");
            let first = gate.next(); // a worker has it
            assert_eq!(caller.ask("hold 2"), "sent"); // in the ring
            assert_eq!(caller.ask("hold-future 3"), "sent");
            caller.kill();
            await_vacant(&name);
            // Its row is free while a worker still has its request.
            let mut next = Caller::connected(&name);
            first.let_go();
            assert_eq!(next.ask("double 7"), "= 14");
            assert_eq!(next.ask("fill"), "= 4", "the share of the dead has come back");
            let begun = gate.next();
            next.kill();
            await_vacant(&name); // so that no worker begins the other three
            begun.let_go();
            drop(server);
            name.assert_nothing_left();
        });
    });
}

#[test]
fn requests_of_the_dead_that_no_worker_has_begun_never_run() {
    guarded(|| {
        let (name, gate) = (Name::new("client-unbegun"), ActorGate::new());
        let server = builder(&name, 1).start(gate.processes(1)).expect("a start");
        let mut caller = Caller::connected(&name);
        assert_eq!(caller.ask("hold 1"), "sent");
        let first = gate.next();
        assert_eq!(caller.ask("hold 2"), "sent");
        caller.kill();
        await_vacant(&name);
        first.let_go();
        let answer = std::thread::scope(|scope| {
            let call = scope.spawn(|| server.call(&Act::Hold(3)).map(|answer| answer.value.to_native()));
            let visit = gate.next();
            assert_eq!(visit.number, 3, "request 2 was dropped");
            visit.let_go();
            call.join().expect("no panic")
        });
        assert_eq!(answer.expect("it lives"), 6);
        let segment = name.inspect();
        wait_until("all is free", || busy(&segment, 1).is_empty());
        name.assert_consistent();
    });
}

#[test]
fn clients_come_and_go_in_every_way() {
    guarded(|| {
        let (name, gate) = (Name::new("client-churn"), ActorGate::new());
        let server = builder(&name, 2).start(gate.processes(2).batch_size(4)).expect("a start");
        let mut stays = Caller::connected(&name);
        for round in 0..30 {
            let mut caller = Caller::connected(&name);
            assert_eq!(caller.ask(&format!("double {round}")), format!("= {}", 2 * round));
            match round % 5 {
                0 => caller.kill(),
                1 => assert_eq!(caller.ask("leave"), "= 0"),
                2 => assert_eq!(caller.ask("exec"), "= 0"),
                3 => {
                    assert_eq!(caller.ask("flood 2"), "= 0");
                    caller.kill();
                }
                _ => drop(caller), // killed in whatever it does
            }
            assert_eq!(stays.ask("stream 20"), "= 20");
        }
        drop(stays);
        await_vacant(&name);
        name.assert_consistent();
        assert_eq!(server.call(&Act::Double(1)).expect("it lives").value, 2);
    });
}

#[test]
fn more_clients_than_rows_are_refused_until_one_has_gone() {
    guarded(|| {
        let (name, gate) = (Name::new("client-full"), ActorGate::new());
        let server = builder(&name, 2).start(gate.threads(1)).expect("a start");
        let (one, mut two) = (Caller::connected(&name), Caller::connected(&name));
        match Actors::connect(&name.address()) {
            Err(ConnectError::Full { most: 2, .. }) => {}
            other => panic!("{other:?}"),
        }
        stop(two.pid());
        drop(one);
        let mut three = Caller::connected(&name); // waits for the repair
        match Actors::connect(&name.address()) {
            Err(ConnectError::Full { .. }) => {}
            other => panic!("a client that is stopped lives: {other:?}"),
        }
        assert_eq!(three.ask("double 1"), "= 2");
        go_on(two.pid());
        assert_eq!(two.ask("double 4"), "= 8");
        drop(server);
    });
}

#[test]
fn a_forked_client_is_refused_and_harms_nothing() {
    guarded(|| {
        let (name, gate) = (Name::new("client-fork"), ActorGate::new());
        let _server = builder(&name, 1).start(gate.processes(1)).expect("a start");
        let mut caller = Caller::connected(&name);
        assert_eq!(caller.ask("fork"), "= 7");
        assert_eq!(caller.ask("double 3"), "= 6");
        assert_eq!(caller.ask("future 3"), "= 6");
        name.assert_consistent();
    });
}

#[test]
fn a_connection_names_both_sides_of_what_does_not_fit() {
    guarded(|| {
        let name = Name::new("client-misfit");
        let address = name.location().to_text();
        match Actors::connect(&address) {
            Err(ConnectError::NoServer { address: named }) => assert_eq!(named, address),
            other => panic!("{other:?}"),
        }
        assert!(matches!(Actors::connect("no/../such"), Err(ConnectError::NoServer { .. })));
        assert!(matches!(Actors::connect("bad name"), Err(ConnectError::Address(_))));
        let gate = ActorGate::new();
        {
            let _server = name.builder().start(gate.threads(1)).expect("a start");
            match Actors::connect(&address) {
                Err(ConnectError::NoClients { address: named }) => assert_eq!(named, address),
                other => panic!("{other:?}"),
            }
        }
        let server = builder(&name, 1).start(gate.threads(1)).expect("a start");
        let error = Client::<Act, u64>::connect(&address).expect_err("it answers otherwise").to_string();
        let names = ["ringmill_tests::actor::Act", "ringmill_tests::actor::Answer", "u64"];
        assert!(names.iter().all(|name| error.contains(name)), "{error}");
        let client = Actors::connect(&address).expect("the same types");
        assert_eq!(client.server_pid(), std::process::id());
        assert_eq!(client.call(&Act::Double(2)).expect("a client in the server's process").value, 4);
        drop(server);
        assert!(matches!(client.call(&Act::Double(2)), Err(CallError::ShuttingDown)));
        name.assert_nothing_left();
    });
}

#[test]
fn a_shutdown_answers_what_clients_have_in_progress() {
    guarded(|| {
        let (name, gate) = (Name::new("client-shutdown"), ActorGate::new());
        let server = builder(&name, 2).start(gate.processes(1)).expect("a start");
        let mut caller = Caller::connected(&name);
        assert_eq!(caller.ask("hold 5"), "sent");
        let visit = gate.next();
        let ending = std::thread::spawn(move || drop(server));
        // A call that came before would wait behind the first, for whose end this test waits.
        wait_until("the gate to be closed", || name.inspect().gate() == Gate::Closing);
        assert_eq!(caller.ask("double 1"), "error the server is shutting down");
        visit.let_go();
        assert_eq!(caller.ask("await"), "= 10");
        ending.join().expect("no panic");
        name.assert_nothing_left();
        assert_eq!(caller.ask("double 1"), "error the server is shutting down");
        assert_eq!(caller.ask("future 1"), "error the server is shutting down");
        assert_eq!(caller.ask("leave"), "= 0");
    });
}

#[test]
fn a_drain_waits_for_clients() {
    guarded(|| {
        let (name, gate) = (Name::new("client-drain"), ActorGate::new());
        let server = builder(&name, 1).start(gate.processes(1)).expect("a start");
        let mut caller = Caller::connected(&name);
        assert_eq!(caller.ask("hold 5"), "sent");
        let visit = gate.next();
        assert!(server.drain(Duration::from_millis(1)).is_err(), "a client's request is in progress");
        visit.let_go();
        server.drain(Duration::from_secs(50)).expect("it has ended");
        assert_eq!(caller.ask("await"), "= 10");
    });
}

#[test]
fn a_servlet_that_is_drained_refuses_clients_until_it_is_resumed() {
    guarded(|| {
        let (name, gate) = (Name::new("client-drained"), ActorGate::new());
        let server = builder(&name, 1).start(gate.processes(1)).expect("a start");
        let mut caller = Caller::connected(&name);
        server.drain_servlet("actor", Duration::from_secs(50)).expect("it is empty");
        assert!(caller.ask("double 1").starts_with("error servlet actor is drained"));
        server.resume_servlet("actor").expect("it is there");
        assert_eq!(caller.ask("double 1"), "= 2");
    });
}

/// Symptom: a client that had closed its descriptors was taken for dead while it acted, and closed the gate of the server for
/// all. Cause: its byte of the lease was free, and its descriptor of the server reported an error. Fix: a client that has the
/// segment mapped and whose process goes on has its row, and a client writes nothing of its server's.
#[test]
fn a_client_that_closes_its_descriptors_goes_on_and_harms_no_other() {
    guarded(|| {
        let (name, gate) = (Name::new("client-closed"), ActorGate::new());
        let server = builder(&name, 2).start(gate.processes(1)).expect("a start");
        let segment = name.inspect();
        let (mut closed, mut other) = (Caller::connected(&name), Caller::connected(&name));
        assert_eq!(closed.ask("hold 5"), "sent");
        let visit = gate.next();
        assert_eq!(closed.ask("close-all"), "= 0");
        // It looks at its server after each of its sleeps; the supervisor at all clients when one leaves, and one comes.
        assert_eq!(closed.ask("limit 1500"), "= 0");
        let late = closed.ask("double 4"); // its worker is held
        assert!(late.starts_with("error no outcome within"), "{late}");
        assert_eq!(other.ask("leave"), "= 0");
        drop(other);
        wait_until("a row to be free", || in_use(&segment) == 1);
        let mut other = Caller::connected(&name);
        assert_eq!((in_use(&segment), segment.gate()), (2, Gate::Open));
        visit.let_go();
        assert_eq!(closed.ask("await"), "= 10");
        assert_eq!(closed.ask("limit 50000"), "= 0");
        assert_eq!(closed.ask("double 4"), "= 8");
        assert_eq!(other.ask("double 5"), "= 10");
        assert_eq!(server.call(&Act::Double(6)).expect("an answer").value, 12);
        closed.kill();
        closed.wait();
        wait_until("its row to be free", || in_use(&segment) == 1);
        assert_eq!(other.ask("double 7"), "= 14");
    });
}

/// The server is killed: calls, futures and what waits for a permit end with an error, and the client lives on.
#[test]
fn a_servers_death_ends_the_calls_of_its_clients() {
    guarded(|| {
        for condition in ["in a call", "in a future", "idle"] {
            let (name, gate) = (Name::new("client-orphan"), ActorGate::new());
            let (mut program, _) = Program::start_ready(&name, &gate, &["workers=1", "clients=1"]);
            let mut caller = Caller::connected(&name);
            let visit = match condition {
                "in a call" => {
                    caller.tell("hold 1");
                    assert_eq!(caller.line(), "sent");
                    caller.tell("await");
                    Some(gate.next())
                }
                "in a future" => {
                    assert_eq!(caller.ask("hold-future 1"), "sent");
                    let visit = gate.next();
                    caller.tell("await");
                    Some(visit)
                }
                _ => None,
            };
            program.kill_and_wait();
            let gone = |line: &str| line.starts_with("error the server (process ");
            if condition != "idle" {
                let line = caller.line();
                assert!(gone(&line), "{condition}: {line}");
            }
            // Its worker may answer until it has noticed the death, too.
            wait_until("the client to notice", || gone(&caller.ask("double 1")));
            for command in ["double 1", "future 1", "stream 5", "unordered 5", "async 5"] {
                let line = caller.ask(command);
                assert!(gone(&line), "{condition}, {command}: {line}");
            }
            drop(visit);
            assert_eq!(caller.ask("leave"), "= 0");
            drop(program);
            wait_until("the workers have removed the files", || name.is_clean());
        }
    });
}
