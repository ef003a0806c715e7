//! The next version of a program is deployed while the former one runs: workers restart from the former one.
//!
//! Symptom: after a deployment in place the old server got the new version's worker, and "1000 pieces at 5" became
//! "5 pieces at 1000"; where the executable was removed, or had been given as a relative path, the servlet was down for good.
//! Cause: the executable was looked up again at each restart. Fix: see `sys::image`.

use crate::resident::{RESIDENT, Service, copy_of, public_directory};
use ringmill_tests::guard::guarded;
use ringmill_tests::name::Name;
use ringmill_tests::refuse::{Refusal, in_process_of};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Changes that a person, or a package manager, makes to a program's file.
type Deed = fn(&Path);

const DEEDS: [(&str, Deed); 6] = [
    ("removed", |path| std::fs::remove_file(path).expect("ours")),
    ("replaced by another program", |path| {
        let new = copy_of("/bin/true", path.parent().expect("a directory"), "new");
        std::fs::rename(new, path).expect("ours");
    }),
    ("replaced by another version", |path| {
        let new = copy_of(env!("CARGO_BIN_EXE_actors"), path.parent().expect("a directory"), "new");
        std::fs::rename(new, path).expect("ours");
    }),
    ("copied over", |path| {
        copy_of(
            "/bin/true",
            path.parent().expect("a directory"),
            path.file_name().unwrap().to_str().unwrap(),
        );
    }),
    ("moved away, with a directory in its place", |path| {
        std::fs::rename(path, path.with_extension("old")).expect("ours");
        std::fs::create_dir(path).expect("ours");
    }),
    ("gone with its directory", |path| {
        std::fs::rename(path.parent().unwrap(), path.parent().unwrap().with_extension("old")).expect("ours");
    }),
];

/// A program in a directory `bin` of its own.
fn deployed() -> (tempfile::TempDir, std::path::PathBuf) {
    let root = public_directory();
    let bin = root.path().join("bin");
    std::fs::create_dir(&bin).expect("a directory");
    ringmill_tests::other_user::open_to_all(&bin);
    let program = copy_of(RESIDENT, &bin, "program");
    (root, program)
}

#[test]
fn a_worker_of_the_own_program() {
    guarded(|| {
        for (what, deed) in DEEDS {
            let (_root, program) = deployed();
            let name = Name::new("own");
            let mut service = Service::start(&mut Command::new(&program), &name, &[]);
            deed(&program);
            for _ in 0..2 {
                service.replace_worker();
                assert_eq!(service.worker("echo again"), "again", "{what}");
                assert_eq!(service.worker("sh cat /proc/$PPID/comm"), "program", "{what}");
            }
            assert_eq!(service.end(), "", "{what}");
            name.assert_nothing_left();
        }
    });
}

#[test]
fn a_worker_of_another_program() {
    guarded(|| {
        for (what, deed) in DEEDS {
            let (_root, program) = deployed();
            let name = Name::new("other");
            let option = format!("program={}", program.display());
            let mut service = Service::start(&mut Command::new(RESIDENT), &name, &[&option]);
            deed(&program);
            service.replace_worker();
            assert_eq!(service.worker("echo again"), "again", "{what}");
            assert_eq!(service.end(), "", "{what}");
            name.assert_nothing_left();
        }
    });
}

#[test]
fn a_relative_path_and_a_name_in_path_are_those_of_the_start() {
    guarded(|| {
        let (_root, program) = deployed();
        let directory = program.parent().expect("a directory");
        let named = |program: &str| format!("program={program}");
        for option in [named("./program"), named("../bin/program"), named("program")] {
            let name = Name::new("relative");
            let mut command = Command::new(RESIDENT);
            let path = format!("{}:{}", directory.display(), std::env::var("PATH").unwrap_or_default());
            command.current_dir(directory).env("PATH", path);
            let mut service = Service::start(&mut command, &name, &[&option]);
            assert_eq!(service.ask("go-to /"), "Ok(())");
            assert_eq!(service.ask("path /nowhere"), "set");
            service.replace_worker();
            assert_eq!(service.worker("echo again"), "again", "{option}");
            assert_eq!(service.end(), "");
            name.assert_nothing_left();
        }
    });
}

#[test]
fn a_refused_system_call_has_a_fall_back() {
    guarded(|| {
        for errno in [libc::ENOSYS, libc::EPERM, libc::EACCES] {
            for moved in [false, true] {
                let (_root, program) = deployed();
                let name = Name::new("noexecveat");
                let mut command = Command::new(&program);
                in_process_of(&mut command, &[Refusal::of(libc::SYS_execveat, errno)]);
                let mut service = Service::start(&mut command, &name, &[]);
                if moved {
                    std::fs::remove_file(&program).expect("ours");
                }
                service.replace_worker();
                assert_eq!(service.worker("echo again"), "again");
                assert_eq!(service.end(), "");
                name.assert_nothing_left();
            }
        }
    });
}

/// A script runs another program: its build is unknown before it runs.
///
/// Symptom: constructors of the other build ran in the service's environment, with the worker's descriptors, before it was
/// refused. Cause: the build was compared when all that runs before `main` had run. Fix: it is compared first.
#[test]
fn a_script_that_runs_another_build_is_refused_and_both_are_named() {
    guarded(|| {
        let (root, program) = deployed();
        let script = root.path().join("script");
        std::fs::write(&script, format!("#!/bin/sh\nexec '{}'\n", program.display())).expect("a file");
        ringmill_tests::other_user::open_to_all(&script);
        let name = Name::new("script");
        let option = format!("program={}", script.display());
        let trace = root.path().join("trace");
        let traced = |program: &str| {
            let mut command = Command::new(program);
            command.env("RINGMILL_TESTS_TRACE", &trace);
            command
        };
        let other = env!("CARGO_BIN_EXE_actors");
        let _its_complaint = traced(other).output().expect("it runs");
        std::fs::remove_file(&trace).expect("its constructor makes it");
        let mut service = Service::start(&mut traced(RESIDENT), &name, &[&option]);
        std::fs::remove_file(&script).expect("ours"); // it was held open
        service.replace_worker();
        let build = |path: &Path| {
            let file = std::fs::File::open(path).expect("a program");
            ringmill_shm::sys::build_id::BuildId::of_executable(&file).expect("a build").to_string()
        };
        let (was, is) = (build(&program), build(Path::new(other)));
        assert_ne!(was, is);
        copy_of(other, program.parent().unwrap(), "program");
        assert!(service.ask("ask exit 7").starts_with("error"));
        let reason = service.reason_of_being_down();
        assert!(reason.contains(&was) && reason.contains(&is) && reason.contains("was replaced"), "{reason}");
        assert!(!trace.exists(), "nothing of the other build has run");
        assert_eq!(service.end(), "");
        name.assert_nothing_left();
    });
}

#[test]
fn a_program_that_cannot_run_is_an_error_at_the_start() {
    guarded(|| {
        let root = public_directory();
        let plain = root.path().join("plain");
        std::fs::write(&plain, "#!/bin/sh\n").expect("a file");
        std::fs::set_permissions(&plain, std::fs::Permissions::from_mode(0o644)).expect("ours");
        let name = Name::new("cannot");
        for program in
            [root.path(), &plain, &root.path().join("nothing"), Path::new("no-such-program"), Path::new("")]
        {
            let option = format!("program={}", program.display());
            let (service, line) = Service::try_start(&mut Command::new(RESIDENT), &name, &[&option]);
            assert!(line.starts_with("error") && line.contains("cannot start"), "{line}");
            drop(service);
            name.assert_nothing_left();
        }
    });
}

/// The service's own program in a directory that is no more, in a root directory that has nothing.
#[test]
fn in_another_root_directory() {
    if !ringmill_tests::other_user::can_be_another_user("restarts in another root directory") {
        return;
    }
    guarded(|| {
        Name::each("jail", |name| {
            let (_root, program) = deployed();
            let jail = public_directory();
            let mut service = Service::start(&mut Command::new(&program), &name, &[]);
            std::fs::remove_file(&program).expect("ours");
            assert_eq!(service.ask(&format!("jail {}", jail.path().display())), "Ok(())");
            assert_eq!(service.ask("go-to /"), "Ok(())");
            let worker = service.replace_worker();
            assert_eq!(service.worker("echo again"), "again");
            // With a descriptor of a directory outside, code in the jail could leave it (`fchdir`).
            assert_eq!((directories_of(service.child.id()), directories_of(worker)), (vec![], vec![]));
            service.replace_worker(); // from the same descriptors again
            assert_eq!(service.end(), "");
            name.assert_nothing_left();
        });
    });
}

/// The directories that a process has open.
fn directories_of(pid: u32) -> Vec<PathBuf> {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives");
    let paths = open.map(|entry| entry.expect("it lives").path());
    paths.filter(|path| path.is_dir()).filter_map(|path| std::fs::read_link(path).ok()).collect()
}

/// Symptom: a service in a `chroot`, also one that is no longer root, had descriptors of two directories outside. Fix: the janitor
/// holds them, and gives the root directory only to a service that could go there anyway.
#[test]
fn no_directory_outside_is_held_where_root_has_started_the_server() {
    if !ringmill_tests::other_user::can_be_another_user("directories that a server holds") {
        return;
    }
    guarded(|| {
        let (_root, program) = deployed();
        let (name, jail) = (Name::new("jailed"), public_directory());
        let mut service = Service::start(&mut Command::new(&program), &name, &["shutdown-ms=100"]);
        let first = service.worker_pid();
        assert_eq!((directories_of(service.child.id()), directories_of(first)), (vec![], vec![]));
        assert_eq!(service.ask(&format!("jail {}", jail.path().display())), "Ok(())");
        assert_eq!(service.ask("go-to /"), "Ok(())");
        assert_eq!(service.ask("drop-privileges"), "(0, 0)");
        // The jail has no linker, and no other descriptor leads out of it.
        assert!(service.ask("ask exit 7").starts_with("error"));
        let reason = service.reason_of_being_down();
        assert!(reason.contains("could not be started"), "{reason}");
        assert_eq!(directories_of(service.child.id()), Vec::<PathBuf>::new());
        assert_eq!(service.end(), "");
        name.assert_nothing_left();
    });
}

/// A janitor is a process of the own program: without one the service itself holds the directories that SECURITY.md lists.
#[test]
fn workers_hold_no_directory_with_and_without_a_janitor() {
    guarded(|| {
        for (janitor, held) in [(true, 0), (false, 2)] {
            let (_root, program) = deployed();
            let name = Name::new("nodirectory");
            let other = format!("program={}", program.display());
            let options = [other.as_str()];
            let options = if janitor { &[][..] } else { &options };
            let mut service = Service::start(&mut Command::new(RESIDENT), &name, options);
            let is_root = ringmill_shm::sys::process::user_id() == 0;
            let held = if is_root { held } else { 1 };
            assert_eq!(directories_of(service.child.id()).len(), held);
            let mut worker = service.worker_pid();
            for _ in 0..2 {
                assert_eq!(directories_of(worker), Vec::<PathBuf>::new());
                worker = service.replace_worker();
            }
            assert_eq!(service.end(), "");
            name.assert_nothing_left();
        }
    });
}
