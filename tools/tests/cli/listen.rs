//! `stats --listen`: what Prometheus scrapes over HTTP.

use super::child::serve_in_a_child;
use super::segments::{Ours, spec};
use super::stats::counted;
use super::tool::{complaint, shmtool};
use ringmill_shm::participant::Life;
use ringmill_shm::segment::Segment;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

/// A tool that listens; dropping it kills it.
struct Listening {
    tool: Child,
    address: String,
}

impl Listening {
    fn start(ours: &Ours, more: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shmtool"));
        Self::by(command.args(["stats", &ours.name()]).args(more).stderr(Stdio::piped()))
    }

    fn by(command: &mut Command) -> Self {
        let mut tool = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(tool.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address =
            line.strip_prefix("listening on http://").and_then(|line| line.strip_suffix("/metrics\n"));
        let address = address.unwrap_or_else(|| panic!("{line:?}")).to_string();
        Self { tool, address }
    }

    fn on_loopback(ours: &Ours) -> Self {
        Self::start(ours, &["--listen", "127.0.0.1:0"])
    }

    /// The head and the body of an answer.
    fn ask(&self, method: &str, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.into(), body.into())
    }

    fn metrics(&self) -> String {
        let (head, body) = self.ask("GET", "/metrics");
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
        body
    }

    /// Whether the metrics say that the server lives, and nothing else if it does not.
    fn is_up(&self, ours: &Ours) -> bool {
        let metrics = self.metrics();
        let line = |up| format!("ringmill_up{{server=\"{}\"}} {up}", ours.name());
        let samples: Vec<_> = metrics.lines().filter(|line| !line.starts_with('#')).collect();
        match samples[..] {
            [only] => {
                assert_eq!(only, line(0));
                false
            }
            _ => {
                assert!(samples.contains(&line(1).as_str()), "{metrics}");
                assert!(metrics.contains("ringmill_requests_total{"), "{metrics}");
                true
            }
        }
    }

    /// Ends it by a signal; its status, and what it said on standard error.
    fn end(mut self, signal: &str) -> (ExitStatus, String) {
        let pid = self.tool.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        let mut said = String::new();
        self.tool.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.tool.wait().unwrap(), said)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.tool.kill(); // it may have ended
        let _ = self.tool.wait();
    }
}

fn end_in_order(segment: Segment) {
    segment.participants()[0].set_life(Life::Leaving);
    drop(segment);
}

#[test]
fn it_waits_for_a_server_and_survives_its_restart() {
    let ours = Ours::new();
    let tool = Listening::on_loopback(&ours);
    assert!(!tool.is_up(&ours), "there is none yet");
    let segment = counted(&ours);
    assert!(tool.is_up(&ours));
    let answered =
        |metrics: String| metrics.lines().any(|line| line.contains("\"answered\"") && line.ends_with(" 8"));
    assert!(answered(tool.metrics()));
    end_in_order(segment);
    assert!(!tool.is_up(&ours), "it has ended");
    let mut again = ours.create();
    assert!(tool.is_up(&ours), "a server of the same name");
    assert!(!answered(tool.metrics()), "with counters of its own");
    again.keep_files();
    drop(again);
    assert!(!tool.is_up(&ours), "it has died");
    let (status, said) = tool.end("-TERM");
    assert_eq!(status.code(), Some(0));
    let said: Vec<_> = said.lines().collect();
    assert_eq!(said.len(), 5, "each change once: {said:?}");
    assert!(said[0].contains(" is down: no segment ") && said[1].ends_with(" is up"), "{said:?}");
    assert!(said[4].ends_with(" is down: it has died"), "{said:?}");
}

/// Symptom: after some scrapes of a server that comes and goes, none was answered any more. Cause: with the reader of standard
/// error gone, `eprintln!` panicked before the connection's permit was given back. Fix: a line without a reader is no error.
#[test]
fn it_goes_on_when_the_reader_of_standard_error_has_gone() {
    let ours = Ours::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_shmtool"));
    command.args(["stats", &ours.name(), "--listen", "127.0.0.1:0"]).stderr(writer);
    let tool = Listening::by(&mut command);
    for _ in 0..20 {
        assert!(!tool.is_up(&ours));
        let segment = ours.create();
        assert!(tool.is_up(&ours));
        end_in_order(segment);
    }
}

#[test]
fn a_missing_server_is_told_before_the_first_scrape() {
    let ours = Ours::new();
    let (status, said) = Listening::on_loopback(&ours).end("-TERM");
    assert_eq!(status.code(), Some(0));
    assert!(said.contains(" is down: no segment ") && said.lines().count() == 1, "{said}");
}

#[test]
fn a_stopped_server_is_scraped_and_a_killed_one_is_down() {
    let ours = Ours::new();
    let mut server = serve_in_a_child(&ours.name());
    let tool = Listening::on_loopback(&ours);
    let pid = server.id().to_string();
    assert!(Command::new("kill").args(["-STOP", &pid]).status().unwrap().success());
    assert!(tool.is_up(&ours), "it lives");
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(!tool.is_up(&ours));
    assert_eq!(tool.end("-INT").0.code(), Some(0));
}

#[test]
fn only_get_and_head_of_what_there_is_are_answered() {
    let ours = Ours::new();
    let _segment = counted(&ours);
    let tool = Listening::on_loopback(&ours);
    let status = |method, path| tool.ask(method, path).0.lines().next().unwrap().to_string();
    assert_eq!(status("GET", "/"), "HTTP/1.1 200 OK");
    assert_eq!(status("GET", "/etc/passwd"), "HTTP/1.1 404 Not Found");
    assert_eq!(status("POST", "/metrics"), "HTTP/1.1 405 Method Not Allowed");
    let (head, body) = tool.ask("HEAD", "/metrics");
    assert!(head.starts_with("HTTP/1.1 200 OK") && body.is_empty(), "{head}");
    // What is no request costs only its own connection.
    let mut stream = TcpStream::connect(&tool.address).unwrap();
    stream.write_all(&[0x16; 100_000]).unwrap_or_default();
    drop(stream);
    let silent: Vec<_> = (0..40).map(|_| TcpStream::connect(&tool.address).unwrap()).collect();
    assert!(tool.is_up(&ours), "while others say nothing");
    drop(silent);
}

#[test]
fn only_who_asks_for_it_lets_other_machines_in() {
    let ours = Ours::new();
    let told = complaint(&shmtool(&["stats", &ours.name(), "--listen", "0.0.0.0:0"]));
    assert!(
        told.contains("0.0.0.0:0 is no loopback address") && told.contains("--beyond-loopback"),
        "{told}"
    );
    for odd in ["9464", "localhost:9464", "127.0.0.1"] {
        let output = shmtool(&["stats", &ours.name(), "--listen", odd]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains("it is an IP address and a port, such as 127.0.0.1:9464"), "{told}");
    }
    let tool = Listening::start(&ours, &["--listen", "0.0.0.0:0", "--beyond-loopback"]);
    assert!(tool.address.starts_with("0.0.0.0:"));
    assert!(!tool.is_up(&ours));
    let taken = tool.address.replace("0.0.0.0", "127.0.0.1");
    let told = complaint(&shmtool(&["stats", &ours.name(), "--listen", &taken]));
    assert!(told.contains(&format!("cannot listen on {taken}: ")), "{told}");
    let told = complaint(&shmtool(&["stats", "no\x1bname", "--listen", "127.0.0.1:0"]));
    assert!(!told.contains('\x1b'), "{told}");
}

#[test]
fn promtool_accepts_what_is_scraped() {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target-tools/bin/promtool");
    let promtool = if installed.exists() { installed } else { "promtool".into() };
    let Ok(version) = Command::new(&promtool).arg("--version").output() else {
        eprintln!("promtool is not installed, so that a scrape is not checked: .ci/tools");
        return;
    };
    assert!(version.status.success());
    let ours = Ours::new();
    let tool = Listening::on_loopback(&ours);
    for make in [false, true] {
        let segment = make.then(|| Segment::create(ours.0.clone(), &spec()).unwrap());
        let mut check = Command::new(&promtool);
        let mut check =
            check.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        check.stdin.take().unwrap().write_all(tool.metrics().as_bytes()).unwrap();
        let output = check.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        drop(segment);
    }
}
