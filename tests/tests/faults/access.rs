//! Rights: a server's files are its user's alone, the server touches no other user's, and worker processes get only the
//! descriptors that they need. SECURITY.md says it in words.
#![expect(unsafe_code, reason = "a umask and open descriptors, set in child processes only")]

use ringmill::{Server, StartError};
use ringmill_shm::segment::{CreateError, Location, Removed, is_live, remove_if_stale};
use ringmill_shm::sys::process::inherit_only_standard_descriptors;
use ringmill_tests::actor::{Act, Actor};
use ringmill_tests::actor_gate::ActorGate;
use ringmill_tests::fresh_name;
use ringmill_tests::guard::guarded;
use ringmill_tests::name::{Name, files_at};
use ringmill_tests::other_user::{NAMELESS, NOBODY, PublicProgram, can_be_another_user, open_to_all};
use ringmill_tests::program::Program;
use ringmill_tests::stats::pids;
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

ringmill::init!(Actor);

const ACTORS: &str = env!("CARGO_BIN_EXE_actors");
const INTRUDER: &str = env!("CARGO_BIN_EXE_intruder");

fn both_files(location: &Location) -> [PathBuf; 2] {
    [location.path(), location.lease_path()]
}

/// Has the child of `command`, and it alone, get this umask.
fn with_umask(command: &mut Command, mask: libc::mode_t) {
    let set = move || {
        // SAFETY: takes an integer, cannot fail.
        unsafe { libc::umask(mask) };
        Ok(())
    };
    // SAFETY: `set` makes one system call.
    unsafe { command.pre_exec(set) };
}

#[track_caller]
fn assert_private(location: &Location, owner: u32) {
    for path in both_files(location) {
        let meta = path.symlink_metadata().expect("it is there");
        assert!(meta.is_file(), "{path:?}");
        assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o600, owner), "{path:?}");
    }
}

#[test]
fn files_are_their_users_alone_whatever_the_umask() {
    guarded(|| {
        let users = match can_be_another_user("umasks of a user who is not root") {
            true => vec![ringmill_shm::sys::process::user_id(), NAMELESS],
            false => vec![ringmill_shm::sys::process::user_id()],
        };
        let program = PublicProgram::of(ACTORS);
        for user in users {
            for mask in [0, 0o022, 0o077, 0o277, 0o777] {
                let (name, gate) = (Name::new("umask"), ActorGate::new());
                let directory = tempfile::tempdir().expect("a directory");
                fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).expect("it is ours");
                let file = directory.path().join("segment");
                for option in [None, Some(format!("file={}", file.display()))] {
                    let mut command = if user == 0 { Command::new(ACTORS) } else { program.run_as(user) };
                    with_umask(&mut command, mask);
                    let options: Vec<&str> = option.iter().map(String::as_str).collect();
                    let mut program = Program::start_as(command, &name, &gate, &options);
                    assert_eq!(program.ready().len(), 2, "workers can attach under umask {mask:o}");
                    let location =
                        if option.is_some() { Location::File(file.clone()) } else { name.location().clone() };
                    assert_private(&location, user);
                    program.end_well();
                    assert_eq!(files_at(&location), Vec::<PathBuf>::new());
                }
            }
        }
    });
}

/// The intruder's report on everything it tried.
fn attacks(intruder: &PublicProgram, verb: &str, name: &Name) -> BTreeMap<String, String> {
    let output = intruder.run_as(NOBODY).args([verb, &name.text()]).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let line = |line: &str| line.split_once(": ").map(|(what, how)| (what.to_owned(), how.to_owned()));
    text.lines().map(|text| line(text).expect("what and how")).collect()
}

#[test]
fn another_user_can_do_nothing_to_a_server() {
    guarded(|| {
        let (name, gate) = (Name::new("attacked"), ActorGate::new());
        let server = Server::builder(name.text()).start(gate.processes(2)).expect("it starts");
        let before =
            both_files(name.location()).map(|path| path.symlink_metadata().expect("it is there").ino());
        assert_private(name.location(), ringmill_shm::sys::process::user_id());
        if can_be_another_user("attacks of another user on a running server") {
            let attacks = attacks(&PublicProgram::of(INTRUDER), "attack", &name);
            assert_eq!(attacks.len(), 23, "{attacks:#?}");
            for (what, how) in &attacks {
                assert!(how.starts_with("refused "), "{what}: {how}");
            }
        }
        let after =
            both_files(name.location()).map(|path| path.symlink_metadata().expect("it is there").ino());
        assert_eq!(before, after);
        assert_eq!(server.call(&Act::Double(4)).expect("an answer").value, 8);
        assert!(is_live(name.location()));
        name.assert_consistent();
        drop(server);
        name.assert_nothing_left();
    });
}

/// Something that another user has put where we want to make a file.
struct Squatter {
    child: Child,
    path: PathBuf,
    before: (u64, u32, u64),
}

/// Which file it is, its rights, its size.
fn look(path: &Path) -> (u64, u32, u64) {
    let meta = path.symlink_metadata().expect("it is there");
    (meta.ino(), meta.mode(), meta.size())
}

impl Squatter {
    fn new(intruder: &PublicProgram, path: PathBuf, kind: &str, target: &Path) -> Self {
        let mut command = intruder.run_as(NOBODY);
        command.arg("squat").arg(&path).arg(kind).arg(target);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it runs");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("text");
        assert_eq!(line, "there\n", "{kind} at {path:?}");
        let before = look(&path);
        Self { child, path, before }
    }

    /// It ends, and removes its file.
    #[track_caller]
    fn end(mut self) {
        assert_eq!(look(&self.path), self.before, "left alone");
        drop(self.child.stdin.take());
        assert!(self.child.wait().expect("our child").success());
        assert!(self.path.symlink_metadata().is_err());
    }
}

#[test]
fn a_name_that_another_user_took_first_is_refused() {
    guarded(|| {
        if !can_be_another_user("starting under a name that another user has taken") {
            return;
        }
        let (intruder, actors) = (PublicProgram::of(INTRUDER), PublicProgram::of(ACTORS));
        let directory = tempfile::tempdir().expect("a directory");
        let precious = directory.path().join("precious");
        fs::write(&precious, "precious").expect("a file");
        for kind in ["private", "public", "held", "fifo", "directory", "link"] {
            for of_lease in [false, true] {
                let (name, gate) = (Name::new("squat"), ActorGate::new());
                let location = name.location();
                let path = if of_lease { location.lease_path() } else { location.path() };
                let squatter = Squatter::new(&intruder, path.clone(), kind, &precious);
                let case = format!("{kind} at {path:?}");
                // As root, which could use it.
                match Server::builder(name.text()).start(gate.processes(1)) {
                    Err(StartError::Segment(CreateError::Owner { path: told, owner: NOBODY, user: 0 })) => {
                        assert_eq!(told, path, "{case}");
                    }
                    other => panic!("{case}: {other:?}"),
                }
                // As an ordinary user.
                let program = Program::start_as(actors.run_as(NAMELESS), &name, &gate, &[]);
                let end = program.end();
                assert_eq!(end.status.code(), Some(1), "{case}: {end:?}");
                let said = format!("{} belongs to user {NOBODY}", path.display());
                assert!(end.stderr.contains(&said), "{case}: {end:?}");
                squatter.end();
                name.assert_nothing_left();
            }
        }
        assert_eq!(fs::read_to_string(&precious).expect("it is there"), "precious");
    });
}

/// If a user has hard-linked a file of ours, only the name goes, not the file.
#[test]
fn a_hard_link_to_a_file_of_ours_costs_only_its_name() {
    guarded(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let (precious, path) = (directory.path().join("precious"), directory.path().join("segment"));
        fs::write(&precious, "precious").expect("a file");
        let gate = ActorGate::new();
        for linked in both_files(&Location::File(path.clone())) {
            fs::hard_link(&precious, &linked).expect("a link");
            let start = Server::builder(fresh_name("linked")).file(&path).start(gate.processes(1));
            if linked == path {
                assert!(matches!(start, Err(StartError::Segment(CreateError::Foreign { .. }))), "{start:?}");
            } else {
                assert_eq!(start.expect("it starts").call(&Act::Double(2)).expect("an answer").value, 4);
            }
            let _ = fs::remove_file(&linked);
            assert_eq!(fs::read_to_string(&precious).expect("it is there"), "precious");
        }
    });
}

/// Root removes the files of another user's dead server with that user's rights, since that user could replace them meanwhile.
/// Here they lie where that user may remove nothing.
#[test]
fn root_cleans_with_the_rights_of_the_owner() {
    guarded(|| {
        if !can_be_another_user("root that removes another user's stale segment") {
            return;
        }
        let actors = PublicProgram::of(ACTORS);
        let (name, gate) = (Name::new("rootclean"), ActorGate::new());
        for may_remove in [false, true] {
            let directory = tempfile::tempdir().expect("a directory");
            fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).expect("it is ours");
            let location = Location::File(directory.path().join("segment"));
            let file = format!("file={}", location.path().display());
            let mut program = Program::start_as(actors.run_as(NAMELESS), &name, &gate, &["threads", &file]);
            program.ready();
            program.signal_group(libc::SIGKILL);
            program.end();
            assert_private(&location, NAMELESS);
            if may_remove {
                assert_eq!(remove_if_stale(&location, true).expect("the lease can be read"), Removed::Stale);
                assert_eq!(remove_if_stale(&location, false).expect("the owner could"), Removed::Stale);
                assert_eq!(files_at(&location), Vec::<PathBuf>::new());
            } else {
                open_to_all(directory.path()); // all but writing
                let refused = remove_if_stale(&location, false).expect_err("the owner could not either");
                assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied, "{refused}");
                assert_private(&location, NAMELESS);
            }
            assert_eq!(ringmill_shm::sys::process::user_id(), 0, "root is back");
            fs::write(directory.path().join("by-root"), "").expect("with all rights");
        }
    });
}

#[test]
fn a_directory_that_is_a_link_is_followed() {
    guarded(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let (real, link) = (directory.path().join("real"), directory.path().join("link"));
        fs::create_dir(&real).expect("a directory");
        std::os::unix::fs::symlink(&real, &link).expect("a link");
        let gate = ActorGate::new();
        for path in [link.join("segment"), link.join("../real/./segment")] {
            let server = Server::builder(fresh_name("linked"))
                .file(&path)
                .start(gate.processes(1))
                .expect("it starts");
            assert_private(&Location::File(real.join("segment")), ringmill_shm::sys::process::user_id());
            assert_eq!(server.call(&Act::Double(3)).expect("an answer").value, 6);
            drop(server);
            assert_eq!(fs::read_dir(&real).expect("it is there").count(), 0);
        }
    });
}

#[test]
fn names_and_paths_that_lead_elsewhere_are_refused() {
    guarded(|| {
        let gate = ActorGate::new();
        let long = "n".repeat(56);
        for name in ["", ".", "..", "../x", "a/b", "/x", "a\0b", "a b", ".x", "x.lease", &long] {
            match Server::builder(name).start(gate.processes(1)) {
                Err(StartError::Segment(CreateError::Name(error))) => assert_eq!(error.name, name),
                other => panic!("{name:?}: {other:?}"),
            }
        }
        let directory = tempfile::tempdir().expect("a directory");
        let within = |name: &str| directory.path().join(name);
        use std::os::unix::ffi::OsStrExt;
        let not_text = within("x").join(std::ffi::OsStr::from_bytes(&[0xFF]));
        for path in [PathBuf::new(), within("a\0b"), within(&"n".repeat(300)), not_text, within("no/such")] {
            match Server::builder(fresh_name("paths")).file(&path).start(gate.processes(1)) {
                Err(StartError::Segment(CreateError::System { .. })) => {}
                other => panic!("{path:?}: {other:?}"),
            }
        }
        for directory in [within("."), within("..")] {
            match Server::builder(fresh_name("paths")).file(&directory).start(gate.processes(1)) {
                Err(StartError::Segment(CreateError::Foreign { .. })) => {}
                other => panic!("{directory:?}: {other:?}"),
            }
        }
        assert_eq!(fs::read_dir(directory.path()).expect("it is there").count(), 0);
    });
}

/// Symptom: a server with the file `segment`, without a slash, did not start; a server that changed its working directory could
/// not restart a worker, and left its files behind. Cause: the server kept the path, and told it to workers, as it was given;
/// a text without a slash is a name.
#[test]
fn a_relative_path_is_the_same_file_for_every_process() {
    guarded(|| {
        let (name, gate) = (Name::new("relative"), ActorGate::new());
        let directory = tempfile::tempdir().expect("a directory");
        let mut command = Command::new(ACTORS);
        command.current_dir(directory.path());
        let mut program = Program::start_as(command, &name, &gate, &["file=segment", "workers=1"]);
        let victim = program.ready()[0];
        assert_private(
            &Location::File(directory.path().join("segment")),
            ringmill_shm::sys::process::user_id(),
        );
        program.tell("go-to /");
        ringmill_tests::process::signal(victim, libc::SIGKILL);
        let visit = program.hold(&gate, 4);
        assert_ne!(visit.pid, victim);
        visit.let_go();
        assert_eq!(program.line(), "answer 8");
        program.end_well();
        assert_eq!(fs::read_dir(directory.path()).expect("it is there").count(), 0);
    });
}

/// The files of a process's descriptors, by number.
fn descriptors(pid: u32) -> BTreeMap<i32, String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives");
    let link = |entry: fs::DirEntry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        Some((number, fs::read_link(entry.path()).ok()?.display().to_string()))
    };
    entries.flatten().filter_map(link).collect()
}

/// Whether a program that the process starts in whatever way inherits this descriptor.
fn is_inherited(pid: u32, fd: i32) -> bool {
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).expect("it is open");
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags");
    i32::from_str_radix(flags.trim(), 8).expect("octal") & libc::O_CLOEXEC == 0
}

#[test]
fn worker_processes_inherit_no_descriptor_but_the_standard_ones() {
    guarded(|| {
        let (name, gate) = (Name::new("inherit"), ActorGate::new());
        let mut command = Command::new(ACTORS);
        let open_more = || {
            // SAFETY: integers. Neither copy is close-on-exec.
            unsafe { (libc::dup2(1, 3), libc::dup2(1, 77), libc::dup2(1, 900)) };
            Ok(())
        };
        inherit_only_standard_descriptors(&mut command); // whatever the test has inherited itself
        // SAFETY: `open_more` makes three system calls.
        unsafe { command.pre_exec(open_more) };
        let mut program = Program::start_as(command, &name, &gate, &["workers=2"]);
        let first = program.ready();
        let extra = descriptors(program.pid());
        assert!([3, 77, 900].iter().all(|fd| extra.contains_key(fd)), "{extra:?}");
        // One worker is restarted, when the server has opened all its files.
        program.hold(&gate, 1).let_go();
        assert_eq!(program.line(), "answer 2");
        ringmill_tests::process::signal(first[0], libc::SIGKILL);
        ringmill_tests::wait_until("it is restarted", || {
            let pid = name.inspect().participants()[1].pid();
            pid != first[0]
                && name.inspect().participants()[1].life() == ringmill_shm::participant::Life::Ready
        });
        let [segment, lease] = both_files(name.location()).map(|path| path.display().to_string());
        let streams = descriptors(program.pid());
        for pid in [name.inspect().participants()[1].pid(), first[1]] {
            let theirs = descriptors(pid);
            assert_eq!(theirs[&0], "/dev/null");
            assert_eq!([&theirs[&1], &theirs[&2]], [&streams[&1], &streams[&2]]);
            let mut own: Vec<&str> = theirs.range(3..).map(|(_, what)| what.as_str()).collect();
            own.sort_unstable();
            // The segment; the lease, once to hold it and once to ask for it; the tether, the server's process, and the
            // epoll of both.
            let pidfd = own.iter().position(|what| what.contains("pidfd")).expect("it watches the server");
            own.remove(pidfd);
            own.retain(|what| !what.contains("eventpoll"));
            let tether =
                own.iter().position(|what| what.contains("socket")).expect("it is tied to the server");
            own.remove(tether);
            assert_eq!(own, [&segment, &lease, &lease], "{theirs:?}");
        }
        // Nor do programs that user code starts, here or there.
        for pid in [program.pid(), first[1]] {
            for (fd, what) in descriptors(pid).range(3..).filter(|(fd, _)| ![3, 77, 900].contains(fd)) {
                assert!(!is_inherited(pid, *fd), "{fd}: {what}");
            }
        }
        program.end_well();
        name.assert_nothing_left();
    });
}

/// Symptom: a worker's output was written into the segment. Cause: in a worker whose standard output was closed the segment, or
/// its lease, got that number.
#[test]
fn closed_standard_descriptors_are_not_taken_by_the_segment() {
    guarded(|| {
        let gate = ActorGate::new();
        let directory = tempfile::tempdir().expect("a directory");
        let script = directory.path().join("program");
        let me = std::env::current_exe().expect("this program");
        fs::write(&script, format!("#!/bin/sh\nexec '{}' <&- >&- 2>&-\n", me.display())).expect("a file");
        open_to_all(&script);
        let name = Name::new("closed");
        let server =
            Server::builder(name.text()).start(gate.processes(1).program(script)).expect("it starts");
        let theirs = descriptors(pids(&server)[0]);
        for fd in 0..3 {
            assert_eq!(theirs[&fd], "/dev/null", "{theirs:?}");
        }
        assert_eq!(server.call(&Act::Double(5)).expect("an answer").value, 10);
    });
}

#[test]
fn arguments_and_environment_of_a_worker_hold_no_secret() {
    guarded(|| {
        let (name, gate) = (Name::new("secret"), ActorGate::new());
        // The configuration: the gate's path is as good a secret as any.
        let server = Server::builder(name.text()).start(gate.processes(2)).expect("it starts");
        for (index, pid) in pids(&server).into_iter().enumerate() {
            let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).expect("it lives");
            let words = |file: &str| -> Vec<String> {
                let text = String::from_utf8_lossy(&read(file)).into_owned();
                text.split_terminator('\0').map(str::to_owned).collect()
            };
            assert_eq!(words("cmdline"), ["ringmill", "worker", &format!("{}/actor/{index}", name.text())]);
            let environment = words("environ");
            let ours: Vec<&String> = environment.iter().filter(|word| word.contains("RINGMILL")).collect();
            let order = ours[0].strip_prefix("RINGMILL_WORKER=").expect("the only one of ours");
            assert_eq!(ours.len(), 1, "{ours:?}");
            let order: serde_json::Value = serde_json::from_str(order).expect("JSON");
            let keys: Vec<&str> = order.as_object().expect("fields").keys().map(String::as_str).collect();
            let mut known = [
                "version",
                "row",
                "tokens",
                "wait",
                "max_requests",
                "config",
                "type_hash",
                "origin",
                "descriptors",
                "events",
                "build",
                "name",
                "segment",
            ];
            known.sort_unstable();
            assert_eq!(keys, known);
            assert_eq!((&order["row"], &order["segment"]), (&(index + 1).into(), &name.text().into()));
            // Of texts there are only the build and the name of the program, besides.
            let numbers =
                [&order["tokens"], &order["origin"], &order["descriptors"]].map(ToString::to_string).concat();
            let text = ["pid", "began", "lease", "number", "file"]
                .iter()
                .fold(numbers, |text, key| text.replace(key, ""));
            assert!(text.chars().all(|c| c.is_ascii_digit() || "{}[]\",:".contains(c)), "{text}");
            let comm = words("comm")[0].trim().to_owned();
            assert!(comm.len() > 1 && order["name"].as_str().expect("text").starts_with(&comm), "{order}");
            let secret = gate.path();
            assert!(!environment.iter().chain(&words("cmdline")).any(|word| word.contains(&secret)));
            let segment = fs::read(name.location().path()).expect("it is ours");
            assert!(segment.windows(secret.len()).any(|bytes| bytes == secret.as_bytes()), "it lies there");
        }
    });
}

/// Opens of files that may be another user's: none creates a file that exists, and none follows a link.
#[test]
fn no_open_follows_links_or_creates_what_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut opens = 0;
    for file in ["participant.rs", "segment/create.rs", "segment/stale.rs", "segment/attach.rs"] {
        let text = fs::read_to_string(root.join("shm/src").join(file)).expect("it is there");
        let text = text.split("#[cfg(test)]").next().expect("the code");
        for wrong in
            [".create(true)", ".truncate(true)", "File::open", "File::create", "fs::write", "fs::read("]
        {
            assert!(!text.contains(wrong), "{file}: {wrong}");
        }
        let here = text.matches("OpenOptions::new()").count();
        assert_eq!(here, text.matches("libc::O_NOFOLLOW").count(), "{file}");
        assert_eq!(here, text.matches("libc::O_CLOEXEC").count(), "{file}");
        opens += here;
    }
    assert_eq!(opens, 4);
}

/// No user can attach another user's segment, not even one that its owner has opened to all.
#[test]
fn a_segment_of_another_user_is_not_attached_even_if_it_could_be_opened() {
    guarded(|| {
        if !can_be_another_user("attaching a segment that its owner has opened to all") {
            return;
        }
        let (name, gate) = (Name::new("opened"), ActorGate::new());
        let server = Server::builder(name.text()).start(gate.processes(1)).expect("it starts");
        for path in both_files(name.location()) {
            fs::set_permissions(path, Permissions::from_mode(0o666)).expect("it is ours");
        }
        let attacks = attacks(&PublicProgram::of(INTRUDER), "join", &name);
        assert_eq!(attacks.len(), 5, "{attacks:#?}");
        for (what, how) in &attacks {
            assert!(how.starts_with("refused "), "{what}: {how}");
        }
        assert_eq!(server.call(&Act::Double(4)).expect("an answer").value, 8);
    });
}
