//! A server that may not signal its workers ends them all the same.
//!
//! Symptom: where `pidfd_send_signal` was refused (a sandbox, privileges dropped), `shutdown` and `drop` waited for ever, and
//! `exec_timeout` did nothing. Fix: see `host::spawn::kill`.

use crate::resident::{RESIDENT, Service};
use ringmill_shm::sys::process::PidFd;
use ringmill_tests::guard::guarded;
use ringmill_tests::name::Name;
use ringmill_tests::process::await_end;
use ringmill_tests::refuse::{Refusal, in_process_of};
use std::process::Command;

#[test]
fn a_worker_that_hangs_is_ended() {
    guarded(|| {
        let pidfd = |errno| Refusal::of(libc::SYS_pidfd_send_signal, errno);
        let kill = Refusal::of(libc::SYS_kill, libc::EPERM);
        for refusals in [
            &[pidfd(libc::EPERM)][..],
            &[pidfd(libc::ENOSYS)],
            &[pidfd(libc::EPERM), kill],
            &[pidfd(libc::ENOSYS), kill],
            &[
                pidfd(libc::EPERM),
                kill,
                Refusal::of(libc::SYS_waitid, libc::EINVAL).where_argument(0, libc::P_PID),
            ],
        ] {
            let name = Name::new("nokill");
            let mut command = Command::new(RESIDENT);
            in_process_of(&mut command, refusals);
            let mut service = Service::start(&mut command, &name, &["shutdown-ms=50"]);
            let worker = PidFd::open(service.worker_pid()).expect("it lives");
            assert_eq!(service.ask("hold"), "held");
            assert_eq!(service.ask("shutdown"), "shut down");
            await_end(&worker);
            name.assert_nothing_left();
            assert_eq!(service.end(), "");
        }
    });
}

/// Symptom: a worker whose code closes all descriptors (`close_range`) and does not return outlived a server that could not kill
/// it. Cause: it waited for the server's messages on a descriptor that it had closed. Fix: it
/// looks now and then whether it has.
#[test]
fn a_worker_that_has_closed_its_descriptors_ends() {
    guarded(|| {
        let kill =
            [Refusal::of(libc::SYS_pidfd_send_signal, libc::EPERM), Refusal::of(libc::SYS_kill, libc::EPERM)];
        // Without it, the epoll keeps the descriptor open, and the server notices nothing.
        let watch = Refusal::of(libc::SYS_epoll_create1, libc::EPERM);
        for refusals in [&kill[..], &[kill[0], kill[1], watch], &[watch]] {
            let name = Name::new("closed");
            let mut command = Command::new(RESIDENT);
            in_process_of(&mut command, refusals);
            let mut service = Service::start(&mut command, &name, &[]);
            let worker = PidFd::open(service.worker_pid()).expect("it lives");
            let told = service.ask("ask close");
            assert!(told.starts_with("error"), "{told}");
            await_end(&worker);
            assert_eq!(service.worker("echo again"), "again");
            assert_eq!(service.end(), "");
            name.assert_nothing_left();
        }
    });
}
