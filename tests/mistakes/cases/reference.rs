//! A type with a reference in it.

use ringmill::rkyv::{Archive, Deserialize, Serialize};

#[derive(Archive, Serialize, Deserialize)]
#[rkyv(crate = ringmill::rkyv)]
struct Document {
    title: &'static str,
}

fn main() {}
