//! A worker whose input is a reference.

ringmill::make_worker!(Length: &'static str => u64, |text| text.len() as u64);

fn main() {}
