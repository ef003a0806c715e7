//! Resources that end, at the start and later: descriptors, processes, memory, file sizes, room in /dev/shm. Each
//! is a typed error or a wait with an end, nothing panics or hangs, and nothing is left behind.
//!
//! Limits are set in child processes only.
#![expect(unsafe_code, reason = "limits and mounts, set in child processes only")]

use ringmill::error::RemoteCause;
use ringmill::{CallError, Server};
use ringmill_shm::participant::Life;
use ringmill_shm::segment::{Location, Segment};
use ringmill_shm::sys::process::inherit_only_standard_descriptors;
use ringmill_tests::actor::{Act, Actor};
use ringmill_tests::actor_gate::ActorGate;
use ringmill_tests::guard::guarded;
use ringmill_tests::name::Name;
use ringmill_tests::other_user::{PublicProgram, can_be_another_user};
use ringmill_tests::process::signal;
use ringmill_tests::program::{End, Program};
use ringmill_tests::stats::pids;
use ringmill_tests::wait_until;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

ringmill::init!(Actor);

const ACTORS: &str = env!("CARGO_BIN_EXE_actors");

type Resource = libc::__rlimit_resource_t;

/// Limits a resource of the child of `command` and of its children; they may raise the limit again.
fn limit(command: &mut Command, resource: Resource, most: u64) {
    let set = move || {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: a live structure to fill, then to read.
        let done = unsafe {
            libc::getrlimit(resource, &raw mut limit) == 0 && {
                limit.rlim_cur = most;
                libc::setrlimit(resource, &raw const limit) == 0
            }
        };
        if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: `set` makes system calls and nothing else.
    unsafe { command.pre_exec(set) };
}

/// How it went under some limit: whether the server started.
#[track_caller]
fn judge(case: &str, name: &Name, end: &End) -> bool {
    assert!(!end.stderr.contains("panicked"), "{case}: {end:?}");
    assert!(name.is_clean(), "{case}: {end:?}");
    match end.status.code() {
        Some(0) => {
            assert!(end.stdout.starts_with("ready "), "{case}: {end:?}");
            true
        }
        Some(1) => {
            let error = end.stderr.lines().find(|line| line.starts_with("Error: "));
            let error = error.unwrap_or_else(|| panic!("{case}: {end:?}"));
            eprintln!("{case}: {error}");
            false
        }
        _ => panic!("{case}: {end:?}"),
    }
}

/// Starts a server under ever looser limits until it starts.
#[track_caller]
fn loosen(what: &str, resource: Resource, least: u64, options: &[&str], command: impl Fn() -> Command) {
    for most in least..least + 40 {
        let (name, gate) = (Name::new(what), ActorGate::new());
        let mut command = command();
        inherit_only_standard_descriptors(&mut command);
        limit(&mut command, resource, most);
        let mut program = Program::start_as(command, &name, &gate, options);
        program.try_tell("return");
        if judge(&format!("{most} {what} {options:?}"), &name, &program.end()) {
            assert!(most > least, "the first limits are too low for it");
            return;
        }
    }
    panic!("{what}: it starts under no limit");
}

#[test]
fn few_descriptors_at_the_start() {
    guarded(|| {
        for options in [&["workers=2"][..], &["threads"], &["workers=1", "stream-threads=3"]] {
            // Fewer than four, and the program itself cannot be loaded.
            loosen("descriptors", libc::RLIMIT_NOFILE, 4, options, || Command::new(ACTORS));
        }
    });
}

/// Symptom, among them: of a server of threads that had got only some of them, the files stayed. Cause: those threads
/// had the segment, and the process ended before they did.
#[test]
fn few_processes_at_the_start() {
    guarded(|| {
        if !can_be_another_user("limits on processes, which do not bind root") {
            return;
        }
        let program = PublicProgram::of(ACTORS);
        let user = user_of_ours(0);
        for options in [&["workers=2"][..], &["threads"], &["workers=1", "stream-threads=3"]] {
            loosen("processes", libc::RLIMIT_NPROC, 1, options, || program.run_as(user));
        }
    });
}

/// A user that has no other processes: limits on them count all that a user has on the machine.
fn user_of_ours(test: u32) -> u32 {
    1_000_000_000 + 2 * std::process::id() + test
}

/// The only worker's row.
fn row_of(segment: &Segment) -> (u32, Life, u32) {
    let entry = &segment.participants()[1];
    (entry.pid(), entry.life(), entry.restarts())
}

/// More failed starts than the supervisor accepts of a worker that dies young.
const ATTEMPTS: u32 = 2 * ringmill::servlet::RESTART_LIMIT;

#[test]
fn a_restart_waits_for_descriptors() {
    guarded(|| {
        let (name, gate) = (Name::new("usedup"), ActorGate::new());
        let mut command = Command::new(ACTORS);
        limit(&mut command, libc::RLIMIT_NOFILE, 64);
        let mut program = Program::start_as(command, &name, &gate, &["workers=1"]);
        let victim = program.ready()[0];
        let segment = name.inspect();
        program.tell("use-up-descriptors");
        assert_eq!(program.line(), "used up");
        // Calls, and futures with their reactor, need no more descriptors.
        program.hold(&gate, 1).let_go();
        assert_eq!(program.line(), "answer 2");
        program.tell("future 2");
        gate.next_hold(2).let_go();
        assert_eq!(program.line(), "answer 4");
        signal(victim, libc::SIGKILL);
        program.tell("hold 3"); // waits in the ring
        wait_until("it was retried often", || row_of(&segment).2 >= ATTEMPTS);
        assert_ne!(row_of(&segment).1, Life::Ready);
        program.tell("free-descriptors");
        assert_eq!(program.line(), "free again");
        gate.next_hold(3).let_go();
        assert_eq!(program.line(), "answer 6");
        program.end_well();
        name.assert_nothing_left();
    });
}

#[test]
fn a_restart_waits_for_processes() {
    guarded(|| {
        if !can_be_another_user("limits on processes, which do not bind root") {
            return;
        }
        let (name, gate) = (Name::new("noprocess"), ActorGate::new());
        gate.open_to_all();
        let (user, actors) = (user_of_ours(1), PublicProgram::of(ACTORS));
        let mut program = Program::start_as(actors.run_as(user), &name, &gate, &["workers=1"]);
        let victim = program.ready()[0];
        let segment = name.inspect();
        program.tell("limit-processes 1");
        assert_eq!(program.line(), "limited");
        signal(victim, libc::SIGKILL);
        wait_until("it was retried often", || row_of(&segment).2 >= ATTEMPTS);
        assert_ne!(row_of(&segment).1, Life::Ready);
        program.tell("limit-processes 1000");
        assert_eq!(program.line(), "limited");
        program.hold(&gate, 3).let_go();
        assert_eq!(program.line(), "answer 6");
        program.end_well();
        name.assert_nothing_left();
    });
}

/// Symptom: the kernel killed a service with a limit on file sizes. Cause: growing a file past the limit sends SIGXFSZ, and the
/// server had not read the limit first.
#[test]
fn a_limit_on_file_sizes_is_an_error_and_kills_no_process() {
    guarded(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let file = format!("file={}", directory.path().join("segment").display());
        for options in [&["workers=1"][..], &["workers=1", &file]] {
            let (name, gate) = (Name::new("filesize"), ActorGate::new());
            let mut command = Command::new(ACTORS);
            limit(&mut command, libc::RLIMIT_FSIZE, 40_960);
            let mut program = Program::start_as(command, &name, &gate, options);
            program.try_tell("return");
            let end = program.end();
            assert!(!judge("file size", &name, &end));
            assert!(end.stderr.contains("a file of this process may have 40960 bytes"), "{end:?}");
        }
        assert_eq!(fs::read_dir(directory.path()).expect("it is there").count(), 0);
    });
}

/// Gives the child of `command` a `/dev/shm` of its own, of this many bytes.
fn with_own_shm(command: &mut Command, bytes: u64) {
    let options = std::ffi::CString::new(format!("size={bytes},mode=1777")).expect("text");
    let mount = move || {
        // SAFETY: live C strings and null pointers; the namespace is the child's own.
        let done = unsafe {
            let none = core::ptr::null();
            libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()) == 0
                && libc::mount(
                    c"tmpfs".as_ptr(),
                    c"/dev/shm".as_ptr(),
                    c"tmpfs".as_ptr(),
                    0,
                    options.as_ptr().cast(),
                ) == 0
        };
        if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: `mount` makes system calls and nothing else.
    unsafe { command.pre_exec(mount) };
}

#[test]
fn a_full_shm_at_the_start_is_an_error_with_both_sizes() {
    guarded(|| {
        if !can_be_another_user("a /dev/shm that is full, which takes a mount") {
            return;
        }
        let (name, gate) = (Name::new("fullshm"), ActorGate::new());
        let mut command = Command::new(ACTORS);
        with_own_shm(&mut command, 65_536);
        let mut program = Program::start_as(command, &name, &gate, &["workers=1"]);
        program.try_tell("return");
        let end = program.end();
        assert!(!judge("full", &name, &end));
        assert!(
            end.stderr.contains("/dev/shm has 65536 bytes (64.0 KiB) free, the segment needs "),
            "{end:?}"
        );
    });
}

/// The server allocates no page later for requests that fit in line: it has reserved every page before the payload blocks, also
/// those that no process has touched yet.
#[test]
fn a_shm_that_fills_up_later_disturbs_no_participant() {
    guarded(|| {
        if !can_be_another_user("a /dev/shm that fills up, which takes a mount") {
            return;
        }
        let (name, gate) = (Name::new("fillsup"), ActorGate::new());
        let mut command = Command::new(ACTORS);
        with_own_shm(&mut command, 8 << 20);
        let mut program = Program::start_as(command, &name, &gate, &["workers=1"]);
        let victim = program.ready()[0];
        // Their /dev/shm, seen from here.
        let theirs = PathBuf::from(format!("/proc/{}/root/dev/shm", program.pid()));
        let file = theirs.join(name.location().path().file_name().expect("a name"));
        let mut filler = File::create(theirs.join("filler")).expect("a file");
        while filler.write_all(&[1; 4096]).is_ok() {}
        assert!(fs::write(theirs.join("more"), [1; 4096]).is_err(), "it is full");
        let segment = Segment::inspect(Location::File(file)).expect("it is there");
        for number in 0..10 {
            program.hold(&gate, number).let_go();
            assert_eq!(program.line(), format!("answer {}", 2 * number));
        }
        signal(victim, libc::SIGKILL);
        wait_until("it is restarted", || {
            let (pid, life, _) = row_of(&segment);
            pid != victim && life == Life::Ready
        });
        program.hold(&gate, 20).let_go();
        assert_eq!(program.line(), "answer 40");
        assert!(ringmill_shm::check::check(&segment).is_empty());
        program.end_well();
        let left = |path: &Path| fs::read_dir(path).map_or(0, |entries| entries.count());
        assert_eq!(left(&theirs), 0, "the mount has gone with its last process");
    });
}

#[test]
fn a_worker_that_gets_no_memory_costs_its_item() {
    guarded(|| {
        let (name, gate) = (Name::new("nomemory"), ActorGate::new());
        let server = Server::builder(name.text()).start(gate.processes(1)).expect("it starts");
        let victim = pids(&server)[0];
        match server.call(&Act::Hoard).and_then(|reply| reply.into_owned()) {
            Err(CallError::WorkerDied(error)) => {
                let aborted = RemoteCause::Died { signal: Some(libc::SIGABRT), code: None, restarting: true };
                assert_eq!((error.pid, error.cause), (victim, aborted));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(server.call(&Act::Double(4)).expect("an answer").value, 8);
        name.assert_consistent();
    });
}

/// A control group with a limit on memory, if this machine lets us create one.
struct Group(PathBuf);

impl Group {
    fn new(bytes: u64) -> Option<Self> {
        let roots = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        roots.into_iter().find_map(|(root, limit)| {
            let path = Path::new(root).join(format!("ringmill-test-{}", std::process::id()));
            fs::create_dir(&path).ok()?;
            let group = Self(path);
            let limited = fs::write(group.0.join(limit), bytes.to_string()).is_ok();
            limited.then_some(group)
        })
    }

    fn take(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("it lives");
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A process that was killed leaves its group a moment after its death is known.
        wait_until("the group is empty", || fs::remove_dir(&self.0).is_ok());
    }
}

#[test]
fn a_worker_that_the_kernel_kills_for_its_memory_costs_its_item() {
    guarded(|| {
        let Some(group) = Group::new(64 << 20) else {
            let _ = writeln!(
                std::io::stderr(),
                "NO MEMORY GROUP HERE, SO NOT TRIED: the kernel's out-of-memory killer"
            );
            return;
        };
        let (name, gate) = (Name::new("oom"), ActorGate::new());
        let server = Server::builder(name.text()).start(gate.processes(1)).expect("it starts");
        let victim = pids(&server)[0];
        group.take(victim);
        match server.call(&Act::Devour(512 << 20)).and_then(|reply| reply.into_owned()) {
            Err(CallError::WorkerDied(error)) => {
                let killed = RemoteCause::Died { signal: Some(libc::SIGKILL), code: None, restarting: true };
                assert_eq!((error.pid, error.cause), (victim, killed));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(server.call(&Act::Double(4)).expect("an answer").value, 8);
        name.assert_consistent();
    });
}

/// No wait knows the time of day, which a person or a daemon may set: it is asked once, for people to read.
#[test]
fn the_time_of_day_is_for_display_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut found = Vec::new();
    let mut directories =
        vec!["shm/src", "engine/src", "tools/src"].into_iter().map(|d| root.join(d)).collect::<Vec<_>>();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("it is there").flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).expect("text");
            for word in
                ["SystemTime", "CLOCK_REALTIME", "FUTEX_CLOCK_REALTIME", "gettimeofday", "libc::time("]
            {
                if text.contains(word) {
                    found.push(format!("{} {word}", path.strip_prefix(root).expect("within").display()));
                }
            }
        }
    }
    found.sort();
    // When a worker logged, when the steps of a traced request were, when a segment was made, when a record began, and
    // their age.
    let shown = [
        "engine/src/host/events/message.rs",
        "engine/src/server/traces.rs",
        "shm/src/segment/create.rs",
        "tools/src/record.rs",
        "tools/src/units.rs",
    ];
    assert_eq!(found, shown.map(|file| format!("{file} SystemTime")));
}
