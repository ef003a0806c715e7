//! A service that execs another program while its callers call: its workers leave, its files go.
//!
//! The storm's own process cannot exec and watch. So the service is a program of its own, which the storm tells when to
//! exec.
#![expect(unsafe_code, reason = "waiting for processes that this one adopts")]

use crate::deed::become_program;
use crate::dice::Dice;
use crate::traces::{children_of, files_of};
use crate::tree::{self, Circumstances, LARGEST, Tree};
use ringmill::{CallError, Server};
use ringmill_shm::sys::process::{PidFd, exit_now, wait_readable};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_millis(1);
/// The exit code of a service whose call ended wrongly.
const WRONG: i32 = 3;

/// The service: starts a server of this name over a random tree, says so, calls, and execs another program when it is
/// told to.
///
/// # Panics
/// If the server does not start, or a call ends wrongly.
pub fn serve(name: &str, seed: u64) -> ! {
    let mut dice = Dice::new(seed);
    let tree = Tree::random(&mut dice);
    let circumstances = Circumstances::default();
    let server = Server::builder(name).capacity(24).max_payload(LARGEST).start(tree.servlet(&circumstances));
    let server = server.expect("the server starts");
    let ended = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for caller in 0..3 {
            let (server, tree, ended) = (&server, &tree, &ended);
            let mut dice = Dice::new(seed.wrapping_mul(10) + caller);
            scope.spawn(move || {
                loop {
                    let input = tree::item(caller, &mut dice);
                    let outcome = server.call(&input).and_then(|reply| reply.into_owned());
                    let fates = tree.fates(&input, false);
                    let is_right = match &outcome {
                        Ok(value) => fates.values.contains(value),
                        Err(CallError::Remote(_) | CallError::Ensemble(_)) => fates.error,
                        Err(_) => false,
                    };
                    if !is_right {
                        eprintln!("{tree}: {input:?}: {outcome:?}");
                        exit_now(WRONG);
                    }
                    ended.fetch_add(1, Ordering::Relaxed); // Relaxed: a count
                }
            });
        }
        println!("ready");
        let _ = std::io::stdin().lock().read_line(&mut String::new());
        let enough = ended.load(Ordering::Relaxed) + 1 + dice.below(50);
        while ended.load(Ordering::Relaxed) < enough {
            std::thread::yield_now();
        }
        match dice.below(2) {
            0 => become_program(&[c"/bin/sleep", c"100000"]),
            _ => become_program(&[c"/bin/true"]),
        }
    })
}

/// Starts a command that [`serve`]s under this name, and makes it exec another program.
///
/// # Errors
/// The first broken promise.
pub fn pass(mut command: Command, name: &str, patience: Duration) -> Result<(), String> {
    let told = |error: &dyn std::fmt::Display| format!("a service that becomes another program: {error}");
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| told(&error))?;
    let mut processes: Vec<u32> = Vec::new();
    let mut look_on = || {
        let mut say = child.stdin.take().expect("piped");
        let mut hear = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        while line != "ready\n" {
            line.clear();
            if hear.read_line(&mut line).map_err(|error| error.to_string())? == 0 {
                return Err("it has ended early".to_owned());
            }
        }
        // Workers, and the janitor of a service that root has started.
        processes = children_of(child.id()).into_iter().map(|(pid, _)| pid).collect();
        let open = processes.iter().map(|&pid| PidFd::open(pid)).collect::<Result<Vec<_>, _>>();
        let open = open.map_err(|error| error.to_string())?;
        writeln!(say, "go").map_err(|error| error.to_string())?;
        let begun = Instant::now();
        let has_ended = |process: &&PidFd| wait_readable(&[process.as_raw_fd()], Some(Duration::ZERO))[0];
        while open.iter().filter(has_ended).count() < open.len() || !files_of(name).is_empty() {
            if begun.elapsed() > patience {
                let left = open.len() - open.iter().filter(has_ended).count();
                return Err(format!("{left} of its processes, and files {:?}, are left", files_of(name)));
            }
            std::thread::sleep(LOOK); // how often to look
        }
        Ok(())
    };
    let outcome = look_on();
    let _ = child.kill(); // it may sleep, or have failed
    let status = child.wait().map_err(|error| told(&error))?;
    for pid in processes {
        // SAFETY: no status is asked for. The pid is of a child that this process adopted, and that has ended;
        // otherwise the kernel refuses the call.
        unsafe { libc::waitpid(pid.cast_signed(), std::ptr::null_mut(), libc::WNOHANG) };
    }
    outcome.map_err(|error| told(&format!("{error} ({status})")))?;
    match status.code() {
        None | Some(0) => Ok(()), // by our signal, or as the program that it became
        Some(_) => Err(told(&status)),
    }
}
