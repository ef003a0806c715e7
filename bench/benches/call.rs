//! `Server::call`: one 64-byte item at a time, to a worker process and back.

use std::time::Instant;

use criterion::Criterion;
use ringmill_bench::Error;
use ringmill_bench::contestant::{Contestant, Point};
use ringmill_bench::peers::ringmill::{Echo, Ringmill};
use ringmill_bench::pin::{CpuPair, pin_to};

ringmill::init!(Echo<8>);

fn main() -> Result<(), Error> {
    let mut criterion = Criterion::default().configure_from_args();
    let cpus = CpuPair::allowed()?;
    let mut server = Ringmill::<8>::start(Point::STANDARD, cpus)?;
    pin_to(cpus.client)?;
    criterion.bench_function("call/64 B", |bencher| {
        bencher.iter_custom(|items| {
            let start = Instant::now();
            server.call(items).expect("a worker that only echoes does not fail");
            start.elapsed()
        });
    });
    criterion.final_summary();
    Ok(())
}
