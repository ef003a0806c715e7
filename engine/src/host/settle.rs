//! What a process does first that a server has started.

use super::order::Descriptor;
use super::word::Word;
use ringmill_shm::sys::file::set_close_on_exec;
use ringmill_shm::sys::process::{ignore_signal, open_standard_descriptors, outlive_group_signals};
use ringmill_shm::sys::stack::name_thread;
use ringmill_shm::sys::tether::Tether;
use std::ffi::CString;
use std::sync::OnceLock;

/// What ties this process to its server, if it is a worker.
static TETHER: OnceLock<Tether> = OnceLock::new();

pub(super) fn tether() -> Option<&'static Tether> {
    TETHER.get()
}

/// Tells the server; false if it is not told.
pub(super) fn say(word: &Word) -> bool {
    tether().is_some_and(|tether| tether.send(&word.to_message()).is_ok())
}

/// What a worker's process does before it, or anybody in it, can start another: signals that are sent to the whole
/// group have no effect on it, since the server tells it when to go; and nobody inherits what it has from the server.
/// The last descriptor is the tether.
pub(super) fn settle_in(descriptors: &[Descriptor], name: &str) {
    for descriptor in descriptors {
        set_close_on_exec(descriptor.number);
    }
    if let Some(tether) = descriptors.last().and_then(|tether| tether.take_over()) {
        let _ = TETHER.set(Tether::of(tether)); // nobody has set it before
    }
    open_standard_descriptors(); // before anything else is opened
    outlive_group_signals();
    ignore_signal(libc::SIGPIPE); // as `main` would have it
    if !name.is_empty()
        && let Ok(name) = CString::new(name)
    {
        name_thread(&name); // it was started by a descriptor, and is called as that
    }
}
