//! What travels: rkyv types, serialised straight into the segment and read there.
//!
//! The format is fixed by three rkyv features (little-endian, aligned, 64-bit pointers) and by
//! [`PAYLOAD_FORMAT`], which is part of a segment's fingerprint. The width of pointers is also that of `usize` and
//! `isize`: narrower ones would cut their values without an error.
//!
//! # Reliance
//!
//! rkyv hands `Archive::resolve`, which safe code may implement, a `Place` without a lifetime. User code that keeps one
//! and writes to it later does not reach pointers in the segment, see `write_root`; unless a hand-written `Archive` has
//! a `Resolver` without positions, brings those of its pointers by another way, and keeps its `Place`: we rely on there
//! being no such type. What lies *before* a root, rkyv makes on its own stack: there a kept `Place` dangles, in its own
//! process, in any program that uses rkyv.
//!
//! # Invariants
//!
//! * `[forked in serialize]`: `Serialize` is user code, and may fork. In the child the buffer is its parent's, and by
//!   now perhaps of another request: the child writes nothing more, and `write_to` returns `None`. That is no error,
//!   since the bytes of a plain type are written without a way to fail; callers of `encode` check afterwards which
//!   process they are in.
#![expect(unsafe_code, reason = "a view of bytes that were validated when they were taken")]

use super::DEPTH_LIMIT;
use super::error::{EncodeError, PayloadError as Failure, ReadError};
use super::scratch::{RootBuffer, Scratch, ScratchStack};
use ringmill_shm::arena::{Claimed, Filling, JoinBuffer, Keeping, Value, WriteBuffer};
use ringmill_shm::layout::PAYLOAD_ALIGN;
use ringmill_shm::pool::PoolError;
use ringmill_shm::sys::birth::Birth;
use rkyv::api::access_with_context;
use rkyv::api::low::{LowDeserializer, LowValidator, deserialize};
use rkyv::bytecheck::CheckBytes;
use rkyv::primitive::{ArchivedU64, ArchivedUsize, FixedUsize};
use rkyv::rancor::{Failure as Wrong, Source, Strategy};
use rkyv::rend::u64_le;
use rkyv::ser::{Positional, Serializer, Writer};
use rkyv::string::{ArchivedString, StringResolver};
use rkyv::util::AlignedVec;
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::{Archive, Archived, Deserialize, Place, Portable, Serialize};
use std::io;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

/// Identifies how payload bytes are written: rkyv 0.8, little-endian, aligned, 64-bit pointers.
pub(crate) const PAYLOAD_FORMAT: u64 = u64::from_le_bytes(*b"rk08LA64");

// Any crate of a program can switch rkyv's features on, for all of them.
const _: () = assert!(
    size_of::<FixedUsize>() == 8 && align_of::<ArchivedUsize>() == 8,
    "ringmill's payloads need rkyv's features little_endian, aligned and pointer_width_64: look for a dependency that \
     switches on others (cargo tree -e features -i rkyv)"
);
const _: fn(u64_le) -> ArchivedU64 = |number| number;

/// Where the bytes of a [`Bytes`](crate::payload::Bytes) begin: at multiples of this.
pub const BYTES_ALIGN: usize = 64;

/// As rkyv counts: one for what the root lies in, and one for the first pointer beyond the limit.
const DEPTHS: NonZeroUsize = NonZeroUsize::new(DEPTH_LIMIT + 2).expect("not zero");
/// The same, in the root.
const DEPTHS_IN_ROOT: NonZeroUsize = NonZeroUsize::new(DEPTH_LIMIT + 1).expect("not zero");

/// What payloads are serialised with.
pub type Encoder<'a> = Strategy<Serializer<Output<'a>, Scratch<'a>, ()>, Failure>;
/// What payloads are validated with first: it says only whether they are valid.
pub type Checker<'a> = LowValidator<'a, Wrong>;
/// What an invalid payload is validated with a second time: it says what is wrong.
pub type Explainer<'a> = LowValidator<'a, Failure>;

/// A type that can travel: rkyv's `Archive`, `Serialize` and `Deserialize`, validated with `CheckBytes`, without shared
/// pointers. Implemented for all types that qualify.
///
/// A reader refuses a payload with more than 128 nested pointers, a linked list of more links, say; for an input the
/// error is [`RemoteCause::TooDeep`](crate::error::RemoteCause::TooDeep). The sender cannot check this, since rkyv does not
/// report the depth. A `Vec` is one pointer, however long.
///
/// A value arrives as it was sent, to the bit; `usize` and `isize` have 64 bits. The exceptions are rkyv's: a hash map
/// or set gets a new hasher (`S::default()`), a `RangeInclusive` that was iterated to its end forgets that, and a field
/// with `with = Skip` is its type's default. A value must not change while it is sent: fields with `with = Lock` or
/// `with = AtomicLoad` are read twice.
///
/// ```
/// #[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
/// struct Image {
///     pixels: [u8; 64],
/// }
/// fn travels<T: ringmill::Payload>() {}
/// travels::<Image>();
/// travels::<Vec<String>>();
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot travel to a worker: it is no ringmill `Payload`",
    label = "not a `Payload`",
    note = "a type of your own derives `ringmill::rkyv::{{Archive, Serialize, Deserialize}}` (rkyv's, not serde's), with \
            the attribute `#[rkyv(crate = ringmill::rkyv)]`",
    note = "a payload owns all that it holds: `String` in place of `&str`, `Vec<T>` in place of `&[T]`, and no `Rc` or \
            `Arc` within; see the guide, chapter 3"
)]
pub trait Payload:
    Archive<
        Archived: Portable
                      + for<'a> CheckBytes<Checker<'a>>
                      + for<'a> CheckBytes<Explainer<'a>>
                      + Deserialize<Self, LowDeserializer<Failure>>,
    > + for<'a> Serialize<Encoder<'a>>
    + Sized
    + 'static
{
}

// So that the compiler says the above, and not what it misses of rkyv.
#[diagnostic::do_not_recommend]
impl<T> Payload for T where
    T: Archive<
            Archived: Portable
                          + for<'a> CheckBytes<Checker<'a>>
                          + for<'a> CheckBytes<Explainer<'a>>
                          + Deserialize<Self, LowDeserializer<Failure>>,
        > + for<'a> Serialize<Encoder<'a>>
        + Sized
        + 'static
{
}

/// Has the compiler say what [`Payload`] asks for, and say it first: about an associated type it names only what it misses
/// of rkyv.
#[derive(Debug)]
pub struct Travels<T: Payload>(PhantomData<T>);

/// What a caller may pass as an input of type `In`: the input, a reference to it, or what borrows as it and has the same
/// bytes as a payload: a `&str` for a `String`, a `&[T]` or `&[T; N]` for a `Vec<T>`. It is serialised straight into the
/// segment; no `String` or `Vec` is made of it. For [`call_ref`](crate::Server::call_ref) and the like; sealed.
#[diagnostic::on_unimplemented(
    message = "this server does not take `{Self}`: its input is `{In}`",
    label = "neither `{In}` nor a reference to it",
    note = "pass the input or a reference to it; for a `String` also a `&str`, for a `Vec<T>` also a `&[T]`"
)]
pub trait AsInput<In: Payload>: sealed::Sealed<In> {
    #[doc(hidden)]
    type Resolver;

    #[doc(hidden)]
    fn serialize_input(&self, encoder: &mut Encoder<'_>) -> Result<Self::Resolver, Failure>;

    #[doc(hidden)]
    fn resolve_input(&self, resolver: Self::Resolver, out: Place<Archived<In>>);
}

pub(super) mod sealed {
    pub trait Sealed<In> {}
    impl<In> Sealed<In> for In {}
    impl<In> Sealed<In> for &In {}
    impl Sealed<String> for &str {}
    impl<T> Sealed<Vec<T>> for &[T] {}
    impl<T, const N: usize> Sealed<Vec<T>> for &[T; N] {}
}

impl<In: Payload> AsInput<In> for In {
    type Resolver = In::Resolver;

    #[inline(always)]
    fn serialize_input(&self, encoder: &mut Encoder<'_>) -> Result<In::Resolver, Failure> {
        self.serialize(encoder)
    }

    #[inline(always)]
    fn resolve_input(&self, resolver: In::Resolver, out: Place<Archived<In>>) {
        self.resolve(resolver, out);
    }
}

impl<In: Payload> AsInput<In> for &In {
    type Resolver = In::Resolver;

    #[inline(always)]
    fn serialize_input(&self, encoder: &mut Encoder<'_>) -> Result<In::Resolver, Failure> {
        (**self).serialize(encoder)
    }

    #[inline(always)]
    fn resolve_input(&self, resolver: In::Resolver, out: Place<Archived<In>>) {
        (**self).resolve(resolver, out);
    }
}

impl AsInput<String> for &str {
    type Resolver = StringResolver;

    #[inline]
    fn serialize_input(&self, encoder: &mut Encoder<'_>) -> Result<StringResolver, Failure> {
        ArchivedString::serialize_from_str(self, encoder)
    }

    #[inline]
    fn resolve_input(&self, resolver: StringResolver, out: Place<ArchivedString>) {
        ArchivedString::resolve_from_str(self, resolver, out);
    }
}

impl<T: Payload> AsInput<Vec<T>> for &[T]
where
    Vec<T>: Payload<Archived = ArchivedVec<Archived<T>>>,
{
    type Resolver = VecResolver;

    #[inline]
    fn serialize_input(&self, encoder: &mut Encoder<'_>) -> Result<VecResolver, Failure> {
        ArchivedVec::serialize_from_slice(self, encoder)
    }

    #[inline]
    fn resolve_input(&self, resolver: VecResolver, out: Place<ArchivedVec<Archived<T>>>) {
        ArchivedVec::resolve_from_slice(self, resolver, out);
    }
}

impl<T: Payload, const N: usize> AsInput<Vec<T>> for &[T; N]
where
    Vec<T>: Payload<Archived = ArchivedVec<Archived<T>>>,
{
    type Resolver = VecResolver;

    #[inline]
    fn serialize_input(&self, encoder: &mut Encoder<'_>) -> Result<VecResolver, Failure> {
        self.as_slice().serialize_input(encoder)
    }

    #[inline]
    fn resolve_input(&self, resolver: VecResolver, out: Place<ArchivedVec<Archived<T>>>) {
        self.as_slice().resolve_input(resolver, out);
    }
}

/// A buffer in the segment as a serialiser's writer. Bytes that do not fit are counted, not written, so that one pass
/// tells how large the payload is.
#[derive(Debug)]
pub struct Output<'a> {
    buffer: WriteBuffer<'a>,
    position: usize,
    /// Whether the position depends on the buffer's address.
    by_address: bool,
    /// The process to which the buffer belongs.
    birth: Birth,
}

impl<'a> Output<'a> {
    fn new(buffer: WriteBuffer<'a>, birth: Birth) -> Self {
        Self { buffer, position: 0, by_address: false, birth }
    }

    /// Writes zeros up to the next address that is a multiple of `align`, which is at most 64. A buffer without room, in
    /// which a payload is only measured, counts as one that begins at such an address, as blocks do.
    pub(super) fn align(&mut self, align: usize) -> Result<(), Failure> {
        let start = match self.buffer.room() {
            0 => 0,
            _ => self.buffer.as_bytes_mut().as_ptr().addr(),
        };
        let gap = start.wrapping_add(self.position).wrapping_neg() & (align - 1);
        self.by_address = true;
        self.write(&[0; 64][..gap])
    }
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
        if self.birth.is_here() {
            self.buffer.write(self.position, bytes); // else [forked in serialize]
        }
        self.position += bytes.len();
        crash_point!("payload.some");
        Ok(())
    }
}

impl Output<'_> {
    /// Calls `write` with the next `bytes` bytes if they fit, and behind them a root of type `Root`; they count anyway.
    pub(super) fn fill<Root>(&mut self, bytes: usize, write: impl FnOnce(&mut [u8])) {
        let (start, end) = (self.position, self.position + bytes);
        self.position = end;
        let fits = end.next_multiple_of(align_of::<Root>()) + size_of::<Root>() <= self.buffer.room();
        if fits && self.birth.is_here() {
            write(&mut self.buffer.as_bytes_mut()[start..end]); // else [forked in serialize]
        }
    }
}

/// How many bytes a value takes.
#[derive(Clone, Copy)]
struct Extent {
    bytes: usize,
    /// Whether it may be another number in another buffer.
    by_address: bool,
}

/// Serialises into a buffer of the process `birth`. Returns how many bytes the value takes, which may be more than
/// there is room for; `None` by `[forked in serialize]`.
#[inline(always)]
pub(crate) fn write_to<T: Payload>(
    value: &impl AsInput<T>,
    buffer: WriteBuffer<'_>,
    birth: Birth,
) -> Result<Option<usize>, Failure> {
    Ok(write_and_measure::<T>(value, buffer, birth)?.map(|extent| extent.bytes))
}

/// As [`write_to`].
#[inline(always)]
fn write_and_measure<T: Payload>(
    value: &impl AsInput<T>,
    buffer: WriteBuffer<'_>,
    birth: Birth,
) -> Result<Option<Extent>, Failure> {
    const { assert!(align_of::<Archived<T>>() <= PAYLOAD_ALIGN, "payloads are at most 16-aligned") };
    let mut stack = ScratchStack::new();
    let mut serializer = Serializer::new(Output::new(buffer, birth), stack.scratch(), ());
    let resolver = value.serialize_input(Strategy::<_, Failure>::wrap(&mut serializer))?;
    // `into_writer`, and a drop of what it leaves, are not inlined everywhere.
    let Serializer { writer: Output { mut buffer, position, by_address, .. }, allocator, sharing: () } =
        serializer;
    drop(allocator);
    if !birth.is_here() {
        return Ok(None);
    }
    let root = position.next_multiple_of(align_of::<Archived<T>>());
    let end = root + size_of::<Archived<T>>();
    if size_of::<Archived<T>>() > 0
        && let Some(bytes) = buffer.as_bytes_mut().get_mut(position..end)
    {
        let (gap, bytes) = bytes.split_at_mut(root - position);
        if !gap.is_empty() {
            gap.fill(0);
        }
        write_root::<T, _>(value, resolver, root, bytes);
        crash_point!("payload.root");
    }
    Ok(Some(Extent { bytes: end, by_address }))
}

/// Writes the root, which comes last.
///
/// rkyv would make the root on the stack and copy it. Here it is made where it stays, because bytes that were written
/// as fields and are read at once as vectors wait until the fields have left the store buffer. That is done only if the
/// resolver is too small for a position, so that the root has no pointers. A root that may have pointers is made in the
/// thread's [root buffer](crate::wire::scratch) and copied: `resolve`, which users may write, gets a [`Place`] that it
/// could keep, and later make point anywhere while others read the root.
#[inline(always)]
fn write_root<T: Payload, I: AsInput<T>>(value: &I, resolver: I::Resolver, root: usize, to: &mut [u8]) {
    assert_eq!(to.len(), size_of::<Archived<T>>());
    let to = to.as_mut_ptr();
    if align_of::<I::Resolver>() < align_of::<usize>() {
        let archived = to.cast::<Archived<T>>();
        assert!(archived.is_aligned(), "buffers are {PAYLOAD_ALIGN}-aligned");
        // SAFETY: `to` has exactly the bytes of the root, aligned.
        unsafe { archived.write_bytes(0, 1) }; // the padding
        // SAFETY: as above, and all of it is written.
        value.resolve_input(resolver, unsafe { Place::new_unchecked(root, archived) });
        return;
    }
    let buffer = RootBuffer::of(size_of::<Archived<T>>());
    let archived = buffer.start().cast::<Archived<T>>();
    debug_assert!(archived.is_aligned(), "root buffers are {PAYLOAD_ALIGN}-aligned");
    // SAFETY: `RootBuffer` gives that many bytes, aligned, and nothing refers to them.
    unsafe { archived.write_bytes(0, 1) }; // as above
    // SAFETY: as above.
    value.resolve_input(resolver, unsafe { Place::new_unchecked(root, archived) });
    // SAFETY: as above; `to` has as many bytes, elsewhere.
    unsafe { copy_root(archived, to) };
}

/// Copies by words, and not by vectors, for the sake of the store buffer, see [`write_root`].
///
/// # Safety
/// All bytes of `from` are initialised, and `to` has as many.
#[inline(always)]
unsafe fn copy_root<A>(from: *const A, to: *mut u8) {
    let words = size_of::<A>() / size_of::<u64>();
    if align_of::<A>() < align_of::<u64>() || words > 32 {
        // SAFETY: as our caller promises.
        return unsafe { to.copy_from_nonoverlapping(from.cast(), size_of::<A>()) };
    }
    for index in 0..words {
        // SAFETY: one of its words, aligned as it is, as our caller promises. Volatile, so that words stay words.
        unsafe { to.cast::<u64>().add(index).write_unaligned(from.cast::<u64>().add(index).read_volatile()) };
    }
}

/// A value's payload bytes on the heap: for what is written into a segment once.
pub(crate) fn to_bytes<T: Payload>(value: &T) -> Result<Vec<u8>, Failure> {
    // One pass to count, into a buffer of no bytes; one to write.
    let birth = Birth::here();
    let forked = || Failure::new(io::Error::other("this process was forked while the value was serialised"));
    let bytes = write_to::<T>(value, WriteBuffer::over(&mut []), birth)?.ok_or_else(forked)?;
    let mut buffer = AlignedVec::<BYTES_ALIGN>::new(); // as it was measured
    buffer.resize(bytes, 0);
    write_to::<T>(value, WriteBuffer::over(&mut buffer), birth)?.ok_or_else(forked)?;
    Ok(buffer.to_vec())
}

/// A guard of a task that is being written: it has the in-line buffer, and can have a block.
pub(crate) trait Buffers {
    fn inline_buffer(&mut self) -> WriteBuffer<'_>;
    fn block_buffer(&mut self, bytes: u64) -> Result<WriteBuffer<'_>, PoolError>;
    fn set_length(&mut self, bytes: usize);
    /// Lets the outcome be written over the input, so that there is always a buffer. Guards that do not keep inputs do
    /// so anyway.
    fn give_up_input(&mut self) {}
}

macro_rules! buffers {
    ($guard:ty $(, $give_up:item)?) => {
        impl Buffers for $guard {
            #[inline]
            fn inline_buffer(&mut self) -> WriteBuffer<'_> {
                <$guard>::inline_buffer(self)
            }
            fn block_buffer(&mut self, bytes: u64) -> Result<WriteBuffer<'_>, PoolError> {
                <$guard>::block_buffer(self, bytes)
            }
            #[inline]
            fn set_length(&mut self, bytes: usize) {
                <$guard>::set_length(self, bytes);
            }
            $($give_up)?
        }
    };
}
buffers!(Filling<'_>);
buffers!(Claimed<'_>);
buffers!(
    Keeping<'_>,
    fn give_up_input(&mut self) {
        Keeping::give_up_input(self);
    }
);
buffers!(JoinBuffer<'_, '_>);

/// Serialises a value into a task of the process `birth`: in line if it fits, else into a block.
///
/// The in-line buffer is overwritten in any case; what lies in a block stays unless the value is written over it. In a
/// child that `Serialize` has forked nothing more is written (`[forked in serialize]`): the caller checks afterwards
/// whose task it is.
#[inline]
pub(crate) fn encode<T: Payload>(
    value: &impl AsInput<T>,
    to: &mut impl Buffers,
    birth: Birth,
) -> Result<(), EncodeError> {
    let buffer = to.inline_buffer();
    let room = buffer.room();
    let Some(Extent { bytes, by_address }) = write_and_measure::<T>(value, buffer, birth)? else {
        return Ok(());
    };
    if bytes > room {
        return encode_in_block::<T>(value, to, (!by_address).then_some(bytes), birth);
    }
    crash_point!("payload.inline");
    to.set_length(bytes);
    Ok(())
}

/// `bytes`: how many the value takes in a block, if that is known.
#[cold]
fn encode_in_block<T: Payload>(
    value: &impl AsInput<T>,
    to: &mut impl Buffers,
    bytes: Option<usize>,
    birth: Birth,
) -> Result<(), EncodeError> {
    let bytes = match bytes {
        Some(bytes) => bytes,
        None => match write_to::<T>(value, WriteBuffer::over(&mut []), birth)? {
            Some(bytes) => bytes,
            None => return Ok(()),
        },
    };
    let Some(written) = write_to::<T>(value, to.block_buffer(bytes as u64)?, birth)? else { return Ok(()) };
    if written > bytes {
        return Err(EncodeError::Unsteady { first: bytes as u64, second: written as u64 });
    }
    crash_point!("payload.block");
    to.set_length(written);
    Ok(())
}

/// A validated view of payload bytes.
///
/// It checks where the root lies as rkyv's `access_with_context` does, and gives the type's own check a validator in the
/// state in which that function gives it one. That function makes its validator first, outside of the root, so that even a
/// type without pointers, which asks the validator nothing, pays for it.
#[inline]
pub(crate) fn view<T: Payload>(bytes: &[u8]) -> Result<&Archived<T>, Failure> {
    match root_in::<T>(bytes) {
        Some(root) => Ok(root),
        None => Err(why_wrong::<T>(bytes)),
    }
}

#[inline(always)]
fn root_in<T: Payload>(bytes: &[u8]) -> Option<&Archived<T>> {
    let position = bytes.len().checked_sub(size_of::<Archived<T>>())?;
    let before = &bytes[..position];
    let root = bytes.as_ptr().wrapping_add(position).cast::<Archived<T>>(); // of all bytes: its pointers lead before it
    if !root.is_aligned() {
        return None;
    }
    // Pointers in the root lead to what lies before it.
    let mut validator = Validator::new(ArchiveValidator::with_max_depth(before, Some(DEPTHS_IN_ROOT)), ());
    // SAFETY: `root` is aligned, and as many bytes as the type has lie there, which `bytes` borrows.
    let checked = unsafe { Archived::<T>::check_bytes(root, Strategy::<_, Wrong>::wrap(&mut validator)) };
    // SAFETY: as above, and the check has found that these bytes are a value of the type.
    checked.is_ok().then(|| unsafe { &*root })
}

/// Why the bytes are invalid. A validation that can say so costs more, so valid payloads are spared it.
#[cold]
#[inline(never)]
fn why_wrong<T: Payload>(bytes: &[u8]) -> Failure {
    let mut validator = Validator::new(ArchiveValidator::with_max_depth(bytes, Some(DEPTHS)), ());
    match access_with_context::<Archived<T>, _, Failure>(bytes, &mut validator) {
        Err(failure) => failure,
        Ok(_) => Failure::new(io::Error::other("the bytes changed while they were read")),
    }
}

/// The value of payload bytes, such as a program that looks at a segment has read there: of any bytes, at any address. Reads a
/// copy of them; on the way of a call nothing is copied.
///
/// ```
/// use ringmill::payload::from_bytes;
///
/// assert!(from_bytes::<u32>(&[7, 0, 0, 0]).is_ok_and(|value| value == 7));
/// assert!(from_bytes::<bool>(&[7]).is_err());
/// ```
///
/// # Errors
/// If the bytes are no value of this type. Of a type that has the same form they may be one.
pub fn from_bytes<T: Payload>(bytes: &[u8]) -> Result<T, Failure> {
    let mut aligned = AlignedVec::<PAYLOAD_ALIGN>::with_capacity(bytes.len());
    aligned.extend_from_slice(bytes);
    view::<T>(&aligned).and_then(owned::<T>)
}

/// The value of an archived one: an input as a value of your own. For an outcome there is
/// [`Reply::into_owned`](crate::Reply::into_owned), for an item of a batch
/// [`Item::input_owned`](crate::worker::Item::input_owned).
///
/// ```
/// use ringmill::payload::owned;
/// use ringmill::rkyv::Archived;
///
/// // A `Worker`, or a function, is given the archived value.
/// ringmill::make_worker!(Sorted: Vec<String> => Vec<String>, |words: &Archived<Vec<String>>| {
///     let mut words = owned::<Vec<String>>(words)?;
///     words.sort();
///     Ok::<_, ringmill::BoxError>(words)
/// });
/// # fn main() {}
/// ```
///
/// # Errors
/// If the type's own `Deserialize` refuses the value; those that rkyv derives do not.
pub fn owned<T: Payload>(archived: &Archived<T>) -> Result<T, Failure> {
    deserialize::<T, Failure>(archived)
}

/// A validated input of a claimed task, without the lifetime of its guard. Its holder keeps the task, and gives out
/// views only while it does.
#[derive(Debug)]
pub(crate) struct Validated<T: Payload>(NonNull<Archived<T>>);

impl<T: Payload> Clone for Validated<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T: Payload> Copy for Validated<T> {}

// SAFETY: it is used as a shared reference to the value is: it gives out nothing but views.
unsafe impl<T: Payload> Send for Validated<T> where Archived<T>: Sync {}
// SAFETY: as above.
unsafe impl<T: Payload> Sync for Validated<T> where Archived<T>: Sync {}

impl<T: Payload> Validated<T> {
    #[inline(always)]
    pub(crate) fn of_claimed(task: &Claimed<'_>) -> Result<Self, ReadError> {
        Self::of_bytes(task.payload()?)
    }

    #[inline(always)]
    pub(crate) fn of_value(value: &Value<'_>) -> Result<Self, ReadError> {
        Self::of_bytes(value.payload()?)
    }

    #[inline(always)]
    pub(crate) fn of_bytes(bytes: &[u8]) -> Result<Self, ReadError> {
        match view::<T>(bytes) {
            Ok(archived) => Ok(Self(NonNull::from(archived))),
            Err(failure) => Err(Self::invalid(failure)),
        }
    }

    #[cold]
    fn invalid(failure: Failure) -> ReadError {
        ReadError::new(std::any::type_name::<T>(), failure)
    }

    /// The view.
    ///
    /// # Safety
    /// The task whose payload it is must still be held, mapped and unwritten for `'a`.
    #[inline]
    pub(crate) unsafe fn get<'a>(self) -> &'a Archived<T> {
        // SAFETY: validated when made; the caller keeps the bytes as they were.
        unsafe { self.0.as_ref() }
    }
}

/// A number that differs where two programs can be seen to disagree about a worker's payloads. It covers the names,
/// sizes and alignments of the types, of their archived forms and of their resolvers (what is known of a value between
/// serialising and resolving it: a struct of as many parts as the value has pointers), and the `SCHEMA` that the worker
/// type states.
///
/// Types that only promise to be [`Payload`]s tell no more. A check of an archived value cannot fail at an integer, so
/// it does not tell where one is; reading and writing need a value and go by the fields' own code. So fields of one
/// size that were swapped, or have a new meaning, are not found: `SCHEMA` is there for them. The size of the type
/// itself is left out: compilers may differ in it, and it is not what travels.
pub(crate) fn layout_hash<In: Payload, Out: Payload, Config: Payload>(schema: u64) -> u64 {
    fn of<T>() -> (&'static str, usize, usize) {
        (std::any::type_name::<T>(), size_of::<T>(), align_of::<T>())
    }
    fn facts<T: Payload>() -> impl std::fmt::Debug {
        (
            std::any::type_name::<T>(),
            of::<Archived<T>>(),
            of::<T::Resolver>(),
            T::COPY_OPTIMIZATION.is_enabled(),
        )
    }
    let text = format!("{:?} {:?} {:?} {schema}", facts::<In>(), facts::<Out>(), facts::<Config>());
    ringmill_shm::layout::hash(text.bytes())
}

/// A number that two types hardly share: for values that travel without a type that the plan knows.
pub(crate) fn kind_of<T: Payload>() -> u64 {
    let size = size_of::<Archived<T>>() as u64;
    ringmill_shm::layout::hash(std::any::type_name::<T>().bytes().chain(size.to_le_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Member, MemberOutcome, RemoteCause, RemoteError};

    #[test]
    fn the_format_is_the_one_promised() {
        // Little-endian, aligned, 64-bit pointers: a string of 17 bytes lies before its 16-byte reference.
        let bytes = rkyv::to_bytes::<Failure>(&(0x0102_0304_u32, String::from("seventeen letters"))).unwrap();
        assert_eq!(bytes.len(), 17 + 7 + 8 + 16);
        assert_eq!(bytes[24..28], [4, 3, 2, 1]);
    }

    fn bytes_of<T: Payload>(input: impl AsInput<T>) -> Vec<u8> {
        let mut buffer = AlignedVec::<PAYLOAD_ALIGN>::new();
        buffer.resize(1 << 12, 0xAA);
        let written = write_to::<T>(&input, WriteBuffer::over(&mut buffer), Birth::here()).unwrap().unwrap();
        assert!(written <= buffer.len());
        buffer[..written].to_vec()
    }

    #[test]
    fn what_borrows_as_an_input_has_its_bytes() {
        // Texts of up to 16 bytes lie within the root, longer ones before it.
        for length in [0, 1, 7, 15, 16, 17, 40, 1000] {
            let text: String = ('a'..='z').cycle().take(length).collect();
            assert_eq!(bytes_of::<String>(text.as_str()), bytes_of::<String>(&text));
            assert_eq!(bytes_of::<String>(text.clone()), to_bytes(&text).unwrap());
            let numbers: Vec<u16> = (0..length as u16).collect();
            assert_eq!(bytes_of::<Vec<u16>>(&numbers[..]), to_bytes(&numbers).unwrap());
            let texts = vec![text; length % 5];
            assert_eq!(bytes_of::<Vec<String>>(&texts[..]), to_bytes(&texts).unwrap());
        }
        let seven = [1_u64, 2, 3, 4, 5, 6, 7];
        assert_eq!(bytes_of::<Vec<u64>>(&seven), to_bytes(&seven.to_vec()).unwrap());
        assert_ne!(bytes_of::<[u64; 7]>(&seven), bytes_of::<Vec<u64>>(&seven), "an array is an input too");
    }

    #[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
    #[rkyv(serialize_bounds(__S: rkyv::ser::Writer + rkyv::ser::Allocator, __S::Error: rkyv::rancor::Source))]
    #[rkyv(deserialize_bounds(__D::Error: rkyv::rancor::Source))]
    #[rkyv(bytecheck(bounds(__C: rkyv::validation::ArchiveContext, __C::Error: rkyv::rancor::Source)))]
    struct Chain(#[rkyv(omit_bounds)] Option<Box<Chain>>);

    fn chain(links: usize) -> Chain {
        (0..links).fold(Chain(None), |chain, _| Chain(Some(Box::new(chain))))
    }

    /// An ensemble's error within another's, and so on.
    fn nested(depth: usize) -> RemoteError {
        let of = |cause| RemoteError { servlet: "s".into(), worker: 0, pid: 0, attempt: 0, cause };
        (0..depth).fold(of(RemoteCause::Unanswered), |error, _| {
            let member = Member { name: "m".into(), outcome: MemberOutcome::Failed { error } };
            of(RemoteCause::Ensemble { members: vec![member] })
        })
    }

    /// Symptom: a payload of nothing but nested pointers crashed its reader's process. Cause: validation recurses, and
    /// ran out of stack. Fix: a limit, for which half a worker thread's stack is enough: to validate, own, print,
    /// shorten and drop the payload.
    #[test]
    fn payloads_that_are_too_deep_are_refused_and_others_need_little_stack() {
        let with_stack = |bytes, body: fn()| {
            let thread = std::thread::Builder::new().stack_size(bytes);
            thread.spawn(body).expect("a thread").join().expect("no panic");
        };
        with_stack(1 << 20, || {
            assert!(from_bytes::<Chain>(&to_bytes(&chain(DEPTH_LIMIT)).unwrap()).is_ok());
            let error = from_bytes::<Chain>(&to_bytes(&chain(DEPTH_LIMIT + 1)).unwrap()).err().unwrap();
            assert!(
                error.to_string().starts_with("more than 128 pointers lie one within the other"),
                "{error}"
            );
        });
        with_stack(1 << 20, || {
            let mut depth = DEPTH_LIMIT;
            let mut error = loop {
                match from_bytes::<RemoteError>(&to_bytes(&nested(depth)).unwrap()) {
                    Ok(error) => break error,
                    Err(_) => depth -= 1,
                }
            };
            assert!(depth > DEPTH_LIMIT / 4, "{depth}");
            assert!(format!("{error} {error:#}").len() > depth);
            assert!(error.shorten());
        });
    }

    /// A task's in-line buffer begins in the middle of a line.
    #[test]
    fn bytes_are_aligned_wherever_the_buffer_begins() {
        use crate::wire::bytes::Bytes;
        #[repr(align(64))]
        struct Room([u8; 512]);
        type Mixed = (u8, Bytes, Vec<Bytes>, Bytes);
        let part = |bytes: usize| Bytes::from(vec![7; bytes]);
        for length in [0, 1, 47, 48, 49, 64, 65, 100] {
            let mixed: Mixed = (1, part(length), vec![part(1), part(2)], part(3));
            let measured = to_bytes(&mixed).unwrap().len();
            for start in (0..64).step_by(PAYLOAD_ALIGN) {
                let mut room = Room([0xAA; 512]);
                let buffer = &mut room.0[start..];
                let end =
                    write_to::<Mixed>(&mixed, WriteBuffer::over(buffer), Birth::here()).unwrap().unwrap();
                assert!(start != 0 || end == measured, "{length}");
                let read = view::<Mixed>(&buffer[..end]).unwrap();
                assert_eq!(owned::<Mixed>(read).unwrap(), mixed);
                let all = [&read.1[..], &read.2[0][..], &read.2[1][..], &read.3[..]];
                assert!(all.iter().all(|part| part.is_empty() || part.as_ptr().addr().is_multiple_of(64)));
            }
        }
        assert_eq!(bytes_of::<Bytes>(&[1, 2, 3]), bytes_of::<Bytes>(&Bytes::from(vec![1, 2, 3])));
    }

    #[test]
    fn types_that_differ_have_different_hashes() {
        #[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
        struct Plain(u32, u32);
        #[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
        struct Pointing(String);
        mod other {
            #[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
            pub(super) struct Plain(u32, u32);
        }
        let same = layout_hash::<u32, u32, ()>(0);
        assert_eq!(layout_hash::<u32, u32, ()>(0), same);
        let others = [
            layout_hash::<u32, u32, ()>(1),
            layout_hash::<u32, u64, ()>(0),
            layout_hash::<u32, f32, ()>(0),
            layout_hash::<u32, (), u32>(0),
            layout_hash::<[u8; 8], u32, ()>(0),
            layout_hash::<u64, u32, ()>(0),
            layout_hash::<Plain, u32, ()>(0),
            layout_hash::<other::Plain, u32, ()>(0),
            layout_hash::<Pointing, u32, ()>(0),
            layout_hash::<Vec<Plain>, u32, ()>(0),
            layout_hash::<Vec<Pointing>, u32, ()>(0),
        ];
        let all: std::collections::BTreeSet<u64> = others.into_iter().chain([same]).collect();
        assert_eq!(all.len(), others.len() + 1);
    }
}
