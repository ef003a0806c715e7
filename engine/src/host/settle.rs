//! The first steps of a process that a server has started.

use super::order::{Descriptor, EventLine, Order};
use super::report::Report;
use ringmill_shm::sys::file::set_close_on_exec;
use ringmill_shm::sys::process::{ignore_signal, open_standard_descriptors, outlive_group_signals};
use ringmill_shm::sys::stack::name_thread;
use ringmill_shm::sys::tether::Tether;
use std::ffi::CString;
use std::sync::OnceLock;

/// The tether of this process, if it is a worker.
static TETHER: OnceLock<Tether> = OnceLock::new();

pub(super) fn tether() -> Option<&'static Tether> {
    TETHER.get()
}

/// Tells the server; returns false if the report was not sent.
pub(super) fn report(report: &Report) -> bool {
    tether().is_some_and(|tether| tether.send(&report.to_message()).is_ok())
}

/// What a worker's process does before any code in it can start another process: it keeps children from inheriting the
/// server's descriptors, and ignores the signals that are usually sent to a whole process group, since the server tells
/// it when to go. The last of `descriptors` is the tether.
pub(super) fn settle_in(
    descriptors: &[Descriptor],
    events: Option<&EventLine>,
    config: Option<&Descriptor>,
    name: &str,
) {
    for descriptor in descriptors.iter().chain(events.map(|events| &events.descriptor)).chain(config) {
        set_close_on_exec(descriptor.number);
    }
    if let Some(tether) = descriptors.last().and_then(|tether| tether.take_over()) {
        let _ = TETHER.set(Tether::of(tether)); // this is the only call that sets it
    }
    open_standard_descriptors(); // before any other file is opened
    outlive_group_signals();
    ignore_signal(libc::SIGPIPE); // as `main` would have it
    if !name.is_empty()
        && let Ok(name) = CString::new(name)
    {
        name_thread(&name); // the kernel has named it after the descriptor by which it was started
    }
}

/// [`settle_in`] in a worker's process.
pub(super) fn settle_as(order: &Order) {
    let descriptors = order.descriptors.as_ref().map_or(&[][..], |all| &all[..]);
    settle_in(descriptors, order.events.as_ref(), order.config.as_ref(), &order.name);
    crash_point!("child.ordered");
}
