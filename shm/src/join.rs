//! Branches and how they are joined: the participant that finishes the last of them moves their parent on.
//!
//! # Layout
//!
//! A set of *pending* bits for each request, one for each of its branches: set while a branch is under way.
//!
//! # Protocol
//!
//! ```text
//! forker   branches FREE → CLAIMED(me) · set their pending bits · parent CLAIMED → FORKED · move branches on
//! arrival  branch CLAIMED → DONE(me) · clear its bit · look: may the parent, or one above it, be joined?
//! join     parent FORKED → JOINING(me) · put outcomes together · → CLAIMED(me) · free branches · move it on
//! ```
//!
//! A fork may be joined when its whole family is at rest, its branches and those of forks within; or, where it fails
//! fast, as soon as one of its branches is an error. Then its parent ends as an error at once, and the payloads that
//! late branches still refer to stay until those have arrived too.
//!
//! | Bit | Branch | Means |
//! |---|---|---|
//! | set | CLAIMED, not moved on | being forked |
//! | set | QUEUED, CLAIMED, FORKED, JOINING | under way |
//! | set | DONE | its owner is about to clear the bit |
//! | clear | DONE | arrived; its outcome waits to be put together, or for its request to be freed |
//! | clear | FREE | not in use |
//!
//! # Invariants
//!
//! * `[shared]`: while a branch is pending, no participant writes a payload that it may refer to: its request's, or a
//!   payload of a branch above it. A parent that goes on with a value was joined at rest; one that goes on with an
//!   error goes to the end, and writes no payload of its own.
//! * `[one joins]`: FORKED → JOINING is one compare-and-swap of the parent's word, which names the fork.
//! * `[one reaps]`: a request that ended before all its branches is freed by the participant that finds it DONE and
//!   CANCELLED, then all bits clear, and wins the compare-and-swap to CLAIMED.
//! * `[values leave nothing]`: a parent that goes on with a value has no branch that is not FREE.
//!
//! # Ordering
//!
//! * `[at rest]`: each side changes one word (SeqCst), full fence, looks at the other side's: an arrival clears its bit
//!   and looks at the other bits and at the request's word; the caller sets CANCELLED, or the worker that finishes the
//!   request sets DONE, and looks at the bits. So the last of them sees all.
//! * `[arrived]`: clearing a bit (AcqRel in SeqCst) → the joiner's look. A branch's outcome travels.
//!
//! # Crash
//!
//! Every branch word names the participant that must act. `repair` repeats an arrival whose bit is still set, looks on
//! behalf of a participant that cleared its bit and died, undoes a fork that had not become FORKED, moves on branches
//! that the forker had not, and puts together again what a joiner had begun; if that joiner may have written over a
//! member's outcome (`[marked]` of `arena`), the death is the outcome. Only one participant repairs at a time (the
//! supervisor), and it looks at the bit *before* it becomes the branch's owner: as long as the branch is DONE of the
//! dead owner its bit is of the same use, and if it is set, no other participant clears it.

use crate::plan::Routes;
use crate::sync::{AtomicU64, Ordering, fence_after_seq_cst};
use crate::token::Token;
use crate::word::{Phase, State, Word};
use core::ops::Range;

/// What an arrival, or a look, has found ready. The participant that gets it must do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ready {
    /// Nothing.
    Nothing,
    /// The branches of this fork are ours to put together; the parent is in this state, JOINING.
    Join {
        /// Which.
        fork: u32,
        /// The parent's word.
        parent: State,
    },
    /// The request, in this state, is ours to free, with all that is left of its branches.
    Reap(State),
}

/// A request's tasks: their words by slot, and their pending bits.
pub(crate) struct Family<'a, W> {
    pub(crate) routes: &'a Routes,
    pub(crate) pending: &'a [AtomicU64],
    /// The word of the task in a slot.
    pub(crate) word: W,
}

/// The bits of `range` that lie in word `index`.
fn mask(index: usize, range: &Range<u32>) -> u64 {
    let base = index as u32 * 64;
    let below = |bit: u32| match bit.saturating_sub(base) {
        0 => 0,
        n if n >= 64 => u64::MAX,
        n => (1 << n) - 1,
    };
    below(range.end) & !below(range.start)
}

impl<'a, W: Fn(u32) -> Option<&'a Word>> Family<'a, W> {
    /// Whether no branch of `range` is pending.
    pub(crate) fn at_rest(&self, range: &Range<u32>) -> bool {
        let words = range.start as usize / 64..(range.end as usize).div_ceil(64);
        words.into_iter().all(|index| {
            let bits = self.pending.get(index).map_or(0, |word| word.load(Ordering::SeqCst)); // [at rest]
            bits & mask(index, range) == 0
        })
    }

    /// Whether no branch of the request is pending.
    pub(crate) fn all_at_rest(&self) -> bool {
        self.at_rest(&(0..self.pending.len() as u32 * 64))
    }

    /// Whether this branch is pending.
    #[inline]
    pub(crate) fn is_pending(&self, branch: u32) -> bool {
        let word = self.pending.get(branch as usize / 64);
        word.is_some_and(|word| word.load(Ordering::SeqCst) >> (branch % 64) & 1 == 1) // [at rest]
    }

    /// Sets the bits of a fork's branches, before the parent is FORKED.
    pub(crate) fn begin(&self, branches: &Range<u32>) {
        for index in branches.start as usize / 64..(branches.end as usize).div_ceil(64) {
            if let Some(word) = self.pending.get(index) {
                word.fetch_or(mask(index, branches), Ordering::SeqCst);
                crash_point!("join.begun_word");
            }
        }
    }

    /// Clears the bit of a branch; returns the bits that stay set in the same word.
    pub(crate) fn clear(&self, branch: u32) -> u64 {
        let Some(word) = self.pending.get(branch as usize / 64) else { return 0 };
        let bit = 1 << (branch % 64);
        let before = word.fetch_and(!bit, Ordering::SeqCst); // [arrived], [at rest]
        crash_point!("join.cleared");
        fence_after_seq_cst();
        before & !bit
    }

    /// A branch of ours is DONE: clears its bit and looks what is ready.
    #[inline]
    pub(crate) fn arrive(&self, branch: u32, me: Token, error: bool) -> Ready {
        let left = self.clear(branch);
        if !error
            && let Some((_, fork)) = self.routes.fork_of(branch)
            && left & mask(branch as usize / 64, &fork.family()) != 0
        {
            return Ready::Nothing; // most of the time: another branch will be the last
        }
        self.look(branch, me, error)
    }

    /// What is ready where this branch has arrived. May be called at any time, and repeated.
    pub(crate) fn look(&self, branch: u32, me: Token, error: bool) -> Ready {
        let (mut branch, mut error) = (branch, error);
        while let Some((index, fork)) = self.routes.fork_of(branch) {
            let failed = (error && fork.fail_fast).then_some(branch);
            if failed.is_none() && !self.at_rest(&fork.family()) {
                return Ready::Nothing; // and so no fork above it is at rest
            }
            let Some(parent) = (self.word)(fork.parent) else { return Ready::Nothing };
            let seen = parent.load();
            // Asked after the read of the parent's word, so that it is true of the generation that is joined.
            let decided = || match failed {
                Some(branch) => self.has_failed(branch),
                None => self.at_rest(&fork.family()),
            };
            // At this fork: the task may have gone on to another fork.
            if seen.forked_at() == Some(index)
                && decided()
                && let Some(parent) = parent.join(seen, me)
            {
                return Ready::Join { fork: index, parent };
            }
            if !self.at_rest(&fork.family()) {
                return Ready::Nothing;
            }
            crash_point!("join.late");
            // It failed fast before; the forks above may wait for this branch.
            let Some(up) = fork.parent.checked_sub(1) else { break };
            (branch, error) = (up, false);
        }
        self.look_at_request(me)
    }

    /// Whether the request has ended, its caller has gone, and its branches are at rest.
    pub(crate) fn look_at_request(&self, me: Token) -> Ready {
        fence_after_seq_cst();
        match (self.word)(0) {
            // Asked after the read of the word, as in `look`.
            Some(request) => match request.ended() {
                Some(ended) if self.all_at_rest() => {
                    request.reap(ended, me).map_or(Ready::Nothing, Ready::Reap)
                }
                _ => Ready::Nothing,
            },
            None => Ready::Nothing,
        }
    }

    /// Whether the branch has arrived, with an error.
    pub(crate) fn has_failed(&self, branch: u32) -> bool {
        let state = (self.word)(branch + 1).map(Word::load);
        state.is_some_and(|s| s.phase() == Some(Phase::Done) && s.is_error()) && !self.is_pending(branch)
    }

    /// Whether no one waits for the branch: its caller has gone, or a fork above it has ended.
    pub(crate) fn is_unwanted(&self, branch: u32) -> bool {
        let mut slot = branch + 1;
        while let Some((index, fork)) = self.routes.around(slot) {
            let forked = (self.word)(fork.parent).is_some_and(|w| w.peek().forked_at() == Some(index));
            if !forked {
                return true;
            }
            slot = fork.parent; // nearer to 0: [a tree] of `plan`
        }
        (self.word)(0).is_none_or(|request| request.peek().is_cancelled())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn masks_cover_their_range_and_nothing_else() {
        for (start, end) in [(0, 1), (0, 64), (3, 64), (3, 65), (63, 65), (64, 128), (70, 70), (0, 130)] {
            let range = start..end;
            for bit in 0..192_u32 {
                let set = mask(bit as usize / 64, &range) >> (bit % 64) & 1 == 1;
                assert_eq!(set, range.contains(&bit), "bit {bit} of {range:?}");
            }
        }
    }
}
