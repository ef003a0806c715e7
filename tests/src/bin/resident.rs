//! A service with one servlet, for tests in which the world around it changes.
//!
//! `resident NAME [OPTION]…` starts a server and says `ready`; then it obeys the lines of its standard input, and answers each
//! with one line.
//!
//! Options: `program=PATH` (its workers'), `pinned`, `file=PATH`, `shutdown-ms=N`, `workers=N`, `ignore=SIGNAL`, `anonymous`
//! (NAME is a label).
//!
//! Commands: `ask TEXT` (a call, see [`Resident`]; `ok OUTCOME` or `error …`), `go-to DIRECTORY`, `path PATH` (the variable),
//! `drop-privileges`, `jail DIRECTORY` (chroot), `be PROGRAM` (exec), `hold` (a call in a thread of its own that never
//! ends), `cut-off` (the system refuses this process pidfds and SIGKILL from here on), `shutdown`, `return`.
#![expect(unsafe_code, reason = "setuid, chroot, exec; workers that stray")]

use ringmill::servlet::Pin;
use ringmill::{BoxError, CallOptions, Context, Cpus, ProcessServlet, Server, WhenFull, Worker};
use ringmill_tests::refuse::{self, Refusal};
use rkyv::string::ArchivedString;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// Obeys its input: `echo TEXT`, `pid`, `exit CODE`, `sh COMMAND` (its output), `be PROGRAM` (exec), `close` (all its
/// descriptors), `sleep` (for ever), `child-signal N` (sends N to a child, forked without exec, and says which signal ended it).
struct Resident;

impl Worker for Resident {
    type Config = ();
    type In = String;
    type Out = String;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, text: &ArchivedString) -> Result<String, BoxError> {
        let (verb, rest) = text.as_str().split_once(' ').unwrap_or((text.as_str(), ""));
        Ok(match verb {
            "echo" => rest.into(),
            "pid" => std::process::id().to_string(),
            "exit" => std::process::exit(rest.parse()?),
            "sh" => {
                let out = Command::new("sh").arg("-c").arg(rest).output()?;
                String::from_utf8_lossy(&out.stdout).trim().replace('\n', " ")
            }
            "be" => return Err(Command::new(rest).arg("1000000").exec().into()),
            "close" => {
                // SAFETY: integers. Every user of a closed descriptor gets an error.
                unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
                loop {
                    std::thread::park();
                }
            }
            "sleep" => loop {
                std::thread::park();
            },
            "child-signal" => child_signal(rest.parse()?).to_string(),
            _ => return Err(BoxError::msg("no such verb")),
        })
    }
}

/// The signal that ended a child, forked without exec, which was sent it.
fn child_signal(signal: i32) -> i32 {
    // SAFETY: the child only waits; integers.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::alarm(60); // should it survive
            loop {
                libc::pause();
            }
        }
        libc::kill(child, signal);
        let mut status = 0;
        libc::waitpid(child, &raw mut status, 0);
        libc::WTERMSIG(status)
    }
}

ringmill::init!(Resident);

type Residents = Server<String, String>;

fn start(name: &str, options: &[String]) -> Result<Residents, BoxError> {
    let text = |key: &str| options.iter().find_map(|o| o.strip_prefix(key));
    let workers: usize = text("workers=").map_or(Ok(1), str::parse)?;
    let servlet = ProcessServlet::<Resident>::new(()).name("resident");
    let servlet = match options.iter().any(|o| o == "pinned") {
        true => servlet.cpus(Cpus::list(vec![Pin::from(ringmill_shm::sys::cpu::allowed()?[0]); workers])),
        false => servlet.cpus(workers),
    };
    let servlet = text("program=").into_iter().fold(servlet, |servlet, path| servlet.program(path));
    let builder = match options.iter().any(|o| o == "anonymous") {
        true => Server::anonymous(name),
        false => Server::builder(name),
    };
    let builder = text("file=").into_iter().fold(builder, |builder, path| builder.file(path));
    let limit = text("shutdown-ms=").map_or(Ok(3_600_000), str::parse)?;
    Ok(builder.shutdown_timeout(Duration::from_millis(limit)).start(servlet)?)
}

fn ask(server: &Residents, text: &str) -> String {
    let options = CallOptions::new().timeout(Duration::from_secs(3600)).when_full(WhenFull::Wait);
    match server.call_with(&text.to_string(), options) {
        Ok(reply) => format!("ok {}", reply.as_str()),
        Err(error) => format!("error {error}"),
    }
}

fn main() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().ok_or_else(|| BoxError::msg("resident NAME [OPTION]…"))?;
    let options: Vec<String> = arguments.collect();
    for signal in options.iter().filter_map(|o| o.strip_prefix("ignore=")) {
        ringmill_shm::sys::process::ignore_signal(signal.parse()?);
    }
    let server = match start(&name, &options) {
        Ok(server) => Arc::new(server),
        Err(error) => {
            println!("error {error}");
            return Ok(());
        }
    };
    println!("ready");
    for line in std::io::stdin().lines() {
        let line = line?;
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let answer = match verb {
            "ask" => ask(&server, rest),
            "hold" => {
                let server = Arc::clone(&server);
                std::thread::spawn(move || ask(&server, "sleep"));
                "held".into()
            }
            "go-to" => format!("{:?}", std::env::set_current_dir(rest)),
            "path" => {
                // SAFETY: of the other threads, the supervisor alone reads the environment, through std as we do.
                unsafe { std::env::set_var("PATH", rest) };
                "set".into()
            }
            // SAFETY: integers.
            "drop-privileges" => format!("{:?}", unsafe { (libc::setgid(65_534), libc::setuid(65_534)) }),
            "jail" => format!("{:?}", std::os::unix::fs::chroot(rest)),
            "be" => return Err(Command::new(rest).arg("1000000").exec().into()),
            "cut-off" => {
                let kill = Refusal::of(libc::SYS_kill, libc::EPERM).where_argument(1, libc::SIGKILL as u32);
                let refused = [
                    Refusal::of(libc::SYS_pidfd_open, libc::EPERM),
                    Refusal::of(libc::SYS_pidfd_send_signal, libc::EPERM),
                    kill,
                ];
                format!("{:?}", refuse::from_now_on(&refused).is_ok())
            }
            "shutdown" => {
                server.shutdown();
                "shut down".into()
            }
            "return" => return Ok(()),
            other => return Err(BoxError::msg(format!("unknown command {other:?}"))),
        };
        println!("{answer}");
    }
    Ok(())
}
