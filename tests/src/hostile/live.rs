//! A server of worker threads whose segment is written over while it serves.
//!
//! An input is a list of deeds: calls with a short timeout, requests that are dropped, patches of the segment's
//! file. Each call ends with an outcome or an error; in the end the server shuts down. A call whose bytes are written over may
//! end with its timeout or with another number; nothing else may happen. A hook counts panics of the engine's threads, which
//! the engine turns into errors.
//!
//! Payloads are numbers: a view into a segment is as good as the bytes that were checked when it was made, and
//! a process that writes into a payload which another process holds can make a *pointer* in it lead anywhere. See
//! SECURITY.md, "What is checked".

use super::{Input, Numbers};
use crate::fresh_name;
use crate::host::Host;
use ringmill::{
    BoxError, CallOptions, Context, Ensemble, ProcessServlet, Server, Servlet, StartError, ThreadServlet,
    Wait, Worker,
};
use ringmill_shm::segment::{Location, Segment};
use rkyv::Archived;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Deeds of one input.
const DEEDS: usize = 24;
/// A call's timeout.
const PATIENCE: Duration = Duration::from_millis(20);

static ANSWERED: AtomicU64 = AtomicU64::new(0);
static PANICS: AtomicU64 = AtomicU64::new(0);

/// How many calls had an outcome, in all servers of this process.
#[must_use]
pub fn answered() -> u64 {
    ANSWERED.load(Ordering::Relaxed)
}

/// Gives its input back.
#[derive(Debug)]
pub struct Echo;

impl Worker for Echo {
    type Config = String;
    type In = u64;
    type Out = u64;

    fn new(config: String, _: &Context) -> Result<Self, BoxError> {
        if config == "echo" { Ok(Self) } else { Err(BoxError::msg("another worker's configuration")) }
    }

    fn call(&mut self, input: &Archived<u64>) -> Result<u64, BoxError> {
        // A third of them: an error record is text, and so has pointers.
        match input.to_native() % 3 {
            0 => {
                Err(BoxError::msg("an error that does not fit in line, for there is too much of it to tell"))
            }
            _ => Ok(input.to_native()),
        }
    }
}

/// Takes an ensemble's value, and does not look at it.
#[derive(Debug)]
pub struct Sink;

impl Worker for Sink {
    type Config = ();
    type In = (Box<u64>, Box<u64>);
    type Out = u64;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, _: &Archived<Self::In>) -> Result<u64, BoxError> {
        Ok(1)
    }
}

macro_rules! start {
    ($servlet:ident, $builder:ident, $forked:expr) => {{
        let echo = |name: &str| {
            let servlet = $servlet::<Echo>::new("echo".to_string()).name(name);
            servlet.batch_size(4).batch_wait_time(Duration::ZERO)
        };
        match $forked {
            false => $builder.start(echo("first").cpus(2).then(echo("second"))),
            true => $builder.start(
                Ensemble::of((echo("left"), echo("right"))).then($servlet::<Sink>::new(()).name("sink")),
            ),
        }
    }};
}

fn start(file: &Path, host: Host, forked: bool) -> Result<Server<u64, u64>, StartError> {
    let builder = Server::builder(fresh_name("hostile"))
        .file(file)
        .capacity(4)
        .max_payload(512)
        .wait(Wait::Park)
        .handle_signals(false)
        .start_timeout(Duration::from_secs(10))
        .shutdown_timeout(Duration::from_millis(200));
    match host {
        Host::Threads => start!(ThreadServlet, builder, forked),
        Host::Processes => start!(ProcessServlet, builder, forked),
    }
}

/// From the first server on, a hook counts panics of any thread: the engine's own hook keeps those of its workers from being
/// printed, and hands them to no other hook.
fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let former = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.fetch_add(1, Ordering::SeqCst);
            eprintln!("{info}");
            former(info);
        }));
    });
}

fn room() -> tempfile::TempDir {
    let wished = std::env::var_os("RINGMILL_HOSTILE_DIR").map(PathBuf::from);
    let directory = wished.unwrap_or_else(|| "/dev/shm".into());
    tempfile::Builder::new().prefix(".ringmill-hostile-").tempdir_in(directory).expect("a directory")
}

/// See the module.
///
/// # Panics
/// If a thread of the engine has panicked.
pub fn run(input: &[u8]) {
    run_with(Host::Threads, input);
}

/// [`run`] with worker threads, or with worker processes in a program whose `init!` lists [`Echo`] and [`Sink`].
///
/// # Panics
/// If a thread of the engine in this process has panicked.
pub fn run_with(host: Host, input: &[u8]) {
    let mut input = Input(input);
    let directory = room();
    let path = directory.path().join("segment");
    let server = match start(&path, host, input.byte() & 1 == 1) {
        Ok(server) => server,
        Err(error) => panic!("no byte has been changed yet: {error}"),
    };
    count_panics(); // after the engine's own hook
    let before = PANICS.load(Ordering::SeqCst);
    let file = File::options().write(true).open(&path).expect("the segment's file");
    let bytes = file.metadata().expect("an open file").len();
    let watcher = Segment::inspect(Location::File(path));
    for _ in 0..DEEDS {
        if input.is_over() {
            break;
        }
        act(&server, &file, bytes, &mut input, watcher.as_ref().ok());
    }
    server.shutdown();
    drop(server);
    assert_eq!(PANICS.load(Ordering::SeqCst), before, "a thread of the engine has panicked");
}

fn act(server: &Server<u64, u64>, file: &File, bytes: u64, input: &mut Input<'_>, watcher: Option<&Segment>) {
    let options = CallOptions::new().timeout(PATIENCE);
    match input.byte() % 8 {
        0 | 1 => {
            let outcome = server.call_with(&input.byte().into(), options);
            // An error is an outcome too, if it is the worker's.
            let told = outcome.as_ref().map_or_else(ToString::to_string, ToString::to_string);
            let answered = outcome.is_ok() || told.contains("does not fit in line");
            ANSWERED.fetch_add(answered.into(), Ordering::Relaxed);
        }
        2 => {
            if let Ok(mut pending) = server.submit_with(&input.byte().into(), options) {
                let _ = pending.wait_timeout(PATIENCE).is_some();
            }
        }
        3 => drop(server.submit_with(&input.byte().into(), options)),
        4 => {
            let text = serde_json::to_string(&(server.debug_info(), server.stats())).expect("plain facts");
            assert!(text.contains("first") || text.contains("left"));
            let problems = watcher.map_or(0, |segment| ringmill_shm::check::look(segment).len());
            assert!(problems <= bytes as usize);
        }
        _ => {
            let (at, patch) = input.patch();
            // Near the start, where most live data lies, or anywhere.
            let at = if at & 1 == 0 { at as u64 / 2 % (24 << 10).min(bytes) } else { at as u64 / 2 % bytes };
            let room = patch.len().min((bytes - at) as usize);
            file.write_all_at(&patch[..room], at).expect("a file of ours");
        }
    }
}

/// A random input.
#[must_use]
pub fn random(numbers: &mut Numbers) -> Vec<u8> {
    let mut input = vec![numbers.below(2) as u8];
    for _ in 0..numbers.below(DEEDS as u64) {
        let deed = numbers.below(8) as u8;
        input.push(deed);
        if deed > 4 {
            let at = numbers.below(1 << 24) as u32;
            input.extend(&at.to_le_bytes()[..3]);
            let count = 1 + numbers.below(16) as usize;
            input.push(count as u8 - 1);
            input.extend(numbers.bytes(count));
        } else if deed < 4 {
            input.push(numbers.below(256) as u8);
        }
    }
    input
}
