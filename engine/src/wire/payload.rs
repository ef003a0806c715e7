//! What travels: rkyv types, serialised straight into the segment and read there.
//!
//! The format is fixed by three rkyv features (little-endian, aligned, 64-bit pointers) and by
//! [`PAYLOAD_FORMAT`], which is part of a segment's fingerprint. The width of pointers is also that of `usize` and
//! `isize`: narrower ones would cut their values without an error.
//!
//! # Reliance
//!
//! rkyv hands `Archive::resolve`, which safe code may implement, a `Place` without a lifetime. One that is kept and
//! written to later does not reach pointers in the segment, see `write_root`; unless a hand-written `Archive` has a
//! `Resolver` without positions, brings those of its pointers by another way, and keeps the place: we rely on there being
//! none. What lies *before* a root, rkyv makes on its own stack: there a kept `Place` dangles, in its own
//! process, in any program that uses rkyv.
#![expect(unsafe_code, reason = "a view of bytes that were validated when they were taken")]

use super::DEPTH_LIMIT;
use super::error::{EncodeError, PayloadError as Failure, ReadError};
use super::scratch::{RootPlace, Scratch, ScratchRoom};
use ringmill_shm::arena::{Claimed, Done, Filling, JoinPlace, Keeping, WritePlace};
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
use rkyv::util::AlignedVec;
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::{Archive, Archived, Deserialize, Place, Portable, Serialize};
use std::io;
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

/// As rkyv counts: what the root lies in, and the first that is too many.
const DEPTHS: NonZeroUsize = NonZeroUsize::new(DEPTH_LIMIT + 2).expect("not zero");

/// What payloads are serialised with.
pub type Encoder<'a> = Strategy<Serializer<Output<'a>, Scratch<'a>, ()>, Failure>;
/// What payloads are validated with: that something is wrong is all that is told.
pub type Checker<'a> = LowValidator<'a, Wrong>;
/// What those are validated with once more that are not valid: what is wrong.
pub type Explainer<'a> = LowValidator<'a, Failure>;

/// A type that can travel: rkyv's `Archive`, `Serialize` and `Deserialize`, validated with `CheckBytes`,
/// without shared pointers. Implemented for all that qualify.
///
/// Whoever reads a payload refuses one with more than 128 pointers one within the other, with
/// [`RemoteCause::TooDeep`](crate::RemoteCause::TooDeep) for an input: a linked list of more links, say. The sender
/// cannot know, since rkyv does not say how deep it is. A `Vec` is one pointer, however long.
///
/// What arrives is what was sent, to the bit; `usize` and `isize` have 64 bits. The exceptions are rkyv's: a hash map or set
/// gets a new hasher (`S::default()`), a `RangeInclusive` that was iterated to its end forgets that, and a field with
/// `with = Skip` is its type's default. A value must not change while it is sent: what is behind `with = Lock` or
/// `with = AtomicLoad` is read twice.
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

/// A place in the segment as a serialiser's writer. What does not fit is counted, not written, so that
/// one pass tells how large the payload is.
#[derive(Debug)]
pub struct Output<'a> {
    place: WritePlace<'a>,
    position: usize,
    /// The process whose place it is.
    birth: Birth,
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
            self.place.write(self.position, bytes); // else *forked in serialize*
        }
        self.position += bytes.len();
        crash_point!("payload.some");
        Ok(())
    }
}

/// Serialises into a place of the process `birth`; how many bytes it takes, which may be more than there is room for.
///
/// *forked in serialize*: `Serialize` is user code, and may fork. A child that comes back from it has a place that is its
/// parent's, and another request's perhaps by now: the child writes nothing more, and there is `None`. (It is no error:
/// the bytes of a plain type are written without a way to fail. Our callers ask again whose request it is.)
#[inline(always)]
fn write_to<T: Payload>(value: &T, place: WritePlace<'_>, birth: Birth) -> Result<Option<usize>, Failure> {
    const { assert!(align_of::<Archived<T>>() <= PAYLOAD_ALIGN, "payloads are at most 16-aligned") };
    let mut room = ScratchRoom::new();
    let mut serializer = Serializer::new(Output { place, position: 0, birth }, room.scratch(), ());
    let resolver = value.serialize(Strategy::<_, Failure>::wrap(&mut serializer))?;
    let Output { mut place, position, .. } = serializer.into_writer();
    if !birth.is_here() {
        return Ok(None);
    }
    let root = position.next_multiple_of(align_of::<Archived<T>>());
    let end = root + size_of::<Archived<T>>();
    if size_of::<Archived<T>>() > 0
        && let Some(bytes) = place.as_bytes_mut().get_mut(position..end)
    {
        let (gap, bytes) = bytes.split_at_mut(root - position);
        gap.fill(0);
        write_root(value, resolver, root, bytes);
        crash_point!("payload.root");
    }
    Ok(Some(end))
}

/// Writes the root, which comes last.
///
/// rkyv would make it on the stack and copy it. Here it is made in its place, since what was written by fields and is read
/// again at once by vectors waits until the fields have left the store buffer; but only if its resolver has no room
/// for a position, and so it has no pointers. One that may have some is made in a thread's
/// [room for roots](crate::wire::scratch) and copied: `resolve`, which users may write, gets a [`Place`] that it could keep, and
/// have point anywhere once others read what lies there.
#[inline(always)]
fn write_root<T: Payload>(value: &T, resolver: T::Resolver, root: usize, to: &mut [u8]) {
    assert_eq!(to.len(), size_of::<Archived<T>>());
    let to = to.as_mut_ptr();
    if align_of::<T::Resolver>() < align_of::<usize>() {
        let archived = to.cast::<Archived<T>>();
        assert!(archived.is_aligned(), "places are {PAYLOAD_ALIGN}-aligned");
        // SAFETY: so many bytes lie there, aligned.
        unsafe { archived.write_bytes(0, 1) }; // what is between the parts of it
        // SAFETY: as above, and all of it is written.
        value.resolve(resolver, unsafe { Place::new_unchecked(root, archived) });
        return;
    }
    let room = RootPlace::of(size_of::<Archived<T>>());
    let archived = room.start().cast::<Archived<T>>();
    debug_assert!(archived.is_aligned(), "rooms are {PAYLOAD_ALIGN}-aligned");
    // SAFETY: so much memory lies there, aligned, and nothing refers to it.
    unsafe { archived.write_bytes(0, 1) }; // as above
    // SAFETY: as above.
    value.resolve(resolver, unsafe { Place::new_unchecked(root, archived) });
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

/// A value's bytes on the heap, in the same format: for what is written into a segment once.
pub(crate) fn to_bytes<T: Payload>(value: &T) -> Result<Vec<u8>, Failure> {
    // One pass to count, into a place of no room; one to write.
    let birth = Birth::here();
    let forked = || Failure::new(io::Error::other("this process was forked while the value was serialised"));
    let bytes = write_to(value, WritePlace::over(&mut []), birth)?.ok_or_else(forked)?;
    let mut buffer = AlignedVec::<PAYLOAD_ALIGN>::new();
    buffer.resize(bytes, 0);
    write_to(value, WritePlace::over(&mut buffer), birth)?.ok_or_else(forked)?;
    Ok(buffer.to_vec())
}

/// Something that has an in-line place and can have a block: the guards of a task that is being written.
pub(crate) trait Places {
    fn inline_place(&mut self) -> WritePlace<'_>;
    fn block_place(&mut self, bytes: u64) -> Result<WritePlace<'_>, PoolError>;
    fn set_length(&mut self, bytes: usize);
    /// From here on there is always a place, over the input; so there is where this is not said.
    fn give_up_input(&mut self) {}
}

macro_rules! places {
    ($guard:ty $(, $give_up:item)?) => {
        impl Places for $guard {
            #[inline]
            fn inline_place(&mut self) -> WritePlace<'_> {
                <$guard>::inline_place(self)
            }
            fn block_place(&mut self, bytes: u64) -> Result<WritePlace<'_>, PoolError> {
                <$guard>::block_place(self, bytes)
            }
            #[inline]
            fn set_length(&mut self, bytes: usize) {
                <$guard>::set_length(self, bytes);
            }
            $($give_up)?
        }
    };
}
places!(Filling<'_>);
places!(Claimed<'_>);
places!(
    Keeping<'_>,
    fn give_up_input(&mut self) {
        Keeping::give_up_input(self);
    }
);
places!(JoinPlace<'_, '_>);

/// Serialises a value into a task of the process `birth`: in line if it fits, else into a block.
///
/// The in-line place is overwritten in any case; what lies in a block stays unless it is written over. In a child that
/// `Serialize` has forked nothing more is written (*forked in serialize*): whoever calls this asks after it whose task it is.
#[inline]
pub(crate) fn encode<T: Payload>(value: &T, to: &mut impl Places, birth: Birth) -> Result<(), EncodeError> {
    let place = to.inline_place();
    let room = place.room();
    let Some(bytes) = write_to(value, place, birth)? else { return Ok(()) };
    if bytes > room {
        return encode_in_block(value, to, bytes, birth);
    }
    crash_point!("payload.inline");
    to.set_length(bytes);
    Ok(())
}

#[cold]
fn encode_in_block<T: Payload>(
    value: &T,
    to: &mut impl Places,
    bytes: usize,
    birth: Birth,
) -> Result<(), EncodeError> {
    let Some(written) = write_to(value, to.block_place(bytes as u64)?, birth)? else { return Ok(()) };
    if written > bytes {
        return Err(EncodeError::Unsteady { first: bytes as u64, second: written as u64 });
    }
    crash_point!("payload.block");
    to.set_length(written);
    Ok(())
}

/// A validated view of payload bytes.
#[inline]
pub(crate) fn view<T: Payload>(bytes: &[u8]) -> Result<&Archived<T>, Failure> {
    access_with_context::<Archived<T>, _, Wrong>(bytes, &mut validator(bytes))
        .map_err(|Wrong| why_wrong::<T>(bytes))
}

#[inline(always)]
fn validator(bytes: &[u8]) -> Validator<ArchiveValidator<'_>, ()> {
    Validator::new(ArchiveValidator::with_max_depth(bytes, Some(DEPTHS)), ())
}

/// What is wrong. Validation that could tell would cost more where nothing is.
#[cold]
#[inline(never)]
fn why_wrong<T: Payload>(bytes: &[u8]) -> Failure {
    match access_with_context::<Archived<T>, _, Failure>(bytes, &mut validator(bytes)) {
        Err(failure) => failure,
        Ok(_) => Failure::new(io::Error::other("it changes while it is read")),
    }
}

/// The value of payload bytes that somebody may be writing over: of a copy of them. For what is small and not
/// on the way of a call.
pub(crate) fn copied<T: Payload>(bytes: &[u8]) -> Result<T, Failure> {
    let mut aligned = AlignedVec::<PAYLOAD_ALIGN>::with_capacity(bytes.len());
    aligned.extend_from_slice(bytes);
    view::<T>(&aligned).and_then(owned::<T>)
}

/// The value of a view.
pub(crate) fn owned<T: Payload>(archived: &Archived<T>) -> Result<T, Failure> {
    deserialize::<T, Failure>(archived)
}

/// A validated input of a claimed task, without the lifetime of its guard: whoever holds one keeps the
/// task and gives out views only as long as it does.
#[derive(Debug)]
pub(crate) struct Validated<T: Payload>(NonNull<Archived<T>>);

impl<T: Payload> Clone for Validated<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T: Payload> Copy for Validated<T> {}

// SAFETY: it is used as a shared reference to the value is: views are all that it gives.
unsafe impl<T: Payload> Send for Validated<T> where Archived<T>: Sync {}
// SAFETY: as above.
unsafe impl<T: Payload> Sync for Validated<T> where Archived<T>: Sync {}

impl<T: Payload> Validated<T> {
    #[inline(always)]
    pub(crate) fn of_claimed(task: &Claimed<'_>) -> Result<Self, ReadError> {
        Self::of_bytes(task.payload()?)
    }

    #[inline(always)]
    pub(crate) fn of_done(task: &Done<'_>) -> Result<Self, ReadError> {
        Self::of_bytes(task.payload()?)
    }

    #[inline(always)]
    fn of_bytes(bytes: &[u8]) -> Result<Self, ReadError> {
        match view::<T>(bytes) {
            Ok(archived) => Ok(Self(NonNull::from(archived))),
            Err(failure) => Err(Self::invalid(&failure)),
        }
    }

    #[cold]
    fn invalid(failure: &Failure) -> ReadError {
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

/// A number that differs where two programs are found to disagree about what a worker's payloads are: by the names, sizes
/// and alignments of the types, of their archived forms and of what is known of a value between serialising and resolving
/// it (a struct of as many parts as the value has pointers), and by the `SCHEMA` that the worker type states.
///
/// That is all that can be had of types which only promise to be [`Payload`]s. A check of an archived value cannot fail at
/// an integer, so it does not tell where one is; reading and writing need a value and go by the fields' own code. So fields
/// of one size that have changed places, or mean something else, are not found: `SCHEMA` is there for them. The size of the
/// type itself is left out: compilers may differ in it, and it is not what travels.
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

    /// Symptom: a payload of nothing but pointers, one within the other, took its reader's process down. Cause:
    /// who validates recurses, and ran out of stack. Fix: a limit, which half a worker thread's stack has room
    /// for: to validate, own, print, shorten and drop it.
    #[test]
    fn payloads_that_are_too_deep_are_refused_and_others_need_little_stack() {
        let with_stack = |bytes, body: fn()| {
            let thread = std::thread::Builder::new().stack_size(bytes);
            thread.spawn(body).expect("a thread").join().expect("no panic");
        };
        with_stack(1 << 20, || {
            assert!(copied::<Chain>(&to_bytes(&chain(DEPTH_LIMIT)).unwrap()).is_ok());
            let error = copied::<Chain>(&to_bytes(&chain(DEPTH_LIMIT + 1)).unwrap()).err().unwrap();
            assert!(
                error.to_string().starts_with("more than 128 pointers lie one within the other"),
                "{error}"
            );
        });
        with_stack(1 << 20, || {
            let mut depth = DEPTH_LIMIT;
            let mut error = loop {
                match copied::<RemoteError>(&to_bytes(&nested(depth)).unwrap()) {
                    Ok(error) => break error,
                    Err(_) => depth -= 1,
                }
            };
            assert!(depth > DEPTH_LIMIT / 4, "{depth}");
            assert!(format!("{error} {error:#}").len() > depth);
            assert!(error.shorten());
        });
    }

    #[test]
    fn what_differs_has_other_hashes() {
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
