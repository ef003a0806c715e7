//! What a call and idleness cost. Apart from the other tests, since all of the program has an allocator that counts.

mod hot_path;
mod idle;
