//! A server that may not signal its workers ends them all the same.
//!
//! Symptom: where `pidfd_send_signal` was refused (a sandbox, privileges dropped), `shutdown` and `drop` waited for ever, and
//! `exec_timeout` did nothing. Fix: see `host::spawn::kill`.

use crate::resident::{RESIDENT, Service, public_directory};
use ringmill_shm::sys::process::PidFd;
use ringmill_tests::guard::guarded;
use ringmill_tests::name::Name;
use ringmill_tests::process::{await_end, signal};
use ringmill_tests::refuse::{Refusal, in_process_of};
use ringmill_tests::wait_until;
use std::os::unix::fs::PermissionsExt;
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

/// Symptom: the rows of a worker's process that could be neither watched nor killed were given to its successor while it lived, so
/// two processes could write to them. Cause: a SIGKILL counted as an end, also one that the system had refused. Fix: the rows
/// are the process's own until it has ended.
#[test]
fn a_process_that_cannot_be_watched_keeps_its_rows_until_its_end() {
    guarded(|| {
        let directory = public_directory();
        let (pid, stop) = (directory.path().join("pid"), directory.path().join("stop"));
        let script = directory.path().join("worker");
        // While there is a file `stop` it removes that, says its pid, and stops before it is a worker.
        let text = format!(
            "#!/bin/sh\nif rm {stop} 2>/dev/null; then echo $$ >{pid}.new; mv {pid}.new {pid}; kill -STOP $$; fi\nexec {RESIDENT}\n",
            stop = stop.display(),
            pid = pid.display(),
        );
        std::fs::write(&script, text).expect("room for a script");
        std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).expect("our file");
        let name = Name::new("unwatched");
        let program = format!("program={}", script.display());
        let mut service = Service::start(&mut Command::new(RESIDENT), &name, &[&program, "shutdown-ms=50"]);
        let entry = || name.inspect().participants()[1].restarts();
        let first = service.worker_pid();
        std::fs::write(&stop, "").expect("room for a file");
        assert_eq!(service.ask("cut-off"), "true");
        signal(first, libc::SIGKILL);
        let reason = service.reason_of_being_down();
        assert!(reason.contains("stuck") && reason.contains("could not be started"), "{reason}");
        assert_eq!(entry(), 1, "its rows are prepared for no other");
        let stopped = std::fs::read_to_string(&pid).expect("it has said so").trim().parse().expect("a pid");
        let process = PidFd::open(stopped).expect("it lives, stopped");
        signal(stopped, libc::SIGCONT);
        await_end(&process);
        wait_until("its rows are prepared for another", || entry() > 1);
        let told = service.end();
        assert!(told.is_empty(), "{told}");
        name.assert_nothing_left();
    });
}
