//! The reader lock beside the locks that it could have been: a process-shared pthread mutex (`raw_sync`),
//! which is not robust, and the standard library's, which is of one process.

use criterion::Criterion;
use raw_sync::locks::{LockInit, Mutex as PthreadMutex};
use ringmill_bench::Error;
use ringmill_bench::parts::{segment, worker};
use std::hint::black_box;
use std::sync::Mutex;

/// Spins before sleeping; without contention there are none.
const SPINS: u32 = 100;

fn main() -> Result<(), Error> {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("lock, uncontended");

    let segment = segment("lock")?;
    let (node, me) = (segment.node(0).expect("it has one node"), worker(&segment));
    group.bench_function("reader lock", |bencher| {
        bencher.iter(|| drop(black_box(me.read(node, SPINS, || true))));
    });

    // Room for the mutex wherever its alignment puts it.
    let mut memory = vec![0_u8; 2 * PthreadMutex::size_of(None)];
    let mut value = 0_u8;
    #[expect(unsafe_code, reason = "raw_sync takes the memory that its mutex lies in")]
    // SAFETY: `memory` is large enough for the mutex at any alignment, and both outlive it.
    let (pthread, _) = unsafe { PthreadMutex::new(memory.as_mut_ptr(), &raw mut value) }
        .map_err(|e| Error::Rival(e.to_string()))?;
    group.bench_function("pthread mutex, process-shared", |bencher| {
        bencher.iter(|| drop(black_box(pthread.lock().expect("no other thread has it"))));
    });

    let plain = Mutex::new(0_u8);
    group.bench_function("std::sync::Mutex, one process", |bencher| {
        bencher.iter(|| drop(black_box(plain.lock())));
    });
    group.finish();
    criterion.final_summary();
    Ok(())
}
