//! When a batch is complete. Pure: no clock and no ring inside.
//!
//! A batch is closed when it is full, when its oldest item has waited for the batch window since it was *enqueued*,
//! when there is no window and the ring has nothing more, or when the server stops.
//!
//! A worker keeps a stated wait exactly. If the servlet states none, a worker waits at most
//! [`DEFAULT_BATCH_WAIT_TIME`], and only while a wait can pay, which [`Habit`] learns from earlier batches:
//!
//! * After [`LONELY_BATCHES`] batches of one item in a row, and before the first batch, a worker takes what it finds at
//!   once. Once it has found two items, workers wait again. So a lone caller, which sends the next request only after
//!   the outcome of the last, never waits. Nor does anything read a clock then: callers need not say when they enqueue.
//! * A wait ends early once no item has come for as long as [`QUIET_GAPS`] mean gaps between items, or
//!   [`QUIET_FIRST_NS`] while no gap is known. So callers that are
//!   fewer than a batch holds, and are all in it, do not wait for a further one.
//!
//! Both limits are chosen for requests that arrive at random (a Poisson process). Of batches that a full window would
//! give two items on average, one in e (0.37) has one item, so workers stop waiting by chance once in 3,000 batches; of
//! gaps between items, one in e⁸ (3,000) is longer than eight mean gaps. If only one of many callers stays, it pays at
//! most [`LONELY_BATCHES`] waits, each of them short by the second rule.

use crate::error::StartError;
use ringmill_shm::layout::{self, NodeFacts};
use ringmill_shm::stats::Closed;
use std::time::Duration;

/// The default batch window, the longest wait of a batch whose servlet states none: 10 ms.
pub const DEFAULT_BATCH_WAIT_TIME: Duration = Duration::from_millis(10);
/// The largest batch size.
pub const BATCH_SIZE_LIMIT: usize = layout::BATCH_SIZE_LIMIT as usize;
/// The longest batch window: an hour.
const WAIT_LIMIT: Duration = Duration::from_nanos(layout::BATCH_WAIT_LIMIT_NS);

/// After this many batches of one item in a row the caller counts as alone.
const LONELY_BATCHES: u16 = 8;
/// After this many mean gaps without an item no more are expected.
const QUIET_GAPS: u64 = 8;
/// The shortest time after the last item at which a wait ends early: a sleeping thread wakes about that late.
const QUIET_LEAST_NS: u64 = 100_000;
/// The same time while the gap between items is unknown: long enough to see the gaps of requests whose batches are worth a
/// wait, and a tenth of the wait that a caller would lose that is alone again.
const QUIET_FIRST_NS: u64 = 1_000_000;

/// How a node's batches are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    /// 0: item by item; 1: batches of one; n: batches of up to n.
    pub(crate) batch_size: u32,
    /// How long the oldest item may wait.
    pub(crate) wait_ns: u64,
    /// Whether the servlet states the wait, which is then kept exactly.
    pub(crate) is_stated: bool,
}

/// The items that wait in a node's ring.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    /// The number of items, at least one.
    pub(crate) items: u64,
    /// When the first item was enqueued; 0: its caller did not read the clock, or the rule does not ask.
    pub(crate) oldest_ns: u64,
    /// When the last item was enqueued; 0 as above.
    pub(crate) newest_ns: u64,
}

/// What earlier batches of a node show about waiting: one word in the segment, which the lock holder updates for all
/// workers of the node. Any bits are a valid habit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Habit {
    /// At how many more batches of one item a worker waits for a second item: 0 to [`LONELY_BATCHES`].
    waits_left: u16,
    /// The mean gap between two items of one batch, a decaying average; 0: unknown. Up to 281,474 s.
    gap_ns: u64,
}

impl Habit {
    const GAP_LIMIT_NS: u64 = (1 << 48) - 1;

    /// The habit in a word; 0 is the habit before the first batch.
    pub(crate) fn from_raw(raw: u64) -> Self {
        Self { waits_left: (raw as u16).min(LONELY_BATCHES), gap_ns: raw >> 16 }
    }

    /// Whether workers wait for a second item, and so callers have to say when they enqueue the first.
    #[inline]
    pub(crate) fn waits(self) -> bool {
        self.waits_left > 0
    }

    /// The habit as a word.
    pub(crate) fn raw(self) -> u64 {
        self.gap_ns.min(Self::GAP_LIMIT_NS) << 16 | u64::from(self.waits_left)
    }

    /// The habit after a batch of these items.
    pub(crate) fn after(self, batch: Waiting) -> Self {
        if batch.items < 2 {
            let waits_left = self.waits_left.saturating_sub(1);
            // Gaps learnt earlier are out of date once items overlap again.
            return Self { waits_left, gap_ns: if waits_left == 0 { 0 } else { self.gap_ns } };
        }
        if batch.oldest_ns == 0 || batch.newest_ns == 0 {
            return Self { waits_left: LONELY_BATCHES, ..self };
        }
        let gap_ns = batch.newest_ns.saturating_sub(batch.oldest_ns) / (batch.items - 1);
        // A worker does not see gaps that are longer than its wait, so a mean that is too short would stay: it grows
        // fast.
        let mean_ns = match self.gap_ns {
            0 => gap_ns,
            mean_ns if gap_ns > mean_ns => mean_ns + (gap_ns - mean_ns) / 2,
            mean_ns => mean_ns - (mean_ns - gap_ns) / 8,
        };
        Self { waits_left: LONELY_BATCHES, gap_ns: mean_ns.clamp(1, Self::GAP_LIMIT_NS) }
    }

    /// How long after the last item a wait ends early.
    fn quiet_ns(self) -> u64 {
        match self.gap_ns {
            0 => QUIET_FIRST_NS,
            gap_ns => (QUIET_GAPS * gap_ns).max(QUIET_LEAST_NS),
        }
    }
}

/// When callers have to say when they enqueue an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stamps {
    /// The rule has no wait.
    Never,
    /// The rule's wait is stated.
    Always,
    /// While the node's [`Habit`] is to wait.
    WhileWorkersWait,
}

/// What to do with the items that are waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Take them.
    Close(Closed),
    /// Wait for more, until this moment (monotonic ns).
    WaitUntil(u64),
}

impl Rule {
    /// A node's rule.
    pub(crate) fn of(facts: &NodeFacts) -> Self {
        let NodeFacts { batch_size, batch_wait_ns: wait_ns, wait_is_stated, .. } = *facts;
        Self { batch_size, wait_ns, is_stated: wait_is_stated.is_set() }
    }

    /// Whether the rule uses a [`Habit`].
    #[inline]
    pub(crate) fn learns(self) -> bool {
        self.wait_ns != 0 && !self.is_stated
    }

    /// When callers have to say when they enqueue an item.
    pub(crate) fn stamps(self) -> Stamps {
        match self.wait_ns {
            0 => Stamps::Never,
            _ if self.learns() => Stamps::WhileWorkersWait,
            _ => Stamps::Always,
        }
    }

    /// Whether [`judge`](Self::judge) and [`Habit::after`] use the times of `items` waiting items: to read them takes
    /// cache lines from the callers.
    #[inline]
    pub(crate) fn needs_times(self, habit: Habit, items: u64) -> bool {
        match self.learns() {
            true => habit.waits(),
            false => self.wait_ns != 0 && items < self.most(),
        }
    }

    /// Checks a pair of options.
    pub(crate) fn new(servlet: &str, batch_size: usize, wait: Option<Duration>) -> Result<Self, StartError> {
        let range = |what, value: u64, most: u64| StartError::Range {
            servlet: Some(servlet.into()),
            what,
            value,
            least: 0,
            most,
        };
        if batch_size > BATCH_SIZE_LIMIT {
            return Err(range("batch_size", batch_size as u64, BATCH_SIZE_LIMIT as u64));
        }
        let is_stated = wait.is_some();
        let wait = match wait {
            Some(wait) if batch_size <= 1 && !wait.is_zero() => {
                return Err(StartError::BatchRule {
                    servlet: servlet.into(),
                    batch_size,
                    batch_wait_time: wait,
                });
            }
            Some(wait) if wait > WAIT_LIMIT => {
                return Err(range("batch_wait_time in seconds", wait.as_secs(), WAIT_LIMIT.as_secs()));
            }
            Some(wait) => wait,
            None if batch_size > 1 => DEFAULT_BATCH_WAIT_TIME,
            None => Duration::ZERO,
        };
        // Both fit by the limits above.
        Ok(Self { batch_size: batch_size as u32, wait_ns: wait.as_nanos() as u64, is_stated })
    }

    /// The most items of a batch.
    #[inline]
    pub(crate) fn most(self) -> u64 {
        u64::from(self.batch_size.max(1))
    }

    /// The reason to record for a batch that was closed for `why` and ended up with `items` items, since the callers of
    /// the others had gone.
    #[inline]
    pub(crate) fn closed(self, why: Closed, items: u64) -> Closed {
        match why {
            Closed::Full if items < self.most() && self.wait_ns == 0 => Closed::Empty,
            Closed::Full if items < self.most() => Closed::Window, // ended early: a claimed item cannot wait
            why => why,
        }
    }

    /// Judges the items that are waiting.
    ///
    /// `now_ns` is called only where time matters. A time stamp of the future counts as now, so that a broken one
    /// cannot make the window longer.
    pub(crate) fn judge(
        self,
        habit: Habit,
        waiting: Waiting,
        stopping: bool,
        now_ns: impl FnOnce() -> u64,
    ) -> Verdict {
        if waiting.items >= self.most() {
            return Verdict::Close(Closed::Full);
        }
        if stopping {
            return Verdict::Close(Closed::Shutdown);
        }
        if self.wait_ns == 0 || self.learns() && !habit.waits() {
            return Verdict::Close(Closed::Empty);
        }
        let now = now_ns();
        let stated = waiting.oldest_ns.min(now).saturating_add(self.wait_ns);
        let due = match self.is_stated {
            true => stated,
            false => stated.min(waiting.newest_ns.min(now).saturating_add(habit.quiet_ns())),
        };
        if now >= due { Verdict::Close(Closed::Window) } else { Verdict::WaitUntil(due) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOTHING_KNOWN: u64 = 0;

    fn stated(batch_size: u32, wait_ns: u64) -> Rule {
        Rule { batch_size, wait_ns, is_stated: true }
    }

    fn unstated(batch_size: u32) -> Rule {
        Rule { is_stated: false, ..stated(batch_size, DEFAULT_BATCH_WAIT_TIME.as_nanos() as u64) }
    }

    #[test]
    fn the_rules_of_size_and_wait() {
        let ms = Duration::from_millis;
        let rule = |size, wait| Rule::new("s", size, wait).ok();
        assert_eq!(rule(0, None), Some(Rule { is_stated: false, ..stated(0, 0) }));
        assert_eq!(rule(1, None), Some(Rule { is_stated: false, ..stated(1, 0) }));
        assert_eq!(rule(1, Some(ms(0))), Some(stated(1, 0)));
        assert_eq!(rule(2, None), Some(unstated(2)));
        assert_eq!(rule(2, Some(ms(0))), Some(stated(2, 0)));
        assert_eq!(rule(2, Some(ms(10))), Some(stated(2, 10_000_000)));
        let error = Rule::new("tag", 1, Some(ms(5))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "servlet tag: batch_size 1 with batch_wait_time 5ms: a wait needs a batch_size above 1"
        );
        assert!(matches!(Rule::new("s", 0, Some(ms(1))), Err(StartError::BatchRule { .. })));
        assert!(matches!(Rule::new("s", usize::MAX, None), Err(StartError::Range { .. })));
        assert!(matches!(Rule::new("s", 2, Some(Duration::MAX)), Err(StartError::Range { .. })));
    }

    #[test]
    fn a_stated_wait_runs_from_the_oldest_enqueue_whatever_came_before() {
        let judge = |items, oldest_ns, stopping, now: Option<u64>| {
            let waiting = Waiting { items, oldest_ns, newest_ns: oldest_ns };
            let now = || now.expect("time does not matter here");
            let verdicts = [NOTHING_KNOWN, u64::MAX, 8, 1 << 16]
                .map(|raw| stated(4, 100).judge(Habit::from_raw(raw), waiting, stopping, now));
            assert_eq!(verdicts, [verdicts[0]; 4]);
            verdicts[0]
        };
        assert_eq!(judge(1, 1_000, false, Some(1_050)), Verdict::WaitUntil(1_100));
        assert_eq!(judge(1, 1_000, false, Some(1_100)), Verdict::Close(Closed::Window));
        assert_eq!(
            judge(3, 1_000, false, Some(5_000)),
            Verdict::Close(Closed::Window),
            "it waited in the queue"
        );
        assert_eq!(judge(4, 1_000, false, None), Verdict::Close(Closed::Full));
        assert_eq!(judge(3, 1_000, true, None), Verdict::Close(Closed::Shutdown));
        assert_eq!(judge(1, u64::MAX, false, Some(1_000)), Verdict::WaitUntil(1_100), "a broken stamp");
    }

    #[test]
    fn a_batch_is_full_only_if_its_callers_still_wait() {
        let (greedy, patient) = (stated(4, 0), stated(4, 100));
        assert_eq!(greedy.closed(Closed::Full, 4), Closed::Full);
        assert_eq!(greedy.closed(Closed::Full, 3), Closed::Empty);
        assert_eq!(patient.closed(Closed::Full, 3), Closed::Window);
        assert_eq!(patient.closed(Closed::Shutdown, 3), Closed::Shutdown);
    }

    /// A simulated worker: items come, the rule decides, and a batch of `n` takes `busy_ns(n)`.
    struct World {
        rule: Rule,
        habit: Habit,
        now_ns: u64,
        batches: Vec<u64>,
        /// The longest time between an enqueue and the end of the batch that took the item.
        longest_ns: u64,
    }

    impl World {
        fn new(rule: Rule) -> Self {
            Self { rule, habit: Habit::from_raw(NOTHING_KNOWN), now_ns: 0, batches: vec![], longest_ns: 0 }
        }

        /// Makes one batch of the items that arrive at these times (ascending), and returns how many it took. A waiting
        /// worker wakes when the batch is full, or as late as a timer is.
        fn batch(&mut self, arrivals: &[u64], busy_ns: impl Fn(u64) -> u64) -> usize {
            const TIMER_LATE_NS: u64 = 60_000;
            self.now_ns = self.now_ns.max(arrivals[0]);
            loop {
                let here = arrivals.iter().take_while(|&&at| at <= self.now_ns);
                let items = (here.count() as u64).min(self.rule.most());
                let newest_ns = arrivals[items as usize - 1];
                // What callers wrote that read the habit since the last batch, as all but those of a full one did.
                let stamp = |at_ns| if self.rule.needs_times(self.habit, items) { at_ns } else { 0 };
                let waiting = Waiting { items, oldest_ns: stamp(arrivals[0]), newest_ns: stamp(newest_ns) };
                match self.rule.judge(self.habit, waiting, false, || self.now_ns) {
                    Verdict::WaitUntil(due_ns) => {
                        let full = arrivals.get(self.rule.most() as usize - 1);
                        self.now_ns = (due_ns + TIMER_LATE_NS).min(*full.unwrap_or(&u64::MAX));
                    }
                    Verdict::Close(_) => {
                        self.habit = Habit::from_raw(self.habit.after(waiting).raw());
                        self.now_ns += busy_ns(items);
                        self.longest_ns = self.longest_ns.max(self.now_ns - arrivals[0]);
                        self.batches.push(items);
                        return items as usize;
                    }
                }
            }
        }

        /// Requests that arrive at random, `per_s` a second.
        fn poisson(mut self, per_s: f64, seed: u64, busy_ns: impl Fn(u64) -> u64) -> f64 {
            let mut random = seed;
            let mut at = 0.0;
            let arrivals: Vec<u64> = std::iter::repeat_with(|| {
                // The upper bits of Knuth's MMIX generator.
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let uniform = ((random >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
                at -= uniform.ln() * 1e9 / per_s;
                at as u64
            })
            .take(100_000)
            .collect();
            let mut taken = 0;
            while taken < arrivals.len() {
                taken += self.batch(&arrivals[taken..], &busy_ns);
            }
            arrivals.len() as f64 / self.batches.len() as f64
        }

        /// `callers` callers, each of which sends the next request when its last is answered, one microsecond after
        /// another.
        fn in_turn(&mut self, callers: u64, batches: usize, busy_ns: impl Fn(u64) -> u64) {
            for _ in 0..batches {
                let arrivals: Vec<u64> = (1..=callers).map(|n| self.now_ns + n * 1_000).collect();
                assert_eq!(self.batch(&arrivals, &busy_ns) as u64, callers);
            }
        }
    }

    #[test]
    fn a_lone_caller_never_waits() {
        let mut world = World::new(unstated(64));
        world.in_turn(1, 1_000, |_| 5_000);
        assert_eq!(world.now_ns, 1_000 * 6_000);
    }

    #[test]
    fn callers_that_become_one_wait_a_little_and_then_no_more() {
        let mut world = World::new(unstated(64));
        world.habit = world.habit.after(Waiting { items: 32, oldest_ns: 1, newest_ns: 31_001 });
        world.in_turn(1, 1_000, |_| 5_000);
        let waited_ns = world.now_ns - 1_000 * 6_000;
        assert!(waited_ns <= u64::from(LONELY_BATCHES) * 2 * QUIET_LEAST_NS, "{waited_ns}");
    }

    #[test]
    fn callers_that_are_fewer_than_a_batch_holds_do_not_wait_for_more() {
        let mut world = World::new(unstated(64));
        world.habit = world.habit.after(Waiting { items: 32, oldest_ns: 1, newest_ns: 31_001 });
        world.in_turn(32, 1_000, |_| 100_000);
        assert_eq!(world.batches, [32; 1_000]);
        assert!(world.longest_ns < 100_000 + 32_000 + 2 * QUIET_LEAST_NS, "{}", world.longest_ns);
    }

    #[test]
    #[cfg_attr(miri, ignore = "two million requests, and no memory of interest")]
    fn batches_of_requests_at_random_are_as_large_as_with_the_wait_stated() {
        let ms = |n: u64| move |items: u64| n * 1_000_000 + items * 10_000;
        for (per_s, busy_ms) in
            [(200.0, 5), (500.0, 1), (2_000.0, 1), (2_000.0, 5), (5_000.0, 1), (30_000.0, 1)]
        {
            for seed in [1, 2, 3] {
                let to_the_letter = Rule { is_stated: true, ..unstated(64) };
                let most = World::new(to_the_letter).poisson(per_s, seed, ms(busy_ms));
                let mean = World::new(unstated(64)).poisson(per_s, seed, ms(busy_ms));
                assert!(mean > 0.95 * most, "{per_s}/s, busy for {busy_ms} ms: {mean} items of {most}");
            }
        }
    }

    proptest! {
        /// A batch never waits when it is full, never longer than its window, and never without one.
        #[test]
        fn never_too_long(
            size in 0..100_u32, wait_ns in 0..1_000_u64, is_stated: bool, habit: u64, items in 1..200_u64,
            oldest_ns in 0..10_000_u64, newer in 0..1_000_u64, later in 0..2_000_u64, stopping: bool,
        ) {
            let rule = Rule { batch_size: size, wait_ns, is_stated };
            let now = oldest_ns + later;
            let waiting = Waiting { items, oldest_ns, newest_ns: oldest_ns + newer };
            let habit = Habit::from_raw(habit);
            match rule.judge(habit, waiting, stopping, || now) {
                Verdict::WaitUntil(due) => {
                    prop_assert!(items < rule.most() && wait_ns > 0 && !stopping);
                    prop_assert!(due == oldest_ns + wait_ns || !is_stated && due < oldest_ns + wait_ns);
                    prop_assert!(due > now);
                }
                Verdict::Close(Closed::Full) => prop_assert!(items >= rule.most()),
                Verdict::Close(Closed::Window) => {
                    prop_assert!(wait_ns > 0 && (later >= wait_ns || !is_stated));
                }
                Verdict::Close(Closed::Empty) => {
                    prop_assert!(wait_ns == 0 || !is_stated && !habit.waits());
                }
                Verdict::Close(Closed::Shutdown) => prop_assert!(stopping),
            }
        }

        /// Any word that another process may have written is a valid habit, and survives being stored.
        #[test]
        fn any_word_is_a_habit(raw: u64, items: u64, oldest_ns: u64, newest_ns: u64) {
            let habit = Habit::from_raw(raw);
            prop_assert_eq!(Habit::from_raw(habit.raw()), habit);
            let after = habit.after(Waiting { items, oldest_ns, newest_ns });
            prop_assert_eq!(Habit::from_raw(after.raw()), after);
            prop_assert!(habit.quiet_ns() >= QUIET_LEAST_NS);
        }
    }
}
