//! Opaque bytes as payloads: for programs of any language, which agree on what the bytes mean by a schema.
//!
//! # Layout
//!
//! As rkyv lays out a vector of bytes, but the bytes begin at a multiple of 64 of the *address*, wherever the payload begins:
//! the in-line buffer of a task does not begin at such a multiple, blocks do. So the writer asks where its buffer lies
//! ([`Output::align`]), and an input that turns out to be too long for the in-line buffer is measured once more for its block.

use super::error::PayloadError as Failure;
use super::payload::{AsInput, BYTES_ALIGN, Encoder, Payload, sealed};
use ringmill_shm::text::is_unruly;
use rkyv::bytecheck::CheckBytes;
use rkyv::munge::munge;
use rkyv::rancor::Fallible;
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::{Archive, Deserialize, Place, Portable, Serialize};
use std::fmt;
use std::ops::Deref;

/// Opaque bytes: a payload for programs of any language. In the segment, where a worker reads an input and a caller a
/// [`Reply`](crate::Reply), they begin at a multiple of 64 of the address: SIMD code and tensors can use them where they lie. (Of an ensemble's
/// joined outcome it is a multiple of 16.)
///
/// What they mean is between the two programs. A [`Schema`] says it, and is compared when a worker's process starts: see
/// [`input_schema`](crate::ProcessServlet::input_schema) and
/// [`NamedWorker::input_schema`](crate::program::NamedWorker::input_schema).
///
/// ```
/// # fn main() -> Result<(), ringmill::BoxError> {
/// use ringmill::payload::Bytes;
/// use ringmill::{Server, ThreadServlet};
///
/// ringmill::make_worker!(Reverse: Bytes => Bytes, |bytes| bytes.iter().rev().copied().collect::<Bytes>());
///
/// let server = Server::anonymous("bytes").start(ThreadServlet::<Reverse>::new(()))?;
/// let reply = server.call_ref(&[1, 2, 3][..])?; // written once, into the segment
/// assert_eq!(reply[..], [3, 2, 1]); // read there
/// assert!(reply.as_ptr().addr().is_multiple_of(64));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Bytes(Vec<u8>);

impl Bytes {
    /// The bytes as they are on the heap.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        self.0
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl FromIterator<u8> for Bytes {
    fn from_iter<I: IntoIterator<Item = u8>>(bytes: I) -> Self {
        Self(bytes.into_iter().collect())
    }
}

impl fmt::Debug for Bytes {
    /// The first of them, and how many there are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_bytes(self, f)
    }
}

fn fmt_bytes(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const MOST: usize = 16;
    write!(f, "{} bytes:", bytes.len())?;
    bytes.iter().take(MOST).try_for_each(|byte| write!(f, " {byte:02x}"))?;
    f.write_str(if bytes.len() > MOST { " …" } else { "" })
}

/// [`Bytes`] where they lie in the segment.
#[derive(Portable, CheckBytes)]
#[rkyv(crate = rkyv)]
#[bytecheck(crate = rkyv::bytecheck)]
#[repr(transparent)]
pub struct ArchivedBytes(ArchivedVec<u8>);

impl Deref for ArchivedBytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for ArchivedBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for ArchivedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_bytes(self, f)
    }
}

fn serialize(bytes: &[u8], encoder: &mut Encoder<'_>) -> Result<VecResolver, Failure> {
    if !bytes.is_empty() {
        encoder.writer.align(BYTES_ALIGN)?;
    }
    ArchivedVec::<u8>::serialize_from_slice(bytes, encoder)
}

fn resolve(bytes: &[u8], resolver: VecResolver, out: Place<ArchivedBytes>) {
    munge!(let ArchivedBytes(vec) = out);
    ArchivedVec::resolve_from_len(bytes.len(), resolver, vec);
}

impl Archive for Bytes {
    type Archived = ArchivedBytes;
    type Resolver = VecResolver;

    fn resolve(&self, resolver: VecResolver, out: Place<ArchivedBytes>) {
        resolve(self, resolver, out);
    }
}

impl<'a> Serialize<Encoder<'a>> for Bytes {
    fn serialize(&self, encoder: &mut Encoder<'a>) -> Result<VecResolver, Failure> {
        serialize(self, encoder)
    }
}

impl<D: Fallible + ?Sized> Deserialize<Bytes, D> for ArchivedBytes {
    fn deserialize(&self, _: &mut D) -> Result<Bytes, D::Error> {
        Ok(Bytes(self.to_vec()))
    }
}

macro_rules! as_bytes {
    ($([$($generics:tt)*] $type:ty),+) => {$(
        impl<$($generics)*> sealed::Sealed<Bytes> for $type {}

        impl<$($generics)*> AsInput<Bytes> for $type {
            type Resolver = VecResolver;

            #[inline]
            fn serialize_input(&self, encoder: &mut Encoder<'_>) -> Result<VecResolver, Failure> {
                serialize(&self[..], encoder)
            }

            #[inline]
            fn resolve_input(&self, resolver: VecResolver, out: Place<ArchivedBytes>) {
                resolve(&self[..], resolver, out);
            }
        }
    )+};
}
as_bytes!([] &[u8], [const N: usize] &[u8; N]);

/// What opaque bytes mean: a name, a version, and a number that changes with the details, as a hash of the message's
/// definition does. Two programs agree if all three are equal.
///
/// ```
/// use ringmill::payload::Schema;
///
/// let schema = Schema::new("app.Tensor", 2).hash(ringmill::worker::schema("f32[N,H,W,C]"));
/// assert_ne!(schema, Schema::new("app.Tensor", 2));
/// assert_eq!(Schema::new("app.Tensor", 2).to_string(), "app.Tensor v2 #0000000000000000");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Schema {
    name: String,
    version: u32,
    hash: u64,
}

impl Schema {
    /// A schema whose hash is 0. The name is any text of 1 to 128 bytes on one line.
    #[must_use]
    pub fn new(name: impl Into<String>, version: u32) -> Self {
        Self { name: name.into(), version, hash: 0 }
    }

    /// The same name and version with this hash.
    #[must_use]
    pub fn hash(mut self, hash: u64) -> Self {
        self.hash = hash;
        self
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, version, hash } = self;
        write!(f, "{name} v{version} #{hash:016x}")
    }
}

/// The longest name of a schema, in bytes.
pub(crate) const SCHEMA_NAME_LIMIT: usize = 128;

/// What a servlet says of its payloads' bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Schemas {
    pub(crate) input: Option<Schema>,
    pub(crate) outcome: Option<Schema>,
}

impl Schemas {
    /// A name that no schema can have.
    pub(crate) fn bad_name(&self) -> Option<&str> {
        let mut names = self.input.iter().chain(&self.outcome).map(Schema::name);
        names.find(|name| !(1..=SCHEMA_NAME_LIMIT).contains(&name.len()) || name.chars().any(is_unruly))
    }
}

/// How reports, errors and programs of other languages name a type of payloads: bytes by their schema, if they have one.
pub(crate) fn type_text<T: Payload>(schema: Option<&Schema>) -> String {
    match schema {
        Some(schema) => format!("Bytes({schema})"),
        None => std::any::type_name::<T>().into(),
    }
}
