//! A report's folder: `rows.jsonl`, `runs.jsonl`, a file for each picture, and `index.html`.
//!
//! All of it is written into a folder of its own inside the report's first, and then moved into place file by
//! file, the page last. A run that fails on the way leaves the page that was there before, or none.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::run::Run;
use super::{charts, page};
use crate::report::{self, Row};

const ROWS: &str = "rows.jsonl";
const RUNS: &str = "runs.jsonl";
const PAGE: &str = "index.html";

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The report's path is not a folder.
    #[error("cannot write a report into {}: it is not a folder", .dir.display())]
    NotAFolder {
        /// The folder asked for.
        dir: PathBuf,
    },
    /// The report's folder cannot be made.
    #[error("cannot make the folder {}", .dir.display())]
    Make {
        /// The folder asked for.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A part of the report cannot be written.
    #[error("cannot write {}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Rows or runs cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line is malformed.
    #[error("{}, line {line}, is not what compare writes there", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from one.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// Where a report is written to. One folder may be written again and again; the last report stays.
#[derive(Debug)]
pub struct Folder {
    dir: PathBuf,
}

impl Folder {
    /// Makes the folder if there is none, and checks that it can be written to, before a measurement of hours begins.
    ///
    /// # Errors
    ///
    /// [`ReportError::NotAFolder`], [`ReportError::Make`] or [`ReportError::Write`].
    pub fn open(dir: &Path) -> Result<Self, ReportError> {
        let dir = dir.to_path_buf();
        if fs::metadata(&dir).is_ok_and(|what| !what.is_dir()) {
            return Err(ReportError::NotAFolder { dir });
        }
        fs::create_dir_all(&dir).map_err(|source| ReportError::Make { dir: dir.clone(), source })?;
        let folder = Self { dir };
        folder.stage().map(|_| folder)
    }

    /// Writes the report of `rows`, which `runs` gave, over a former one.
    ///
    /// # Errors
    ///
    /// [`ReportError::Write`].
    pub fn write(&self, rows: &[Row], runs: &[Run]) -> Result<(), ReportError> {
        let drawn = page::draw(rows, runs);
        let pictures = drawn.pictures.into_iter().map(|(name, svg)| (format!("{name}.svg"), svg));
        let runs: String = runs.iter().map(line).collect();
        let mut files: Vec<(String, String)> = vec![(ROWS.into(), report::json(rows)), (RUNS.into(), runs)];
        files.extend(pictures);
        files.push((PAGE.into(), drawn.page));

        let stage = self.stage()?;
        for (name, text) in &files {
            let path = stage.path().join(name);
            fs::write(&path, text).map_err(|source| ReportError::Write { path, source })?;
        }
        for (name, _) in &files {
            let path = self.dir.join(name);
            fs::rename(stage.path().join(name), &path)
                .map_err(|source| ReportError::Write { path, source })?;
        }
        self.remove_old_pictures(|name| files.iter().any(|(file, _)| file == name))
    }

    /// A folder that goes, with what is in it, when it is dropped.
    fn stage(&self) -> Result<tempfile::TempDir, ReportError> {
        let stage = tempfile::Builder::new().prefix(".unfinished-").tempdir_in(&self.dir);
        stage.map_err(|source| ReportError::Write { path: self.dir.clone(), source })
    }

    /// Removes pictures of an earlier report that this one does not have, and nothing else.
    fn remove_old_pictures(&self, is_new: impl Fn(&str) -> bool) -> Result<(), ReportError> {
        let failed = |path: &Path| {
            let path = path.to_path_buf();
            move |source| ReportError::Write { path, source }
        };
        for entry in fs::read_dir(&self.dir).map_err(failed(&self.dir))? {
            let path = entry.map_err(failed(&self.dir))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let is_ours = name.strip_suffix(".svg").is_some_and(charts::may_be_ours);
            if is_ours && !is_new(name) {
                fs::remove_file(&path).map_err(failed(&path))?;
            }
        }
        Ok(())
    }
}

fn line(run: &Run) -> String {
    serde_json::to_string(run).expect("a run is plain data") + "\n"
}

/// Rows that were measured before, and the runs that gave them.
#[derive(Debug, Default, PartialEq)]
pub struct Measured {
    /// What was measured.
    pub rows: Vec<Row>,
    /// Where and when, as far as that is known.
    pub runs: Vec<Run>,
}

impl Measured {
    /// Reads the report in the folder `path`, or a file of rows; what is known of their runs is read from the
    /// `runs.jsonl` beside them.
    ///
    /// # Errors
    ///
    /// [`ReportError::Read`] or [`ReportError::Line`]. That there is no `runs.jsonl` is no error.
    pub fn read(path: &Path) -> Result<Self, ReportError> {
        let rows = if path.is_dir() { path.join(ROWS) } else { path.to_path_buf() };
        let runs = match lines(&rows.with_file_name(RUNS)) {
            Err(ReportError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Vec::new(),
            runs => runs?,
        };
        Ok(Self { rows: lines(&rows)?, runs })
    }

    /// Adds rows measured elsewhere, or later: if both have a row of one contestant at one point in one regime, the row of
    /// `other` replaces ours.
    pub fn add(&mut self, other: Self) {
        for row in other.rows {
            self.add_row(row);
        }
        for run in other.runs {
            if !self.runs.contains(&run) {
                self.runs.push(run);
            }
        }
    }

    fn add_row(&mut self, row: Row) {
        let is_of_same = |ours: &&mut Row| {
            (&ours.job, &ours.who, ours.regime, &ours.at) == (&row.job, &row.who, row.regime, &row.at)
        };
        match self.rows.iter_mut().find(is_of_same) {
            Some(ours) => *ours = row,
            None => self.rows.push(row),
        }
    }
}

fn lines<Line: DeserializeOwned>(path: &Path) -> Result<Vec<Line>, ReportError> {
    let text = fs::read_to_string(path).map_err(|source| ReportError::Read { path: path.into(), source })?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(place, line)| {
            let read = serde_json::from_str(line);
            read.map_err(|source| ReportError::Line { path: path.into(), line: place + 1, source })
        })
        .collect()
}
