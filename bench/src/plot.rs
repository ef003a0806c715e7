//! The report that people look at: rows as SVG pictures and one page.
//!
//! Only rows go in, so a report can be drawn again from its own `rows.jsonl`. A picture without rows is not drawn; regimes are
//! never mixed.
//!
//! | Module | Holds |
//! |---|---|
//! | `run` | where, when and how rows were measured |
//! | `select` | rows into series: pure |
//! | `charts` | which pictures a job's rows make: pure |
//! | `picture` | what a picture shows, before it is drawn |
//! | `scale`, `units`, `words`, `labels` | axes, numbers, names of columns, names beside lines: pure |
//! | `style` | colours, sizes, letters |
//! | `draw` | a picture as SVG |
//! | `page` | the page |
//! | `files` | the folder that it all goes into |

mod charts;
mod draw;
mod files;
mod labels;
mod page;
mod picture;
mod run;
mod scale;
mod select;
mod style;
mod units;
mod words;

pub use files::{Folder, Measured, ReportError};
pub use run::Run;
