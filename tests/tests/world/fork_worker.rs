//! A child that user code forks in a worker is not a second worker: it ends where it would go on as one.
//!
//! Symptom: a child that user code had forked, and that returned from `call`, answered items a second time and went on
//! draining the ring; a helper that outlived its worker kept the lock on the worker's byte of the lease, so no successor could
//! start. Cause: the engine did not ask which process it was in, and the byte was the row's. Fix: `panics::caught`, `Desk`, and
//! a byte for each incarnation.
#![expect(unsafe_code, reason = "fork, and signals to processes of the test")]

use super::fork::Way;
use ringmill::{
    Batch, BatchWorker, BoxError, CallOptions, Context, ProcessServlet, Server, ThreadServlet, WhenFull,
};
use ringmill_tests::alone::alone;
use ringmill_tests::name::Name;
use ringmill_tests::wait_until;
use std::time::Duration;

/// Forks as its input says, and answers its pid and the child's.
pub(crate) struct Forker;

impl BatchWorker for Forker {
    type Config = ();
    type In = String;
    type Out = (u32, i32);

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        for item in batch {
            // A copy: the child's view would be of whatever the parent writes there next.
            let order = item.input().as_str().to_owned();
            let (way, deed) = order.split_once(' ').unwrap_or(("none", ""));
            let child = match way {
                "fork" => Way::Fork.make(),
                "bare" => Way::Bare.make(),
                _ => 1,
            };
            if child == 0 {
                match deed {
                    "return" => return Ok(()),
                    "fail" => return Err(BoxError::msg("from the child")),
                    "panic" => panic!("from the child"),
                    "reply" => {
                        item.reply((0, 0));
                        loop {
                            std::thread::park(); // never: it has ended
                        }
                    }
                    _ => loop {
                        // SAFETY: a helper that lives on.
                        unsafe { libc::pause() };
                    },
                }
            }
            item.reply((std::process::id(), child));
        }
        Ok(())
    }
}

ringmill::init!(Forker);

pub(crate) type Forkers = Server<String, (u32, i32)>;

pub(crate) fn ask(server: &Forkers, order: &str) -> Result<(u32, i32), ringmill::CallError> {
    let options = CallOptions::new().timeout(Duration::from_secs(30)).when_full(WhenFull::Wait);
    server.call_with(&order.to_owned(), options).and_then(ringmill::Reply::into_owned)
}

pub(crate) fn state(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

#[test]
fn a_child_that_returns_is_ended() {
    alone("fork_worker::a_child_that_returns_is_ended", || {
        for threads in [false, true] {
            let name = Name::new("back");
            let builder = Server::builder(name.text());
            let server: Forkers = match threads {
                true => builder.start(ThreadServlet::<Forker>::new(()).cpus(2)),
                false => builder.start(ProcessServlet::<Forker>::new(()).cpus(2)),
            }
            .expect("a server");
            for way in ["fork", "bare"] {
                for deed in ["return", "fail", "panic", "reply"] {
                    let (worker, child) = ask(&server, &format!("{way} {deed}")).expect("an answer");
                    assert!(worker > 0 && child > 0, "the parent's answer: {worker} {child}");
                    wait_until("the child has ended", || matches!(state(child), None | Some('Z')));
                    // SAFETY: a child of ours if the worker is a thread; otherwise the kernel refuses the call.
                    unsafe { libc::waitpid(child, std::ptr::null_mut(), libc::WNOHANG) };
                    assert!(ask(&server, "").is_ok());
                }
            }
            assert!(server.stats().servlets[0].workers.iter().all(|worker| worker.restarts == 0));
            assert_eq!(server.backlog(), 0);
            name.assert_consistent();
            drop(server);
            name.assert_nothing_left();
        }
    });
}

#[test]
fn a_worker_restarts_beside_its_own_helper() {
    alone("fork_worker::a_worker_restarts_beside_its_own_helper", || {
        for way in ["fork", "bare"] {
            let name = Name::new("helper");
            let server =
                Server::builder(name.text()).start(ProcessServlet::<Forker>::new(())).expect("a server");
            let (worker, helper) = ask(&server, &format!("{way} live")).expect("an answer");
            // SAFETY: a worker of ours.
            unsafe { libc::kill(worker.cast_signed(), libc::SIGKILL) };
            wait_until("its successor answers", || ask(&server, "").is_ok_and(|(pid, _)| pid != worker));
            assert!(state(helper).is_some(), "the helper lives");
            name.assert_consistent();
            drop(server);
            // SAFETY: a process of ours.
            unsafe { libc::kill(helper, libc::SIGKILL) };
            name.assert_nothing_left();
        }
    });
}
