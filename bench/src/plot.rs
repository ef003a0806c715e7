//! The report that people look at: rows as SVG pictures and one page.
//!
//! Pictures and how they are drawn are `ringmill_plot`'s.
//!
//! Only rows go in, so a report can be drawn again from its own `rows.jsonl`. A picture without rows is not drawn; regimes are
//! never mixed.
//!
//! | Module | Holds |
//! |---|---|
//! | `run` | where, when and how rows were measured |
//! | `select` | rows into series: pure |
//! | `charts` | which pictures a job's rows make: pure |
//! | `look`, `words` | what each contestant looks like; names of columns: pure |
//! | `page` | the page |
//! | `files` | the folder that it all goes into |

mod charts;
mod files;
mod look;
mod page;
mod run;
mod select;
mod words;

pub use files::{Folder, Measured, ReportError};
pub use run::Run;
