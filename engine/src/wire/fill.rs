//! Numbers that are written where they stay: inputs and outcomes that no `Vec` ever held.
//!
//! A vector of numbers is laid out by rkyv as the numbers, and then the root that points to them. So it can be made in
//! the segment by whoever has the numbers, and the reader takes it for any other `Vec`.
#![expect(unsafe_code, reason = "payload bytes as numbers")]

use super::error::{PayloadError as Failure, ReadError};
use super::payload::{AsInput, Encoder, Payload, sealed, view};
use ringmill_shm::arena::WriteBuffer;
use rkyv::rancor::Source;
use rkyv::ser::{Positional, Writer, WriterExt};
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::{Archive, Archived, Deserialize, Place, Serialize, munge::munge};
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

/// Numbers whose archived bytes are their own bytes, and for which any bytes are a value.
///
/// # Safety
/// `Archived<Self>` has the size and bytes of `Self`, any bit pattern of either is valid, and no byte of it is padding.
pub unsafe trait Plain: Payload + Copy {}

macro_rules! plain {
    ($($number:ty),+) => {$(
        // SAFETY: rkyv's little-endian format archives the number as its own bytes, and this crate builds only on
        // little-endian machines.
        unsafe impl Plain for $number {}
        const _: () = assert!(size_of::<Archived<$number>>() == size_of::<$number>());
    )+};
}
plain!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64);

/// The root of a vector of numbers.
type Root<T> = ArchivedVec<Archived<T>>;

/// No payload has as many bytes; so that sums of a size that is too large do not overflow.
const TOO_LARGE: usize = isize::MAX as usize / 2;

/// The position of the root of a payload that has only numbers: behind them and padding.
fn root_position<T: Plain>(len: usize) -> usize {
    let bytes = len.saturating_mul(size_of::<T>()).min(TOO_LARGE);
    bytes.next_multiple_of(align_of::<Root<T>>())
}

/// The size of a payload of `len` numbers. One that no segment can have is not exact.
pub(crate) fn payload_bytes<T: Plain>(len: usize) -> usize {
    root_position::<T>(len) + size_of::<Root<T>>()
}

/// How many numbers a payload of at most this size can have.
pub(crate) fn most_numbers<T: Plain>(payload_bytes: u64) -> usize {
    let align = align_of::<Root<T>>() as u64;
    let numbers = payload_bytes.saturating_sub(size_of::<Root<T>>() as u64) / align * align;
    usize::try_from(numbers).unwrap_or(TOO_LARGE) / size_of::<T>()
}

/// Writes the root of a payload of `len` numbers that lie at the beginning of the buffer; whether it fits.
pub(crate) fn write_root<T: Plain>(buffer: WriteBuffer<'_>, len: usize) -> bool {
    struct At<'a> {
        buffer: WriteBuffer<'a>,
        position: usize,
    }
    impl Positional for At<'_> {
        fn pos(&self) -> usize {
            self.position
        }
    }
    impl Writer<Failure> for At<'_> {
        fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
            if !self.buffer.write(self.position, bytes) {
                return Err(<Failure as Source>::new(fmt::Error));
            }
            self.position += bytes.len();
            Ok(())
        }
    }
    struct OfNumbers<T>(usize, PhantomData<T>);
    impl<T: Plain> Archive for OfNumbers<T> {
        type Archived = Root<T>;
        type Resolver = VecResolver;
        fn resolve(&self, resolver: VecResolver, out: Place<Root<T>>) {
            ArchivedVec::resolve_from_len(self.0, resolver, out);
        }
    }
    let mut writer = At { buffer, position: root_position::<T>(len) };
    // SAFETY: the position is aligned for the root, and the resolver is that of numbers at the payload's beginning.
    unsafe { writer.resolve_aligned(&OfNumbers::<T>(len, PhantomData), VecResolver::from_pos(0)) }.is_ok()
}

/// The numbers of an archived vector.
pub(crate) fn numbers_of<T: Plain>(archived: &Root<T>) -> &[T] {
    const { assert!(align_of::<Archived<T>>() == align_of::<T>()) };
    let numbers = archived.as_slice();
    // SAFETY: archived numbers have the size and bytes of numbers (`Plain`), and their alignment, as asserted.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), numbers.len()) }
}

/// The numbers of a payload that is a vector of them, to change them there.
pub(crate) fn numbers_in<T: Plain>(payload: &mut [u8]) -> Result<&mut [T], ReadError>
where
    Vec<T>: Payload<Archived = Root<T>>,
{
    let invalid = |error| ReadError::new(std::any::type_name::<Vec<T>>(), error);
    let numbers = numbers_of::<T>(view::<Vec<T>>(payload).map_err(invalid)?);
    let start = numbers.as_ptr().addr() - payload.as_ptr().addr();
    let range = start..start + size_of_val(numbers);
    // Validated just now; but another process can have changed the root since, so the range is looked at once more.
    let bytes = payload.get_mut(range).and_then(as_numbers);
    bytes.ok_or_else(|| invalid(<Failure as Source>::new(fmt::Error)))
}

/// Bytes as numbers; `None` if they are not whole numbers, or not aligned.
pub(crate) fn as_numbers<T: Plain>(bytes: &mut [u8]) -> Option<&mut [T]> {
    // SAFETY: any bytes are numbers, and any numbers are bytes (`Plain`).
    let (before, numbers, after) = unsafe { bytes.align_to_mut::<T>() };
    (before.is_empty() && after.is_empty()).then_some(numbers)
}

/// A vector of `len` numbers that `write` writes where they stay, in the segment: an input for
/// [`call_ref`](crate::Server::call_ref) and [`submit_ref`](crate::Server::submit_ref) of a server whose input is a
/// `Vec<T>`. `write` is called once, when there is room for them, and finds the bytes of an earlier use there: it has to
/// write all numbers. It is not called if the request cannot be sent. If it panics, nothing is sent.
///
/// ```no_run
/// # fn main() -> Result<(), ringmill::BoxError> {
/// use ringmill::payload::fill;
/// use ringmill::{PassThrough, Server, ThreadServlet};
/// let server = Server::builder("noise")
///     .max_payload(4 << 20)
///     .start(ThreadServlet::<PassThrough<Vec<f32>>>::new(()))?;
/// let noise = fill(1_000_000, |numbers: &mut [f32]| numbers.fill(0.5));
/// assert_eq!(server.call_ref(noise)?.len(), 1_000_000);
/// # Ok(())
/// # }
/// ```
pub fn fill<T: Plain, F: FnOnce(&mut [T])>(len: usize, write: F) -> Fill<T, F> {
    Fill { len, write: Cell::new(Some(write)), numbers: PhantomData }
}

/// A [`Tailed`] whose tail of `len` numbers `write` writes where they stay, as [`fill`] does.
///
/// ```no_run
/// # fn main() -> Result<(), ringmill::BoxError> {
/// use ringmill::payload::{Tailed, fill_tail};
/// use ringmill::{PassThrough, Server, ThreadServlet};
/// // A frame: its width and height, and then its pixels.
/// type Frame = Tailed<(u32, u32), u8>;
/// let server = Server::builder("white")
///     .max_payload(8 << 20)
///     .start(ThreadServlet::<PassThrough<Frame>>::new(()))?;
/// let white = fill_tail((1920, 1080), 1920 * 1080 * 3, |pixels: &mut [u8]| pixels.fill(255));
/// let frame = server.call_ref(white)?;
/// assert_eq!((frame.head.0.to_native(), frame.tail.len()), (1920, 1920 * 1080 * 3));
/// # Ok(())
/// # }
/// ```
pub fn fill_tail<H: Payload, T: Plain, F: FnOnce(&mut [T])>(
    head: H,
    len: usize,
    write: F,
) -> FillTail<H, T, F> {
    FillTail { head, tail: fill(len, write) }
}

/// A small head and a large tail of numbers, as an image has: a payload whose tail can be written where it stays, by
/// [`fill_tail`] and [`Item::reply_tailed`](crate::worker::Item::reply_tailed).
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
#[rkyv(crate = rkyv)]
pub struct Tailed<H, T> {
    /// What describes the tail.
    pub head: H,
    /// The numbers.
    pub tail: Vec<T>,
}

/// See [`fill`].
pub struct Fill<T, F> {
    len: usize,
    write: Cell<Option<F>>,
    numbers: PhantomData<fn(T)>,
}

/// See [`fill_tail`].
pub struct FillTail<H, T, F> {
    head: H,
    tail: Fill<T, F>,
}

impl<T, F> fmt::Debug for Fill<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fill").field("len", &self.len).finish_non_exhaustive()
    }
}

impl<H: fmt::Debug, T, F> fmt::Debug for FillTail<H, T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FillTail")
            .field("head", &self.head)
            .field("len", &self.tail.len)
            .finish_non_exhaustive()
    }
}

impl<T: Plain, F: FnOnce(&mut [T])> Fill<T, F> {
    /// Writes the numbers if they, and behind them the root, fit.
    fn serialize_before<Root>(&self, encoder: &mut Encoder<'_>) -> Result<VecResolver, Failure> {
        let position = encoder.align_for::<T>()?;
        let bytes = self.len.saturating_mul(size_of::<T>()).min(TOO_LARGE);
        encoder.writer.fill::<Root>(bytes, |room| {
            let write = self.write.take().expect("it fits once");
            write(as_numbers(room).expect("aligned, and as many bytes as the numbers have"));
        });
        Ok(VecResolver::from_pos(position))
    }
}

impl<T: Plain, F> sealed::Sealed<Vec<T>> for Fill<T, F> {}
impl<H: Payload, T: Plain, F> sealed::Sealed<Tailed<H, T>> for FillTail<H, T, F> {}

impl<T: Plain, F: FnOnce(&mut [T])> AsInput<Vec<T>> for Fill<T, F>
where
    Vec<T>: Payload<Archived = Root<T>>,
{
    type Resolver = VecResolver;

    fn serialize_input(&self, encoder: &mut Encoder<'_>) -> Result<VecResolver, Failure> {
        self.serialize_before::<Root<T>>(encoder)
    }

    fn resolve_input(&self, resolver: VecResolver, out: Place<Root<T>>) {
        ArchivedVec::resolve_from_len(self.len, resolver, out);
    }
}

impl<H: Payload, T: Plain, F: FnOnce(&mut [T])> AsInput<Tailed<H, T>> for FillTail<H, T, F>
where
    Vec<T>: Payload<Archived = Root<T>, Resolver = VecResolver>,
    Tailed<H, T>: Payload<Archived = ArchivedTailed<H, T>>,
{
    type Resolver = TailedResolver<H, T>;

    fn serialize_input(&self, encoder: &mut Encoder<'_>) -> Result<TailedResolver<H, T>, Failure> {
        let head = self.head.serialize(encoder)?;
        let tail = self.tail.serialize_before::<ArchivedTailed<H, T>>(encoder)?;
        Ok(TailedResolver { head, tail })
    }

    fn resolve_input(&self, resolver: TailedResolver<H, T>, out: Place<ArchivedTailed<H, T>>) {
        munge!(let ArchivedTailed { head, tail } = out);
        self.head.resolve(resolver.head, head);
        ArchivedVec::resolve_from_len(self.tail.len, resolver.tail, tail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::payload::{to_bytes, write_to};
    use ringmill_shm::layout::PAYLOAD_ALIGN;
    use ringmill_shm::sys::birth::Birth;
    use rkyv::util::AlignedVec;

    fn bytes_of<T: Payload>(input: &impl AsInput<T>, room: usize) -> (usize, Vec<u8>) {
        let mut buffer = AlignedVec::<PAYLOAD_ALIGN>::new();
        buffer.resize(room, 0xAA);
        let bytes = write_to::<T>(input, WriteBuffer::over(&mut buffer), Birth::here()).unwrap().unwrap();
        (bytes, buffer.to_vec())
    }

    #[test]
    fn what_is_filled_has_the_bytes_of_a_vector() {
        for len in [0_u16, 1, 3, 4, 500] {
            let numbers: Vec<u16> = (0..len).collect();
            let expected = to_bytes(&numbers).unwrap();
            let filled = || fill(numbers.len(), |room: &mut [u16]| room.copy_from_slice(&numbers));
            let (bytes, written) = bytes_of::<Vec<u16>>(&filled(), expected.len());
            assert_eq!((bytes, &written), (expected.len(), &expected));
            assert_eq!(payload_bytes::<u16>(numbers.len()), bytes);

            let tailed = Tailed { head: "a head beside sixteen bytes".to_string(), tail: numbers.clone() };
            let expected = to_bytes(&tailed).unwrap();
            let filled = fill_tail(tailed.head.clone(), numbers.len(), |room: &mut [u16]| {
                room.copy_from_slice(&numbers);
            });
            let (bytes, written) = bytes_of::<Tailed<String, u16>>(&filled, expected.len());
            assert_eq!((bytes, written), (expected.len(), expected));
        }
    }

    #[test]
    fn it_is_written_only_where_all_of_it_fits() {
        let calls = Cell::new(0);
        let filled = fill(10, |room: &mut [u64]| {
            calls.set(calls.get() + 1);
            room.fill(7);
        });
        // The numbers fit, but not their root.
        for room in [0, 79, 80, 95] {
            assert_eq!(bytes_of::<Vec<u64>>(&filled, room).0, 96);
            assert_eq!(calls.get(), 0);
        }
        assert_eq!(bytes_of::<Vec<u64>>(&filled, 96).0, 96);
        assert_eq!(calls.get(), 1);
    }

    #[test]
    fn sizes_without_bound_do_not_overflow() {
        let (bytes, _) = bytes_of::<Vec<u64>>(&fill(usize::MAX, |_: &mut [u64]| unreachable!()), 100);
        assert!(bytes >= TOO_LARGE);
        assert!(payload_bytes::<f64>(usize::MAX) >= TOO_LARGE);
        for bytes in [0, 15, 16, 17, 4096, 4099, u64::MAX] {
            let most = most_numbers::<u16>(bytes);
            assert!(payload_bytes::<u16>(most) as u64 <= bytes.max(16), "{bytes}");
            assert!(bytes == u64::MAX || payload_bytes::<u16>(most + 1) as u64 > bytes, "{bytes}");
        }
    }
}
