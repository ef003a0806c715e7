//! Who may do what: a participant, the client that owns the requests, the holder of a reader lock.
//!
//! Guards of tasks ([`arena`](crate::arena)) come from here, and from a [`Repairer`](crate::repair::Repairer). Safe
//! code cannot claim without the lock, move `head` without it, or act under a token that it merely read.
//!
//! # Invariants
//!
//! * `[by right]`: only code that has promised the contract of [`Segment::take_part`] has a [`Participant`], and all
//!   guards come from it.
//! * `[in hand]`: a request has one caller at a time, which takes its number from the free ones and gives it back
//!   there. Numbers are plain, so that lists of them are too; so the caller promises this where it makes a guard of a
//!   number ([`Client`]).
//!
//! # Crash
//!
//! None of these lies in the segment: a participant that dies with them leaves what the words say.
#![expect(unsafe_code, reason = "the contract of guards, said where it is taken on")]

use crate::arena::{Claimed, Done, Filling, Partials, Task};
use crate::lock::{Acquired, ReaderLock};
use crate::ring::Ring;
use crate::segment::{Node, Segment};
use crate::token::Token;
use crate::trace::{HopEnd, RequestEnd};
use crate::word::Phase;
use core::time::Duration;

impl Segment {
    /// The right to act under a token.
    ///
    /// # Safety
    /// From now on, for as long as the participant, or anything that comes from it, is used:
    ///
    /// * `token` names an incarnation that lives in this process, which holds its byte of the lease
    ///   ([`Lease::hold`](crate::participant::Lease::hold), `[lease before deeds]`); a child that this process forks acts
    ///   under none;
    /// * the segment is mapped to be written: this process has created, attached or adopted it, and does not only
    ///   [inspect](Segment::inspect) it;
    /// * a participant other than the server has one [`Reader`] at a time: it takes a lock whose word names its own token
    ///   for one that another process has written over. (Threads of the server share a token, and its lock keeps them
    ///   apart);
    /// * all others that write to the segment's file keep to the protocol of this library about *when* to write: no
    ///   bytes that a state word gives to another participant. (*What* they write is checked.)
    ///
    /// ```compile_fail,E0133
    /// use ringmill_shm::{segment::{Location, Segment}, token::Token};
    /// let segment = Segment::attach(Location::named("digits").unwrap(), 0).unwrap();
    /// let server = segment.take_part(Token::SERVER);
    /// ```
    #[inline(always)]
    #[must_use]
    pub unsafe fn take_part(&self, token: Token) -> Participant<'_> {
        Participant { segment: self, token }
    }

    /// The right to act as the owner of this process's requests: as the server, or as a client that has
    /// [joined](Segment::join_as_client).
    ///
    /// # Safety
    /// The contract of [`take_part`](Self::take_part) for that token: so not in a process that has only attached the
    /// segment.
    #[inline(always)]
    #[must_use]
    pub unsafe fn take_part_at_home(&self) -> Participant<'_> {
        // SAFETY: passed on.
        unsafe { self.take_part(self.home_token()) }
    }
}

/// The right to act under a token.
#[derive(Debug, Clone, Copy)]
pub struct Participant<'s> {
    segment: &'s Segment,
    token: Token,
}

impl<'s> Participant<'s> {
    /// The segment that it takes part in.
    #[inline(always)]
    #[must_use]
    pub fn segment(self) -> &'s Segment {
        self.segment
    }

    /// Its token.
    #[inline(always)]
    #[must_use]
    pub fn token(self) -> Token {
        self.token
    }

    /// This participant as the owner of requests: the server; in a test, any that begins requests.
    #[inline(always)]
    #[must_use]
    pub fn client(self) -> Client<'s> {
        Client(self)
    }

    /// Notes in the trace of a task's request, if it has one, that this participant's work on the task has ended.
    pub fn end_hop(self, task: Task<'_>, now_ns: u64, end: HopEnd) {
        task.end_hop_of(self.token, now_ns, end);
    }

    /// Takes a node's reader lock, waiting as long as a living participant holds it; `None` if `give_up`, which is
    /// asked before every sleep, returns true: the word may name a living participant that never took the lock. `None`
    /// also if the node is of another segment. `spins` is how often to look before sleeping.
    ///
    /// Threads of the server share the server's token, and those of a client its, so a word that names it means a living
    /// holder. A worker takes one lock at a time, so a word that names its own token was written by another process, and the
    /// lock is taken over as from the dead.
    #[inline]
    #[must_use]
    pub fn read(self, node: Node<'s>, spins: u32, give_up: impl Fn() -> bool) -> Option<Reader<'s>> {
        let (lock, segment, me) = (node.lock(), self.segment, self.token);
        if !node.is_of(segment) {
            return None;
        }
        let is_dead = |token: Token| token == me && !segment.is_shared(me) || segment.is_dead(token);
        let acquired = lock.lock_unless(me, spins, is_dead, give_up)?;
        Some(Reader { lock, ring: node.ring(), me: self, acquired })
    }
}

/// The holder of a node's reader lock: it alone claims what lies in the ring. Dropping it releases the lock.
///
/// ```compile_fail,E0624
/// fn without_the_lock(task: ringmill_shm::arena::Task<'_>, me: ringmill_shm::token::Token) {
///     task.claim(me, |_| false);
/// }
/// ```
/// ```compile_fail,E0624
/// fn without_the_lock(ring: ringmill_shm::ring::Ring<'_>) {
///     ring.set_head(7);
/// }
/// ```
/// ```compile_fail,E0382
/// fn after_the_lock(reader: ringmill_shm::party::Reader<'_>) {
///     drop(reader);
///     reader.claim(7);
/// }
/// ```
#[derive(Debug)]
#[must_use = "dropping it releases the lock"]
pub struct Reader<'s> {
    lock: ReaderLock<'s>,
    ring: Ring<'s>,
    me: Participant<'s>,
    acquired: Acquired,
}

impl<'s> Reader<'s> {
    /// How it took the lock. After a take-over it meets tasks that the dead holder had claimed and not drained.
    #[inline]
    #[must_use]
    pub fn acquired(&self) -> Acquired {
        self.acquired
    }

    /// The ring.
    #[inline]
    #[must_use]
    pub fn ring(&self) -> Ring<'s> {
        self.ring
    }

    /// QUEUED → CLAIMED, of a task that lies in the ring, or CLAIMED(dead) → CLAIMED. `None`: a leftover cell.
    ///
    /// The task's caller may have gone ([`Claimed::is_abandoned`]). Such a task is not freed here: its id could go back
    /// into the ring before `head` has passed its cell.
    #[inline]
    #[must_use]
    pub fn claim(&self, id: u32) -> Option<Claimed<'s>> {
        let segment = self.me.segment;
        Task::new(segment, id)?.claim(self.me.token, |token| segment.is_dead(token))
    }

    /// Everything before `position` is drained: claimed, or skipped as a leftover.
    #[inline]
    pub fn set_head(&mut self, position: u64) {
        self.ring.set_head(position);
    }
}

impl Drop for Reader<'_> {
    #[inline]
    fn drop(&mut self) {
        #[cfg(loom)]
        if std::thread::panicking() {
            return; // a holder that dies in a scene leaves all as it is
        }
        self.lock.unlock(self.me.token);
    }
}

/// The participant whose requests are in the segment.
///
/// # Safety
/// What its `unsafe` methods ask (`[in hand]`): the caller has the request, from when it took its number from the free
/// ones until it gives it back. Meanwhile no other thread of this process calls them with it, and the caller itself
/// uses one guard of it at a time. A request of a client that is not the server is never ended by the safe
/// [`finish`](Claimed::finish), which ends it for the server, but by [`finish_for`](Claimed::finish_for).
///
/// ```compile_fail,E0133
/// fn two_writers(client: ringmill_shm::party::Client<'_>, request: ringmill_shm::arena::Task<'_>) {
///     let first = client.begin(request);
///     let second = client.begin(request);
/// }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Client<'s>(Participant<'s>);

impl<'s> Client<'s> {
    /// FREE → FILLING.
    ///
    /// # Safety
    /// See [`Client`]; the request is of this segment, and FREE.
    #[inline]
    #[must_use]
    pub unsafe fn begin(self, request: Task<'s>) -> Filling<'s> {
        request.begin(self.0.token)
    }

    /// The guard of a request that is FILLING, after the first guard was dropped; `None` if it is not FILLING.
    ///
    /// # Safety
    /// See [`Client`]; the request is of this segment.
    #[inline]
    #[must_use]
    pub unsafe fn resume_filling(self, request: Task<'s>) -> Option<Filling<'s>> {
        request.resume_filling(self.0.token)
    }

    /// The outcome, if it is there.
    ///
    /// # Safety
    /// See [`Client`]; the request is of this segment.
    #[inline]
    #[must_use]
    pub unsafe fn outcome(self, request: Task<'s>) -> Option<Done<'s>> {
        request.outcome()
    }

    /// The caller goes, and has the request no more. True if another participant will free it, with its branches; else
    /// it is FREE now.
    ///
    /// # Safety
    /// See [`Client`]; the request is of this segment.
    #[must_use]
    pub unsafe fn cancel(self, request: Task<'s>) -> bool {
        request.cancel()
    }

    /// Notes in the request's trace, if it has one, that the caller has its outcome or goes.
    ///
    /// # Safety
    /// See [`Client`]; the request is of this segment.
    pub unsafe fn tell_trace(self, request: Task<'s>, now_ns: u64, end: RequestEnd) {
        request.tell_trace(now_ns, end);
    }

    /// Sleeps until the request's word changes, or `timeout` expires.
    pub fn sleep(self, request: Task<'s>, timeout: Option<Duration>) {
        request.word().sleep(timeout);
    }

    /// The reader's side of the request's ring of partials; `None` if the segment has none.
    ///
    /// # Safety
    /// See [`Client`]; the request is of this segment, and the caller has opened the ring. It uses one such at a time,
    /// and the one that it used last closes the ring before the request is free again.
    #[must_use]
    pub unsafe fn partials(self, request: Task<'s>) -> Option<Partials<'s>> {
        Partials::of(request)
    }

    /// [`sleep`](Self::sleep), unless a partial is there.
    pub fn sleep_for_partial(self, request: Task<'s>, partials: &Partials<'s>, timeout: Option<Duration>) {
        request.word().sleep_unless(|| partials.is_ready(), timeout);
    }

    /// Asks for the request's bit of the completions set when the outcome is there. True if it is there now.
    #[must_use]
    pub fn ask_for_notice(self, request: Task<'s>) -> bool {
        request.word().ask_for_notice().phase() == Some(Phase::Done)
    }
}
