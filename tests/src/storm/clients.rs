//! The callers of a storm, and which outcomes they accept.

use super::{ENDLESS, Kills, Sky};
use crate::deed::Deed;
use crate::dice::Dice;
use crate::tree::{self, Item};
use ringmill::error::{MemberOutcome, RemoteCause, RemoteError};
use ringmill::{CallError, CallOptions, StreamOptions, WhenFull};
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

type Outcome = Result<Item, CallError>;

/// How long a caller waits before it calls a drained servlet again.
const DRAINED: Duration = Duration::from_micros(200);

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed); // Relaxed: a count
}

impl Sky<'_> {
    fn may_be_down(&self) -> bool {
        self.storm.kills == Kills::UntilDown
    }

    /// A request has ended: with a right value, or an error that a kill or a refusal explains.
    pub(super) fn judge(&self, input: &[u8], outcome: &Outcome) {
        let counts = self.counts;
        match outcome {
            Ok(value) => {
                let may_be = |storm| self.storm.tree.fates(input, storm).values.contains(value);
                assert!(may_be(false) || may_be(true), "{input:?}: {value:?}");
                count(&counts.values);
            }
            Err(CallError::Ensemble(error)) => {
                let failed = |member: &ringmill::error::Member| member.outcome.error().is_some();
                assert!(error.members.iter().any(failed), "{error:#}");
                self.judge_members(&error.members);
                count(&counts.ensemble);
            }
            Err(CallError::WorkerDied(error)) => {
                self.judge_error(error);
                count(&counts.died);
            }
            Err(CallError::Remote(error)) => {
                self.judge_error(error);
                count(&counts.refused);
            }
            Err(CallError::ServletDown { .. }) if self.may_be_down() => count(&counts.down),
            Err(CallError::ServletDrained { servlet }) if self.operated.was_drained(servlet) => {
                count(&counts.drained);
                std::thread::sleep(DRAINED); // a pace, no more: at once it would be refused again
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn judge_members(&self, members: &[ringmill::error::Member]) {
        for outcome in members.iter().map(|member| &member.outcome) {
            if let MemberOutcome::Failed { error } = outcome {
                self.judge_error(error);
            }
        }
    }

    fn judge_error(&self, error: &RemoteError) {
        match &error.cause {
            RemoteCause::Poisonous { signal, code, .. } => {
                assert!(error.servlet.contains(tree::AGAIN), "{error}");
                self.judge_death(error, (*signal, *code));
            }
            RemoteCause::Died { signal, code, .. } => {
                // A joiner that dies may leave no whole input to retry with.
                let had_tries = error.servlet.contains(tree::AGAIN) && !self.storm.tree.has_ensembles();
                assert!(!had_tries, "it had tries left: {error}");
                self.judge_death(error, (*signal, *code));
            }
            RemoteCause::Failed { messages, .. } => assert!(messages[0].starts_with("refused"), "{error}"),
            RemoteCause::Ensemble { members } => self.judge_members(members),
            RemoteCause::Down { .. } if self.may_be_down() => {}
            RemoteCause::Drained if self.operated.was_drained(&error.servlet) => {}
            other => panic!("{other:?} in {error}"),
        }
    }

    /// The storm, a lever or the supervisor killed it, the last because it had execed another program; or that program
    /// has ended.
    fn judge_death(&self, error: &RemoteError, end: (Option<i32>, Option<i32>)) {
        let deed = self.victims.deed_of(error.pid).or_else(|| {
            // The killer may not have noted it yet.
            let order = self.book.order();
            order.taker().filter(|&taker| taker == error.pid).map(|_| order.deed())
        });
        let explained = match end {
            (Some(libc::SIGKILL), None) => {
                deed.is_some()
                    || self.victims.was_killed(error.pid)
                    || self.operated.was_killed(&error.servlet)
            }
            (None, Some(0)) => deed == Some(Deed::BecomeTrue),
            _ => false,
        };
        assert!(explained, "the storm did not kill it: {error}");
    }
}

/// How a caller sends its requests.
#[derive(Debug, Clone, Copy)]
enum Way {
    Call,
    CallHastily,
    DropFutures,
    Stream,
    StreamAsynchronously,
    Listen,
}

/// A caller.
pub(super) struct Client<'s> {
    sky: &'s Sky<'s>,
    way: Way,
    seed: u64,
    /// Since when it waits, in milliseconds after `born`, plus one; 0: it does not.
    since_ms: AtomicU64,
    born: Instant,
}

/// In a child: a stream of the parent's gives `CallError::Forked` for each input that has had no outcome, then ends.
fn code_of_rest<T>(rest: impl Iterator<Item = Result<(T, Outcome), CallError>>, inputs: usize) -> i32 {
    let mut told = 0;
    for item in rest {
        match item.and_then(|(_, outcome)| outcome) {
            Err(CallError::Forked { .. }) => {}
            // Outcomes that came before the fork and were not yet given.
            Err(CallError::Timeout { .. } | CallError::ServerBacklogFull { .. }) => {}
            Err(CallError::ServletDown { .. } | CallError::ServletDrained { .. }) => {}
            _ => return 6,
        }
        told += 1;
    }
    if told == inputs { 0 } else { 7 }
}

/// All callers of a storm.
pub(super) struct Clients<'s>(Vec<Client<'s>>);

impl<'s> Clients<'s> {
    pub(super) fn new(sky: &'s Sky<'s>) -> Self {
        let ways = [
            Way::Call,
            Way::Call,
            Way::Stream,
            Way::Stream,
            Way::CallHastily,
            Way::DropFutures,
            Way::StreamAsynchronously,
            Way::Listen,
        ];
        let client = |(way, number)| {
            let seed = sky.storm.seed.wrapping_mul(100).wrapping_add(number);
            Client { sky, way, seed, since_ms: AtomicU64::new(0), born: Instant::now() }
        };
        Self(ways.into_iter().zip(0..).map(client).collect())
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Client<'s>> {
        self.0.iter()
    }
}

impl Client<'_> {
    pub(super) fn name(&self) -> &'static str {
        match self.way {
            Way::Call => "a caller",
            Way::CallHastily => "a hasty caller",
            Way::DropFutures => "a caller that drops futures",
            Way::Stream => "a stream",
            Way::StreamAsynchronously => "an asynchronous stream",
            Way::Listen => "a caller that takes partials",
        }
    }

    /// Whether it has waited for longer than that.
    pub(super) fn is_stuck(&self, patience: Duration) -> bool {
        let since = self.since_ms.load(Ordering::Relaxed); // Relaxed: a clock
        let now = self.born.elapsed().as_millis() as u64 + 1;
        since != 0 && now.saturating_sub(since) > patience.as_millis() as u64
    }

    /// The caller begins, or makes progress.
    fn goes_on(&self) {
        self.since_ms.store(self.born.elapsed().as_millis() as u64 + 1, Ordering::Relaxed);
    }

    fn rests(&self) {
        self.since_ms.store(0, Ordering::Relaxed);
    }

    pub(super) fn run(&self) {
        let mut dice = Dice::new(self.seed);
        let mut round = 0;
        while !self.sky.is_over() {
            round += 1;
            let _going = self.sky.gate.read().unwrap_or_else(|e| e.into_inner());
            self.goes_on();
            match self.way {
                Way::Call => self.call(&mut dice),
                Way::CallHastily => self.call_hastily(&mut dice),
                Way::DropFutures => self.drop_futures(&mut dice),
                Way::Stream => self.stream(&mut dice, round),
                Way::StreamAsynchronously => self.stream_asynchronously(&mut dice),
                Way::Listen => self.listen(&mut dice),
            }
            self.rests();
        }
    }

    /// A new input; none while the book is full: then a quiet moment is near.
    fn input(&self, dice: &mut Dice) -> Option<Item> {
        let Some(request) = self.sky.book.begin() else {
            std::thread::sleep(super::LOOK); // how often to look
            return None;
        };
        Some(tree::item(request, dice))
    }

    fn inputs(&self, dice: &mut Dice, number: u64) -> Vec<Item> {
        (0..number).map_while(|_| self.input(dice)).collect()
    }

    /// No permit was free: the next try comes a little later.
    fn turned_away(&self) {
        count(&self.sky.counts.turned_away);
        std::thread::sleep(Duration::from_micros(200)); // a pace, no more
    }

    fn call(&self, dice: &mut Dice) {
        let options = CallOptions::new().when_full(WhenFull::Wait).timeout(ENDLESS);
        let Some(input) = self.input(dice) else { return };
        let outcome = self.sky.server.call_with(&input, options).and_then(|reply| reply.into_owned());
        self.sky.judge(&input, &outcome);
    }

    /// A call that takes partials: all, some and then the outcome, or some and then goes.
    fn listen(&self, dice: &mut Dice) {
        let Some(input) = self.input(dice) else { return };
        let options = CallOptions::new().when_full(WhenFull::Wait).timeout(ENDLESS);
        let asked = *dice.pick(&[0, 1, 2, usize::MAX]);
        let mut call = match self.sky.server.call_streaming_with::<u64>(&input, options) {
            Ok(call) => call,
            Err(error) => return self.sky.judge(&input, &Err(error)),
        };
        let heard: Result<Vec<u64>, CallError> = call.by_ref().take(asked).collect();
        match heard {
            Ok(heard) => assert!(tree::are_partials(&input, &heard), "{input:?}: {heard:?}"),
            Err(other) => panic!("a partial: {other}"),
        }
        if asked == 1 {
            drop(call);
            return count(&self.sky.counts.gone);
        }
        match call.outcome().and_then(|reply| reply.into_owned()) {
            // What had been emitted is not emitted once more.
            Err(CallError::WorkerDied(error)) => {
                if let RemoteCause::Died { signal, code, .. } = error.cause {
                    self.sky.judge_death(&error, (signal, code));
                }
                count(&self.sky.counts.died);
            }
            outcome => self.sky.judge(&input, &outcome),
        }
    }

    /// A call that often gives up before it is answered, at any stage.
    fn call_hastily(&self, dice: &mut Dice) {
        let Some(input) = self.input(dice) else { return };
        let patience = Duration::from_micros(dice.below(3000));
        let options = CallOptions::new().when_full(WhenFull::Wait);
        let options = match dice.below(2) {
            0 => options.timeout(patience),
            _ => options.deadline(Instant::now() + patience),
        };
        match self.sky.server.call_with(&input, options).and_then(|reply| reply.into_owned()) {
            Err(CallError::Timeout { .. }) => count(&self.sky.counts.gone),
            Err(CallError::ServerBacklogFull { .. }) => self.turned_away(),
            // With a deadline, members may have found it over.
            Err(CallError::Ensemble(_)) => count(&self.sky.counts.ensemble),
            outcome => self.sky.judge(&input, &outcome),
        }
    }

    /// Requests that are sent, looked at once or twice, and dropped.
    fn drop_futures(&self, dice: &mut Dice) {
        let options = CallOptions::new().timeout(ENDLESS);
        let counts = self.sky.counts;
        let polls = dice.below(4);
        let Some(input) = self.input(dice) else { return };
        {
            let mut call = pin!(self.sky.server.call_async_with(&input, options));
            let mut ended = false;
            for _ in 0..polls {
                let polled = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                if let Poll::Ready(outcome) = polled {
                    ended = true;
                    match outcome.and_then(|reply| reply.into_owned()) {
                        Err(CallError::ServerBacklogFull { .. }) => count(&counts.turned_away),
                        outcome => self.sky.judge(&input, &outcome),
                    }
                    break;
                }
                std::thread::yield_now();
            }
            if !ended && polls > 0 {
                count(&counts.gone);
            }
        }
        let Some(input) = self.input(dice) else { return };
        match self.sky.server.submit_with(&input, options) {
            Ok(pending) => {
                drop(pending);
                count(&counts.gone);
            }
            Err(CallError::ServerBacklogFull { .. }) => self.turned_away(),
            Err(error) => self.sky.judge(&input, &Err(error)),
        }
        std::thread::sleep(Duration::from_micros(dice.below(500))); // a pace, no more
    }

    /// Streams, every third of which is dropped half-way, and every fourth is impatient.
    fn stream(&self, dice: &mut Dice, round: u64) {
        let number = 20 + dice.below(60);
        let inputs = self.inputs(dice, number);
        let asked = if round.is_multiple_of(3) { inputs.len() / 2 } else { inputs.len() + 1 };
        let patience =
            if round.is_multiple_of(4) { Duration::from_micros(dice.below(5000)) } else { ENDLESS };
        let options = StreamOptions::new().window(16).timeout(patience);
        let stream = self.sky.server.stream_with(inputs.clone(), options);
        let (impatient, counts) = (patience != ENDLESS, self.sky.counts);
        let judge = |index: usize, outcome: Outcome| match outcome {
            Err(CallError::Timeout { .. }) if impatient => count(&counts.gone),
            Err(CallError::ServerBacklogFull { .. }) if impatient => self.turned_away(),
            outcome => self.sky.judge(&inputs[index], &outcome),
        };
        let judge_stream = |error: CallError| panic!("nothing befalls a stream as a whole: {error}");
        let mut ended = vec![false; inputs.len()];
        let mut told = 0;
        let more = |told: usize| told < asked.min(inputs.len());
        if round.is_multiple_of(5) {
            let mut items = stream.unordered();
            while told < asked {
                let Some(item) = items.next() else { break };
                self.goes_on();
                told += 1;
                if more(told) && self.sky.is_to_fork() {
                    self.sky.fork(dice, || code_of_rest(&mut items, inputs.len() - told));
                }
                match item {
                    Ok((index, outcome)) => {
                        assert!(!std::mem::replace(&mut ended[index], true), "{index} ended twice");
                        judge(index, outcome);
                    }
                    Err(error) => judge_stream(error),
                }
            }
        } else {
            let mut index = 0;
            let mut items = stream.with_inputs();
            while told < asked {
                let Some(item) = items.next() else { break };
                self.goes_on();
                told += 1;
                if more(told) && self.sky.is_to_fork() {
                    self.sky.fork(dice, || code_of_rest(&mut items, inputs.len() - told));
                }
                match item {
                    Ok((input, outcome)) => {
                        assert_eq!(input, inputs[index], "in order");
                        ended[index] = true;
                        judge(index, outcome);
                        index += 1;
                    }
                    Err(error) => judge_stream(error),
                }
            }
        }
        let count = ended.iter().filter(|ended| **ended).count();
        assert_eq!((told, count), (asked.min(inputs.len()), told), "one outcome an input");
    }

    /// A stream of a task.
    fn stream_asynchronously(&self, dice: &mut Dice) {
        use futures_util::{StreamExt, stream};
        let inputs = self.inputs(dice, 30);
        let options = StreamOptions::new().window(4).timeout(ENDLESS);
        let asked = dice.below(60) as usize;
        let is_ordered = dice.below(2) == 0;
        let (mut told, mut ended) = (0, vec![false; inputs.len()]);
        let mut judge = |index: usize, outcome| {
            self.goes_on();
            told += 1;
            assert!(!std::mem::replace(&mut ended[index], true), "{index} ended twice");
            self.sky.judge(&inputs[index], &outcome);
        };
        pollster::block_on(async {
            let handle = self.sky.server.handle();
            let outcomes = handle.stream_async_with(stream::iter(inputs.clone()), options);
            drop(handle);
            if is_ordered {
                let mut outcomes = outcomes.take(asked).enumerate();
                while let Some((index, outcome)) = outcomes.next().await {
                    judge(index, outcome);
                }
            } else {
                let mut outcomes = outcomes.unordered().take(asked);
                while let Some(item) = outcomes.next().await {
                    let (index, outcome) = item.expect("nothing befalls a stream as a whole");
                    judge(index, outcome);
                }
            }
        });
        assert_eq!(told, asked.min(inputs.len()), "one outcome an input");
    }
}
