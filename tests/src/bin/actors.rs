//! A program with a server, for tests of how its process can end.
//!
//! `actors NAME GATE [OPTION]…` starts a server and says `ready PID…`; then it obeys the lines of its standard input. The test
//! that started it checks how it ends, and what it leaves.
//!
//! Options: `threads` (workers in threads), `hold-in-constructor`, `cleanup-panics`, `no-signals` (the server leaves signals
//! alone), `ignore-sigchld`, `own-handler` (the program has a handler for SIGINT), `ignore-sigint`, `shutdown-ms=N`,
//! `clients=N`, `workers=N`, `stream-threads=N`, `listener=panics` and `listener=shuts-down` (what a listener of the log does at each
//! warning), `batch=N` (with a window that outlasts every test), `reasons` (says why a call failed), `wait-for-all` (waits
//! for every child, as some programs do), `exec-ms=N` (the exec_timeout), `file=PATH` (the segment's), `program=PATH` (the
//! workers'), `anonymous` (NAME is a label).
//!
//! Commands: `hold N` (a call in a thread of its own), `exit N`, `panic`, `return`, `shutdown`,
//! `watch` (says `refused` as soon as the server takes no calls), `go-to PATH` (another working directory),
//! `use-up-descriptors`, `free-descriptors`, `limit-processes N`, `future N` (as `hold`, by a future).
//!
//! If the variable `RINGMILL_TESTS_TRACE` names a file, the program creates it before `main`.
#![expect(unsafe_code, reason = "a signal handler, a limit, a constructor")]

use ringmill::{BoxError, CallError, CallOptions, ProcessServlet, Server, ThreadServlet, WhenFull};
use ringmill_tests::actor::{Act, Actor, Answer, Rebirth, Upbringing};
use ringmill_tests::listener::Listener;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

ringmill::init!(Actor);

/// Names a file that this program makes before `main`.
const TRACE: &str = "RINGMILL_TESTS_TRACE";

/// A constructor, as plug-ins and C++ statics have them.
extern "C" fn leave_a_trace() {
    if let Some(path) = std::env::var_os(TRACE) {
        std::fs::write(path, "constructed").expect("a file");
    }
}

#[used]
// SAFETY: a function without arguments, which the C library calls before `main`; it uses nothing of other constructors.
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = leave_a_trace;

type Actors = Server<Act, Answer>;

/// Whether it says why a call failed.
static REASONS: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// Waits for every child of this process, whichever code started it.
fn wait_for_all() {
    loop {
        // SAFETY: integers, and no status.
        if unsafe { libc::waitpid(-1, core::ptr::null_mut(), 0) } < 0 {
            std::thread::sleep(Duration::from_millis(1)); // none so far
        }
    }
}

/// Where the handler of ours writes to.
static PIPE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn on_signal(_: i32) {
    let pipe = PIPE.load(Ordering::SeqCst);
    // SAFETY: writes one live byte to a descriptor; allowed in a signal handler.
    unsafe { libc::write(pipe, b"!".as_ptr().cast(), 1) };
}

/// Says `own handler` and ends in order when SIGINT comes.
fn handle_sigint() -> Result<std::thread::JoinHandle<()>, BoxError> {
    use std::io::Read;
    use std::os::fd::IntoRawFd;
    let (mut reader, writer) = std::io::pipe()?;
    PIPE.store(writer.into_raw_fd(), Ordering::SeqCst);
    let handler: extern "C" fn(i32) = on_signal;
    // SAFETY: `on_signal` only loads an atomic and writes to a descriptor.
    unsafe { libc::signal(libc::SIGINT, handler as libc::sighandler_t) };
    Ok(std::thread::spawn(move || {
        let _ = reader.read_exact(&mut [0]);
        println!("own handler");
    }))
}

fn number(line: &str) -> u64 {
    line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number")
}

fn start(name: &str, gate: &str, options: &[String]) -> Result<Actors, BoxError> {
    let has = |option: &str| options.iter().any(|o| o == option);
    let value = |key: &str| options.iter().find_map(|o| o.strip_prefix(key)?.parse::<u64>().ok());
    let upbringing = Upbringing {
        gate: gate.into(),
        rebirth: Rebirth::Lives,
        hold_in_constructor: has("hold-in-constructor"),
        cleanup_panics: has("cleanup-panics"),
    };
    let workers = value("workers=").map_or(2, |n| n as usize);
    let threads = value("stream-threads=").map_or(1, |n| n as usize);
    let text = |key: &str| options.iter().find_map(|o| o.strip_prefix(key));
    let builder = if has("anonymous") { Server::anonymous(name) } else { Server::builder(name) };
    let builder = text("file=").into_iter().fold(builder, |builder, path| builder.file(path));
    let builder = builder
        .capacity(4)
        .clients(value("clients=").unwrap_or(0) as usize)
        .handle_signals(!has("no-signals"))
        .shutdown_timeout(value("shutdown-ms=").map_or(Duration::from_secs(3600), Duration::from_millis));
    Ok(if has("threads") {
        builder.start(ThreadServlet::<Actor>::new(upbringing).cpus(workers).stream_threads(threads))?
    } else {
        let servlet = ProcessServlet::<Actor>::new(upbringing).cpus(workers).stream_threads(threads);
        let servlet = match value("batch=") {
            Some(items) => servlet.batch_size(items as usize).batch_wait_time(Duration::from_secs(3600)),
            None => servlet,
        };
        let limit = value("exec-ms=").map(Duration::from_millis);
        let servlet = limit.into_iter().fold(servlet, |servlet, limit| servlet.exec_timeout(limit));
        builder.start(text("program=").into_iter().fold(servlet, |servlet, path| servlet.program(path)))?
    })
}

fn call(server: &Actors, number: u64) {
    let options = CallOptions::new().when_full(WhenFull::Wait).timeout(Duration::from_secs(3600));
    match server.call_with(&Act::Hold(number), options) {
        Ok(reply) => println!("answer {}", reply.value),
        Err(CallError::WorkerDied(error)) if REASONS.load(Ordering::SeqCst) => {
            println!("died {number}: {error}")
        }
        Err(CallError::WorkerDied(_)) => println!("died {number}"),
        Err(error) => println!("error {error}"),
    }
}

/// How many processes and threads this user may have before this process may start no more.
fn limit_processes(most: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a live structure to fill, then to read.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NPROC, &raw mut limit);
        limit.rlim_cur = most;
        libc::setrlimit(libc::RLIMIT_NPROC, &raw const limit);
    }
}

/// Polls a future until it is ready; sleeps until it is woken.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        if let std::task::Poll::Ready(outcome) = future.as_mut().poll(&mut context) {
            return outcome;
        }
        std::thread::park();
    }
}

/// Whether the server takes no more calls. It tries a call that no worker begins: its timeout is 0.
fn refuses(server: &Actors) -> bool {
    let options = CallOptions::new().timeout(Duration::ZERO);
    matches!(server.call_with(&Act::Double(0), options), Err(CallError::ShuttingDown))
}

/// What a listener of the log does at a warning.
#[derive(Clone, Copy)]
enum Listens {
    Panics,
    ShutsDown,
}

static SERVER: std::sync::OnceLock<std::sync::Weak<Actors>> = std::sync::OnceLock::new();

impl Listens {
    fn hear(self) {
        match self {
            Self::Panics => panic!("a listener that does not bear bad news"),
            Self::ShutsDown => {
                let server = SERVER.get().and_then(std::sync::Weak::upgrade);
                server.into_iter().for_each(|server| server.shutdown());
            }
        }
    }
}

fn main() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = || arguments.next().ok_or_else(|| BoxError::msg("actors NAME GATE [OPTION]…"));
    let (name, gate) = (argument()?, argument()?);
    let options: Vec<String> = arguments.collect();
    if options.iter().any(|o| o == "ignore-sigint") {
        ringmill_shm::sys::process::ignore_signal(libc::SIGINT);
    }
    if options.iter().any(|o| o == "ignore-sigchld") {
        ringmill_shm::sys::process::ignore_signal(libc::SIGCHLD);
    }
    REASONS.store(options.iter().any(|o| o == "reasons"), Ordering::SeqCst);
    let handler = if options.iter().any(|o| o == "own-handler") { Some(handle_sigint()?) } else { None };
    let listens = options.iter().find_map(|o| match o.strip_prefix("listener=")? {
        "panics" => Some(Listens::Panics),
        _ => Some(Listens::ShutsDown),
    });
    if let Some(listens) = listens {
        std::panic::set_hook(Box::new(|_| {})); // the panic is ordered
        tracing::subscriber::set_global_default(Listener::of_warnings(move |_| listens.hear()))?;
    }
    let server = Arc::new(start(&name, &gate, &options)?);
    let _ = SERVER.set(Arc::downgrade(&server)); // the only one
    if options.iter().any(|o| o == "wait-for-all") {
        std::thread::spawn(wait_for_all);
    }
    let servlet = server.stats().servlets.remove(0);
    let pids: Vec<String> = servlet.workers.iter().map(|worker| worker.pid.to_string()).collect();
    println!("ready {}", pids.join(" "));
    if let Some(handler) = handler {
        let _ = handler.join();
        drop(server); // the last one: no command said otherwise
        return Ok(());
    }
    let mut used_up = Vec::new();
    for line in std::io::stdin().lines() {
        let line = line?;
        match line.split_whitespace().next().unwrap_or("") {
            "hold" => {
                let (server, number) = (Arc::clone(&server), number(&line));
                std::thread::spawn(move || call(&server, number));
            }
            "future" => {
                let (server, number) = (Arc::clone(&server), number(&line));
                std::thread::spawn(move || {
                    let options = CallOptions::new().timeout(Duration::from_secs(3600));
                    let act = Act::Hold(number);
                    let reply = block_on(server.call_async_with(&act, options));
                    println!("answer {}", reply.expect("an answer").value);
                });
            }
            "use-up-descriptors" => {
                used_up.extend(std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()));
                println!("used up");
            }
            "free-descriptors" => {
                used_up.clear();
                println!("free again");
            }
            "limit-processes" => {
                limit_processes(number(&line));
                println!("limited");
            }
            "go-to" => std::env::set_current_dir(line["go-to ".len()..].trim())?,
            "exit" => std::process::exit(number(&line) as i32),
            "panic" => panic!("as ordered"),
            "return" => return Ok(()),
            "shutdown" => {
                server.shutdown();
                println!("shut down");
            }
            "watch" => {
                let server = Arc::clone(&server);
                std::thread::spawn(move || {
                    while !refuses(&server) {
                        std::thread::sleep(Duration::from_millis(1)); // a look, not a measure
                    }
                    println!("refused");
                });
            }
            other => return Err(BoxError::msg(format!("unknown command {other:?}"))),
        }
    }
    Ok(())
}
