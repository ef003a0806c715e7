//! A server holds the files of its start: their names, the rights on them, and the program of the process may change later.
//!
//! Symptom: after the files were unlinked, or privileges were dropped, no worker could be restarted, silently, and the files of
//! such a server stayed; a service that execed another program left workers and files behind; the supervisor never noticed a
//! worker that did so, and its call never ended. Cause: the server looked names up again, and watched only the end of a
//! process. Fix: see `host::spawn`, `host::janitor` and `sys::tether`.

use crate::resident::{RESIDENT, Service, copy_of, public_directory};
use ringmill_shm::sys::process::PidFd;
use ringmill_tests::guard::guarded;
use ringmill_tests::name::Name;
use ringmill_tests::other_user::can_be_another_user;
use ringmill_tests::process::await_end;
use ringmill_tests::refuse::{Refusal, in_process_of};
use ringmill_tests::wait_until;
use std::process::Command;

fn unlink(name: &Name) {
    std::fs::remove_file(name.location().path()).expect("it is there");
    std::fs::remove_file(name.location().lease_path()).expect("it is there");
}

#[test]
fn files_without_their_names() {
    guarded(|| {
        let name = Name::new("unlinked");
        let mut service = Service::start(&mut Command::new(RESIDENT), &name, &[]);
        unlink(&name);
        service.replace_worker();
        // The name is free; a server that takes it is not disturbed.
        let mut heir = Service::start(&mut Command::new(RESIDENT), &name, &[]);
        service.replace_worker();
        heir.replace_worker();
        assert_eq!(service.end(), "");
        assert!(name.segment_exists(), "the heir's");
        heir.replace_worker();
        name.assert_consistent();
        assert_eq!(heir.end(), "");
        name.assert_nothing_left();
    });
}

/// The last worker of a dead server that finds another server's files under the name leaves them alone.
#[test]
fn a_dead_server_without_names_and_its_heir() {
    guarded(|| {
        let name = Name::new("deadunlinked");
        let mut service = Service::start(&mut Command::new(RESIDENT), &name, &[]);
        let worker = PidFd::open(service.worker_pid()).expect("it lives");
        unlink(&name);
        let mut heir = Service::start(&mut Command::new(RESIDENT), &name, &[]);
        service.child.kill().expect("it lives");
        await_end(&worker);
        heir.replace_worker();
        name.assert_consistent();
        assert_eq!(heir.end(), "");
        name.assert_nothing_left();
    });
}

#[test]
fn a_service_that_execs_another_program() {
    guarded(|| {
        Name::each("exec", |name| {
            let mut service = Service::start(&mut Command::new(RESIDENT), &name, &["workers=2"]);
            let workers: Vec<PidFd> = (1..3)
                .map(|place| PidFd::open(name.inspect().participants()[place].pid()).expect("it lives"))
                .collect();
            service.tell("be sleep");
            workers.iter().for_each(await_end);
            wait_until("its files are gone", || name.is_clean());
            assert!(service.child.try_wait().expect("our child").is_none(), "it runs the other program");
        });
    });
}

/// The process serves again, under the same name.
#[test]
fn a_service_that_execs_itself() {
    guarded(|| {
        let (name, directory) = (Name::new("anew"), public_directory());
        let script = directory.path().join("anew");
        std::fs::write(&script, format!("#!/bin/sh\nexec '{RESIDENT}' {}\n", name.text())).expect("a file");
        ringmill_tests::other_user::open_to_all(&script);
        let mut service = Service::start(&mut Command::new(RESIDENT), &name, &[]);
        let worker = PidFd::open(service.worker_pid()).expect("it lives");
        assert_eq!(service.ask(&format!("be {}", script.display())), "ready");
        await_end(&worker);
        service.replace_worker();
        assert_eq!(service.worker("echo again"), "again");
        assert_eq!(service.end(), "");
        name.assert_nothing_left();
    });
}

#[test]
fn a_worker_that_strays_is_replaced() {
    guarded(|| {
        let names = || [Name::new("stray"), Name::label("stray")];
        for (stray, name) in ["be sleep", "close"].into_iter().flat_map(|stray| names().map(|n| (stray, n))) {
            let mut service = Service::start(&mut Command::new(RESIDENT), &name, &[]);
            let worker = PidFd::open(service.worker_pid()).expect("it lives");
            let told = service.ask(&format!("ask {stray}"));
            assert!(told.starts_with("error") && told.contains("killed"), "{stray}: {told}");
            await_end(&worker);
            assert_eq!(service.worker("echo again"), "again", "{stray}");
            name.assert_consistent();
            assert_eq!(service.end(), "");
            name.assert_nothing_left();
        }
    });
}

/// A program between the server and its worker, which closes what it does not know: the worker finds segment and lease by the
/// server's name, or in the server's process.
#[test]
fn a_worker_without_the_descriptors_of_its_segment_finds_it() {
    guarded(|| {
        Name::each("closed", |name| {
            let directory = public_directory();
            let script = directory.path().join("closes");
            let closes = r#"for f in /proc/self/fd/*; do case $(readlink $f) in *ringmill-*) eval "exec ${f##*/}>&-"; esac; done"#;
            std::fs::write(&script, format!("#!/bin/bash\n{closes}\nexec '{RESIDENT}'\n")).expect("a file");
            ringmill_tests::other_user::open_to_all(&script);
            let program = format!("program={}", script.display());
            let mut service = Service::start(&mut Command::new(RESIDENT), &name, &[&program]);
            service.replace_worker();
            assert_eq!(service.worker("echo found"), "found");
            name.assert_consistent();
            assert_eq!(service.end(), "");
            name.assert_nothing_left();
        });
    });
}

#[test]
fn a_worker_starts_without_a_cpu_that_was_taken_away() {
    guarded(|| {
        let name = Name::new("unpinned");
        let mut command = Command::new(RESIDENT);
        // As a cpuset answers that does not have it any more.
        in_process_of(&mut command, &[Refusal::of(libc::SYS_sched_setaffinity, libc::EINVAL)]);
        let mut service = Service::start(&mut command, &name, &["pinned"]);
        service.replace_worker();
        assert_eq!(service.end(), "");
        name.assert_nothing_left();
    });
}

/// As servers that start as root do.
#[test]
fn privileges_that_are_dropped() {
    if !can_be_another_user("servers that drop their privileges") {
        return;
    }
    guarded(|| {
        for killed in [false, true] {
            let names = || [Name::new("dropped"), Name::label("dropped")];
            for (hangs, name) in [false, true].into_iter().flat_map(|hangs| names().map(|n| (hangs, n))) {
                let directory = public_directory();
                let program = copy_of(RESIDENT, directory.path(), "program");
                let mut service = Service::start(&mut Command::new(&program), &name, &["shutdown-ms=100"]);
                assert_eq!(service.ask("drop-privileges"), "(0, 0)");
                if hangs {
                    assert_eq!(service.ask("hold"), "held"); // by a worker that it may not signal
                } else {
                    service.replace_worker(); // its successor may not remove the files
                    assert_eq!(service.worker("sh id -u"), "65534");
                    service.replace_worker();
                }
                if killed {
                    service.child.kill().expect("it lives");
                } else {
                    assert_eq!(service.ask("shutdown"), "shut down");
                    if !name.is_label() {
                        name.assert_nothing_left(); // memory goes with its processes
                    }
                    assert_eq!(service.end(), "");
                }
                wait_until("its files are gone", || name.is_clean());
            }
        }
    });
}

#[test]
fn a_janitor_ends_with_its_server() {
    if !can_be_another_user("janitors") {
        return;
    }
    guarded(|| {
        let names = || [Name::new("janitor"), Name::label("janitor")];
        for (killed, name) in [false, true].into_iter().flat_map(|killed| names().map(|n| (killed, n))) {
            let mut service = Service::start(&mut Command::new(RESIDENT), &name, &[]);
            let title = format!("ringmill\0janitor\0{}\0", name.text());
            let janitors = || {
                let lines = ringmill_tests::namespace::processes().into_iter();
                lines.filter(|pid| {
                    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c == title.as_bytes())
                })
            };
            // It is the last process that a server starts, and the kernel names a process in the midst of its exec.
            wait_until("its janitor has a name", || janitors().next().is_some());
            let janitor = PidFd::open(janitors().next().expect("there is one")).expect("it lives");
            if killed {
                service.child.kill().expect("it lives");
                await_end(&janitor);
                wait_until("its files are gone", || name.is_clean());
            } else {
                assert_eq!(service.end(), "");
                assert_eq!(janitors().count(), 0);
                name.assert_nothing_left();
            }
        }
    });
}
