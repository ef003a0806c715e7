//! Pictures of measurements as SVG, for the reports of shmtool and of ringmill's benches.
//!
//! | Module | Holds |
//! |---|---|
//! | [`picture`] | what a picture shows, before it is drawn |
//! | [`scale`], [`units`], `labels` | axes, numbers, names beside lines: pure |
//! | [`style`] | colours, sizes, letters |
//! | [`svg`] | a picture as SVG |
#![forbid(unsafe_code)]

mod draw;
mod labels;
pub mod picture;
pub mod scale;
pub mod style;
pub mod units;

pub use draw::svg;
