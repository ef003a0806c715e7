//! A type of which only a part is a payload.

use ringmill::rkyv::{Archive, Deserialize, Serialize};

struct Author(String);

#[derive(Archive, Serialize, Deserialize)]
#[rkyv(crate = ringmill::rkyv)]
struct Document {
    title: String,
    author: Author,
}

ringmill::make_worker!(Length: Document => u64, |document| document.title.len() as u64);

fn main() {}
