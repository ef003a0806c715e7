//! Requests as their holders have them: the client's side of the contract of [`ringmill_shm::party`].
//!
//! # Invariants
//!
//! * `[one holder]`: a request id has one holder in this process at a time: the free ids (`free_ids`), a `Filled`, a
//!   `Pending` or its watch at the reactor, a stream's list, a `Done` or the `Reply` around it, or the abandoned ids
//!   (`free_ids`). Only the holder calls the methods of [`InHand`], and uses one guard of the request at a time.
#![expect(unsafe_code, reason = "the client's side of the contract of guards")]

use ringmill_shm::arena::Partials;
use ringmill_shm::arena::{Done, Filling, Task};
use ringmill_shm::party::Client;
use ringmill_shm::trace::RequestEnd;
use std::time::Duration;

/// A request, for the caller that holds its id.
pub(super) trait InHand<'s>: Copy {
    fn begin(self) -> Filling<'s>;
    fn resume_filling(self) -> Option<Filling<'s>>;
    fn outcome(self) -> Option<Done<'s>>;
    /// Returns whether another participant will free the request; otherwise it is FREE now.
    fn cancel(self) -> bool;
    /// Notes in its trace, if it has one, how it ended for its caller.
    fn tell_trace(self, now_ns: u64, end: RequestEnd);
    fn sleep(self, timeout: Option<Duration>);
    fn ask_for_notice(self) -> bool;
    /// The reader's side of its ring, which was opened and not closed; `None` if the segment has no rings.
    fn partials(self) -> Option<Partials<'s>>;
    fn sleep_for_partial(self, partials: &Partials<'s>, timeout: Option<Duration>);
}

#[inline(always)]
fn client<'s>(request: Task<'s>) -> Client<'s> {
    // SAFETY: what comes here has passed `Core::own`, or a look at the same birth, so no forked child does. The process of
    // the server has held its byte of the lease since it created the segment, and that of a client since it joined, as its
    // core was made. Each writes into the segment by `ringmill_shm` only, as the workers do.
    unsafe { request.segment().take_part_at_home() }.client()
}

impl<'s> InHand<'s> for Task<'s> {
    #[inline(always)]
    fn begin(self) -> Filling<'s> {
        // SAFETY: [one holder], in the process of the server or client by `Core::own`.
        unsafe { client(self).begin(self) }
    }

    #[inline(always)]
    fn resume_filling(self) -> Option<Filling<'s>> {
        // SAFETY: [one holder], in the process of the server or client by `Core::own`.
        unsafe { client(self).resume_filling(self) }
    }

    #[inline(always)]
    fn outcome(self) -> Option<Done<'s>> {
        // SAFETY: [one holder], in the process of the server or client by `Core::own`.
        unsafe { client(self).outcome(self) }
    }

    fn cancel(self) -> bool {
        // SAFETY: [one holder], in the process of the server or client by `Core::own`.
        unsafe { client(self).cancel(self) }
    }

    fn tell_trace(self, now_ns: u64, end: RequestEnd) {
        // SAFETY: [one holder], in the process of the server or client by `Core::own`.
        unsafe { client(self).tell_trace(self, now_ns, end) }
    }

    fn sleep(self, timeout: Option<Duration>) {
        client(self).sleep(self, timeout);
    }

    fn ask_for_notice(self) -> bool {
        client(self).ask_for_notice(self)
    }

    fn partials(self) -> Option<Partials<'s>> {
        // SAFETY: [one holder].
        unsafe { client(self).partials(self) }
    }

    fn sleep_for_partial(self, partials: &Partials<'s>, timeout: Option<Duration>) {
        client(self).sleep_for_partial(self, partials, timeout);
    }
}
