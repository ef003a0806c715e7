//! The program around an API: what it tells systemd, and how signals end it. Each test runs the service in a process of its own,
//! which is this test program again.

use ringmill::{Batch, BatchWorker, BoxError, Context, Server, ThreadServlet};
use ringmill_http::{Api, Serve};
use ringmill_tests::GUARD;
use ringmill_tests::gate::{Arrival, Gate, stop_at};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The gate of the service; set in the process that is one.
const GATE: &str = "RINGMILL_TEST_GATE";
/// The name of the test that is the service.
const SERVICE: &str = "the_service_itself";

/// Waits at the gate, then answers.
struct Holder(String);

impl BatchWorker for Holder {
    type Config = String;
    type In = String;
    type Out = String;

    fn new(gate: String, _: &Context) -> Result<Self, BoxError> {
        Ok(Self(gate))
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        stop_at(&self.0, "holds");
        let answers: Vec<String> = batch.inputs().map(|text| text.to_uppercase()).collect();
        batch.reply_all(answers)
    }
}

/// Not a test by itself: the service, where another test has started it.
#[test]
fn the_service_itself() {
    let Ok(gate) = std::env::var(GATE) else { return };
    let server = Server::anonymous("served").start(ThreadServlet::<Holder>::new(gate)).expect("it starts");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let served = runtime.expect("a runtime").block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("\nlistens at {}", listener.local_addr().expect("an address"));
        let api = Api::new().bytes("hold", server.handle());
        Serve::new(api).server(server).grace(Duration::from_secs(2)).on(listener).await
    });
    served.expect("it ends in order");
    println!("\nended");
}

/// A service in a process of its own, and what it tells systemd.
struct Service {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
    address: String,
    systemd: UnixDatagram,
    gate: Gate,
    _folder: tempfile::TempDir,
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Service {
    fn start(watchdog: Option<Duration>) -> Self {
        let (gate, folder) = (Gate::new(), tempfile::tempdir().expect("a folder"));
        let path = folder.path().join("notify");
        let systemd = UnixDatagram::bind(&path).expect("a socket");
        systemd.set_read_timeout(Some(GUARD)).expect("a time above zero");
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args([SERVICE, "--exact", "--nocapture"]).env(GATE, gate.name()).env("NOTIFY_SOCKET", &path);
        if let Some(interval) = watchdog {
            command.env("WATCHDOG_USEC", interval.as_micros().to_string());
        }
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe"));
        let address = hear(&mut lines, "listens at ");
        let service = Self { child, lines, address, systemd, gate, _folder: folder };
        assert_eq!(service.told(), "READY=1\n");
        service
    }

    /// The next message to systemd.
    fn told(&self) -> String {
        let mut message = [0; 256];
        let length = self.systemd.recv(&mut message).expect("a message in time");
        String::from_utf8_lossy(&message[..length]).into_owned()
    }

    /// Sends a request that the worker has taken, and that waits at the gate.
    fn hold(&self) -> (TcpStream, Arrival) {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        stream.set_read_timeout(Some(GUARD)).expect("a time above zero");
        stream
            .write_all(b"POST /v1/hold HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nheld")
            .expect("it reads");
        (stream, self.gate.arrival())
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().expect("kill is there").success());
    }

    fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().expect("it is a child").code()
    }
}

/// The rest of the first line that begins like that.
fn hear(lines: &mut impl BufRead, prefix: &str) -> String {
    let found = lines
        .lines()
        .map(|line| line.expect("text"))
        .find_map(|line| Some(line.strip_prefix(prefix)?.to_owned()));
    found.unwrap_or_else(|| panic!("it ended before it said {prefix}"))
}

#[test]
fn a_signal_ends_it_once_all_responses_are_sent() {
    for signal in ["TERM", "INT"] {
        let mut service = Service::start(None);
        let (mut client, held) = service.hold();
        service.signal(signal);
        assert_eq!(service.told(), "STOPPING=1\n");
        held.release();
        let mut response = String::new();
        client.read_to_string(&mut response).expect("it closes the connection afterwards");
        assert!(response.starts_with("HTTP/1.1 200 OK") && response.ends_with("HELD"), "{response}");
        hear(&mut service.lines, "ended");
        assert_eq!(service.exit_code(), Some(0));
        assert!(TcpStream::connect(&service.address).is_err(), "nobody listens");
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut service = Service::start(None);
    let (_client, _held) = service.hold();
    service.signal("TERM");
    assert_eq!(service.told(), "STOPPING=1\n");
    service.signal("TERM");
    assert_eq!(service.exit_code(), Some(1));
}

#[test]
fn clients_that_say_nothing_do_not_keep_it() {
    let mut service = Service::start(None);
    let silent = TcpStream::connect(&service.address).expect("it listens");
    let mut half = TcpStream::connect(&service.address).expect("it listens");
    half.write_all(b"POST /v1/hold HTTP/1.1\r\nContent-Length: 9\r\n\r\nha").expect("it reads");
    let mut asks = TcpStream::connect(&service.address).expect("it listens");
    asks.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("it reads");
    let mut response = String::new();
    asks.read_to_string(&mut response).expect("an answer"); // by now it has accepted those before
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    service.signal("TERM");
    hear(&mut service.lines, "ended");
    assert_eq!(service.exit_code(), Some(0));
    drop((silent, half));
}

#[test]
fn the_watchdog_is_fed() {
    let service = Service::start(Some(Duration::from_millis(20)));
    assert_eq!((service.told(), service.told()), ("WATCHDOG=1\n".into(), "WATCHDOG=1\n".into()));
}
