//! The state word of a task: its phase, and the participant that must act next, in one 64-bit word.
//!
//! # Layout
//!
//! ```text
//! 63                      32 31    29 28    24 23       16 15           0
//! ├─ owner token, or fork ──┼─ phase ┼─ flags ┼─ attempt ──┼─ generation ┤
//!                           └────────────── low half: the futex word ────┘
//! ```
//!
//! # Protocol
//!
//! | Phase | Owner | Means | Left by, to |
//! |---|---|---|---|
//! | FREE | none | not in use | the client that holds the id → FILLING |
//! | FILLING | client | the input is being written | that client → QUEUED |
//! | QUEUED | mover | in a node's ring, or about to be | the holder of the node's reader lock → CLAIMED, or → FREE if CANCELLED |
//! | CLAIMED | worker | a worker works on it | that worker → QUEUED (next node), FORKED, DONE, or FREE if CANCELLED; after its death the repairer |
//! | FORKED | none; the word names the fork | its branches run | the participant that sees all branches arrived, or the first fail-fast error → JOINING |
//! | JOINING | worker | the branches' outcomes are being put together | that worker → CLAIMED, to be moved on |
//! | DONE | client; of a branch, or if the client has gone: the worker | the outcome is there | that client → FREE, generation + 1; of a branch: the joiner |
//!
//! Only the caller sets these flags: WAITING (it sleeps on the word), NOTIFY (it wants its bit of the completions set),
//! CANCELLED (it has gone), DEADLINE (the request's time is limited, see `arena`). Of these the owner clears WAITING, when
//! it brings the outcome and when it has emitted a partial (`rouse`); no participant clears another. ERROR is set with
//! DONE: the payload is an error record. `join` says what happens to branches.
//!
//! # Invariants
//!
//! * `[sole]`: only its owner leaves a phase, or the repairer of a dead owner with a CAS from a word that names the
//!   dead owner. The first participant to do so leaves FORKED, with a CAS from a word of the same generation *and
//!   fork*: a task can be FORKED at one fork after another, and a look at the first may come late. Under an owner's
//!   hands the caller can set its flags, and do nothing else, so every change of a word that others can see is a CAS
//!   loop; out of FILLING it is a store.
//! * `[gone]`: the participant that sees CANCELLED when it pops or finishes the task frees it (a reader, only once
//!   `head` has passed its cell); if the caller's `fetch_or` finds DONE, the caller frees it. Both act on one word, so
//!   exactly one does.
//! * `[dead tokens stay dead]`: no participant ever writes the token of a dead one, so a word with a dead owner changes
//!   in two ways only: another participant becomes its owner, for good, or the caller sets a flag, which no participant
//!   clears under a dead owner. So a CAS from such a word cannot suffer from ABA.
//!
//! # Ordering
//!
//! * `[handed]`: each transition that gives the task to another participant is a Release (or AcqRel) write of the word
//!   or of the ring cell; the next owner's read of the same is an Acquire. The task's header and payload travel.
//!
//! # Crash
//!
//! The word names the dead owner; `repair` searches for its token.

use crate::fields::in_segment;
use crate::sync::{AtomicU64, Ordering, fence};
use crate::sys::futex;
use crate::token::Token;
use crate::width::GENERATION_BITS;
use core::fmt;
use core::time::Duration;

/// Declares the phases, in the order of their numbers, with their names in reports.
macro_rules! phases {
    ($($(#[$about:meta])* $phase:ident $name:literal;)*) => {
        /// What a task is doing.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Phase {
            $($(#[$about])* $phase,)*
        }

        impl Phase {
            /// All phases, in the order of their numbers.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$phase),*];

            /// The name used in reports.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$phase => $name,)*
                }
            }
        }
    };
}

phases! {
    /// Not in use.
    Free "free";
    /// A client writes its input.
    Filling "filling";
    /// In a ring, or about to be.
    Queued "queued";
    /// A worker works on it.
    Claimed "claimed";
    /// Its branches run.
    Forked "forked";
    /// The outcome is there.
    Done "done";
    /// Its branches' outcomes are being put together.
    Joining "joining";
}

impl Phase {
    /// Its input is there, and its outcome is not.
    #[must_use]
    pub fn is_under_way(self) -> bool {
        !matches!(self, Self::Free | Self::Filling | Self::Done)
    }

    /// Its owner is the worker that works on it.
    #[must_use]
    pub fn is_worked_on(self) -> bool {
        matches!(self, Self::Claimed | Self::Joining)
    }
}

const GENERATION_MASK: u64 = (1 << GENERATION_BITS) - 1;
const _: () = assert!(GENERATION_BITS <= ATTEMPT_SHIFT);
const ATTEMPT_SHIFT: u32 = 16;
const PHASE_SHIFT: u32 = 29;
const PHASE_MASK: u64 = 0b111;
const OWNER_SHIFT: u32 = 32;
const WAITING: u64 = 1 << 24;
const CANCELLED: u64 = 1 << 25;
const ERROR: u64 = 1 << 26;
const NOTIFY: u64 = 1 << 27;
const DEADLINE: u64 = 1 << 28;
const FLAGS: u64 = 0x1F << 24;
/// In the owner's half of FORKED: the other bits say at which fork. No token has this bit.
const AT_FORK: u64 = 1 << 31;
const _: () = assert!(Token::BITS == 31);

/// A value of a state word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct State(u64);

impl State {
    /// A state with no flags set.
    #[inline]
    pub(crate) fn new(phase: Phase, owner: Option<Token>, generation: u16, attempt: u8) -> Self {
        Self(
            u64::from(owner.map_or(0, Token::raw)) << OWNER_SHIFT
                | (phase as u64) << PHASE_SHIFT
                | u64::from(attempt) << ATTEMPT_SHIFT
                | u64::from(generation) & GENERATION_MASK,
        )
    }

    /// The state with these bits.
    #[inline]
    #[must_use]
    pub fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The bits.
    #[inline]
    #[must_use]
    pub fn raw(self) -> u64 {
        self.0
    }

    /// The phase; `None` for a number that is none.
    #[inline]
    #[must_use]
    pub fn phase(self) -> Option<Phase> {
        Phase::ALL.get((self.0 >> PHASE_SHIFT & PHASE_MASK) as usize).copied()
    }

    /// The participant that must act next.
    #[inline]
    #[must_use]
    pub fn owner(self) -> Option<Token> {
        Token::from_raw((self.0 >> OWNER_SHIFT) as u32)
    }

    /// At which fork it is FORKED; `None` in another phase.
    #[must_use]
    pub fn forked_at(self) -> Option<u32> {
        let half = self.0 >> OWNER_SHIFT;
        (self.phase() == Some(Phase::Forked) && half & AT_FORK != 0).then_some((half & !AT_FORK) as u32)
    }

    /// How often this task's id has been used, modulo 2 to the power of [`GENERATION_BITS`].
    #[inline]
    #[must_use]
    pub fn generation(self) -> u16 {
        (self.0 & GENERATION_MASK) as u16
    }

    /// How many workers of its node have died while they worked on this task.
    #[inline]
    #[must_use]
    pub fn attempt(self) -> u8 {
        (self.0 >> ATTEMPT_SHIFT) as u8
    }

    /// Whether the caller sleeps on the word.
    #[inline]
    #[must_use]
    pub fn is_waiting(self) -> bool {
        self.0 & WAITING != 0
    }

    /// Whether the caller has gone.
    #[inline]
    #[must_use]
    pub fn is_cancelled(self) -> bool {
        self.0 & CANCELLED != 0
    }

    /// Whether the outcome is an error record.
    #[inline]
    #[must_use]
    pub fn is_error(self) -> bool {
        self.0 & ERROR != 0
    }

    /// Whether the caller wants its bit of the completions set.
    #[inline]
    #[must_use]
    pub fn wants_notice(self) -> bool {
        self.0 & NOTIFY != 0
    }

    /// Whether the request's time is limited.
    #[inline]
    #[must_use]
    pub(crate) fn has_deadline(self) -> bool {
        self.0 & DEADLINE != 0
    }

    /// This state, with DEADLINE set.
    #[must_use]
    pub(crate) fn with_deadline(self) -> Self {
        Self(self.0 | DEADLINE)
    }

    /// Whether a caller may sleep on the word: it has set WAITING, or the outcome is there and the worker that brought
    /// it may have died before the wake.
    #[inline]
    #[must_use]
    pub(crate) fn may_have_sleeper(self) -> bool {
        self.is_waiting() || self.phase() == Some(Phase::Done)
    }

    /// Whether these differ at most in flags: the caller alone may have acted in between.
    #[must_use]
    pub(crate) fn is_same_use(self, other: Self) -> bool {
        self.0 & !FLAGS == other.0 & !FLAGS
    }

    /// Whether it is in this phase.
    #[inline]
    #[must_use]
    pub(crate) fn is_in(self, phase: Phase) -> bool {
        self.0 >> PHASE_SHIFT & PHASE_MASK == phase as u64
    }

    /// Whether it is in this phase, of this owner.
    #[inline]
    #[must_use]
    pub fn is(self, phase: Phase, owner: Token) -> bool {
        self.0 >> PHASE_SHIFT == u64::from(owner.raw()) << (OWNER_SHIFT - PHASE_SHIFT) | phase as u64
    }

    /// What a repairer must do if the owner is dead, given whether the task was in a ring after this state was read.
    /// The table is in `repair`.
    pub(crate) fn due(self, in_ring: bool) -> Due {
        match (self.phase(), in_ring) {
            (Some(Phase::Filling | Phase::Done), _) => Due::Free,
            (Some(Phase::Queued), false) => Due::Push,
            (Some(Phase::Claimed), true) => Due::Claim,
            (Some(Phase::Claimed), false) => Due::Answer,
            (Some(Phase::Joining), _) => Due::Join,
            _ => Due::Nothing,
        }
    }

    /// The half without the owner.
    #[inline(always)]
    pub(crate) fn low(self) -> u32 {
        self.0 as u32
    }

    /// A state of `owner` with this [half](Self::low).
    #[inline(always)]
    pub(crate) fn claimed(owner: Token, low: u32) -> Self {
        Self(u64::from(owner.raw()) << OWNER_SHIFT | u64::from(low))
    }

    /// The same task (generation, attempt, caller's flags) in another phase.
    #[inline]
    fn moved_to(self, phase: Phase, owner: Token) -> Self {
        Self(Self::new(phase, Some(owner), 0, 0).0 | self.kept())
    }

    #[inline]
    fn with_attempt(self, attempt: u8) -> Self {
        Self(self.0 & !(0xFF << ATTEMPT_SHIFT) | u64::from(attempt) << ATTEMPT_SHIFT)
    }

    /// The same task, FORKED at `fork`.
    fn forked(self, fork: u32) -> Self {
        let half = AT_FORK | u64::from(fork);
        Self(half << OWNER_SHIFT | Self::new(Phase::Forked, None, 0, 0).0 | self.kept())
    }

    #[inline]
    fn kept(self) -> u64 {
        self.0 & (FLAGS | 0xFF << ATTEMPT_SHIFT | GENERATION_MASK)
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.phase() {
            Some(phase) => f.write_str(phase.name())?,
            None => write!(f, "phase {}?", self.0 >> PHASE_SHIFT & PHASE_MASK)?,
        }
        if let Some(owner) = self.owner() {
            write!(f, " of {owner}")?;
        }
        if let Some(fork) = self.forked_at() {
            write!(f, " at fork {fork}")?;
        }
        write!(f, " generation {} attempt {}", self.generation(), self.attempt())?;
        for (set, name) in [
            (self.is_waiting(), "waiting"),
            (self.wants_notice(), "notify"),
            (self.is_cancelled(), "cancelled"),
            (self.has_deadline(), "deadline"),
            (self.is_error(), "error"),
        ] {
            if set {
                write!(f, " {name}")?;
            }
        }
        Ok(())
    }
}

/// What a repairer must do about a task whose owner is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing: a reader will claim it, or it has another owner by now.
    Nothing,
    /// Nothing: the next holder of the reader lock claims it again.
    Claim,
    /// Free it: its client is dead.
    Free,
    /// Push it into its ring.
    Push,
    /// Take it over: a worker worked on it.
    Answer,
    /// Take it over, and put its branches together.
    Join,
}

/// The result of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// The task is ours.
    Taken(State),
    /// The task is ours, and its caller has gone: the reader must free it, once `head` has passed its cell.
    Abandoned(State),
    /// Nothing to claim: the task is not in a phase that a reader may leave.
    Stale(State),
}

/// The result of finishing a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finish {
    /// The caller will see the outcome.
    Done {
        /// The caller sleeps on the word: the worker must wake it.
        wake: bool,
        /// The caller wants its bit of the completions set.
        notify: bool,
    },
    /// The caller has gone: the task is ours to free.
    Abandoned,
    /// The task was not ours any more: another participant took us for dead. We may not touch it.
    Lost(State),
}

/// The result of a cancellation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cancel {
    /// The outcome was there already: the caller frees the task.
    WasDone,
    /// The participant that pops or finishes the task will free it.
    Left,
}

in_segment! {
    /// The state word of a task.
    pub struct Word(AtomicU64);
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.peek().fmt(f)
    }
}

impl Word {
    /// A word in this state; in a segment words begin as zero, which is FREE.
    #[cfg(any(test, loom))]
    pub(crate) fn new(state: State) -> Self {
        Self(AtomicU64::new(state.0))
    }

    /// The state now.
    #[inline]
    #[must_use]
    pub fn load(&self) -> State {
        State(self.0.load(Ordering::Acquire)) // [handed]: the next owner's side
    }

    /// The state now, for a reader of this word alone.
    #[inline]
    #[must_use]
    pub fn peek(&self) -> State {
        State(self.0.load(Ordering::Relaxed)) // Relaxed: no data is read by it
    }

    /// FREE → FILLING, by the client that holds the id in its own memory.
    #[inline]
    pub(crate) fn begin(&self, client: Token) -> State {
        // The client knows that it is FREE, and takes only the generation from the word.
        let free = self.peek();
        let filling = State::new(Phase::Filling, Some(client), free.generation(), 0);
        self.0.store(filling.0, Ordering::Relaxed); // Relaxed by [sole]: no other participant acts on it
        filling
    }

    /// FILLING → QUEUED, by the client; the push that follows publishes it.
    #[inline]
    pub(crate) fn queue(&self, filling: State, mover: Token) {
        debug_assert_eq!(filling.phase(), Some(Phase::Filling));
        self.0.store(filling.moved_to(Phase::Queued, mover).0, Ordering::Release); // [handed]
        crash_point!("word.queued");
    }

    /// QUEUED → CLAIMED, by the holder of the reader lock. Also takes over a task that a *dead* holder had claimed: its
    /// cell is still in the ring, so no work had begun.
    #[inline]
    pub(crate) fn claim(&self, me: Token, is_dead: impl Fn(Token) -> bool) -> Claim {
        let mut seen = self.load();
        loop {
            let by_dead = || {
                seen.is_in(Phase::Claimed) && seen.owner().is_some_and(|owner| owner != me && is_dead(owner))
            };
            if !seen.is_in(Phase::Queued) && !by_dead() {
                return Claim::Stale(seen); // [once] of `ring`
            }
            let mine = seen.moved_to(Phase::Claimed, me);
            // AcqRel: [handed]; what the mover wrote is ours to read.
            match self.0.compare_exchange(seen.0, mine.0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    crash_point!("word.claimed");
                    return if mine.is_cancelled() { Claim::Abandoned(mine) } else { Claim::Taken(mine) };
                }
                Err(now) => seen = State(now),
            }
        }
    }

    /// CLAIMED or JOINING(dead) → the same phase of me: a repairer takes a dead worker's task.
    pub(crate) fn take_over(&self, dead: State, me: Token) -> Option<State> {
        let mine = self.inherit(dead, dead.phase()?, me);
        crash_point!("word.taken_over");
        mine
    }

    /// DONE(dead) → DONE(me), of a branch or of a request whose client has gone, so that the word names no dead
    /// participant.
    pub(crate) fn succeed(&self, dead: State, me: Token) -> bool {
        let succeeded = dead.phase().and_then(|phase| self.inherit(dead, phase, me)).is_some();
        crash_point!("word.succeeded");
        succeeded
    }

    /// QUEUED(dead) → QUEUED(me): the right to push what a dead mover had not pushed.
    pub(crate) fn adopt(&self, dead: State, me: Token) -> bool {
        let adopted = self.inherit(dead, Phase::Queued, me).is_some();
        crash_point!("word.adopted");
        adopted
    }

    /// Makes the repairer the owner of the task that it found; `None` if the task has another owner since.
    ///
    /// The caller lives, and may set WAITING or CANCELLED at any moment: flags that have changed since `dead` was read
    /// are kept (`[dead tokens stay dead]`).
    fn inherit(&self, dead: State, phase: Phase, me: Token) -> Option<State> {
        let mut seen = dead;
        while (seen.phase(), seen.owner()) == (dead.phase(), dead.owner()) {
            let mine = seen.moved_to(phase, me);
            match self.0.compare_exchange(seen.0, mine.0, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Some(mine),
                Err(now) => seen = State(now),
            }
        }
        None
    }

    /// Stores this attempt in the word, as long as it is CLAIMED(me).
    pub(crate) fn count_attempt(&self, me: Token, attempt: u8) {
        // Relaxed: nothing travels; a repairer reads it with the word. If the task is not ours, nothing is due.
        let _ = self.leave(Phase::Claimed, me, |seen| seen.with_attempt(attempt), Ordering::Relaxed);
    }

    /// CLAIMED(me) → QUEUED(me) for some node, with this attempt there; false if the task is not ours.
    pub(crate) fn requeue(&self, me: Token, attempt: u8) -> bool {
        let mut seen = self.load();
        while seen.is(Phase::Claimed, me) {
            let next = seen.moved_to(Phase::Queued, me).with_attempt(attempt);
            match self.0.compare_exchange(seen.0, next.0, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => {
                    crash_point!("word.requeued");
                    return true;
                }
                Err(now) => seen = State(now),
            }
        }
        false
    }

    /// CLAIMED(me) → DONE(client).
    #[inline]
    pub(crate) fn finish(&self, me: Token, client: Token, error: bool) -> Finish {
        let mut seen = self.peek();
        loop {
            if !seen.is(Phase::Claimed, me) {
                return Finish::Lost(seen);
            }
            if seen.is_cancelled() {
                return Finish::Abandoned; // [gone]
            }
            let mut done = seen.moved_to(Phase::Done, client);
            done.0 &= !WAITING;
            if error {
                done.0 |= ERROR;
            }
            // Release: [handed]; the outcome travels to the caller.
            match self.0.compare_exchange(seen.0, done.0, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => {
                    crash_point!("word.finished");
                    return Finish::Done { wake: seen.is_waiting(), notify: seen.wants_notice() };
                }
                Err(now) => seen = State(now),
            }
        }
    }

    /// CLAIMED(me) → DONE(client) of a request that has branches: also if its caller has gone, since branches may still
    /// refer to it. Then it is DONE(me), since no client will come; the participant that finds it so with its branches
    /// at rest reaps it, and a repairer looks if we die before that. Returns the new state.
    ///
    /// # Errors
    /// The present state, if the task is not ours any more.
    pub(crate) fn finish_forked(&self, me: Token, client: Token, error: bool) -> Result<State, State> {
        let end = |seen: State| {
            let owner = if seen.is_cancelled() { me } else { client };
            State(seen.moved_to(Phase::Done, owner).0 | if error { ERROR } else { 0 })
        };
        // SeqCst: [at rest] of `join`; Release is in it.
        let ended = self.leave(Phase::Claimed, me, end, Ordering::SeqCst);
        crash_point!("word.ended");
        ended
    }

    /// FREE → CLAIMED(me), of a branch, by the forker of its parent.
    pub(crate) fn begin_branch(&self, me: Token) -> State {
        let free = self.peek();
        let claimed = State::new(Phase::Claimed, Some(me), free.generation(), 0);
        self.0.store(claimed.0, Ordering::Release); // by [sole]; the header travels to a repairer
        claimed
    }

    /// FILLING → CLAIMED(client): the client itself moves it on.
    pub(crate) fn keep(&self, filling: State, client: Token) -> State {
        let claimed = filling.moved_to(Phase::Claimed, client);
        self.0.store(claimed.0, Ordering::Release); // by [sole]
        crash_point!("word.kept");
        claimed
    }

    /// CLAIMED(me) → FORKED at this fork.
    ///
    /// # Errors
    /// The present state, if the task is not ours any more.
    pub(crate) fn fork(&self, me: Token, fork: u32) -> Result<State, State> {
        // AcqRel: the branches' words, and the header that says which fork it is, travel to the joiner.
        let forked = self.leave(Phase::Claimed, me, |seen| seen.forked(fork), Ordering::AcqRel);
        crash_point!("word.forked");
        forked
    }

    /// FORKED → JOINING(me), as long as it has the generation and the fork of `forked`.
    pub(crate) fn join(&self, forked: State, me: Token) -> Option<State> {
        let mut seen = forked;
        while seen.forked_at().is_some()
            && (seen.forked_at(), seen.generation()) == (forked.forked_at(), forked.generation())
        {
            let mine = seen.moved_to(Phase::Joining, me);
            // SeqCst: [one joins]; what the branches' owners wrote travels by the pending bits.
            match self.0.compare_exchange(seen.0, mine.0, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => {
                    crash_point!("word.joining");
                    return Some(mine);
                }
                Err(now) => seen = State(now),
            }
        }
        None
    }

    /// JOINING(me) → CLAIMED(me): the outcomes are put together.
    ///
    /// # Errors
    /// The present state, if the task is not ours any more.
    pub(crate) fn joined(&self, me: Token) -> Result<State, State> {
        let joined =
            self.leave(Phase::Joining, me, |seen| seen.moved_to(Phase::Claimed, me), Ordering::AcqRel);
        crash_point!("word.joined");
        joined
    }

    /// CLAIMED(me) → DONE(me), of a branch: its outcome waits for the other branches'.
    ///
    /// # Errors
    /// The present state, if the task is not ours any more.
    pub(crate) fn finish_branch(&self, me: Token, error: bool) -> Result<State, State> {
        let end = |seen: State| State(seen.moved_to(Phase::Done, me).0 | if error { ERROR } else { 0 });
        let ended = self.leave(Phase::Claimed, me, end, Ordering::AcqRel);
        crash_point!("word.branch_finished");
        ended
    }

    /// The state, if it is DONE and CANCELLED: the argument of [`reap`](Self::reap).
    pub(crate) fn ended(&self) -> Option<State> {
        let seen = State(self.0.load(Ordering::SeqCst)); // [at rest]
        (seen.phase() == Some(Phase::Done) && seen.is_cancelled()).then_some(seen)
    }

    /// DONE and CANCELLED → CLAIMED(me): the right to free it; for a participant that has seen it so and *then* found
    /// its branches at rest, so that they are those of this generation.
    pub(crate) fn reap(&self, ended: State, me: Token) -> Option<State> {
        let mut seen = ended;
        while seen.phase() == Some(Phase::Done)
            && seen.is_cancelled()
            && seen.generation() == ended.generation()
        {
            let mine = seen.moved_to(Phase::Claimed, me);
            // [one reaps] of `join`.
            match self.0.compare_exchange(seen.0, mine.0, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => {
                    crash_point!("word.reaping");
                    return Some(mine);
                }
                Err(now) => seen = State(now), // a repairer may have succeeded a dead owner
            }
        }
        None
    }

    /// Leaves `phase`, if it is ours; the caller's flags may change meanwhile.
    fn leave(
        &self,
        phase: Phase,
        me: Token,
        to: impl Fn(State) -> State,
        order: Ordering,
    ) -> Result<State, State> {
        let mut seen = self.peek();
        while seen.is(phase, me) {
            let next = to(seen);
            match self.0.compare_exchange(seen.0, next.0, order, Ordering::Relaxed) {
                Ok(_) => return Ok(next),
                Err(now) => seen = State(now),
            }
        }
        Err(seen)
    }

    /// The caller wants its bit of the completions set when the outcome is there. Returns the state before.
    pub(crate) fn ask_for_notice(&self) -> State {
        let seen = State(self.0.fetch_or(NOTIFY, Ordering::AcqRel)); // if DONE, the outcome is ours to read
        crash_point!("word.notice_asked");
        seen
    }

    /// Wakes the caller that sleeps on the word.
    #[cold]
    pub(crate) fn wake_caller(&self) {
        futex::wake64(&self.0, 1);
    }

    /// [`sleep_unless`](Self::sleep_unless) nothing else is there.
    #[cold]
    pub(crate) fn sleep(&self, timeout: Option<Duration>) -> State {
        self.sleep_unless(|| false, timeout)
    }

    /// The owner CLAIMED(me) has something else for the caller to look at: clears WAITING, so that a caller on its way to
    /// sleep stays awake. Whether the caller must be woken, and whether it wants its bit of the completions set.
    pub(crate) fn rouse(&self, me: Token) -> (bool, bool) {
        fence(Ordering::SeqCst); // [emit, then rouse] of `partials`
        let seen = self.peek();
        let wake = seen.is_waiting()
            // Relaxed: nothing travels by it.
            && self.leave(Phase::Claimed, me, |seen| State(seen.0 & !WAITING), Ordering::Relaxed).is_ok();
        (wake, seen.wants_notice())
    }

    /// The caller sleeps until the word has changed, another thread wakes it, or `timeout` expires, unless something
    /// else is there for it. Returns the state afterwards; it may be any.
    #[cold]
    pub(crate) fn sleep_unless(&self, is_ready: impl FnOnce() -> bool, timeout: Option<Duration>) -> State {
        let seen = State(self.0.fetch_or(WAITING, Ordering::AcqRel));
        crash_point!("word.waiting");
        fence(Ordering::SeqCst); // [emit, then rouse] of `partials`
        if seen.phase() != Some(Phase::Done) && !is_ready() {
            // A change between the two lines changes the low half too, so the kernel refuses to sleep.
            futex::wait64(&self.0, State(seen.0 | WAITING).low(), timeout);
        }
        self.load()
    }

    /// The caller goes.
    pub(crate) fn cancel(&self) -> Cancel {
        // SeqCst: [at rest] of `join`; and if DONE, the outcome's blocks are ours to free.
        let seen = State(self.0.fetch_or(CANCELLED, Ordering::SeqCst));
        crash_point!("word.cancelled");
        if seen.phase() == Some(Phase::Done) { Cancel::WasDone } else { Cancel::Left }
    }

    /// → FREE, generation + 1, by the owner (or, where CANCELLED, by the participant that found it so). The owner has
    /// given back the task's blocks before.
    #[inline]
    pub(crate) fn free(&self, now: State) -> State {
        let free = State::new(Phase::Free, None, now.generation().wrapping_add(1), 0);
        // A store; but loom takes it that a store could come before a compare-and-swap (of a repairer, DONE to DONE) that
        // has read what the store follows.
        #[cfg(not(loom))]
        self.0.store(free.0, Ordering::Release); // [handed]: to the client that sweeps for it
        #[cfg(loom)]
        {
            let before = State(self.0.swap(free.0, Ordering::Release));
            assert_eq!(before.generation(), now.generation(), "freed twice: {before:?}");
        }
        crash_point!("word.freed");
        free
    }

    /// [`free`](Self::free) for a repairer: only from exactly this word.
    pub(crate) fn free_if(&self, dead: State) -> bool {
        let free = State::new(Phase::Free, None, dead.generation().wrapping_add(1), 0);
        self.0.compare_exchange(dead.0, free.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Wakes all threads that sleep on the word, after a death; the word need not have changed.
    pub(crate) fn wake_spuriously(&self) {
        futex::wake64(&self.0, u32::MAX);
    }
}

#[cfg(all(test, not(loom)))]
#[path = "../tests/common/left.rs"]
mod left;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const CLIENT: fn() -> Token = || Token::new(0, 1);
    const WORKER: fn() -> Token = || Token::new(1, 7);

    #[test]
    fn the_fields_do_not_touch_each_other() {
        const LAST: u16 = GENERATION_MASK as u16;
        for phase in Phase::ALL {
            for (generation, attempt) in [(0, 0), (LAST, 0), (0, u8::MAX), (LAST, u8::MAX)] {
                let state = State::new(phase, Some(WORKER()), generation, attempt);
                assert_eq!(state.phase(), Some(phase));
                assert_eq!(state.owner(), Some(WORKER()));
                assert_eq!(state.generation(), generation);
                assert_eq!(state.attempt(), attempt);
                assert!(!state.is_waiting() && !state.is_cancelled() && !state.is_error());
            }
        }
        assert_eq!(State::from_raw(0), State::new(Phase::Free, None, 0, 0), "zeroed memory is FREE");
        assert_eq!(State::from_raw(PHASE_MASK << PHASE_SHIFT).phase(), None);
    }

    #[test]
    fn a_request_goes_round() {
        let word = Word::new(State::from_raw(0));
        let filling = word.begin(CLIENT());
        word.queue(filling, CLIENT());
        assert!(matches!(word.claim(WORKER(), |_| false), Claim::Taken(_)));
        assert!(matches!(word.claim(WORKER().next(), |_| false), Claim::Stale(_)), "claimed once");
        assert_eq!(word.finish(WORKER(), CLIENT(), true), Finish::Done { wake: false, notify: false });
        let done = word.load();
        assert!(done.is_error() && done.is(Phase::Done, CLIENT()));
        assert_eq!(word.free(done), State::new(Phase::Free, None, 1, 0));
    }

    #[test]
    fn a_cancelled_task_is_freed_by_exactly_one_side() {
        let word = Word::new(State::from_raw(0));
        let filling = word.begin(CLIENT());
        word.queue(filling, CLIENT());
        assert_eq!(word.cancel(), Cancel::Left);
        assert!(matches!(word.claim(WORKER(), |_| false), Claim::Abandoned(_)));

        let word = Word::new(State::from_raw(0));
        let filling = word.begin(CLIENT());
        word.queue(filling, CLIENT());
        word.claim(WORKER(), |_| false);
        assert_eq!(word.cancel(), Cancel::Left);
        assert_eq!(word.finish(WORKER(), CLIENT(), false), Finish::Abandoned);

        let word = Word::new(State::from_raw(0));
        let filling = word.begin(CLIENT());
        word.queue(filling, CLIENT());
        word.claim(WORKER(), |_| false);
        word.finish(WORKER(), CLIENT(), false);
        assert_eq!(word.cancel(), Cancel::WasDone);
    }

    /// Symptom: a request whose worker had died was never answered. Cause: the caller went to sleep between the
    /// repairer's look at the word and the compare-and-swap, which therefore failed. Fix: the caller's flags do not
    /// stop a repairer.
    #[test]
    fn a_flag_set_meanwhile_does_not_stop_the_repairer() {
        let me = Token::new(2, 1);
        for phase in [Phase::Claimed, Phase::Queued] {
            for flags in [WAITING, CANCELLED, WAITING | CANCELLED] {
                let found = State::new(phase, Some(WORKER()), 3, 1);
                let word = Word::new(State(found.0 | flags));
                match phase {
                    Phase::Claimed => assert!(word.take_over(found, me).is_some()),
                    _ => assert!(word.adopt(found, me)),
                }
                assert_eq!(word.load(), State(State::new(phase, Some(me), 3, 1).0 | flags));
            }
            let found = State::new(phase, Some(WORKER()), 3, 1);
            let word = Word::new(State::new(phase, Some(CLIENT()), 3, 1));
            assert_eq!(word.take_over(found, me), None, "another has it");
            assert!(!word.adopt(found, me));
        }
    }

    /// Symptom: a task that went from one fork to the next was joined at the second before its branches had
    /// arrived. Cause: a late arrival at the first found its family at rest and the task FORKED, and did not
    /// see that it was so at the second. Fix: the word says at which fork.
    #[test]
    fn a_late_look_at_one_fork_does_not_join_the_next() {
        let word = Word::new(State::new(Phase::Claimed, Some(WORKER()), 3, 1));
        let first = word.fork(WORKER(), 0).unwrap();
        assert_eq!((first.owner(), first.forked_at()), (None, Some(0)));
        assert!(word.join(first, WORKER()).is_some());
        assert_eq!(word.joined(WORKER()).unwrap().forked_at(), None);
        let second = word.fork(WORKER(), 1).unwrap();
        assert_eq!(word.join(first, WORKER()), None);
        word.cancel();
        assert!(word.join(second, WORKER()).unwrap().is_cancelled(), "flags do not matter");
        assert_eq!(word.joined(WORKER()).unwrap().attempt(), 1);
    }

    #[test]
    fn attempts_are_of_one_node() {
        let word = Word::new(State::new(Phase::Claimed, Some(WORKER()), 3, 254));
        for attempt in [255, 0, 7] {
            assert!(word.requeue(WORKER(), attempt));
            assert_eq!((word.load().attempt(), word.load().generation()), (attempt, 3));
            word.claim(WORKER(), |_| false);
        }
        word.requeue(WORKER(), 1);
        assert!(!word.requeue(WORKER(), 2), "no longer claimed");
    }

    /// Tests of deaths write a word as its dying owner leaves it: each such word is what the transition leaves.
    #[test]
    fn the_words_that_tests_of_deaths_write_are_those_of_the_transitions() {
        let (client, me, dead) = (CLIENT(), WORKER(), Token::new(2, 1));
        let after = |before: State, phase: Phase, owner: Token, error| {
            State(left::after(before.0, phase as u64, owner.raw(), error))
        };
        let with = |phase, owner, flags| State(State::new(phase, Some(owner), 3, 2).0 | flags);
        for flags in [0, WAITING, NOTIFY, DEADLINE, WAITING | NOTIFY | DEADLINE] {
            for error in [false, true] {
                let claimed = with(Phase::Claimed, me, flags);
                let word = Word::new(claimed);
                let told = Finish::Done { wake: flags & WAITING != 0, notify: flags & NOTIFY != 0 };
                assert_eq!(word.finish(me, client, error), told);
                assert_eq!(word.load(), after(claimed, Phase::Done, client, error));
                assert!(!word.load().is_waiting(), "the caller is about to be woken");
            }
        }
        for error in [false, true] {
            let branch = with(Phase::Claimed, me, 0);
            assert_eq!(Word::new(branch).finish_branch(me, error), Ok(after(branch, Phase::Done, me, error)));
            for (flags, owner) in [(0, client), (CANCELLED, me)] {
                let claimed = with(Phase::Claimed, me, flags);
                let word = Word::new(claimed);
                let done = after(claimed, Phase::Done, owner, error);
                assert_eq!(word.finish_forked(me, client, error), Ok(done));
                word.cancel();
                let cancelled = State(left::cancelled(done.0));
                assert_eq!(word.ended(), Some(cancelled));
                assert_eq!(word.reap(cancelled, me), Some(after(cancelled, Phase::Claimed, me, error)));
            }
        }
        let queued = with(Phase::Queued, dead, 0);
        let word = Word::new(queued);
        assert!(word.adopt(queued, me));
        assert_eq!(word.load(), after(queued, Phase::Queued, me, false));
    }
}
