//! Ctrl-C and SIGTERM: servers shut down in order, and the process ends as if by that signal.
//!
//! Only where the signal still has its default effect: a program with a handler of its own decides for
//! itself, and drops its servers when it leaves. The first signal shuts every server down (requests in
//! progress are answered, new ones refused); the second kills the workers at once. Either way the
//! segments are gone before the process is.

use crate::panics::say;
use crate::server::Core;
use ringmill_shm::sys::process::{EventFd, die_by_signal, signal_is_default, wait_readable};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, Weak};

static SERVERS: Mutex<Vec<Weak<Core>>> = Mutex::new(Vec::new());
static CAUGHT: AtomicU32 = AtomicU32::new(0);
static LAST: AtomicI32 = AtomicI32::new(0);
static BELL: OnceLock<EventFd> = OnceLock::new();
/// Whether the handlers are there.
static INSTALLED: Mutex<bool> = Mutex::new(false);

/// Has a server shut down when the process is told to end.
pub(crate) fn look_after(server: Weak<Core>) {
    let mut servers = SERVERS.lock().unwrap_or_else(|e| e.into_inner());
    servers.retain(|server| server.strong_count() > 0);
    servers.push(server);
    drop(servers);
    let mut installed = INSTALLED.lock().unwrap_or_else(|e| e.into_inner());
    if *installed {
        return;
    }
    match begin_to_watch() {
        Ok(()) => {
            *installed = true;
            [libc::SIGINT, libc::SIGTERM].into_iter().filter(|&s| signal_is_default(s)).for_each(install);
        }
        Err(error) => say(
            || tracing::warn!(%error, "cannot handle signals: Ctrl-C and SIGTERM end this process without a shut-down; tried again when another server is started"),
        ),
    }
}

fn begin_to_watch() -> std::io::Result<()> {
    let bell = match BELL.get() {
        Some(bell) => bell,
        None => {
            let bell = EventFd::new()?;
            BELL.get_or_init(|| bell)
        }
    };
    std::thread::Builder::new().name("ringmill-signals".into()).spawn(|| watch(bell)).map(|_detached| ())
}

/// The handler's whole work: say which, count, ring.
fn on_signal(signal: i32) {
    LAST.store(signal, Ordering::SeqCst);
    CAUGHT.fetch_add(1, Ordering::SeqCst);
    if let Some(bell) = BELL.get() {
        bell.signal();
    }
}

#[expect(unsafe_code, reason = "a signal handler")]
fn install(signal: i32) {
    // SAFETY: `on_signal` stores to atomics, reads a OnceLock and writes to a descriptor: all of it may be
    // done in a signal handler.
    let installed = unsafe { signal_hook::low_level::register(signal, move || on_signal(signal)) };
    if let Err(error) = installed {
        say(
            || tracing::warn!(signal, %error, "cannot handle a signal: it will end the process without a shut-down"),
        );
    }
}

fn watch(bell: &'static EventFd) {
    while CAUGHT.load(Ordering::SeqCst) == 0 {
        wait_readable(&[bell.as_raw_fd()], None);
        bell.clear();
    }
    let servers: Vec<Weak<Core>> = std::mem::take(&mut *SERVERS.lock().unwrap_or_else(|e| e.into_inner()));
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
    while CAUGHT.load(Ordering::SeqCst) < 2 && !finished() {
        wait_readable(&[bell.as_raw_fd()], Some(std::time::Duration::from_millis(100)));
        bell.clear();
    }
    if !finished() {
        servers.iter().filter_map(Weak::upgrade).for_each(|server| server.kill());
    }
    for server in servers.iter().filter_map(Weak::upgrade) {
        server.remove_files();
    }
    die_by_signal(LAST.load(Ordering::SeqCst));
}
