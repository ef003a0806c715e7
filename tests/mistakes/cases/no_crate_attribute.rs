//! A derive without the attribute that names the rkyv within ringmill.

use ringmill::rkyv::{Archive, Deserialize, Serialize};

#[derive(Archive, Serialize, Deserialize)]
struct Document {
    title: String,
}

ringmill::make_worker!(Length: Document => u64, |document| document.title.len() as u64);

fn main() {}
