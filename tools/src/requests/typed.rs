//! Payloads as values: the plan names their types, and for each type of a program a function says how a value of it is
//! printed.
//!
//! # Invariants
//!
//! * Bytes are checked before they are taken for a value. A type of another program that has the same name can make a text
//!   wrong, and nothing else.

use ringmill_shm::layout::PAYLOAD_ALIGN;
use ringmill_shm::text::shown;
use rkyv::Archive;
use rkyv::api::high::{HighDeserializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Failure;
use rkyv::util::AlignedVec;
use std::any::type_name;
use std::collections::HashMap;
use std::fmt;

/// The largest payload that is read for its value.
pub(super) const WHOLE_BYTES: usize = 1 << 20;
/// How many characters of a value are printed.
const MOST: usize = 1_000;

type Print = Box<dyn Fn(&[u8]) -> Option<String> + Send + Sync>;

/// How `shmtool requests --payload` prints payloads, by their types.
///
/// It knows integers, floats, `bool`, `char`, `String`, and `Vec`s of these. A program has types of its own, of which only
/// its source knows how they are read. So a shmtool that prints them is a program of a few lines beside it:
///
/// ```
/// use ringmill::payload::from_bytes;
/// use ringmill::rkyv::{Archive, Deserialize, Serialize};
/// use shmtool::Printers;
///
/// #[derive(Debug, Archive, Serialize, Deserialize)]
/// #[rkyv(crate = ringmill::rkyv)]
/// struct Reading {
///     celsius: f32,
/// }
///
/// fn main() -> std::process::ExitCode {
///     # if std::env::args().len() < 2 { return std::process::ExitCode::SUCCESS; }
///     let printers = Printers::new()
///         .with::<Reading>(|bytes| Some(format!("{:?}", from_bytes::<Reading>(bytes).ok()?)));
///     shmtool::main_with(&printers)
/// }
/// ```
///
/// `shmtool bench --demo` needs `ringmill::init!(shmtool::Demo)` as the first line of such a `main`; a program that leaves out
/// shmtool's default feature `bench` has neither.
pub struct Printers(HashMap<&'static str, Print>);

impl Printers {
    /// For the types that are known without a program.
    #[must_use]
    pub fn new() -> Self {
        macro_rules! built_in {
            ($($type:ty),*) => {
                Self(HashMap::new())$(.with::<$type>(debug::<$type>).with::<Vec<$type>>(debug::<Vec<$type>>))*
            };
        }
        built_in!(
            u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize, f32, f64, bool, char, String
        )
    }

    /// Prints payloads of type `T` so, which is found by [its name](type_name): the function gets a payload's bytes, and
    /// gives the value as text, or nothing if they are no value.
    #[must_use]
    pub fn with<T>(mut self, print: impl Fn(&[u8]) -> Option<String> + Send + Sync + 'static) -> Self {
        self.0.insert(type_name::<T>(), Box::new(print));
        self
    }

    /// The value of a whole payload, at most as much of it as a line has room for.
    pub(super) fn text(&self, type_name: &str, bytes: &[u8]) -> Option<String> {
        let text = shown(&self.0.get(type_name)?(bytes)?); // [plain text]
        Some(match text.char_indices().nth(MOST) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        })
    }
}

impl Default for Printers {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Printers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

fn debug<T>(bytes: &[u8]) -> Option<String>
where
    T: fmt::Debug + Archive,
    T::Archived:
        for<'a> CheckBytes<HighValidator<'a, Failure>> + rkyv::Deserialize<T, HighDeserializer<Failure>>,
{
    let mut aligned = AlignedVec::<PAYLOAD_ALIGN>::with_capacity(bytes.len());
    aligned.extend_from_slice(bytes);
    Some(format!("{:?}", rkyv::from_bytes::<T, Failure>(&aligned).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed<T>(value: &T) -> Option<String>
    where
        T: for<'a> rkyv::Serialize<
                rkyv::api::high::HighSerializer<AlignedVec, rkyv::ser::allocator::ArenaHandle<'a>, Failure>,
            >,
    {
        let bytes = rkyv::to_bytes::<Failure>(value).unwrap();
        Printers::new().text(type_name::<T>(), &bytes)
    }

    #[test]
    fn values_are_printed_by_the_name_of_their_type() {
        assert_eq!(printed(&7_u32).as_deref(), Some("7"));
        assert_eq!(printed(&-0.5_f64).as_deref(), Some("-0.5"));
        assert_eq!(printed(&vec![1_u8, 2]).as_deref(), Some("[1, 2]"));
        let long = "a text of more than sixteen bytes".to_string();
        assert_eq!(printed(&long), Some(format!("{long:?}")));
        assert_eq!(
            printed(&vec![long.clone(), "\x1b[2J".into()]),
            Some(format!("[{long:?}, \"\\u{{1b}}[2J\"]"))
        );
        assert_eq!(printed(&"é".repeat(2_000)), Some(format!("\"{}…", "é".repeat(MOST - 1))));
        assert_eq!(printed(&(7_u32, 8_u32)), None, "no type that is known");
    }

    #[test]
    fn bytes_that_are_no_value_are_not_printed() {
        let printers = Printers::new().with::<()>(|_| None);
        for (name, bytes) in [
            ("u32", &[1, 2][..]),
            ("bool", &[2]),
            ("alloc::string::String", b"\xC3(\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF"),
            ("()", &[]),
            ("", &[]),
        ] {
            assert_eq!(printers.text(name, bytes), None, "{name}");
        }
    }

    #[test]
    fn a_program_prints_its_own_types_and_no_control_characters() {
        struct Own;
        let printers = Printers::new().with::<Own>(|bytes| Some(format!("{} bytes \x1b[2J", bytes.len())));
        assert_eq!(printers.text(type_name::<Own>(), &[1, 2]).as_deref(), Some("2 bytes \\u{1b}[2J"));
    }
}
