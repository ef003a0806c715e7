//! Hostile bytes: whatever a segment holds, no process that reads it panics, hangs, or leaves the mapping.
//!
//! Each target is a plain function of a few bytes, so that a test drives it (`tests/tests/campaigns/hostile.rs`) as well as
//! libFuzzer (`tests/fuzz`). It promises: no panic, no end of the process (under AddressSanitizer, no wild access), and an end
//! after an amount of work that follows from the input.
//!
//! * [`image`]: a segment's file, patched; the target attaches and inspects it, and plays all parts in it;
//! * [`live`]: a server with its workers, whose segment is written over while it serves;
//! * [`records`]: payloads and error records; texts that name a segment and a row.

pub mod image;
pub mod live;
pub mod records;

/// A target: its name and its function of bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 4] =
    [("image", image::run), ("live", live::run), ("payload", records::payload), ("text", records::text)];

/// Numbers without end, the same for the same seed: SplitMix64.
///
/// Source: G. L. Steele, D. Lea, C. H. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
#[derive(Debug, Clone)]
pub struct Numbers(u64);

impl Numbers {
    /// Those of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ z >> 31) % limit.max(1)
    }

    /// This many bytes; those that matter come more often than by chance: 0, all ones, 1, a sign.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let byte = |numbers: &mut Self| match numbers.below(8) {
            0 => 0,
            1 => 0xFF,
            2 => 1,
            3 => 0x80,
            _ => numbers.below(256) as u8,
        };
        (0..count).map(|_| byte(self)).collect()
    }
}

/// Reads an input from its beginning; zeros after its end.
#[derive(Debug)]
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    pub(crate) fn number(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), 0])
    }

    pub(crate) fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A patch: where, and 1 to 16 bytes.
    pub(crate) fn patch(&mut self) -> (usize, &'a [u8]) {
        let (at, count) = (self.number() as usize, self.byte() as usize % 16 + 1);
        (at, self.bytes(count))
    }
}
