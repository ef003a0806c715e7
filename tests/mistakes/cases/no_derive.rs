//! A type that derives nothing.

struct Document {
    title: String,
}

ringmill::make_worker!(Length: Document => u64, |document| document.title.len() as u64);

fn main() {}
