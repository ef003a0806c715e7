//! Teaches when a batch is closed.
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

use ringmill::rkyv::{Archive, Deserialize, Serialize};
use ringmill::{Batch, BatchWorker, BoxError, Context, Server, StreamOptions, ThreadServlet};
use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

fn now_us() -> u64 {
    START.elapsed().as_micros() as u64
}

/// What each item is answered with: the batch that it was in.
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

/// One run: how its items come, and how they are taken.
struct Run {
    title: &'static str,
    wait_us: u64,
    work_us: u64,
    items: usize,
    /// From one item to the next; this sleep stands for the world that sends them.
    gap_us: u64,
    /// How many are sent before the first one's answer is awaited.
    in_progress: usize,
}

const RUNS: [Run; 4] = [
    Run { title: "many items at once", wait_us: 20_000, work_us: 0, items: 32, gap_us: 0, in_progress: 32 },
    Run { title: "an item every ms", wait_us: 5_000, work_us: 0, items: 20, gap_us: 1_000, in_progress: 32 },
    Run {
        title: "one after the other's answer",
        wait_us: 0,
        work_us: 0,
        items: 4,
        gap_us: 0,
        in_progress: 1,
    },
    Run {
        title: "an item every ms, a busy worker",
        wait_us: 0,
        work_us: 4_000,
        items: 20,
        gap_us: 1_000,
        in_progress: 32,
    },
];

fn main() -> Result<(), BoxError> {
    for run in RUNS {
        show(&run)?;
    }
    Ok(())
}

fn show(run: &Run) -> Result<(), BoxError> {
    let servlet = ThreadServlet::<Recorder>::new(run.work_us)
        .batch_size(BATCH_SIZE)
        .batch_wait_time(Duration::from_micros(run.wait_us));
    let server = Server::builder("batching").start(servlet)?;

    let began_us = now_us();
    let items = (0..run.items).map(|_| {
        sleep(Duration::from_micros(run.gap_us));
        now_us()
    });
    let answers = server.stream_with(items, StreamOptions::new().window(run.in_progress));
    let mut batches: BTreeMap<u32, (Taken, u32)> = BTreeMap::new();
    for answer in answers {
        let taken = answer?;
        batches.entry(taken.number).or_insert((taken, 0)).1 += 1;
    }

    let ms = |us: u64| us as f64 / 1e3;
    println!("{}: wait {} ms, work {} ms a batch", run.title, ms(run.wait_us), ms(run.work_us));
    println!("  closed at   because       oldest waited   items of at most {BATCH_SIZE}");
    let (mut full, mut not_full) = (0, 0);
    for (taken, answered) in batches.into_values() {
        assert_eq!(answered, taken.items, "every item of a batch is answered");
        let items = taken.items as usize;
        let because = match items {
            BATCH_SIZE => "it is full",
            _ if run.wait_us > 0 => "its wait is over",
            _ => "the ring is empty",
        };
        *(if items == BATCH_SIZE { &mut full } else { &mut not_full }) += 1;
        let (closed, waited) = (taken.closed_us - began_us, taken.closed_us - taken.oldest_us);
        let bar = "#".repeat(items) + &".".repeat(BATCH_SIZE - items);
        println!("{:>8.2} ms   {because:17} {:>6.2} ms   {bar} {items}", ms(closed), ms(waited));
        let in_time = items == BATCH_SIZE || waited >= run.wait_us;
        assert!(in_time, "a batch that is not full waits for its time");
    }

    // Why, as the engine counted it.
    let counted = server.stats().servlets[0].total();
    let by_time_or_ring = if run.wait_us > 0 { counted.closed_window } else { counted.closed_empty };
    println!(
        "  counted: {} full, {} by the wait, {} by an empty ring\n",
        counted.closed_full, counted.closed_window, counted.closed_empty
    );
    assert_eq!((counted.closed_full, by_time_or_ring), (full, not_full));
    assert_eq!((counted.batches, counted.items), (full + not_full, run.items as u64));
    Ok(())
}
