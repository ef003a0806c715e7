//! The ring of task ids: push, push_many and drain, by one thread, so that no line moves between CPUs.

use criterion::{BatchSize, Criterion, Throughput};
use ringmill_bench::Error;
use ringmill_bench::parts::{TASKS, read, segment};
use ringmill_shm::party::Reader;
use std::hint::black_box;

/// Reads everything that is published, as the holder of the reader lock does.
fn drain(reader: &mut Reader<'_>) -> u64 {
    let ring = reader.ring();
    let head = ring.head();
    let mut position = head;
    while let Some(id) = ring.get(position) {
        black_box(id);
        position += 1;
    }
    reader.set_head(position);
    position - head
}

fn main() -> Result<(), Error> {
    let mut criterion = Criterion::default().configure_from_args();
    let segment = segment("ring")?;
    let ring = segment.node(0).expect("it has one node").ring();
    let mut reader = read(&segment);
    let ids: Vec<u32> = (0..TASKS).collect();

    let mut group = criterion.benchmark_group("ring");
    group.bench_function("push and drain 1", |bencher| {
        bencher.iter(|| {
            ring.push(black_box(7)).expect("drained each time");
            drain(&mut reader)
        });
    });
    for count in [16_usize, 64] {
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("push {count}"), |bencher| {
            let empty = || drain(&mut reader);
            let push = |_| {
                for &id in &ids[..count] {
                    ring.push(id).expect("emptied before");
                }
            };
            bencher.iter_batched(empty, push, BatchSize::PerIteration);
        });
        drain(&mut reader);
        group.bench_function(format!("push_many {count} and drain"), |bencher| {
            bencher.iter(|| {
                ring.push_many(&ids[..count]).expect("drained each time");
                assert_eq!(drain(&mut reader), count as u64);
            });
        });
    }
    group.finish();
    criterion.final_summary();
    Ok(())
}
