//! Shows when a batch is closed.
//!
//! A batch is closed when it is full, when its oldest item has waited as long as it may
//! (`batch_wait_time`), or, without a wait, when nothing more is in the ring; and while a worker is busy,
//! the next batch piles up. Four runs show one of these each, drawn with a row for each batch. The worker
//! answers each item with the batch that it was in, and the server's counters say why batches were closed.
//!
//! The worker is a thread here, so that it reads the same clock as the caller; for processes the rules are
//! the same.
//!
//! Run it with `cargo run --release --example batching`.

use ringmill::{Batch, BatchWorker, BoxError, Context, Server, StreamOptions, ThreadServlet};
use rkyv::{Archive, Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

fn now_us() -> u64 {
    START.elapsed().as_micros() as u64
}

/// The answer to each item: the batch that it was in.
#[derive(Archive, Serialize, Deserialize, Clone, Copy)]
struct Taken {
    number: u32,
    items: u32,
    closed_us: u64,
    /// When its oldest item was sent.
    oldest_us: u64,
}

struct Recorder {
    work_us: u64,
    batches: u32,
}

impl BatchWorker for Recorder {
    type Config = u64; // how long it works on a batch
    type In = u64; // when the item was sent
    type Out = Taken;

    fn new(work_us: u64, _: &Context) -> Result<Self, BoxError> {
        Ok(Self { work_us, batches: 0 })
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        let closed_us = now_us();
        let items = batch.len();
        let oldest_us = batch.inputs().map(|sent_us| sent_us.to_native()).min().unwrap_or(closed_us);
        self.batches += 1;
        let taken = Taken { number: self.batches, items: items as u32, closed_us, oldest_us };
        sleep(Duration::from_micros(self.work_us)); // this sleep stands for work
        batch.reply_all(std::iter::repeat_n(taken, items))
    }
}

const BATCH_SIZE: usize = 8;

/// A run: its title; how long a batch may wait, in µs; how long the worker works on one, in µs; how many items
/// come; the gap between two, in µs; how many are sent before the first one's answer is awaited.
type Run = (&'static str, u64, u64, usize, u64, usize);

#[rustfmt::skip]
const RUNS: [Run; 4] = [
    // title                             wait   work  items    gap  sent
    ("many items at once",             20_000,     0,    32,     0,   32),
    ("an item every ms",                5_000,     0,    20, 1_000,   32),
    ("each after the other's answer",       0,     0,     4,     0,    1),
    ("an item every ms, a busy worker",     0, 4_000,    20, 1_000,   32),
];

fn main() -> Result<(), BoxError> {
    RUNS.into_iter().try_for_each(show)
}

fn show((title, wait_us, work_us, items, gap_us, sent): Run) -> Result<(), BoxError> {
    let wait = Duration::from_micros(wait_us);
    let servlet = ThreadServlet::<Recorder>::new(work_us).batch_size(BATCH_SIZE).batch_wait_time(wait);
    let server = Server::builder("batching").start(servlet)?;

    let began_us = now_us();
    let inputs = (0..items).map(|_| {
        sleep(Duration::from_micros(gap_us)); // this sleep stands for the callers that send the items
        now_us()
    });
    // Each batch by its number, and how many items were answered with it.
    let mut batches: BTreeMap<u32, (Taken, u32)> = BTreeMap::new();
    for answer in server.stream_with(inputs, StreamOptions::new().window(sent)) {
        let taken = answer?;
        batches.entry(taken.number).or_insert((taken, 0)).1 += 1;
    }

    let ms = |us: u64| us as f64 / 1e3;
    println!("{title}: wait {} ms, work {} ms a batch", ms(wait_us), ms(work_us));
    println!("  closed at   because       oldest waited   items of at most {BATCH_SIZE}");
    for (taken, answered) in batches.values() {
        assert_eq!(*answered, taken.items, "every item of a batch is answered");
        let count = taken.items as usize;
        let because = match count {
            BATCH_SIZE => "it is full",
            _ if wait_us > 0 => "its wait is over",
            _ => "the ring is empty",
        };
        let (closed, waited) = (taken.closed_us - began_us, taken.closed_us - taken.oldest_us);
        let bar = "#".repeat(count) + &".".repeat(BATCH_SIZE - count);
        println!("{:>8.2} ms   {because:17} {:>6.2} ms   {bar} {count}", ms(closed), ms(waited));
        assert!(count == BATCH_SIZE || waited >= wait_us, "a batch was closed before its time");
    }

    // Why, as the engine counted it.
    let counted = server.stats().servlets[0].total();
    let (by_full, by_wait, by_ring) = (counted.closed_full, counted.closed_window, counted.closed_empty);
    println!("  counted: {by_full} full, {by_wait} by the wait, {by_ring} by an empty ring\n");
    let full = batches.values().filter(|(taken, _)| taken.items as usize == BATCH_SIZE).count() as u64;
    let not_full = batches.len() as u64 - full;
    let expected = if wait_us > 0 { (full, not_full, 0) } else { (full, 0, not_full) };
    assert_eq!((by_full, by_wait, by_ring), expected);
    assert_eq!((counted.batches, counted.items), (full + not_full, items as u64));
    Ok(())
}
