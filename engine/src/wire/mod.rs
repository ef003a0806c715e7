//! Bytes in and out: payloads as rkyv lays them out, written in place and validated before they are read. Knows no
//! servlet and no process.

pub(crate) mod bytes;
mod error;
pub(crate) mod fill;
pub(crate) mod payload;
mod scratch;

pub use bytes::{ArchivedBytes, Bytes, Schema};
pub(crate) use bytes::{SCHEMA_NAME_LIMIT, Schemas, type_text};
pub(crate) use error::{EncodeError, TooDeep};
pub use error::{PayloadError, ReadError};
pub use fill::{ArchivedTailed, Fill, FillTail, Plain, Tailed, TailedResolver, fill, fill_tail};
pub(crate) use payload::to_bytes;
pub use payload::{
    AsInput, BYTES_ALIGN, Checker, Encoder, Explainer, Output, Payload, Travels, from_bytes, owned,
};
pub use scratch::Scratch;

/// How deep pointers of a payload can be nested. The reader validates them by recursion, and no bytes may overflow a
/// worker's stack.
pub(crate) const DEPTH_LIMIT: usize = 128;
