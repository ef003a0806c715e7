//! Client processes die at each point that they pass, and supervisors while they repair what a client left.

use crate::report::{points, tell_killed, tell_passed};
use crate::{Part, Shop, again, unwatch, watch};
use ringmill::{BoxError, CallError, Client, PassThrough, Server, StreamOptions, ThreadServlet};
use ringmill_shm::check::check;
use ringmill_shm::crash::{Act, Page, follow};
use ringmill_shm::participant::Life;
use ringmill_shm::segment::{Location, Removed, Segment, remove_if_stale};
use ringmill_tests::{fresh_name, wait_until};
use std::path::Path;
use std::time::Duration;

type Echo = Client<Vec<u8>, Vec<u8>>;

const CLIENT: usize = 0;
const CLIENTS_REACTOR: usize = 1;
const SUPERVISOR: usize = 2;
const ROLES: [(usize, &str); 3] =
    [(CLIENT, "client process"), (CLIENTS_REACTOR, "reactor of a client"), (SUPERVISOR, "supervisor")];
/// How long clients work until an armed point counts as not reached.
const PATIENCE: Duration = Duration::from_secs(20);

fn payload(number: u64) -> Vec<u8> {
    vec![number as u8; 40 + number as usize * 37 % 900]
}

/// A server that a test's clients connect to; its supervisor follows the page.
pub(crate) fn serve(name: &str, page: &Path) {
    follow(page, SUPERVISOR + 1, &[("ringmill-supervisor", SUPERVISOR)]).expect("the page");
    let _server = start(name);
    println!("ready");
    loop {
        std::thread::park(); // until the supervisor dies, or the test ends
    }
}

fn start(name: &str) -> Server<Vec<u8>, Vec<u8>> {
    let servlet = ThreadServlet::<PassThrough<Vec<u8>>>::new(()).cpus(2).batch_size(4);
    Server::builder(name).capacity(4).clients(2).client_requests(4).start(servlet).expect("a start")
}

/// A client that connects, calls in every way, and leaves, again and again.
pub(crate) fn call(name: &str, page: &Path) {
    follow(page, CLIENT, &[("ringmill-reactor", CLIENTS_REACTOR)]).expect("the page");
    loop {
        match round(name) {
            Ok(()) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn round(name: &str) -> Result<(), BoxError> {
    let client = Echo::connect(name)?;
    for number in 0..6 {
        let sent = payload(number);
        assert_eq!(client.call(&sent)?.into_owned()?, sent);
        assert_eq!(pollster::block_on(client.call_async(sent.clone()))?.into_owned()?, sent);
        drop(client.submit(&sent)); // cancelled at once
    }
    let options = StreamOptions::new().window(3);
    for (number, outcome) in (0..12).zip(client.stream_with((0..12).map(payload), options)) {
        assert_eq!(outcome?, payload(number));
    }
    Ok(())
}

/// The segment is consistent, its clients' requests are free, and a new client has them all.
#[track_caller]
fn assert_whole(name: &str) {
    let segment = Segment::inspect(Location::named(name).expect("a name")).expect("it lives");
    let rows = || segment.client_rows().map(|row| segment.participants()[row as usize].life());
    wait_until("the rows of the dead are free", || rows().all(|life| life == Life::Vacant));
    let of_clients = segment.shape().own_requests()..segment.shape().requests;
    let is_free = |id| ringmill_shm::arena::Task::new(&segment, id).is_some_and(|task| task.is_free());
    wait_until("the requests of the dead have ended", || of_clients.clone().all(is_free));
    assert_eq!(check(&segment), []);
    let clients = [Echo::connect(name).expect("a row"), Echo::connect(name).expect("another row")];
    for client in &clients {
        let sent: Vec<_> =
            (0..4).map(|number| client.submit(&payload(number)).expect("its permits")).collect();
        for (number, pending) in (0..).zip(sent) {
            assert_eq!(
                pending.wait().and_then(|reply| reply.into_owned()).expect("an answer"),
                payload(number)
            );
        }
    }
    drop(clients);
    wait_until("the rows are free again", || rows().all(|life| life == Life::Vacant));
}

pub(crate) fn lane(shop: &Shop) {
    let path = shop.page("clients");
    let page = Page::create(&path).expect("a page");
    let text = path.to_str().expect("text");
    let name = fresh_name("crash-clients");
    let server = start(&name);
    let spawn = || Part::spawn(again(&["client", &name, text]));
    watch("clients make their rounds".into());
    let mut scout = spawn();
    let passed = |role| points().map(|(point, _)| page.passed(role, point)).sum::<u64>();
    let leaving = crate::report::number("client.leaving");
    wait_until("a client has made two rounds", || {
        page.passed(CLIENT, leaving) > 2 && passed(CLIENTS_REACTOR) > 0
    });
    scout.child.kill().expect("it is a child");
    scout.child.wait().expect("it is a child");
    assert_whole(&name);
    for (role, role_name) in [ROLES[0], ROLES[1]] {
        let all: Vec<_> = points().filter(|(point, _)| page.passed(role, *point) > 0).collect();
        for (point, of) in all {
            watch(format!("{role_name} at {}", of.name));
            page.arm(0, point, role, 1 + point as u32 % 3, Act::Die);
            let mut clients = [spawn(), spawn()];
            let fired = page.await_fired(0, PATIENCE);
            if let Some(pid) = fired {
                let victim = clients.iter_mut().find(|client| client.child.id() == pid).expect("one of them");
                victim.child.wait().expect("it is a child");
                tell_killed(point, role_name, "cancelled, the row is taken again");
            }
            page.disarm(0);
            for client in &mut clients {
                let _ = client.child.kill(); // it may have died
                client.child.wait().expect("it is a child");
            }
            assert_whole(&name);
            assert_eq!(server.call(&payload(7)).and_then(|r| r.into_owned()).expect("an answer"), payload(7));
        }
    }
    drop(server);
    supervisors_die(&page, text);
    for (role, role_name) in ROLES {
        for (point, _) in points().filter(|(point, _)| page.passed(role, *point) > 0) {
            tell_passed(point, role_name, page.passed(role, point));
        }
    }
    unwatch();
}

/// Servers whose supervisor dies while it repairs what a client left: the other client learns it, and the segment is stale.
fn supervisors_die(page: &Page, text: &str) {
    let is_of_clients = |name: &str| name.starts_with("clients.") || name.starts_with("participant.offer");
    for (point, of) in points().filter(|(_, of)| is_of_clients(of.name)) {
        watch(format!("supervisor at {}", of.name));
        let name = fresh_name("crash-supervisor");
        let location = Location::named(&name).expect("a name");
        let mut command = again(&["serve-clients", &name, text]);
        command.stdout(std::process::Stdio::null());
        let mut server = Part::spawn(command);
        let connect = || Echo::connect(&name).ok();
        let mut other = None;
        wait_until("the server takes clients", || {
            other = connect();
            other.is_some()
        });
        let other = other.expect("it has connected");
        let role = SUPERVISOR;
        let mut client = Part::spawn(again(&["client", &name, text]));
        wait_until("a client works", || {
            let segment = Segment::inspect(location.clone()).expect("it is there");
            let pids = segment.client_rows().map(|row| segment.participants()[row as usize].pid());
            pids.filter(|pid| *pid == client.child.id()).count() == 1
        });
        page.arm(1, point, role, 1, Act::Die);
        // With a request in progress, which the supervisor then cancels.
        page.arm(0, crate::report::number("core.queued_all"), CLIENT, 1, Act::Die);
        client.child.wait().expect("it is a child");
        page.disarm(0);
        let fired = page.await_fired(1, PATIENCE);
        page.disarm(1);
        assert!(fired.is_some(), "the supervisor does not pass {}", of.name);
        server.child.wait().expect("it is a child");
        let gone = |error: &CallError| matches!(error, CallError::ServerGone { .. });
        let error = other.call(&payload(1)).expect_err("its server is dead");
        assert!(gone(&error), "{error}");
        drop(other);
        assert!(!matches!(remove_if_stale(&location, false).expect("ours"), Removed::Live), "it is stale");
        tell_killed(point, "supervisor", "its other client is told, the segment is stale");
    }
}
