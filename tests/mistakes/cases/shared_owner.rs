//! A type with an `Arc` in it.

use ringmill::rkyv::{Archive, Deserialize, Serialize};
use std::sync::Arc;

#[derive(Archive, Serialize, Deserialize)]
#[rkyv(crate = ringmill::rkyv)]
struct Document {
    title: Arc<String>,
}

ringmill::make_worker!(Length: Document => u64, |document| document.title.len() as u64);

fn main() {}
