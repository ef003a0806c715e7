//! A service with signal handlers of its own, made as in C. Its handler decides, installed before the server's start or in front
//! of the server's own, and however it calls, or restores, the former one. However the service ends then, no worker and no file
//! stays.
#![expect(unsafe_code, reason = "signal handlers, and processes that end in one")]

use super::fork::Holder;
use super::signals::{Program, say};
use ringmill::{CallOptions, ProcessServlet, Server, ThreadServlet};
use ringmill_shm::segment::Run;
use ringmill_shm::sys::process::{GROUP_SIGNALS, PidFd};
use ringmill_tests::guard::guarded;
use ringmill_tests::name::Name;
use ringmill_tests::process::await_end;
use ringmill_tests::wait_until;
use std::io::{PipeReader, Read};
use std::os::fd::IntoRawFd;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::time::Duration;

const ROLES: &str = "own_handlers::roles";

/// When the handler is installed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum When {
    BeforeTheServer,
    AfterTheServer,
}

/// How a handler treats the former one.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Chain {
    /// Calls it, if it is a function.
    Calls,
    /// Puts it back, and raises the signal once more.
    Restores,
    /// Is installed for one signal only, and calls it.
    Once,
}

/// How a service ends by itself.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Last {
    Exit,
    BareExit,
    Abort,
}

impl Last {
    fn end(self) -> ! {
        match self {
            Self::Exit => std::process::exit(3),
            // SAFETY: ends this process.
            Self::BareExit => unsafe { libc::_exit(3) },
            // SAFETY: ends this process.
            Self::Abort => unsafe { libc::abort() },
        }
    }
}

/// The former dispositions, by number, and their flags.
static FORMER: [AtomicUsize; 65] = [const { AtomicUsize::new(libc::SIG_DFL) }; 65];
static FLAGS: [AtomicI32; 65] = [const { AtomicI32::new(0) }; 65];
/// Where a handler says that it was called.
static TELL: AtomicI32 = AtomicI32::new(-1);
/// The address of a [`Last`] of a handler that ends the process.
static LAST: AtomicUsize = AtomicUsize::new(0);

/// # Safety
/// In a handler: writes to a descriptor.
unsafe fn tell() {
    // SAFETY: one live byte.
    unsafe { libc::write(TELL.load(Ordering::SeqCst), b"!".as_ptr().cast(), 1) };
}

type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);

extern "C" fn calls(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: `tell` may be called here; a former handler is a function of the type that its flags say.
    unsafe {
        tell();
        let (former, flags) =
            (&FORMER[signal.unsigned_abs() as usize], &FLAGS[signal.unsigned_abs() as usize]);
        match former.load(Ordering::SeqCst) {
            libc::SIG_DFL => restores(signal, info, context),
            libc::SIG_IGN => {}
            function if flags.load(Ordering::SeqCst) & libc::SA_SIGINFO != 0 => {
                core::mem::transmute::<usize, Handler>(function)(signal, info, context);
            }
            function => core::mem::transmute::<usize, extern "C" fn(i32)>(function)(signal),
        }
    }
}

extern "C" fn restores(signal: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let index = signal.unsigned_abs() as usize;
    // SAFETY: `tell` may be called here; a live structure with the former disposition. The raised signal comes when this
    // handler has returned.
    unsafe {
        tell();
        let mut action: libc::sigaction = core::mem::zeroed();
        action.sa_sigaction = FORMER[index].load(Ordering::SeqCst);
        action.sa_flags = FLAGS[index].load(Ordering::SeqCst);
        libc::sigaction(signal, &raw const action, core::ptr::null_mut());
        libc::raise(signal);
    }
}

extern "C" fn tells(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: as it says.
    unsafe { tell() };
}

extern "C" fn ends(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    match LAST.load(Ordering::SeqCst) {
        0 => Last::BareExit.end(),
        _ => Last::Abort.end(),
    }
}

/// Installs it for all signals of a group; returns a reader that reports its calls.
fn install(handler: Handler, flags: i32) -> PipeReader {
    let (told, tell) = std::io::pipe().expect("a pipe");
    TELL.store(tell.into_raw_fd(), Ordering::SeqCst);
    for &signal in GROUP_SIGNALS {
        // SAFETY: live structures; the handlers make only calls that are allowed in a handler.
        unsafe {
            let (mut action, mut former): (libc::sigaction, libc::sigaction) =
                (core::mem::zeroed(), core::mem::zeroed());
            libc::sigaction(signal, core::ptr::null(), &raw mut former);
            FORMER[signal.unsigned_abs() as usize].store(former.sa_sigaction, Ordering::SeqCst);
            FLAGS[signal.unsigned_abs() as usize].store(former.sa_flags, Ordering::SeqCst);
            action.sa_sigaction = handler as libc::sighandler_t;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | flags;
            libc::sigaction(signal, &raw const action, core::ptr::null_mut());
        }
    }
    told
}

/// Not a test: the roles of the programs that the tests start.
#[test]
fn roles() {
    let Some(order) = Program::order(ROLES) else { return };
    let words: Vec<&str> = order.split(' ').collect();
    let (role, name, held) = (words[0], words[1], words[2].to_owned());
    let has = |word: &str| role.split('-').any(|part| part == word);
    let chained = || match has("Restores") {
        true => install(restores, 0),
        false => install(calls, if has("Once") { libc::SA_RESETHAND } else { 0 }),
    };
    let before = has("BeforeTheServer").then(chained);
    let builder = Server::builder(name).capacity(8);
    let server = match has("threads") {
        true => builder.start(ThreadServlet::<Holder>::new(())),
        false => builder.start(ProcessServlet::<Holder>::new(())),
    }
    .expect("a server");
    let after = has("AfterTheServer").then(chained);
    let last = [Last::Exit, Last::BareExit, Last::Abort].into_iter().find(|last| has(&format!("{last:?}")));
    let told = match last {
        Some(last) if has("within") => {
            LAST.store(usize::from(last == Last::Abort), Ordering::SeqCst);
            install(ends, 0)
        }
        Some(_) => install(tells, 0),
        None => before.or(after).expect("one of the two"),
    };
    let mut told = told;
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let options = CallOptions::new().timeout(Duration::from_secs(3600));
                let answer = server.call_with(&held, options).map(drop);
                say(if answer.is_ok() { "answered" } else { "refused" });
            });
        }
        // One call at work, one that waits.
        wait_until("they are on their way", || {
            let phases: Vec<_> = server.debug_info().requests.iter().map(|r| r.phase).collect();
            phases.len() == 2 && phases.contains(&"claimed")
        });
        say("ready");
        told.read_exact(&mut [0]).expect("a signal");
        if let Some(last) = last {
            last.end();
        }
        say("own");
        assert!(server.call(&"/none".to_owned()).is_ok() || has("Restores"));
        say("goes on");
        loop {
            std::thread::park();
        }
    });
}

/// A program of that role, its workers, and the gate that holds them.
struct Busy {
    program: Program,
    workers: Vec<PidFd>,
    name: Name,
    held: tempfile::TempPath,
}

impl Busy {
    fn start(role: &str) -> Self {
        let (name, held) = (Name::new("handlers"), tempfile::NamedTempFile::new().expect("a file"));
        let held = held.into_temp_path();
        let mut program = Program::prepare(&[], ROLES, role, &name, held.to_str().expect("text"));
        program.await_word("ready");
        let pids = name.inspect().participants()[1..].iter().map(|entry| entry.pid()).collect::<Vec<_>>();
        let own = program.pid();
        let workers = pids.into_iter().filter(|&pid| pid != own);
        let workers = workers.map(|pid| PidFd::open(pid).expect("it lives")).collect();
        Self { program, workers, name, held }
    }
}

#[test]
fn a_handler_in_front_of_ours_that_restores_it_has_the_server_shut_down() {
    guarded(|| {
        for &signal in GROUP_SIGNALS {
            let busy = Busy::start(&format!("{:?}-{:?}", When::AfterTheServer, Chain::Restores));
            busy.program.signal(signal);
            wait_until("it shuts down", || busy.name.inspect().run() != Run::Running);
            std::fs::remove_file(&busy.held).expect("it is there");
            let (said, status) = busy.program.rest();
            assert_eq!(said.matches("answered").count(), 2, "{said}");
            assert!(said.contains("own"), "{said}");
            assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(signal));
            busy.name.assert_nothing_left();
            busy.workers.iter().for_each(await_end);
        }
    });
}

/// The server's handler does nothing then: registries of handlers call every former one, also in programs that end in order.
#[test]
fn a_handler_in_front_of_ours_that_calls_it_decides() {
    guarded(|| {
        for chain in [Chain::Calls, Chain::Once] {
            for &signal in GROUP_SIGNALS {
                let mut busy = Busy::start(&format!("{:?}-{chain:?}", When::AfterTheServer));
                busy.program.signal(signal);
                busy.program.await_word("own");
                std::fs::remove_file(&busy.held).expect("it is there");
                busy.program.await_word("goes on");
                busy.name.assert_consistent();
                assert_eq!(busy.name.inspect().run(), Run::Running, "{chain:?}");
                // The second signal finds the same handler, or no handler any more.
                let second = if chain == Chain::Once { signal } else { libc::SIGKILL };
                busy.program.signal(second);
                let (_, status) = busy.program.rest();
                assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(second));
                busy.workers.iter().for_each(await_end);
                wait_until("the last worker has removed the files", || busy.name.is_clean());
            }
        }
    });
}

/// The server's handler is not installed. The former disposition is the default: the end, without a shutdown.
#[test]
fn a_handler_from_before_the_server_decides() {
    guarded(|| {
        for chain in [Chain::Calls, Chain::Restores, Chain::Once] {
            for &signal in GROUP_SIGNALS {
                let busy = Busy::start(&format!("{:?}-{chain:?}", When::BeforeTheServer));
                busy.program.signal(signal);
                let (_, status) = busy.program.rest();
                assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(signal));
                busy.workers.iter().for_each(await_end);
                wait_until("the last worker has removed the files", || busy.name.is_clean());
            }
        }
    });
}

#[test]
fn a_service_that_ends_without_its_server_leaves_nothing() {
    guarded(|| {
        for (role, code) in [
            ("Exit", Some(3)),
            ("BareExit", Some(3)),
            ("Abort", None),
            ("BareExit-within", Some(3)),
            ("Abort-within", None),
        ] {
            for threads in [false, true] {
                let busy = Busy::start(&format!("{role}{}", if threads { "-threads" } else { "" }));
                assert_eq!(busy.workers.is_empty(), threads);
                busy.program.signal(libc::SIGTERM);
                let (said, status) = busy.program.rest();
                assert_eq!(status.code(), code, "{role}: {said}");
                busy.workers.iter().for_each(await_end);
                if threads && !busy.name.is_clean() {
                    // No process was left to remove the files; the next server does.
                    let next = Server::builder(busy.name.text()).start(ProcessServlet::<Holder>::new(()));
                    assert!(next.expect("a server").call(&"/none".to_owned()).is_ok());
                }
                wait_until("no file is left", || busy.name.is_clean());
            }
        }
    });
}
