//! Requests in hand: the client's side of the contract of [`ringmill_shm::party`].
//!
//! # Invariants
//!
//! * *in hand*: an id is in one place of this process at a time: free (`slots`), in a `Filled`, a `Pending` or the watch
//!   that this has at the reactor, a stream's list, a `Done` or the `Reply` around it, or among the abandoned (`slots`).
//!   Whoever has it there, and nobody else, calls what is here, and uses one guard of the request at a time.
#![expect(unsafe_code, reason = "the client's side of the contract of guards")]

use ringmill_shm::arena::{Done, Filling, Task};
use ringmill_shm::party::Client;
use ringmill_shm::token::Token;
use std::time::Duration;

/// A request as the caller that has it in hand.
pub(super) trait InHand<'s>: Copy {
    fn begin(self) -> Filling<'s>;
    fn resume_filling(self) -> Option<Filling<'s>>;
    fn outcome(self) -> Option<Done<'s>>;
    /// Whether others will free it; else it is FREE now.
    fn cancel(self) -> bool;
    fn sleep(self, timeout: Option<Duration>);
    fn ask_for_notice(self) -> bool;
}

#[inline(always)]
fn client<'s>(request: Task<'s>) -> Client<'s> {
    // SAFETY: requests are sent by the server's process alone, which has held its byte of the lease since it created the
    // segment; and it writes into the segment by `ringmill_shm` only, as its workers do.
    unsafe { request.segment().take_part(Token::SERVER) }.client()
}

impl<'s> InHand<'s> for Task<'s> {
    #[inline(always)]
    fn begin(self) -> Filling<'s> {
        // SAFETY: *in hand*.
        unsafe { client(self).begin(self) }
    }

    #[inline(always)]
    fn resume_filling(self) -> Option<Filling<'s>> {
        // SAFETY: *in hand*.
        unsafe { client(self).resume_filling(self) }
    }

    #[inline(always)]
    fn outcome(self) -> Option<Done<'s>> {
        // SAFETY: *in hand*.
        unsafe { client(self).outcome(self) }
    }

    fn cancel(self) -> bool {
        // SAFETY: *in hand*.
        unsafe { client(self).cancel(self) }
    }

    fn sleep(self, timeout: Option<Duration>) {
        client(self).sleep(self, timeout);
    }

    fn ask_for_notice(self) -> bool {
        client(self).ask_for_notice(self)
    }
}
