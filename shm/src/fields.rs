//! What lies in a segment, field by field, as one number: programs that would disagree about a field have different
//! numbers.
//!
//! [`in_segment!`] declares a struct whose bytes lie in a segment, `#[repr(C)]`, and from the same lines the number of
//! its fields: of each its name, its offset, and the number of its type. A field whose type has no such number does not
//! compile. So a field that is added, renamed, moved or given another type, here or in a struct within, changes the
//! fingerprint of every segment. `LAYOUT_VERSION` stands for what no field says, as the meaning of the bits of a word.
//!
//! Types are named by their own numbers, not by the text that a compiler makes of them: two versions of the compiler
//! that lay out the same fields come to the same number.

use crate::sync::{AtomicU32, AtomicU64, PayloadCell};
use core::mem::{align_of, size_of};

/// A type whose values lie in segments.
pub(crate) trait InSegment {
    /// Differs where two programs would disagree about a byte of it.
    const FIELDS: u64;
}

/// A field of a struct.
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) offset: usize,
    /// The number of its type.
    pub(crate) of: u64,
}

/// The number of a struct.
pub(crate) const fn of_struct(name: &str, size: usize, align: usize, fields: &[Field]) -> u64 {
    let mut hash = of_plain(name, size, align);
    let mut index = 0;
    while index < fields.len() {
        let Field { name, offset, of } = &fields[index];
        hash = with_number(with_number(with_text(hash, name), *offset as u64), *of);
        index += 1;
    }
    hash
}

/// The number of a type without fields.
const fn of_plain(name: &str, size: usize, align: usize) -> u64 {
    with_number(with_number(with_text(FNV_START, name), size as u64), align as u64)
}

/// Declares a struct that lies in a segment, and its number. It is `#[repr(C)]`; an alignment can be added. A struct
/// without names has one field.
macro_rules! in_segment {
    (
        $(#[$attribute:meta])*
        $vis:vis struct $name:ident {
            $($(#[$of_field:meta])* $field_vis:vis $field:ident: $type:ty,)*
        }
    ) => {
        $(#[$attribute])*
        #[repr(C)]
        $vis struct $name {
            $($(#[$of_field])* $field_vis $field: $type,)*
        }

        in_segment!(@number $name $($field: $type,)*);
    };
    ($(#[$attribute:meta])* $vis:vis struct $name:ident($field_vis:vis $type:ty);) => {
        $(#[$attribute])*
        #[repr(C)]
        $vis struct $name($field_vis $type);

        in_segment!(@number $name 0: $type,);
    };
    (@number $name:ident $($field:tt: $type:ty,)*) => {
        impl $crate::fields::InSegment for $name {
            const FIELDS: u64 = $crate::fields::of_struct(
                stringify!($name),
                ::core::mem::size_of::<Self>(),
                ::core::mem::align_of::<Self>(),
                &[$($crate::fields::Field {
                    name: stringify!($field),
                    offset: ::core::mem::offset_of!(Self, $field),
                    of: <$type as $crate::fields::InSegment>::FIELDS,
                }),*],
            );
        }
    };
}
pub(crate) use in_segment;

macro_rules! plain {
    ($($type:ident)*) => {
        $(impl InSegment for $type {
            const FIELDS: u64 = of_plain(stringify!($type), size_of::<Self>(), align_of::<Self>());
        })*
    };
}
plain!(u8 u32 u64 AtomicU32 AtomicU64);

/// Types that loom does not watch.
#[cfg(loom)]
mod plain_under_loom {
    use super::{InSegment, of_plain};
    use crate::sync::{HeaderU32, HeaderU64};
    use core::mem::{align_of, size_of};
    use core::sync::atomic::{AtomicU32, AtomicU64};

    plain!(HeaderU32 HeaderU64 AtomicU32 AtomicU64);
}

impl<T: InSegment, const N: usize> InSegment for [T; N] {
    const FIELDS: u64 = with_number(of_plain("array", size_of::<Self>(), align_of::<Self>()), T::FIELDS);
}

impl<const N: usize> InSegment for PayloadCell<N> {
    const FIELDS: u64 = of_plain("payload", size_of::<Self>(), align_of::<Self>());
}

pub(crate) const FNV_START: u64 = 0xCBF2_9CE4_8422_2325;

/// FNV-1a, 64 bits, with one more byte: for fingerprints, which no adversary tries to collide.
///
/// Source: G. Fowler, L. Noll, K.-P. Vo, "The FNV non-cryptographic hash algorithm".
pub(crate) const fn with_byte(hash: u64, byte: u8) -> u64 {
    (hash ^ byte as u64).wrapping_mul(0x0100_0000_01B3)
}

/// With a text, and where it ends.
const fn with_text(mut hash: u64, text: &str) -> u64 {
    let mut index = 0;
    while index < text.len() {
        hash = with_byte(hash, text.as_bytes()[index]);
        index += 1;
    }
    with_byte(hash, 0xFF) // in no UTF-8
}

const fn with_number(mut hash: u64, number: u64) -> u64 {
    let bytes = number.to_le_bytes();
    let mut index = 0;
    while index < bytes.len() {
        hash = with_byte(hash, bytes[index]);
        index += 1;
    }
    hash
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::InSegment;

    /// The number of a struct `S` with these fields, and one around it.
    macro_rules! number_of {
        ($(#[$attribute:meta])* $($field:ident: $type:ty),*) => {{
            mod one {
                in_segment! {
                    $(#[$attribute])*
                    pub(super) struct S {
                        $($field: $type,)*
                    }
                }
                in_segment! {
                    pub(super) struct Around {
                        inner: [S; 2],
                    }
                }
            }
            (one::S::FIELDS, one::Around::FIELDS)
        }};
    }

    #[test]
    fn each_change_of_a_field_changes_the_number() {
        let numbers = [
            ("as it was", number_of!(first: u32, second: u32)),
            ("added where padding was", number_of!(#[repr(align(16))] first: u32, second: u32)),
            ("added at the end", number_of!(first: u32, second: u32, third: u32)),
            ("removed", number_of!(first: u32)),
            ("renamed", number_of!(first: u32, other: u32)),
            ("swapped, with the same offsets", number_of!(second: u32, first: u32)),
            ("of another type of the same size", number_of!(first: u32, second: [u8; 4])),
            ("atomic", number_of!(first: u32, second: core::sync::atomic::AtomicU32)),
            ("wider", number_of!(first: u32, second: u64)),
            ("names run together", number_of!(firsts: u32, econd: u32)),
        ];
        for (index, (change, (inner, outer))) in numbers.iter().enumerate() {
            for (other, (inner_other, outer_other)) in &numbers[..index] {
                assert_ne!(inner, inner_other, "{change} and {other}");
                assert_ne!(outer, outer_other, "{change} and {other}, in a struct within");
            }
        }
        assert_eq!(number_of!(first: u32, second: u32), numbers[0].1, "the same declaration");
    }

    #[test]
    fn a_struct_without_names_has_a_number_too() {
        in_segment! {
            struct Words([u64; 2]);
        }
        mod other {
            in_segment! {
                #[derive(Clone, Copy)]
                pub(super) struct Words(pub(super) [u64; 3]);
            }
        }
        assert_ne!(Words::FIELDS, other::Words::FIELDS);
        assert_eq!((Words([1, 2]).0[1], other::Words([1; 3]).0[2]), (2, 1));
    }
}
