//! A service that forks while its supervisor starts a worker: the child may live for as long as it likes.
//!
//! Symptom: for as long as the child lived, the supervisor noticed no death and answered no call of a dead worker. Cause: the
//! standard library's `Command` waits for the end of a pipe, of which that child had a copy. Fix: `ringmill_shm::sys::child`.
#![expect(unsafe_code, reason = "fork, and signals to processes of the test")]

use super::fork::Way;
use super::fork_worker::{Forker, ask};
use ringmill::{ProcessServlet, Restarts, Server};
use ringmill_tests::alone::alone;
use ringmill_tests::name::Name;
use ringmill_tests::wait_until;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

#[test]
fn children_that_live_on_delay_no_restart() {
    alone("fork_start::children_that_live_on_delay_no_restart", || {
        let name = Name::new("start");
        let moment = Duration::from_millis(1);
        let soon = Restarts::unlimited().backoff(moment, moment);
        let server = Server::builder(name.text())
            .start(ProcessServlet::<Forker>::new(()).cpus(2).restarts(soon))
            .expect("a server");
        // After each death the service forks several times, beside the restart.
        let (wanted, over) = (AtomicU32::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let forker = scope.spawn(|| {
                let mut children = Vec::new();
                while !over.load(Ordering::SeqCst) {
                    let take = |wanted: u32| wanted.checked_sub(1);
                    if wanted.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_err() {
                        std::thread::yield_now();
                        continue;
                    }
                    match Way::Fork.make() {
                        0 => loop {
                            // SAFETY: takes nothing.
                            unsafe { libc::pause() };
                        },
                        child => children.push(child),
                    }
                }
                children
            });
            for _ in 0..60 {
                let (worker, _) = ask(&server, "").expect("an answer");
                // SAFETY: a worker of ours.
                unsafe { libc::kill(worker.cast_signed(), libc::SIGKILL) };
                wanted.store(8, Ordering::SeqCst);
                wait_until("its successor is ready", || {
                    let stats = server.stats();
                    stats.servlets[0].workers.iter().all(|other| other.ready && other.pid != worker)
                });
            }
            over.store(true, Ordering::SeqCst);
            for child in forker.join().expect("no panic") {
                // SAFETY: a child of ours that has not been waited for.
                unsafe {
                    libc::kill(child, libc::SIGKILL);
                    libc::waitpid(child, std::ptr::null_mut(), 0);
                }
            }
        });
        name.assert_consistent();
        drop(server);
        name.assert_nothing_left();
    });
}
