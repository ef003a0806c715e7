//! `Server::stream`: many 64-byte items in progress, to a worker process and back; time an item.

use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput};
use ringmill_bench::Error;
use ringmill_bench::contestant::{Contestant, Point};
use ringmill_bench::peers::ringmill::{Echo, Ringmill};
use ringmill_bench::pin::{CpuPair, pin_to};

ringmill::init!(Echo<8>);

const WINDOWS: [u32; 3] = [16, 256, 1024];

const WIDEST: u32 = 1024;

fn main() -> Result<(), Error> {
    let mut criterion = Criterion::default().configure_from_args();
    let cpus = CpuPair::allowed()?;
    let mut server = Ringmill::<8>::start(Point { window: WIDEST, ..Point::STANDARD }, cpus)?;
    pin_to(cpus.client)?;
    let mut group = criterion.benchmark_group("stream/64 B");
    group.throughput(Throughput::Elements(1));
    for window in WINDOWS {
        group.bench_function(BenchmarkId::new("window", window), |bencher| {
            bencher.iter_custom(|items| {
                let start = Instant::now();
                server.stream(items, window).expect("a worker that only echoes does not fail");
                start.elapsed()
            });
        });
    }
    group.finish();
    criterion.final_summary();
    Ok(())
}
