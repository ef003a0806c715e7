//! W3C trace context: parsed and printed. Pure, but for new numbers, which are random.
//!
//! Source: [Trace Context](https://www.w3.org/TR/trace-context/), the header `traceparent`.

use ringmill_shm::sys::birth::Birth;
use ringmill_shm::sys::time::now_ns;
use ringmill_shm::trace::{Context, mixed};
use std::cell::Cell;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::num::{NonZeroU64, NonZeroU128};
use std::str::FromStr;

/// A W3C trace context: which trace a request belongs to, and from which span it was sent.
///
/// Give it with [`CallOptions::trace_context`](crate::CallOptions::trace_context). It travels with the request through all
/// servlets; a worker reads it with [`Item::trace_context`](crate::worker::Item::trace_context) or
/// [`Batch::trace_context`](crate::Batch::trace_context). A `tracestate` does not travel: the caller still has it when the
/// outcome comes.
///
/// ```
/// use ringmill::trace::TraceContext;
///
/// # fn main() -> Result<(), ringmill::BoxError> {
/// let header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
/// let context: TraceContext = header.parse()?;
/// assert_eq!(context.trace_id(), 0x0af7651916cd43dd8448eb211c80319c);
/// assert_eq!((context.parent_id(), context.is_sampled()), (0xb7ad6b7169203331, true));
/// assert_eq!(context.to_string(), header);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    trace_id: NonZeroU128,
    parent_id: NonZeroU64,
    flags: u8,
}

/// A text that is no `traceparent`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TraceContextError {
    /// It is too short, or, of version 00, too long.
    #[error("invalid traceparent: it has {bytes} bytes, one of version 00 has 55")]
    Length {
        /// How many bytes it has.
        bytes: usize,
    },
    /// A byte is not what stands there.
    #[error("invalid traceparent: byte {at} is no {expected}")]
    Byte {
        /// Which byte, from 0.
        at: usize,
        /// What would be valid there.
        expected: &'static str,
    },
    /// Its version is ff, which none has.
    #[error("invalid traceparent: its version is ff, which none has")]
    Version,
    /// A number that identifies something is 0.
    #[error("invalid traceparent: its {which} is 0")]
    Zero {
        /// `trace-id` or `parent-id`.
        which: &'static str,
    },
}

/// The bytes of a header of version 00.
const BYTES: usize = 55;

impl TraceContext {
    /// The flag that the trace is sampled: that its spans are, or may be, recorded.
    pub const SAMPLED: u8 = 1;
    /// The flag that the trace's number is random (Level 2 of the recommendation).
    pub const RANDOM: u8 = 2;

    /// A context of this trace and this span, the parent of those that follow. `None` if either number is 0.
    #[must_use]
    pub fn new(trace_id: u128, parent_id: u64, sampled: bool) -> Option<Self> {
        let flags = if sampled { Self::SAMPLED } else { 0 };
        Some(Self { trace_id: NonZeroU128::new(trace_id)?, parent_id: NonZeroU64::new(parent_id)?, flags })
    }

    /// The trace's number.
    #[must_use]
    pub fn trace_id(self) -> u128 {
        self.trace_id.get()
    }

    /// The number of the span that is the parent of those that follow.
    #[must_use]
    pub fn parent_id(self) -> u64 {
        self.parent_id.get()
    }

    /// Whether the trace's spans are, or may be, recorded.
    #[must_use]
    pub fn is_sampled(self) -> bool {
        self.flags & Self::SAMPLED != 0
    }

    /// The flags: [`SAMPLED`](Self::SAMPLED) and [`RANDOM`](Self::RANDOM); no others travel.
    #[must_use]
    pub fn flags(self) -> u8 {
        self.flags
    }

    /// The same trace, where this span is the parent; `None` if it is 0.
    #[must_use]
    pub fn with_parent(self, span_id: u64) -> Option<Self> {
        Some(Self { parent_id: NonZeroU64::new(span_id)?, ..self })
    }

    pub(crate) fn words(self) -> Context {
        Context { trace_id: self.trace_id(), parent: self.parent_id(), flags: self.flags }
    }

    /// `None` if another process has written over it.
    pub(crate) fn from_words(words: Context) -> Option<Self> {
        let context = Self::new(words.trace_id, words.parent, false)?;
        Some(Self { flags: words.flags & (Self::SAMPLED | Self::RANDOM), ..context })
    }
}

/// The context of a new trace, which is sent from no span.
pub(crate) fn new_trace() -> Context {
    let trace_id = u128::from(new_number()) << 64 | u128::from(new_number());
    Context { trace_id, parent: 0, flags: TraceContext::SAMPLED | TraceContext::RANDOM }
}

/// A number for a span or a trace: random, and not 0.
pub(crate) fn new_number() -> u64 {
    thread_local! {
        static LAST: Cell<Option<(Birth, u64)>> = const { Cell::new(None) };
    }
    LAST.with(|last| {
        let seed = match last.get() {
            Some((birth, seed)) if birth.is_here() => seed,
            // Keys that no two threads share, but for those of a forked child, which has a pid and a time of its own.
            _ => RandomState::new().hash_one((std::process::id(), now_ns())),
        };
        last.set(Some((Birth::here(), seed.wrapping_add(0x9E37_79B9_7F4A_7C15))));
        mixed(seed).max(1)
    })
}

/// The header of version 00.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.parent_id, self.flags)
    }
}

impl FromStr for TraceContext {
    type Err = TraceContextError;

    /// Reads a header `traceparent`; of a version above 00 the part that version 00 has.
    fn from_str(header: &str) -> Result<Self, TraceContextError> {
        let bytes = header.as_bytes();
        let version = hexadecimal(bytes, 0, 2)? as u8;
        match (version, bytes.len()) {
            (0xFF, _) => return Err(TraceContextError::Version),
            (0, BYTES) | (1.., BYTES..) => {}
            (_, bytes) => return Err(TraceContextError::Length { bytes }),
        }
        for at in [2, 35, 52, BYTES] {
            if bytes.get(at).is_some_and(|byte| *byte != b'-') {
                return Err(TraceContextError::Byte { at, expected: "hyphen" });
            }
        }
        let zero = |which| TraceContextError::Zero { which };
        let trace_id = NonZeroU128::new(hexadecimal(bytes, 3, 32)?).ok_or(zero("trace-id"))?;
        let parent_id = NonZeroU64::new(hexadecimal(bytes, 36, 16)? as u64).ok_or(zero("parent-id"))?;
        let flags = hexadecimal(bytes, 53, 2)? as u8 & (Self::SAMPLED | Self::RANDOM);
        Ok(Self { trace_id, parent_id, flags })
    }
}

/// The number that these digits are: lower case only.
fn hexadecimal(bytes: &[u8], first: usize, count: usize) -> Result<u128, TraceContextError> {
    (first..first + count).try_fold(0, |number, at| {
        let digit = match bytes.get(at).ok_or(TraceContextError::Length { bytes: bytes.len() })? {
            byte @ b'0'..=b'9' => byte - b'0',
            byte @ b'a'..=b'f' => byte - b'a' + 10,
            _ => return Err(TraceContextError::Byte { at, expected: "digit 0-9 or a-f" }),
        };
        Ok(number << 4 | u128::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const HEADER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn parsed(header: &str) -> Result<TraceContext, TraceContextError> {
        header.parse()
    }

    #[test]
    fn what_is_parsed_is_printed_again() {
        for flags in ["00", "01", "02", "03"] {
            let header = format!("{}{flags}", &HEADER[..53]);
            let context = parsed(&header).unwrap();
            assert_eq!(context.to_string(), header);
            assert_eq!(TraceContext::from_words(context.words()), Some(context));
        }
        let context = parsed(HEADER).unwrap();
        assert_eq!(TraceContext::new(context.trace_id(), context.parent_id(), true), Some(context));
        assert_eq!(context.with_parent(0xAB).unwrap().to_string()[36..52], *"00000000000000ab");
        assert_eq!((context.with_parent(0), TraceContext::new(0, 1, true)), (None, None));
    }

    #[test]
    fn flags_that_are_not_known_do_not_travel() {
        let header = format!("{}fd", &HEADER[..53]);
        assert_eq!(parsed(&header).unwrap().to_string(), HEADER);
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        for header in [
            format!("cc{}", &HEADER[2..]),
            format!("01{}-what-may-come", &HEADER[2..]),
            format!("fe{}-", &HEADER[2..]),
        ] {
            assert_eq!(parsed(&header).unwrap().to_string(), HEADER, "{header}");
        }
        let joined = format!("01{}.", &HEADER[2..]);
        assert_eq!(parsed(&joined), Err(TraceContextError::Byte { at: 55, expected: "hyphen" }));
    }

    #[test]
    fn each_other_text_is_refused_with_its_reason() {
        let digit = |at| TraceContextError::Byte { at, expected: "digit 0-9 or a-f" };
        let hyphen = |at| TraceContextError::Byte { at, expected: "hyphen" };
        let changed = |at: usize, to: &str| format!("{}{to}{}", &HEADER[..at], &HEADER[at + to.len()..]);
        for (header, error) in [
            (String::new(), TraceContextError::Length { bytes: 0 }),
            ("0".into(), TraceContextError::Length { bytes: 1 }),
            (HEADER[..54].into(), TraceContextError::Length { bytes: 54 }),
            (format!("{HEADER}-"), TraceContextError::Length { bytes: 56 }),
            (format!(" {HEADER}"), digit(0)),
            (changed(0, "ff"), TraceContextError::Version),
            (changed(0, "0x"), digit(1)),
            (changed(3, "4BF9"), digit(4)),
            (changed(2, "_"), hyphen(2)),
            (changed(35, "0"), hyphen(35)),
            (changed(52, " "), hyphen(52)),
            (changed(53, "0g"), digit(54)),
            (changed(40, "é"), digit(40)),
            (changed(3, &"0".repeat(32)), TraceContextError::Zero { which: "trace-id" }),
            (changed(36, &"0".repeat(16)), TraceContextError::Zero { which: "parent-id" }),
        ] {
            assert_eq!(parsed(&header), Err(error), "{header:?}");
        }
    }

    #[test]
    fn new_numbers_differ() {
        let numbers: BTreeSet<u64> = (0..10_000).map(|_| new_number()).collect();
        assert_eq!(numbers.len(), 10_000);
        let words = new_trace();
        assert!(TraceContext::from_words(words).is_none() && words.trace_id != new_trace().trace_id);
    }
}
