//! A worker whose code restricts its own process, and a service that starts without something usual: each goes on and restarts,
//! or gets the reason why it cannot; whichever ends then leaves nothing.
#![expect(unsafe_code, reason = "limits, users and namespaces, in child processes only")]

use super::resident::{RESIDENT, Service};
use super::signals::{Program, say};
use ringmill::{BoxError, Context, ProcessServlet, Server, Worker};
use ringmill_shm::sys::process::{PidFd, wait_readable};
use ringmill_tests::guard::guarded;
use ringmill_tests::name::Name;
use ringmill_tests::other_user::{NOBODY, can_be_another_user};
use ringmill_tests::process::await_end;
use ringmill_tests::wait_until;
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;
use std::time::Duration;

const ROLES: &str = "restrained::roles";

/// A restriction that a worker puts on its process before it is ready.
const RESTRAINTS: [&str; 13] = [
    "descriptors",
    "all-descriptors",
    "memory",
    "file-sizes",
    "processes",
    "dumps",
    "new-privileges",
    "signals",
    "session",
    "umask",
    "standard-descriptors",
    "user",
    "root-directory",
];

/// Those that only root can give away.
const OF_ROOT: [&str; 2] = ["user", "root-directory"];

fn done(result: i32) -> std::io::Result<()> {
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn limit(resource: libc::__rlimit_resource_t, most: u64) -> std::io::Result<()> {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: a live structure to read.
    done(unsafe { libc::setrlimit(resource, &raw const limit) })
}

fn restrain(what: &str) -> std::io::Result<()> {
    // SAFETY: integers, live structures, and text that ends with NUL. This process is a worker's.
    unsafe {
        match what {
            "descriptors" => limit(libc::RLIMIT_NOFILE, 0),
            "all-descriptors" => {
                let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                done(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit))?;
                limit.rlim_cur = limit.rlim_max;
                done(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit))
            }
            "memory" => {
                let pages = std::fs::read_to_string("/proc/self/statm")?;
                let pages = pages.split(' ').next().and_then(|pages| pages.parse::<u64>().ok());
                limit(libc::RLIMIT_AS, pages.expect("a number") * 4096 + (1 << 18))
            }
            "file-sizes" => limit(libc::RLIMIT_FSIZE, 0),
            "processes" => limit(libc::RLIMIT_NPROC, 0),
            "dumps" => done(libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0)),
            "new-privileges" => done(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)),
            "signals" => {
                let mut all: libc::sigset_t = core::mem::zeroed();
                libc::sigfillset(&raw mut all);
                done(libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, core::ptr::null_mut()))
            }
            "session" => {
                libc::setsid();
                Ok(())
            }
            "umask" => {
                libc::umask(0o777);
                Ok(())
            }
            "standard-descriptors" => (0..3).try_for_each(|fd| done(libc::close(fd))),
            "user" => {
                done(libc::setgroups(0, core::ptr::null()))?;
                done(libc::setgid(NOBODY))?;
                done(libc::setuid(NOBODY))
            }
            "root-directory" => done(libc::chroot(c"/proc".as_ptr())),
            other => panic!("no restraint {other}"),
        }
    }
}

/// Answers its pid, from behind its restraint.
struct Restrained;

impl Worker for Restrained {
    type Config = String;
    type In = ();
    type Out = u32;

    fn new(what: String, _: &Context) -> Result<Self, BoxError> {
        restrain(&what)?;
        Ok(Self)
    }

    fn call(&mut self, (): &()) -> Result<u32, BoxError> {
        Ok(std::process::id())
    }
}

ringmill::init!(Restrained);

fn start(name: &str, what: &str) -> Server<(), u32> {
    let servlet = ProcessServlet::<Restrained>::new(what.to_owned());
    Server::builder(name).start(servlet).unwrap_or_else(|error| panic!("{what}: {error}"))
}

fn pid(server: &Server<(), u32>) -> u32 {
    server.call(&()).expect("an answer").to_native()
}

/// Kills the worker; its successor answers.
#[track_caller]
fn replace(server: &Server<(), u32>) {
    let former = pid(server);
    let worker = PidFd::open(former).expect("it lives");
    worker.send_signal(libc::SIGKILL).expect("ours");
    await_end(&worker);
    let mut successor = former;
    // A call that was sent before the death is known may die with the worker.
    wait_until("a successor answers", || {
        server.call(&()).is_ok_and(|reply| {
            successor = reply.to_native();
            true
        })
    });
    assert_ne!(successor, former);
}

fn possible(what: &str) -> bool {
    !OF_ROOT.contains(&what) || can_be_another_user(&format!("a worker without its {what}"))
}

#[test]
fn a_worker_without_it_goes_on_and_is_replaced() {
    guarded(|| {
        for what in RESTRAINTS.into_iter().filter(|what| possible(what)) {
            let name = Name::new("restrained");
            let server = start(&name.text(), what);
            replace(&server);
            replace(&server);
            let last = PidFd::open(pid(&server)).expect("it lives");
            name.assert_consistent();
            drop(server);
            await_end(&last);
            name.assert_nothing_left();
        }
    });
}

/// Not a test: the roles of the programs that the tests start.
#[test]
fn roles() {
    let Some(order) = Program::order(ROLES) else { return };
    let words: Vec<&str> = order.split(' ').collect();
    let server = match words[0] {
        closed @ ("closed-before" | "closed-later") => {
            let close = || restrain("standard-descriptors").expect("they are open");
            // Whatever writes there, by number: a panic's message, a library in C.
            let print = || {
                for fd in 0..3 {
                    // SAFETY: readable bytes.
                    unsafe { libc::write(fd, [b'x'; 4096].as_ptr().cast(), 4096) };
                }
            };
            if closed == "closed-before" {
                close();
            }
            let server = start(words[1], "dumps");
            if closed == "closed-later" {
                close();
            }
            print();
            for _ in 0..2 {
                replace(&server);
                print();
            }
            server
        }
        what => start(words[1], what),
    };
    assert_ne!(pid(&server), std::process::id());
    std::fs::write(words[2], "").expect("a file");
    say("ready");
    loop {
        std::thread::park();
    }
}

/// Restrictions that also keep a worker from removing files: if its server's end leaves that to such a worker, the files stay
/// until the next start of that name.
const LEAVES_FILES: [&str; 3] = ["descriptors", "user", "root-directory"];

#[test]
fn a_worker_without_it_notices_its_servers_death() {
    guarded(|| {
        for what in RESTRAINTS.into_iter().filter(|what| possible(what)) {
            let (name, ready) = (Name::new("orphan"), tempfile::NamedTempFile::new().expect("a file"));
            let path = ready.path().to_str().expect("text").to_owned();
            let mut program = Program::prepare(&[], ROLES, what, &name, &path);
            program.await_word("ready");
            let worker = PidFd::open(name.inspect().participants()[1].pid()).expect("it lives");
            program.signal(libc::SIGKILL);
            await_end(&worker);
            drop(program);
            if LEAVES_FILES.contains(&what) {
                replace(&start(&name.text(), what));
            }
            wait_until(&format!("no file is left, {what}"), || name.is_clean());
        }
    });
}

/// Symptom: a service that had closed its standard descriptors, as some daemons do, could not start a server, or restart its
/// workers; output was written into the segment. Cause: segment, lease and tethers got the numbers. Fix:
/// `open_standard_descriptors` in the service too.
#[test]
fn a_service_without_standard_descriptors() {
    guarded(|| {
        for role in ["closed-before", "closed-later"] {
            let directory = tempfile::tempdir().expect("a directory");
            let ready = directory.path().join("ready");
            let name = Name::new("bare");
            let program = Program::prepare(&[], ROLES, role, &name, ready.to_str().expect("text"));
            let process = PidFd::open(program.pid()).expect("ours");
            wait_until("it is ready", || {
                assert!(!wait_readable(&[process.as_raw_fd()], Some(Duration::ZERO))[0], "it has ended");
                ready.exists()
            });
            name.assert_consistent();
            program.signal(libc::SIGTERM);
            let (_, status) = program.rest();
            assert_eq!(status.signal(), Some(libc::SIGTERM));
            name.assert_nothing_left();
        }
    });
}

/// Goes there, between fork and exec: makes system calls alone.
type Enter = fn() -> std::io::Result<()>;

/// What is missing where a service is started.
const MISSING: [(&str, Enter); 3] = [
    ("without new privileges", || {
        // SAFETY: integers.
        done(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })
    }),
    ("with SIGCHLD ignored and blocked", || {
        // SAFETY: live structures.
        unsafe {
            libc::signal(libc::SIGCHLD, libc::SIG_IGN);
            let mut set: libc::sigset_t = core::mem::zeroed();
            libc::sigaddset(&raw mut set, libc::SIGCHLD);
            done(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, core::ptr::null_mut()))
        }
    }),
    (NO_PROC, || {
        let none = core::ptr::null();
        // SAFETY: text that ends with NUL, and null pointers.
        unsafe {
            done(libc::unshare(libc::CLONE_NEWNS))?;
            done(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()))?;
            done(libc::umount2(c"/proc".as_ptr(), libc::MNT_DETACH))
        }
    }),
];

const NO_PROC: &str = "without /proc";

/// Nothing else opens its lease a second time.
fn refuses_an_anonymous_server(enter_without_proc: Enter) {
    let label = Name::label("noproc");
    let mut command = Command::new(RESIDENT);
    // SAFETY: between fork and exec, system calls alone.
    unsafe { command.pre_exec(enter_without_proc) };
    let (_service, line) = Service::try_start(&mut command, &label, &[]);
    let why =
        format!("error cannot open /memfd:ringmill-{}.lease once more through /proc/self/fd: ", label.text());
    let way_out = "; an anonymous server needs /proc: mount it, or give the server a name";
    assert!(line.starts_with(&why) && line.ends_with(way_out), "{line}");
    label.assert_nothing_left();
}

#[test]
fn a_service_where_something_is_missing() {
    guarded(|| {
        for (missing, enter) in MISSING {
            if missing == NO_PROC && !can_be_another_user(missing) {
                continue;
            }
            if missing == NO_PROC {
                refuses_an_anonymous_server(enter);
            }
            let name = Name::new("missing");
            let mut command = Command::new(RESIDENT);
            // SAFETY: between fork and exec, system calls alone.
            unsafe { command.pre_exec(enter) };
            let mut service = Service::start(&mut command, &name, &[]);
            service.replace_worker();
            service.replace_worker();
            name.assert_consistent();
            assert_eq!(service.end(), "", "{missing}");
            name.assert_nothing_left();
        }
    });
}
