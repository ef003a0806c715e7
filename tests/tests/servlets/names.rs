//! Where a server is found: by its name, by its name with a suffix, or nowhere, if it is anonymous.

use ringmill::{
    BoxError, CallError, CallOptions, Context, PassThrough, Server, ServerBuilder, StartError, ThreadServlet,
    WhenFull, Worker,
};
use ringmill_shm::participant::Lease;
use ringmill_shm::segment::{CreateError, Location, NAMED_DIRECTORY, Segment};
use ringmill_shm::sys::process::PidFd;
use ringmill_tests::actor::{Act, Actor};
use ringmill_tests::actor_gate::ActorGate;
use ringmill_tests::guard::guarded;
use ringmill_tests::host::{Crew, Host, on_both};
use ringmill_tests::name::Name;
use ringmill_tests::other_user::{NOBODY, can_be_another_user};
use ringmill_tests::{GUARD, wait_until};
use rkyv::Archived;
use std::collections::BTreeSet;
use std::os::unix::fs::chown;
use std::sync::Barrier;

/// Says what it knows of its server.
struct Teller(String);

impl Worker for Teller {
    type Config = ();
    type In = u64;
    type Out = (String, u64);

    fn new((): (), context: &Context) -> Result<Self, BoxError> {
        Ok(Self(context.server_name().to_owned()))
    }

    fn call(&mut self, number: &Archived<u64>) -> Result<(String, u64), BoxError> {
        Ok((self.0.clone(), number.to_native()))
    }
}

ringmill::init!(Teller, Actor);

/// Runs a test body with workers in processes and in threads, each over a named and an anonymous segment.
fn on_each(test: &str, body: impl Fn(Host, &Name)) {
    on_both(|host| {
        Name::each(test, |name| {
            body(host, &name);
            name.assert_nothing_left();
        });
    });
}

fn patient() -> CallOptions {
    CallOptions::new().when_full(WhenFull::Wait).timeout(GUARD)
}

#[test]
fn calls_and_streams_do_not_depend_on_where_the_segment_is() {
    on_each("calls", |host, name| {
        let server = host.start::<Teller>(name.builder().capacity(8), (), Crew::of(2).greedy(4));
        assert_eq!(server.name(), name.text());
        let reply = server.call(&7).expect("an answer");
        assert_eq!((reply.0.as_str(), reply.1.to_native()), (&*name.text(), 7), "its workers know the name");
        drop(reply);
        let numbers = server.stream(0..500).map(|outcome| outcome.expect("an answer").1);
        assert!(numbers.eq(0..500));
        name.assert_consistent();
        let segment = Segment::inspect(Location::parse(&server.address()).expect("an address"));
        assert_eq!(
            segment.expect("it lives").total_bytes(),
            server.segment_path().metadata().expect("a file").len()
        );
    });
}

#[test]
fn a_killed_worker_is_restarted_wherever_the_segment_is() {
    guarded(|| {
        Name::each("killed", |name| {
            let gate = ActorGate::new();
            let server = name.builder().start(gate.processes(2)).expect("it starts");
            for round in 0..3 {
                let visit = std::thread::scope(|scope| {
                    let held = scope.spawn(|| server.call_with(&Act::Hold(round), patient()).map(drop));
                    let visit = gate.next_hold(round);
                    PidFd::open(visit.pid)
                        .and_then(|worker| worker.send_signal(libc::SIGKILL))
                        .expect("it lives");
                    let error = held.join().expect("no panic").expect_err("its worker was killed");
                    assert!(matches!(error, CallError::WorkerDied(_)), "{error:?}");
                    visit
                });
                wait_until("all workers are back", || {
                    server.stats().servlets[0]
                        .workers
                        .iter()
                        .all(|worker| worker.ready && worker.pid != visit.pid)
                });
                assert_eq!(server.call_with(&Act::Double(4), patient()).expect("an answer").value, 8);
            }
            name.assert_consistent();
            drop(server);
            name.assert_nothing_left();
        });
    });
}

#[test]
fn servers_of_one_label_run_side_by_side() {
    guarded(|| {
        on_both(|host| {
            let (name, gate) = (Name::label("replicas"), ActorGate::new());
            let start = || host.start::<Actor>(name.builder(), gate.upbringing(), Crew::of(2));
            let (one, other) = (start(), start());
            assert_eq!([one.name(), other.name()], [&*name.text(); 2]);
            assert_ne!(one.address(), other.address());
            for server in [&one, &other] {
                assert_eq!(server.call(&Act::Double(3)).expect("an answer").value, 6);
                let segment = Segment::inspect(Location::parse(&server.address()).expect("an address"));
                assert_eq!(ringmill_shm::check::check(&segment.expect("it lives")), []);
            }
            if host == Host::Processes {
                let error = one.call(&Act::Abort).map(drop).expect_err("it dies");
                assert!(matches!(error, CallError::WorkerDied(_)), "{error:?}");
                assert!(
                    other.stats().servlets[0]
                        .workers
                        .iter()
                        .all(|worker| worker.ready && worker.restarts == 0)
                );
            }
            drop(one);
            assert_eq!(other.call(&Act::Double(4)).expect("the other goes on").value, 8);
            drop(other);
            name.assert_nothing_left();
        });
    });
}

/// Whether a file of any kind in `/dev/shm` has this text in its name.
fn is_in_dev_shm(text: &str) -> bool {
    let files = std::fs::read_dir(NAMED_DIRECTORY).expect("it is there");
    files.flatten().any(|file| file.file_name().to_string_lossy().contains(text))
}

#[test]
fn an_anonymous_server_is_in_no_file_system_and_leaves_no_memory() {
    on_both(|host| {
        let name = Name::label("nowhere");
        let server = host.start::<Teller>(name.builder(), (), Crew::of(1));
        assert_eq!(server.call(&1).expect("an answer").1, 1);
        assert!(!is_in_dev_shm(&name.text()));
        assert!(!name.is_clean(), "this test would see its memory");
        let memory = server.segment_path().metadata().expect("it can be opened").len();
        assert!(memory > 4096);
        server.shutdown();
        drop(server);
        assert!(!is_in_dev_shm(&name.text()));
        name.assert_nothing_left();
        let maps = std::fs::read_to_string("/proc/self/maps").expect("ours");
        assert!(!maps.contains(&name.text()), "{maps}");
    });
}

#[test]
fn a_label_has_the_rules_of_names() {
    for label in ["", ".hidden", "a b", "a/b", "a@1", &"x".repeat(56), "a.lease"] {
        match Server::anonymous(label).start(ThreadServlet::<PassThrough<u8>>::new(())) {
            Err(StartError::Segment(CreateError::Name(error))) => assert_eq!(error.name, label),
            other => panic!("{label:?}: {other:?}"),
        }
    }
    let longest = Server::anonymous("x".repeat(55)).start(ThreadServlet::<PassThrough<u8>>::new(()));
    assert_eq!(*longest.expect("55 characters fit").call(&3).expect("an answer"), 3);
}

type Echo = Server<u8, u8>;

fn start(builder: ServerBuilder) -> Result<Echo, StartError> {
    builder.start(ThreadServlet::<PassThrough<u8>>::new(()))
}

/// The name, and the names that `name_or_suffix` takes after it.
fn with_suffix(name: &Name, number: u32) -> String {
    if number == 1 { name.text() } else { format!("{}-{number}", name.text()) }
}

fn with_a_free_suffix(name: &Name) -> ServerBuilder {
    Server::builder(name.text()).name_or_suffix()
}

#[test]
fn servers_that_start_at_once_get_names_of_their_own() {
    let name = Name::new("suffix");
    let barrier = Barrier::new(4);
    let servers: Vec<Echo> = std::thread::scope(|scope| {
        let one = || {
            barrier.wait();
            start(with_a_free_suffix(&name)).expect("it starts")
        };
        let threads = [(); 4].map(|()| scope.spawn(one));
        threads.map(|thread| thread.join().expect("no panic")).into()
    });
    let names: BTreeSet<&str> = servers.iter().map(Server::name).collect();
    let expected: Vec<String> = (1..=4).map(|number| with_suffix(&name, number)).collect();
    assert_eq!(names, expected.iter().map(String::as_str).collect());
    for server in &servers {
        assert_eq!(*server.call(&9).expect("an answer"), 9);
        assert_eq!(server.address(), server.name());
        assert!(is_in_dev_shm(server.name()));
    }
    // A name that has come free is the next one's.
    let mut servers = servers;
    servers.retain(|server| server.name() != with_suffix(&name, 2));
    let next = start(with_a_free_suffix(&name)).expect("it starts");
    assert_eq!(next.name(), with_suffix(&name, 2));
    drop((servers, next));
    assert!(!is_in_dev_shm(&name.text()), "nothing is left");
}

/// What a dead server left does not take its name away.
#[test]
fn a_dead_servers_name_needs_no_suffix() {
    let name = Name::new("deadname");
    std::fs::write(name.location().lease_path(), "").expect("a file");
    let server = start(with_a_free_suffix(&name)).expect("it starts");
    assert_eq!(server.name(), name.text());
    drop(server);
    name.assert_nothing_left();
}

#[test]
fn another_users_name_is_passed_over() {
    if !can_be_another_user("names of other users") {
        return;
    }
    let name = Name::new("theirs");
    std::fs::write(name.location().lease_path(), "").expect("a file");
    chown(name.location().lease_path(), Some(NOBODY), None).expect("we are root");
    let server = start(with_a_free_suffix(&name)).expect("it starts");
    assert_eq!(server.name(), with_suffix(&name, 2));
}

#[test]
fn when_all_suffixes_are_in_use_the_start_fails() {
    let name = Name::new("bound");
    let lease = |number| {
        let location = Location::named(&with_suffix(&name, number)).expect("a name");
        let lease = Lease::acquire_to_serve(&location.lease_path()).expect("ours").expect("it is free");
        (lease, location)
    };
    let mut leases: Vec<_> = (1..=64).map(lease).collect();
    match start(with_a_free_suffix(&name)) {
        Err(error @ StartError::NamesInUse { .. }) => {
            let n = name.text();
            let told = format!(
                "{n} and {n}-2 to {n}-64 are in use by live servers, or by another user: stop some, or take another name"
            );
            assert_eq!(error.to_string(), told);
        }
        other => panic!("{other:?}"),
    }
    let (last, location) = leases.pop().expect("64");
    std::fs::remove_file(location.lease_path()).expect("ours");
    drop(last);
    let server = start(with_a_free_suffix(&name)).expect("the last one is free");
    assert_eq!(server.name(), with_suffix(&name, 64));
    for (_, location) in &leases {
        std::fs::remove_file(location.lease_path()).expect("ours");
    }
}

/// Where a server takes no name, there is none to vary.
#[test]
fn a_server_without_a_name_has_no_suffix() {
    let label = Name::label("nosuffix");
    let servers = [(); 2].map(|()| start(label.builder().name_or_suffix()).expect("it starts"));
    assert_eq!(servers.each_ref().map(Server::name), [&*label.text(); 2]);
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("segment");
    let in_file = start(with_a_free_suffix(&label).file(&file)).expect("it starts");
    assert_eq!((in_file.name(), in_file.segment_path()), (&*label.text(), file));
    assert!(!is_in_dev_shm(&label.text()));
}
