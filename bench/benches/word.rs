//! The guards' transitions of the state word on the way of a request, by one thread, so that no line moves between CPUs.

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};
use ringmill_bench::Error;
use ringmill_bench::parts::{begin, read, segment, take, timed};
use ringmill_shm::arena::{Parked, Task};
use ringmill_shm::party::Reader;
use ringmill_shm::segment::Segment;
use std::cell::Cell;
use std::hint::black_box;

/// How many requests take turns; their lines fit into the nearest caches.
const REQUESTS: u32 = 256;

/// A request on its way round.
struct Request<'s> {
    segment: &'s Segment,
    reader: &'s Reader<'s>,
    id: u32,
    claimed: Cell<Option<Parked>>,
}

impl Request<'_> {
    /// FREE → FILLING → QUEUED.
    fn queue(&self) {
        begin(self.segment, black_box(self.id)).queue(0);
    }

    /// QUEUED → CLAIMED.
    fn claim(&self) {
        let claimed = self.reader.claim(black_box(self.id)).expect("it is queued");
        self.claimed.set(Some(claimed.park()));
    }

    /// CLAIMED → DONE.
    fn finish(&self) {
        let claimed = self.claimed.take().and_then(|parked| parked.resume(self.segment));
        assert!(claimed.expect("it is claimed").finish(false).is_none(), "it is no branch");
    }

    /// DONE → FREE.
    fn free(&self) {
        take(Task::new(self.segment, self.id).expect("it has as many")).free();
    }
}

/// One step by itself: `before` leads to it from FREE, `after` from it to FREE.
fn bench<R>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    requests: &[R],
    name: &str,
    before: impl Fn(&R),
    step: impl Fn(&R),
    after: impl Fn(&R),
) {
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|items| timed(items, requests, &before, &step, &after));
    });
}

fn main() -> Result<(), Error> {
    let mut criterion = Criterion::default().configure_from_args();
    let segment = segment("word")?;
    let (segment, reader) = (&segment, &read(&segment));
    let request = |id| Request { segment, reader, id, claimed: Cell::default() };
    let requests: Vec<Request<'_>> = (0..REQUESTS).map(request).collect();
    let mut group = criterion.benchmark_group("state word");
    let from_queued = |request: &Request<'_>| {
        request.claim();
        request.finish();
        request.free();
    };
    let to_claimed = |request: &Request<'_>| {
        request.queue();
        request.claim();
    };
    let to_done = |request: &Request<'_>| {
        to_claimed(request);
        request.finish();
    };
    let from_claimed = |request: &Request<'_>| {
        request.finish();
        request.free();
    };
    bench(&mut group, &requests, "FREE to QUEUED", |_| {}, Request::queue, from_queued);
    bench(&mut group, &requests, "QUEUED to CLAIMED", Request::queue, Request::claim, from_claimed);
    bench(&mut group, &requests, "CLAIMED to DONE", to_claimed, Request::finish, Request::free);
    bench(&mut group, &requests, "DONE to FREE", to_done, Request::free, |_| {});
    group.bench_function("all the way round", |bencher| {
        bencher.iter(|| {
            requests[0].queue();
            from_queued(&requests[0]);
        });
    });
    group.finish();
    criterion.final_summary();
    Ok(())
}
