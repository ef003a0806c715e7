//! Guards of tasks that have branches: forking, arriving, joining. The protocol is in
//! `join`.
#![expect(unsafe_code, reason = "payload bytes in shared memory")]

use super::{At, Claimed, Corrupt, ELSEWHERE, Held, Task, WriteBuffer};
use crate::join::Ready;
use crate::plan::Fork;
use crate::pool::PoolError;
use crate::sync::{Ordering, fence};
use crate::token::Token;
use crate::word::{Phase, State};
use core::ops::Range;

impl<'a> Claimed<'a> {
    /// → FORKED at this fork: gives its branches, each ours, to be moved on.
    ///
    /// # Errors
    /// The task itself, if it is no longer ours, or is not the one that this fork forks.
    pub fn fork(self, index: u32) -> Result<Forked<'a>, Self> {
        let task = self.held.task;
        let forks = &task.segment.routes().forks;
        let Some(fork) = forks.get(index as usize).filter(|fork| fork.parent == task.slot().1) else {
            return Err(self);
        };
        let branches = || fork.branches().map_while(|branch| task.sibling(branch + 1));
        if branches().any(|branch| !branch.is_free()) {
            return Err(self); // only in a segment that another process has written over
        }
        for branch in branches() {
            branch.set_at(At::New);
            branch.set_stamp(task.stamp().again_at(0)); // marked as its request is
            Held { task: branch, state: State::from_raw(0) }.refer_to(&self.held);
            crash_point!("fork.referred");
            branch.line.word.begin_branch(self.me);
            crash_point!("fork.made_some");
        }
        task.family().begin(&fork.branches());
        crash_point!("fork.pending");
        task.set_at(At::Forked(index));
        crash_point!("fork.at");
        if task.line.word.fork(self.me, index).is_err() {
            return Err(self);
        }
        Ok(Forked { parent: task, me: self.me, left: fork.branches() })
    }

    /// A request that has branches ends.
    #[inline(never)] // off the path of requests without branches
    pub(super) fn finish_forked(self, client: Token, error: bool) {
        let task = self.held.task;
        // If it is no longer ours, another participant took us for dead, and has answered.
        let Ok(done) = task.line.word.finish_forked(self.me, client, error) else { return };
        if done.is_waiting() || done.wants_notice() {
            task.tell_caller(done.is_waiting(), done.wants_notice());
        }
        if done.is_cancelled() {
            task.reap(Some(self.me));
        }
    }

    /// A branch arrives.
    #[inline(never)]
    pub(super) fn finish_branch(self, error: bool) -> Option<Join<'a>> {
        let (task, me) = (self.held.task, self.me);
        task.line.word.finish_branch(me, error).ok()?; // else taken for dead, as above
        let due = task.family().arrive(task.slot().1 - 1, me, error);
        task.act_on(due, me)
    }
}

impl<'a> Task<'a> {
    /// Wakes the caller, or sets its bit of the completions set.
    #[cold]
    pub(super) fn tell_caller(&self, wake: bool, notify: bool) {
        if wake {
            self.line.word.wake_caller();
        }
        crash_point!("tell.woken");
        if notify {
            self.notify();
        }
    }

    /// Sets its bit of the completions set.
    fn notify(&self) {
        let shape = self.segment.shape();
        let client = shape.client_of(self.id);
        let number = self.id - shape.requests_of(client).start;
        let word = shape.completions_of(client).start + number as usize / 64;
        if let Some(bits) = self.segment.completions().get(word) {
            bits.fetch_or(1 << (number % 64), Ordering::SeqCst);
            crash_point!("tell.bit");
            self.segment.completed_of(client).ring_if_awaited();
        }
    }

    /// For a repairer: the worker that brought the outcome may have died before it set the bit of the completions set.
    /// A bit too many does no harm.
    pub(crate) fn repeat_notice(&self) {
        let state = self.line.word.load();
        if !self.is_branch() && state.phase() == Some(Phase::Done) && state.wants_notice() {
            self.tell_caller(false, true);
        }
    }

    /// Frees the request with all that is left of its branches, if it has ended, its client has cancelled it, its
    /// branches are at rest, and no other participant frees it. Whether this freed it.
    pub(super) fn reap(self, me: Option<Token>) -> bool {
        let Some(me) = me else { return false };
        match self.family().look_at_request(me) {
            Ready::Reap(state) => {
                Held { task: self, state }.reap();
                true
            }
            _ => false,
        }
    }

    fn act_on(self, due: Ready, me: Token) -> Option<Join<'a>> {
        match due {
            Ready::Nothing => None,
            Ready::Reap(state) => {
                Held { task: self.sibling(0)?, state }.reap();
                None
            }
            Ready::Join { fork, parent } => {
                let slot = self.segment.routes().forks.get(fork as usize)?.parent;
                Some(Join::new(Held { task: self.sibling(slot)?, state: parent }, fork, me, false))
            }
        }
    }

    /// For a repairer: becomes the owner of a branch whose owner died, and repeats the arrival.
    pub(crate) fn repeat_arrival(self, dead: State, me: Token) -> Option<Join<'a>> {
        let (branch, family) = (self.slot().1 - 1, self.family());
        // Looked at before: once the word no longer names the dead owner, another participant may join the branch, and
        // its bit may be set for its next use.
        let pending = family.is_pending(branch);
        if !self.line.word.succeed(dead, me) {
            return None;
        }
        let due = match pending {
            true => family.arrive(branch, me, dead.is_error()),
            false => family.look(branch, me, dead.is_error()),
        };
        self.act_on(due, me)
    }

    /// For a repairer: takes over the join that a dead joiner had begun, to be done again; or the joined task, to be
    /// moved on.
    pub(crate) fn repeat_join(self, dead: State, me: Token) -> Option<Result<Join<'a>, Claimed<'a>>> {
        let word = &self.line.word;
        let state = word.take_over(dead, me)?;
        let forks = &self.segment.routes().forks;
        let exists = |fork: u32| forks.get(fork as usize).is_some_and(|f| f.parent == self.slot().1);
        if let At::Forked(fork) = self.at()
            && exists(fork)
        {
            return Some(Ok(Join::new(Held { task: self, state }, fork, me, true)));
        }
        let state = word.joined(me).ok()?;
        self.repeat_sweep();
        Some(Err(Claimed::new(Held { task: self, state }, me)))
    }

    /// For a repairer that has taken over a task: frees branches that a dead joiner had not freed.
    pub(crate) fn repeat_sweep(&self) {
        if let At::Joined(fork) = self.at()
            && let Some(fork) = self.segment.routes().forks.get(fork as usize)
            && fork.parent == self.slot().1
        {
            self.sweep_after(fork);
        }
    }

    /// For a repairer: ends a request that is DONE of a dead owner, its client or the worker that found its client
    /// gone. Whether it is free; else the last of its branches frees it.
    pub(crate) fn repeat_end(self, dead: State, me: Token) -> bool {
        self.line.word.succeed(dead, me) && !self.cancel()
    }

    /// For a repairer: undoes a branch that a dead forker had made before the parent was FORKED.
    pub(crate) fn unmake(self, dead: State) -> bool {
        self.family().clear(self.slot().1 - 1);
        crash_point!("unmake.cleared");
        self.line.word.free_if(dead)
    }

    /// Frees the branches of a family that have arrived, the innermost first: a failed branch that is still there says
    /// that there may be some below it, also to a repairer that goes on after our death.
    fn sweep(&self, branches: Range<u32>) {
        for branch in branches.rev().filter_map(|branch| self.sibling(branch + 1)) {
            let state = branch.line.word.load();
            if state.phase() == Some(Phase::Done) {
                Held { task: branch, state }.free();
                crash_point!("sweep.freed");
            }
        }
    }
}

impl Held<'_> {
    /// Frees a request whose caller has gone, and all that is left of its branches.
    fn reap(self) {
        self.task.sweep(0..self.task.segment.shape().branches());
        crash_point!("reap.swept");
        self.free_for_gone_caller();
    }

    /// The payload of an error, which may lie with the branch that failed.
    pub(super) fn error_payload(&self) -> Result<&[u8], Corrupt> {
        let At::Failed(slot) = self.task.at() else { return self.payload() };
        let bytes = self.task.line.payload().0;
        let task = self.task.sibling(slot).filter(|t| t.id != self.task.id);
        let task = task.ok_or(Corrupt { task: self.task.id, bytes, block: ELSEWHERE | slot })?;
        let keeper = Held { task, state: task.line.word.peek() };
        let bytes = keeper.payload()?;
        // SAFETY: the payload of a branch that has arrived: no participant writes it before this request is freed,
        // which `self` prevents as long as it is borrowed ([one owner]).
        Ok(unsafe { core::slice::from_raw_parts(bytes.as_ptr(), bytes.len()) })
    }
}

/// The branches of a task that is FORKED, one by one, each ours.
#[derive(Debug)]
pub struct Forked<'a> {
    parent: Task<'a>,
    me: Token,
    left: Range<u32>,
}

impl<'a> Iterator for Forked<'a> {
    type Item = Claimed<'a>;

    fn next(&mut self) -> Option<Claimed<'a>> {
        let task = self.parent.sibling(self.left.next()? + 1)?;
        Some(Claimed::new(Held { task, state: task.line.word.peek() }, self.me))
    }
}

/// A task whose branches have arrived, or that does not wait for them: their outcomes are ours to put together.
#[derive(Debug)]
pub struct Join<'a> {
    parent: Held<'a>,
    fork: u32,
    me: Token,
    /// The branch that has the error record.
    keeper: Option<Task<'a>>,
    /// A former joiner died while it joined.
    again: bool,
    /// Its family was at rest when it was made; it stays so.
    at_rest: bool,
}

/// What has become of a branch.
#[derive(Debug)]
pub enum Arrived<'j> {
    /// It is still under way, and the join does not wait for it.
    Not,
    /// It arrived, and no worker worked on it.
    Skipped,
    /// Its outcome is a value.
    Value(&'j [u8]),
    /// Its outcome is an error record.
    Error(&'j [u8]),
}

impl<'a> Join<'a> {
    fn new(parent: Held<'a>, fork: u32, me: Token, again: bool) -> Self {
        let mut join = Self { parent, fork, me, keeper: None, again, at_rest: false };
        join.at_rest = join.is_at_rest();
        join
    }

    /// Which fork.
    #[must_use]
    pub fn fork(&self) -> (u32, &'a Fork) {
        let forks = &self.parent.task.segment.routes().forks;
        (self.fork, &forks[self.fork as usize]) // `new`'s callers have looked it up
    }

    /// The task.
    #[must_use]
    pub fn task(&self) -> Task<'a> {
        self.parent.task
    }

    /// How many workers have died while they worked on it.
    #[must_use]
    pub fn attempt(&self) -> u8 {
        self.parent.state.attempt()
    }

    /// Whether the members' outcomes are lost: a former joiner died, perhaps while it wrote a value over what a branch
    /// had passed through, or an error record over a branch's outcome.
    #[must_use]
    pub fn is_spoilt(&self) -> bool {
        let kept = |branch| {
            let task = self.parent.task.sibling(branch + 1);
            task.is_some_and(|task| task.at() == At::Forked(self.fork)) // [marked]
        };
        let passed = |branch| {
            let task = self.parent.task.sibling(branch + 1);
            task.is_some_and(|task| task.line.block() & ELSEWHERE != 0) // Relaxed: came with its arrival
        };
        let fork = self.fork().1;
        self.again && (self.is_at_rest() && fork.branches().any(passed) || fork.family().any(kept))
    }

    /// The tasks whose payloads are ours: the parent, and branches that have arrived.
    pub(crate) fn held_ids(&self) -> impl Iterator<Item = u32> {
        let (task, family) = (self.parent.task, self.fork().1.family());
        let arrived = family.filter_map(move |branch| task.sibling(branch + 1)).filter(|branch| {
            branch.line.word.load().phase() == Some(Phase::Done)
                && !branch.family().is_pending(branch.slot().1 - 1)
        });
        core::iter::once(task.id).chain(arrived.map(|branch| branch.id))
    }

    /// Whether no one waits for its outcome.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        let task = self.parent.task;
        task.request_word().peek().is_cancelled()
            || task.slot().1.checked_sub(1).is_some_and(|branch| task.family().is_unwanted(branch))
    }

    /// What has become of a member's branch.
    ///
    /// # Errors
    /// [`Corrupt`] if a header is impossible.
    pub fn member(&self, index: usize) -> Result<Arrived<'_>, Corrupt> {
        let branch = self.fork().1.first + index as u32;
        let Some(task) = self.parent.task.sibling(branch + 1) else { return Ok(Arrived::Not) };
        // [arrived]: the bit first. Once all are known to be at rest, no bit need be read again.
        let pending = !self.at_rest && task.family().is_pending(branch);
        let state = task.line.word.load();
        if state.phase() != Some(Phase::Done) || pending {
            return Ok(Arrived::Not);
        }
        let held = Held { task, state };
        let bytes = if state.is_error() { held.error_payload()? } else { held.payload()? };
        // SAFETY: the branch has arrived, and only this guard's holder writes or frees its payload ([one joins]), not
        // while it is borrowed.
        let bytes = unsafe { core::slice::from_raw_parts(bytes.as_ptr(), bytes.len()) };
        Ok(match state.is_error() {
            true if bytes.is_empty() => Arrived::Skipped,
            true => Arrived::Error(bytes),
            false => Arrived::Value(bytes),
        })
    }

    /// Whether it may be joined with a value: its family is at rest.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.at_rest || self.parent.task.family().at_rest(&self.fork().1.family())
    }

    /// The buffers for the value, which are the task's own. `None` if branches are under way, which may read what lies
    /// there.
    pub fn value_buffer(&mut self) -> Option<JoinBuffer<'_, 'a>> {
        self.is_at_rest().then_some(JoinBuffer(&mut self.parent, None))
    }

    /// The buffers for an error record, which are those of a branch that has arrived.
    pub fn error_buffer(&mut self) -> JoinBuffer<'_, 'a> {
        let task = self.keeper();
        if self.keeper.is_none() {
            // [marked]: from here on a repairer may not read its outcome, should we die. No branch of a fork has been
            // at that fork itself. The fence: marked before it is written over.
            task.set_at(At::Forked(self.fork));
            fence(Ordering::Release);
            crash_point!("join.marked");
            self.keeper = Some(task);
        }
        JoinBuffer(&mut self.parent, Some(Held { task, state: task.line.word.load() }))
    }

    /// The branch that keeps the error record: the one it has been written to; else the first that failed, or if that
    /// failed because of a branch of its own, that one; else the first. Only the joiner reads what lies there
    /// (`[shared]`). Others may fail meanwhile: once written to, the keeper stays.
    fn keeper(&self) -> Task<'a> {
        if let Some(keeper) = self.keeper {
            return keeper;
        }
        let (_, fork) = self.fork();
        let family = self.parent.task.family();
        let failed = || fork.branches().filter(|&branch| family.has_failed(branch));
        let told =
            failed().find(|&b| matches!(self.member((b - fork.first) as usize), Ok(Arrived::Error(_))));
        let failed = told.or_else(|| failed().next()).unwrap_or(fork.first);
        let mut keeper = self.parent.task.sibling(failed + 1).expect("its branches were checked at attach");
        while let At::Failed(slot) = keeper.at()
            && slot > keeper.slot().1
            && let Some(below) = keeper.sibling(slot)
        {
            keeper = below;
        }
        keeper
    }

    /// The value is written: → CLAIMED, to be moved on; frees the branches. `None` if the task is no longer ours.
    #[must_use]
    pub fn with_value(self) -> Option<Claimed<'a>> {
        let task = self.parent.task;
        fence(Ordering::Release); // a repairer that finds it Joined finds the value whole
        task.set_at(At::Joined(self.fork));
        crash_point!("join.value_at");
        let state = task.line.word.joined(self.me).ok()?;
        task.sweep_after(self.fork().1);
        crash_point!("join.swept");
        Some(Claimed::new(Held { task, state }, self.me))
    }

    /// The error record is written: → CLAIMED, to be finished as an error. `None` if the task is no longer ours.
    ///
    /// # Panics
    /// If the record's [buffer](Self::error_buffer) was not asked for.
    #[must_use]
    pub fn with_error(self) -> Option<Claimed<'a>> {
        let (task, keeper) = (self.parent.task, self.keeper());
        fence(Ordering::Release); // as above
        task.set_at(At::Failed(keeper.slot().1));
        crash_point!("join.error_at");
        let state = task.line.word.joined(self.me).ok()?;
        Some(Claimed::new(Held { task, state }, self.me))
    }
}

impl<'a> Task<'a> {
    /// After a join with a value: frees the fork's branches, and what is left below those that failed.
    pub(super) fn sweep_after(&self, fork: &Fork) {
        let failed = |branch: u32| {
            let state = self.sibling(branch + 1).map(|task| task.line.word.peek());
            state.is_some_and(|s| s.phase() == Some(Phase::Done) && s.is_error())
        };
        // [values leave nothing]: below a branch with a value there is none.
        let below = fork.branches().any(failed);
        fence(Ordering::Acquire); // their last writes came with their arrival
        self.sweep(if below { fork.family() } else { fork.branches() });
    }
}

/// The buffers that a joiner writes to.
#[derive(Debug)]
pub struct JoinBuffer<'j, 'a>(&'j mut Held<'a>, Option<Held<'a>>);

impl<'a> JoinBuffer<'_, 'a> {
    fn held(&mut self) -> &mut Held<'a> {
        match &mut self.1 {
            Some(held) => held,
            None => self.0,
        }
    }

    /// The in-line buffer.
    pub fn inline_buffer(&mut self) -> WriteBuffer<'_> {
        self.held().inline_buffer()
    }

    /// A block of at least `bytes` bytes.
    ///
    /// # Errors
    /// See [`PoolError`].
    pub fn block_buffer(&mut self, bytes: u64) -> Result<WriteBuffer<'_>, PoolError> {
        self.held().block_buffer(bytes)
    }

    /// The length of the payload that was written to the last buffer asked for.
    pub fn set_length(&mut self, bytes: usize) {
        self.held().set_length(bytes);
    }
}
