//! Serialising a typed payload into its buffer in the segment, and validating it there: the two steps that a
//! payload pays on each side of a call.
//!
//! The buffers and views are those of the arena's guards; rkyv is driven as the engine drives it (its low-level
//! interface, a writer that counts the bytes that do not fit, a limit of depth), since the engine's own functions are
//! private.

use std::hint::black_box;
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use ringmill_bench::Error;
use ringmill_bench::parts::{begin, read, segment_with, take};
use ringmill_bench::payload::Payload;
use ringmill_shm::arena::{Claimed, Filling, WriteBuffer};
use ringmill_shm::layout::Class;
use ringmill_shm::segment::Segment;
use rkyv::api::access_with_context;
use rkyv::api::low::{LowValidator, to_bytes_in_with_alloc};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{Error as Failure, Strategy};
use rkyv::ser::allocator::SubAllocator;
use rkyv::ser::{Positional, Serializer, Writer};
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::{Archive, Archived, Portable, Serialize};

/// Bytes of the largest payload here, and more.
const BLOCK_BYTES: u64 = 4096;
/// Scratch memory for values whose parts lie elsewhere.
const SCRATCH_BYTES: usize = 256;
/// As deep as the engine lets a payload be.
const DEPTHS: NonZeroUsize = NonZeroUsize::new(130).expect("not zero");

/// A buffer of the segment as rkyv's writer, which counts the bytes that do not fit.
struct Output<'a> {
    buffer: WriteBuffer<'a>,
    position: usize,
}

impl Positional for Output<'_> {
    #[inline]
    fn pos(&self) -> usize {
        self.position
    }
}

impl Writer<Failure> for Output<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.buffer.write(self.position, bytes);
        self.position += bytes.len();
        Ok(())
    }
}

type Encoder<'a> = Strategy<Serializer<Output<'a>, SubAllocator<'a>, ()>, Failure>;

/// Bytes that `value` takes in `place`, which may be more than there is room for.
#[inline]
fn write_to<T: for<'a> Serialize<Encoder<'a>>>(value: &T, buffer: WriteBuffer<'_>) -> usize {
    let mut scratch = [MaybeUninit::<u8>::uninit(); SCRATCH_BYTES];
    let output = Output { buffer, position: 0 };
    let written = to_bytes_in_with_alloc(value, output, SubAllocator::new(&mut scratch));
    written.expect("the scratch suffices").position
}

/// In line if it fits, otherwise into a block, after one pass that has counted.
#[inline]
fn serialise<T: for<'a> Serialize<Encoder<'a>>>(value: &T, to: &mut Filling<'_>) -> usize {
    let buffer = to.inline_buffer();
    let room = buffer.room();
    let bytes = write_to(value, buffer);
    if bytes > room {
        let buffer = to.block_buffer(bytes as u64).expect("there is a block");
        assert_eq!(write_to(value, buffer), bytes);
    }
    to.set_length(bytes);
    bytes
}

/// The value where it lies, once its bytes are known to be one.
#[inline]
fn access<'a, T>(claimed: &'a Claimed<'_>) -> &'a Archived<T>
where
    T: Archive<Archived: Portable + for<'b> CheckBytes<LowValidator<'b, Failure>>>,
{
    let bytes = claimed.payload().expect("it was just written");
    let mut validator = Validator::new(ArchiveValidator::with_max_depth(bytes, Some(DEPTHS)), ());
    access_with_context::<Archived<T>, _, Failure>(bytes, &mut validator).expect("it was just written")
}

/// Both for one value.
fn bench<T>(group: &mut BenchmarkGroup<'_, WallTime>, segment: &Segment, name: &str, value: &T)
where
    T: for<'a> Serialize<Encoder<'a>>
        + Archive<Archived: Portable + for<'a> CheckBytes<LowValidator<'a, Failure>>>,
{
    let mut filling = begin(segment, 0);
    let bytes = serialise(value, &mut filling);
    group.throughput(Throughput::Bytes(bytes as u64));
    group.bench_function(format!("serialise {name}"), |bencher| {
        bencher.iter(|| serialise(black_box(value), &mut filling));
    });
    let task = filling.queue(0);
    let claimed = read(segment).claim(0).expect("it is queued");
    group.bench_function(format!("access {name}"), |bencher| {
        bencher.iter(|| {
            black_box(access::<T>(black_box(&claimed)));
        });
    });
    let join = claimed.finish(false);
    assert!(join.is_none(), "it is no branch");
    take(task).free();
}

fn main() -> Result<(), Error> {
    let mut criterion = Criterion::default().configure_from_args();
    let segment = segment_with("payload", vec![Class { block_bytes: BLOCK_BYTES, count: 4 }])?;
    let mut group = criterion.benchmark_group("payload");
    bench(&mut group, &segment, "8 B, in line", &Payload::<1>::question(7));
    bench(&mut group, &segment, "64 B, in line", &Payload::<8>::question(7));
    bench(&mut group, &segment, "1 KiB, in a block", &Payload::<128>::question(7));
    let words: Vec<String> = (0..16).map(|place| format!("a text of some length, number {place}")).collect();
    bench(&mut group, &segment, "16 strings, in a block", &words);
    group.finish();
    criterion.final_summary();
    Ok(())
}
