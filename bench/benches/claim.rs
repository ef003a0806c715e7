//! Claiming and freeing a request's task, and a block for a payload that does not fit in line.

use criterion::Criterion;
use ringmill_bench::Error;
use ringmill_bench::parts::{TASKS, begin, client, read, segment_with, take, timed};
use ringmill_shm::arena::{Filling, Task};
use ringmill_shm::layout::Class;
use ringmill_shm::party::Reader;
use ringmill_shm::pool;
use ringmill_shm::segment::Segment;
use std::hint::black_box;

const BLOCK_BYTES: u64 = 1024;

fn with_block(segment: &Segment, id: u32) -> Filling<'_> {
    let mut filling = begin(segment, id);
    let place = filling.block_buffer(black_box(BLOCK_BYTES)).expect("there are two for each task");
    assert!(place.room() as u64 >= BLOCK_BYTES);
    filling.set_length(BLOCK_BYTES as usize);
    filling
}

/// FREE → FILLING → QUEUED → CLAIMED → DONE → FREE, with an empty payload.
fn live(segment: &Segment, reader: &Reader<'_>, id: u32) {
    let mut filling = begin(segment, id);
    filling.set_length(0);
    let task = filling.queue(0);
    let claimed = reader.claim(id).expect("it is queued");
    let join = claimed.finish(false);
    assert!(join.is_none(), "it is no branch");
    take(task).free();
}

fn main() -> Result<(), Error> {
    let mut criterion = Criterion::default().configure_from_args();
    // As the engine sizes it: two blocks for each task.
    let blocks = Class { block_bytes: BLOCK_BYTES, count: 2 * u64::from(TASKS) };
    let segment = segment_with("claim", vec![blocks])?;
    let reader = read(&segment);
    let ids: Vec<u32> = (0..TASKS).collect();

    let mut group = criterion.benchmark_group("request");
    group.bench_function("claim and free", |bencher| {
        bencher.iter(|| begin(&segment, black_box(0)).abandon());
    });
    group.bench_function("whole life, empty payload", |bencher| {
        bencher.iter(|| live(&segment, &reader, black_box(0)));
    });
    group.finish();

    let mut group = criterion.benchmark_group("block of 1 KiB, with its request");
    group.bench_function("claim and free", |bencher| {
        bencher.iter(|| with_block(&segment, black_box(0)).abandon());
    });
    // Every task in turn has a block: the lines of all tasks, and of all blocks' owners.
    let claim = |id: &u32| {
        with_block(&segment, *id);
    };
    let free = |id: &u32| {
        let task = Task::new(&segment, *id).expect("it has as many");
        // SAFETY: the bench's one thread has begun it, and let go of its guard.
        #[expect(unsafe_code, reason = "the contract of guards")]
        let filling = unsafe { client(&segment).resume_filling(task) };
        filling.expect("it has just begun").abandon();
    };
    group.bench_function("claim", |bencher| {
        bencher.iter_custom(|items| timed(items, &ids, |_| {}, claim, free));
    });
    group.bench_function("free", |bencher| {
        bencher.iter_custom(|items| timed(items, &ids, claim, free, |_| {}));
    });
    group.finish();
    assert_eq!(pool::in_use(&segment), [0], "every block was freed");
    criterion.final_summary();
    Ok(())
}
