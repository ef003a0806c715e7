//! `shmtool report`: a record as one HTML page that needs no network.

pub(crate) mod args;
mod charts;
mod page;
mod samples;

use crate::error::ToolError;
use crate::output::{Page, Report, Verdict};
use crate::units;
use args::ReportArgs;
use ringmill_shm::text::shown_path;
use samples::Record;
use serde::Serialize;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What was drawn.
#[derive(Debug, Serialize)]
pub(crate) struct Drawn {
    name: String,
    page: String,
    samples: u64,
    from_unix_s: f64,
    seconds: f64,
    deaths: u64,
    /// The last line had no end: its recorder died, or still works.
    last_line_cut: bool,
}

impl Report for Drawn {
    fn text(&self, page: Page) -> String {
        let (samples, time) = (units::count(self.samples as usize, "sample"), units::seconds(self.seconds));
        let cut = if self.last_line_cut { "; its last line is cut, and left out" } else { "" };
        page.paragraph(&format!("{samples} of {} in {time}{cut}: {}", self.name, self.page), 0)
    }

    fn verdict(&self) -> Verdict {
        Verdict::Fine
    }
}

/// Draws a record.
pub(crate) fn report(args: &ReportArgs) -> Result<Drawn, ToolError> {
    let record = Record::read(&args.record)?;
    if let Some(why) = is_no_page(&args.output, &args.record) {
        return Err(ToolError::NotWritten { path: args.output.clone(), why });
    }
    let system = |error| ToolError::System { what: "write", path: args.output.clone(), error };
    std::fs::write(&args.output, page::page(&record)).map_err(system)?;
    Ok(Drawn {
        name: record.head.name.clone(),
        page: shown_path(&args.output),
        samples: record.samples,
        from_unix_s: record.head.started_unix_s,
        seconds: record.seconds(),
        deaths: record.sum(|column| column.deaths),
        last_line_cut: record.last_line_cut,
    })
}

/// Why a page is not written to this path.
fn is_no_page(path: &Path, record: &Path) -> Option<&'static str> {
    let (there, record) = (path.metadata().ok()?, record.metadata().ok()?);
    let is_record = (there.dev(), there.ino()) == (record.dev(), record.ino());
    match () {
        () if is_record => Some("it is the record itself"),
        () if there.is_dir() => Some("it is a directory"),
        () => None,
    }
}
