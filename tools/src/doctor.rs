//! `shmtool doctor`: what of this host will hurt a server, and how to mend it.
//!
//! # Invariants
//!
//! * It changes nothing, and asks the kernel only what does no harm.
//! * What cannot be read is unknown, which is no fault.

pub(crate) mod args;
mod checks;
mod host;

use crate::output::{Page, Report, Verdict};
use host::Host;
use ringmill_shm::text::{shown, shown_path};
use serde::Serialize;
use std::path::Path;

/// The report on one host.
#[derive(Debug, Serialize)]
pub(crate) struct Examined {
    /// The directory under which the host's files were read.
    root: String,
    /// In the order of the checks.
    findings: Vec<Finding>,
}

/// What one check found.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    level: Level,
    /// The value.
    saw: Option<String>,
    /// What it means for a server.
    why: &'static str,
    /// What mends it, or at least shows more; none: it is fine, or there is nothing to do.
    mend: Option<String>,
}

/// How bad it is. The order is that of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    /// It will hurt.
    Warning,
    /// It may hurt, or slows some servers down.
    Note,
    /// It could not be read.
    Unknown,
    Fine,
}

impl Level {
    fn text(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Note => "note",
            Self::Unknown => "unknown",
            Self::Fine => "fine",
        }
    }
}

/// Looks at a host: the one whose files lie under `root`.
pub(crate) fn examine(root: &Path) -> Examined {
    let host = Host::new(root);
    let findings = checks::ALL.iter().map(|check| {
        let (level, saw, mend) = match (check.look)(&host) {
            None => (Level::Unknown, None, None),
            Some(look) => (look.level, Some(shown(&look.saw)), look.mend),
        };
        Finding { check: check.name, level, saw, why: check.why, mend }
    });
    Examined { root: shown_path(root), findings: findings.collect() }
}

impl Report for Examined {
    /// What is not fine, the worst first, with why and how to mend it; then the rest in a table.
    fn text(&self, page: Page) -> String {
        let mut text = String::new();
        let of = |level| self.findings.iter().filter(move |finding| finding.level == level);
        for finding in [Level::Warning, Level::Note].into_iter().flat_map(of) {
            let saw = finding.saw.as_deref().unwrap_or_default();
            text += &format!("{:<8} {}: {saw}\n", finding.level.text(), finding.check);
            text += &page.paragraph(finding.why, 9);
            if let Some(mend) = &finding.mend {
                text += &format!("         $ {mend}\n");
            }
            text += "\n";
        }
        let rows = [Level::Unknown, Level::Fine].into_iter().flat_map(of).map(|finding| {
            let saw = finding.saw.clone().unwrap_or_else(|| "-".into());
            vec![finding.level.text().into(), finding.check.into(), saw]
        });
        let rows: Vec<_> = rows.collect();
        if !rows.is_empty() {
            text += &page.table(&["verdict", "check", "saw"], rows);
        }
        let count = |level| of(level).count();
        let counts = [Level::Warning, Level::Note, Level::Unknown, Level::Fine];
        let counts = counts.map(|level| format!("{} {}", count(level), level.text())).join(", ");
        text + &format!("\n{counts}\n")
    }

    fn verdict(&self) -> Verdict {
        match self.findings.iter().any(|finding| finding.level == Level::Warning) {
            true => Verdict::Wrong,
            false => Verdict::Fine,
        }
    }
}
