//! The cost of the doorbell to a push that has to wake no worker, and the cost of going to sleep without the sleep.

use criterion::Criterion;
use ringmill_bench::Error;
use ringmill_bench::parts::segment;
use std::hint::black_box;

/// A worker of the node, of which there is none in this process.
const WORKER: u32 = 0;

fn main() -> Result<(), Error> {
    let mut criterion = Criterion::default().configure_from_args();
    let segment = segment("doorbell")?;
    let doorbell = segment.node(0).expect("it has one node").doorbell();
    let no_worker_is_woken = |_| unreachable!("no worker has to be woken");

    let mut group = criterion.benchmark_group("doorbell");
    group.bench_function("after_push, no worker sleeps", |bencher| {
        bencher.iter(|| doorbell.after_push(black_box(1), no_worker_is_woken));
    });

    doorbell.announce(WORKER);
    let turn = doorbell.begin_spinning(WORKER).expect("no other worker spins");
    group.bench_function("after_push, one sleeps and one spins", |bencher| {
        bencher.iter(|| doorbell.after_push(black_box(1), no_worker_is_woken));
    });
    doorbell.end_spinning(turn);
    doorbell.retract(WORKER);

    doorbell.announce_window(WORKER, 1_000);
    group.bench_function("after_push, the holder waits for more", |bencher| {
        bencher.iter(|| doorbell.after_push(black_box(1), no_worker_is_woken));
    });
    doorbell.retract_window();

    group.bench_function("announce and retract", |bencher| {
        bencher.iter(|| {
            doorbell.announce(black_box(WORKER));
            doorbell.retract(black_box(WORKER));
        });
    });
    group.finish();
    criterion.final_summary();
    Ok(())
}
