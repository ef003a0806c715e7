//! Why a payload cannot be written or read: the message of rkyv, or of the payload's own code. It is kept in release
//! builds too, where rkyv's own `rancor::Error` keeps nothing.

use super::DEPTH_LIMIT;
use crate::text::one_line;
use ringmill_shm::arena::Corrupt;
use ringmill_shm::pool::PoolError;
use ringmill_shm::ring::Overrun;
use rkyv::rancor::{Source, Trace};
use std::error::Error as StdError;
use std::fmt;

/// The most positions that an error names on the way from the root to the invalid part.
const TRACES: usize = 4;

/// Why a payload cannot be written or read.
pub struct PayloadError(Box<Told>);

#[derive(Debug)]
struct Told {
    is_too_deep: bool,
    message: String,
    /// Where, the innermost first.
    traces: Vec<String>,
}

/// The payload nests more pointers than a reader follows.
#[derive(Debug, thiserror::Error)]
#[error(
    "more than {limit} pointers lie one within the other: nest fewer Boxes and Vecs, say by a list of nodes that refer to each other by index"
)]
pub(crate) struct TooDeep {
    pub(crate) limit: usize,
}

/// Whether `T` is rkyv's type for this error, which is private to rkyv.
fn is_word_for_too_deep<T>() -> bool {
    std::any::type_name::<T>().ends_with("::ExceededMaximumSubtreeDepth")
}

impl PayloadError {
    pub(crate) fn is_too_deep(&self) -> bool {
        self.0.is_too_deep
    }

    #[cold]
    fn told(source: &(dyn StdError + 'static)) -> Self {
        let mut message = one_line(&source.to_string());
        let mut inner = source.source();
        while let Some(error) = inner {
            let text = one_line(&error.to_string());
            if !message.ends_with(&text) {
                message = format!("{message}: {text}");
            }
            inner = error.source();
        }
        Self(Box::new(Told { is_too_deep: false, message, traces: Vec::new() }))
    }

    #[cold]
    fn traced(mut self, trace: &dyn fmt::Display, is_too_deep: bool) -> Self {
        if is_too_deep {
            self.0.is_too_deep = true;
        } else if self.0.traces.len() < TRACES {
            self.0.traces.push(one_line(&trace.to_string()));
        }
        self
    }
}

impl Source for PayloadError {
    #[cold]
    #[inline(never)]
    fn new<T: StdError + Send + Sync + 'static>(source: T) -> Self {
        Self::told(&source)
    }
}

impl Trace for PayloadError {
    #[cold]
    #[inline(never)]
    fn trace<R: fmt::Debug + fmt::Display + Send + Sync + 'static>(self, trace: R) -> Self {
        self.traced(&trace, is_word_for_too_deep::<R>())
    }
}

impl fmt::Display for PayloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_too_deep {
            return TooDeep { limit: DEPTH_LIMIT }.fmt(f); // without traces: they only repeat the pointer
        }
        f.write_str(&self.0.message)?;
        self.0.traces.iter().try_for_each(|trace| write!(f, ", {trace}"))
    }
}

impl fmt::Debug for PayloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for PayloadError {}

/// Why a value could not be written into the segment.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EncodeError {
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error(transparent)]
    Serialise(#[from] PayloadError),
    #[error(
        "it took {first} bytes at first and {second} when serialised again: do not change a value while it is sent"
    )]
    Unsteady { first: u64, second: u64 },
}

/// Why a payload cannot be read; or, of an input, was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Its task says that it lies where no payload can.
    #[error(transparent)]
    Misplaced(#[from] Corrupt),
    /// Its bytes are not a value of its type.
    #[error("the payload is not a valid {type_name}: {error}")]
    Invalid {
        /// The type.
        type_name: &'static str,
        /// Why.
        error: PayloadError,
    },
    /// Its pointers lie deeper one within the other than a reader follows.
    #[error("the payload is not a valid {type_name}: {}", TooDeep { limit: *limit })]
    TooDeep {
        /// The type.
        type_name: &'static str,
        /// How many may.
        limit: usize,
    },
    /// It is valid, and the type's own `Deserialize` refuses it.
    #[error(transparent)]
    Refused(PayloadError),
    /// A ring of the segment takes nothing, so nothing was sent.
    #[error(transparent)]
    Unsent(#[from] Overrun),
}

impl ReadError {
    pub(crate) fn new(type_name: &'static str, error: PayloadError) -> Self {
        match error.is_too_deep() {
            true => Self::TooDeep { type_name, limit: DEPTH_LIMIT },
            false => Self::Invalid { type_name, error },
        }
    }
}
