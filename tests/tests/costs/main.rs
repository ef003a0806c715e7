//! The cost of a call and of idleness. A program of its own, since its allocator counts.

mod hot_path;
mod idle;
