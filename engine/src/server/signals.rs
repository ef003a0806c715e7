//! Signals that end a process: shuts servers down in order, then ends the process as if by that signal.
//!
//! The engine handles SIGINT (Ctrl-C), SIGTERM, SIGHUP and SIGQUIT, if they have their default effect when the first
//! server starts. The first signal shuts every server down (requests in progress are answered, new ones refused); the
//! second kills the workers at once. In both cases the segments are gone before the process ends, by the signal's
//! default effect, or, as the first process of a pid namespace, with the exit code 128 + n.
//!
//! # Protocol
//!
//! A program's own handler has precedence. The engine does not replace a handler that it finds. If the program later
//! replaces the engine's handler (tokio, signal-hook, `sigaction`) and its own calls the former one, the engine's
//! handler sees that it is not installed and does nothing. The program then drops its servers, or exits.
//!
//! An ignored signal stays ignored: whatever started the process meant it so (`nohup`, a shell without job control for what
//! it puts into the background). Where Ctrl-C or SIGTERM do nothing therefore, the server has a [warning](warnings).
//!
//! A forked child inherits the handler, but not the thread behind it: there a signal has its default effect at once,
//! until the child starts a server of its own.

use crate::client::Core;
use crate::panics::say;
use ringmill_shm::sys::birth::PerProcess;
use ringmill_shm::sys::process::{
    EventFd, GROUP_SIGNALS, catch_signal, die_by_signal, is_caught_by, keeping_errno, signal_is_default,
    signal_is_ignored, wait_readable,
};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, Weak};

/// The process's state for signals.
#[derive(Debug, Default)]
struct Signals {
    servers: Mutex<Vec<Weak<Core>>>,
    caught: AtomicU32,
    last: AtomicI32,
    bell: OnceLock<EventFd>,
    /// Held while the thread is started that shuts servers down.
    starting: Mutex<()>,
    /// Whether that thread runs.
    watched: AtomicBool,
}

static SIGNALS: PerProcess<Signals> = PerProcess::new(Signals::default);

/// Registers a server to be shut down when a signal ends the process.
pub(crate) fn look_after(server: Weak<Core>) {
    let signals = SIGNALS.get_or_make();
    let mut servers = signals.servers.lock().unwrap_or_else(|e| e.into_inner());
    servers.retain(|server| server.strong_count() > 0);
    servers.push(server);
    drop(servers);
    let _one_at_a_time = signals.starting.lock().unwrap_or_else(|e| e.into_inner());
    if signals.watched.load(Ordering::SeqCst) {
        return;
    }
    match begin_to_watch(signals) {
        Ok(()) => {
            signals.watched.store(true, Ordering::SeqCst);
            // A forked child has inherited the engine's handlers.
            let free = |&&signal: &&i32| signal_is_default(signal);
            GROUP_SIGNALS.iter().filter(free).for_each(|&signal| install(signal));
        }
        Err(error) => say(
            || tracing::warn!(%error, "cannot handle signals: Ctrl-C and SIGTERM end this process without a shut-down; this is retried when another server is started"),
        ),
    }
}

/// Warnings about signals that do nothing, though users expect that they end the process.
pub(crate) fn warnings() -> Vec<String> {
    let interrupt = signal_is_ignored(libc::SIGINT).then_some(
        "SIGINT is ignored, so Ctrl-C does not end this process (a shell without job control starts so what it puts into \
         the background): end it by SIGTERM, or give SIGINT its default effect before the server starts",
    );
    let terminate = signal_is_ignored(libc::SIGTERM).then_some(
        "SIGTERM is ignored, so kill and service managers do not end this process in order: give it its default effect \
         before the server starts",
    );
    [interrupt, terminate].into_iter().flatten().map(str::to_owned).collect()
}

fn begin_to_watch(signals: &'static Signals) -> std::io::Result<()> {
    let bell = match signals.bell.get() {
        Some(bell) => bell,
        None => {
            let bell = EventFd::new()?;
            signals.bell.get_or_init(|| bell)
        }
    };
    let thread = std::thread::Builder::new().name("ringmill-signals".into());
    thread.spawn(move || watch(signals, bell)).map(|_detached| ())
}

/// The handler: checks that it is installed, records the signal, counts, rings. It reads atomics, makes system calls,
/// and takes no lock.
extern "C" fn on_signal(signal: i32) {
    keeping_errno(|| {
        if !is_caught_by(signal, on_signal) {
            return; // the program's handler has called this one, and decides
        }
        match SIGNALS.get().filter(|signals| signals.watched.load(Ordering::SeqCst)) {
            Some(signals) => {
                signals.last.store(signal, Ordering::SeqCst);
                signals.caught.fetch_add(1, Ordering::SeqCst);
                if let Some(bell) = signals.bell.get() {
                    bell.signal();
                }
            }
            None => die_by_signal(signal), // a forked child
        }
    });
}

fn install(signal: i32) {
    if let Err(error) = catch_signal(signal, on_signal) {
        say(
            || tracing::warn!(signal, %error, "cannot handle a signal: it will end the process without a shut-down"),
        );
    }
}

fn watch(signals: &'static Signals, bell: &'static EventFd) {
    while signals.caught.load(Ordering::SeqCst) == 0 {
        wait_readable(&[bell.as_raw_fd()], None);
        bell.clear();
    }
    let servers: Vec<Weak<Core>> =
        std::mem::take(&mut *signals.servers.lock().unwrap_or_else(|e| e.into_inner()));
    let shut_down = {
        let servers = servers.clone();
        move || {
            std::thread::scope(|scope| {
                for server in servers.iter().filter_map(Weak::upgrade) {
                    scope.spawn(move || server.shut_down());
                }
            });
            bell.signal();
        }
    };
    let patient = std::thread::Builder::new().name("ringmill-shutdown".into()).spawn(shut_down);
    let finished = || patient.as_ref().map_or(true, |thread| thread.is_finished());
    while signals.caught.load(Ordering::SeqCst) < 2 && !finished() {
        wait_readable(&[bell.as_raw_fd()], Some(std::time::Duration::from_millis(100)));
        bell.clear();
    }
    if !finished() {
        servers.iter().filter_map(Weak::upgrade).for_each(|server| server.kill());
    }
    for server in servers.iter().filter_map(Weak::upgrade) {
        server.remove_files(); // of a server whose end hangs
    }
    die_by_signal(signals.last.load(Ordering::SeqCst));
}
