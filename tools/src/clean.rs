//! `shmtool clean`: remove what dead servers left, and nothing else.
//!
//! # Invariants
//!
//! * `[hands off]`: a file is removed only by [`remove_if_stale`], which holds the server's byte of the
//!   lease while it does so, and only after a survey has found a segment of ours that is stale.

pub(crate) mod args;

use crate::error::ToolError;
use crate::output::{Page, Report, Verdict};
use crate::survey::{Liveness, Survey};
use crate::units;
use ringmill_shm::segment::{self, Location, NAMED_DIRECTORY, Removed, remove_if_stale};
use ringmill_shm::text::{shown, shown_path, size};
use serde::Serialize;

/// The outcome for each segment.
#[derive(Debug, Serialize)]
pub(crate) struct Cleaning {
    /// Whether nothing was to be removed.
    dry_run: bool,
    /// In the order given, or by name.
    segments: Vec<Cleaned>,
    /// Whether the segments were named one by one.
    #[serde(skip)]
    named: bool,
}

#[derive(Debug, Serialize)]
struct Cleaned {
    /// The argument that commands take.
    name: String,
    /// The file.
    path: String,
    /// Size of the file.
    bytes: Option<u64>,
    /// How it ended.
    outcome: Outcome,
    /// Why, if its server's death is not the reason.
    reason: Option<String>,
}

/// How the cleaning of one segment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// It was stale and is gone.
    Removed,
    /// It is stale; this was a dry run.
    WouldRemove,
    /// Its server lives; left alone.
    Live,
    /// It is no segment; left alone.
    Foreign,
    /// Whether it is stale is unknown; left alone.
    Skipped,
    /// No segment has this name.
    Missing,
    /// It is stale, but the system refused to remove it.
    Failed,
}

impl Outcome {
    fn text(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::WouldRemove => "would remove",
            Self::Live | Self::Foreign | Self::Skipped => "left alone",
            Self::Missing => "missing",
            Self::Failed => "failed",
        }
    }
}

/// Removes stale segments: those named, or all that are named segments of this machine.
pub(crate) fn clean(names: &[String], dry_run: bool) -> Result<Cleaning, ToolError> {
    let named = !names.is_empty();
    // All names are parsed before the first segment is touched.
    let locations = match named {
        true => names.iter().map(|name| Location::parse(name)).collect::<Result<Vec<_>, _>>()?,
        false => {
            let system = |error| ToolError::System { what: "read", path: NAMED_DIRECTORY.into(), error };
            segment::list().map_err(system)?.into_iter().map(|found| found.location).collect()
        }
    };
    let mut segments = Vec::new();
    for location in locations {
        let (survey, outcome, reason) = match Survey::of(location.clone()) {
            Ok(Some(survey)) => {
                let (outcome, reason) = clean_one(&survey, dry_run);
                (Some(survey), outcome, reason)
            }
            Ok(None) if !named => continue,
            Ok(None) => {
                (None, Outcome::Missing, Some("no such segment; 'shmtool list' shows all segments".into()))
            }
            Err(error) => (None, Outcome::Failed, Some(error.to_string())),
        };
        segments.push(Cleaned {
            name: shown(&location.to_text()),
            path: shown_path(&location.path()),
            bytes: survey.and_then(|s| s.bytes()),
            outcome,
            reason,
        });
    }
    Ok(Cleaning { dry_run, segments, named })
}

fn clean_one(survey: &Survey, dry_run: bool) -> (Outcome, Option<String>) {
    let live = || (Outcome::Live, Some("its server lives".to_string()));
    if let Location::Anonymous(_) = survey.location {
        let nothing = "nothing to clean: an anonymous segment has no files, and goes with its last process";
        return (Outcome::Skipped, Some(nothing.into()));
    }
    let foreign = |why: &str| (Outcome::Foreign, Some(format!("not a ringmill segment: {why}")));
    match survey.state {
        Liveness::Live => return live(),
        Liveness::Foreign => return foreign(survey.why.as_deref().unwrap_or_default()),
        Liveness::Unknown => return (Outcome::Skipped, survey.why.clone()),
        Liveness::Stale => {}
    }
    // [hands off]: decides again, with the lease held.
    match remove_if_stale(&survey.location, dry_run) {
        Ok(Removed::Stale) if dry_run => (Outcome::WouldRemove, survey.why.clone()),
        Ok(Removed::Stale) => (Outcome::Removed, survey.why.clone()),
        Ok(Removed::Live) => live(),
        Ok(Removed::Foreign) => foreign("another file has taken its name"),
        Ok(Removed::Nothing) => (Outcome::Skipped, None),
        Err(error) => (Outcome::Failed, Some(error.to_string())),
    }
}

impl Report for Cleaning {
    fn text(&self, page: Page) -> String {
        if self.segments.is_empty() {
            return format!("Nothing to clean: no ringmill segments in {NAMED_DIRECTORY}.\n");
        }
        let rows = self.segments.iter().map(|s| {
            vec![
                s.outcome.text().to_string(),
                s.name.clone(),
                s.bytes.map_or_else(|| "-".into(), size),
                s.reason.clone().unwrap_or_else(|| "its server has died".into()),
            ]
        });
        let mut text = page.table(&["outcome", "name", ">size", "reason"], rows);
        let verb = if self.dry_run { Outcome::WouldRemove } else { Outcome::Removed };
        let done: Vec<_> = self.segments.iter().filter(|s| s.outcome == verb).collect();
        let bytes = done.iter().filter_map(|s| s.bytes).fold(0, u64::saturating_add);
        text += &match (done.len(), self.dry_run) {
            (0, _) => "\nNothing is stale.\n".to_string(),
            (n, true) => {
                format!("\n'shmtool clean' would remove {}, {}.\n", units::count(n, "segment"), size(bytes))
            }
            (n, false) => format!("\nRemoved {}, {}.\n", units::count(n, "segment"), size(bytes)),
        };
        text
    }

    fn verdict(&self) -> Verdict {
        let of = |segment: &Cleaned| match segment.outcome {
            Outcome::Removed | Outcome::WouldRemove => Verdict::Fine,
            Outcome::Live | Outcome::Foreign | Outcome::Skipped if !self.named => Verdict::Fine,
            Outcome::Live | Outcome::Foreign | Outcome::Skipped => Verdict::Wrong,
            Outcome::Missing | Outcome::Failed => Verdict::Failed,
        };
        self.segments.iter().map(of).max().unwrap_or(Verdict::Fine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outcomes: &[Outcome], named: bool) -> Cleaning {
        let cleaned = |&outcome| Cleaned {
            name: "x".into(),
            path: "/dev/shm/ringmill-x".into(),
            bytes: Some(4096),
            outcome,
            reason: None,
        };
        Cleaning { dry_run: false, segments: outcomes.iter().map(cleaned).collect(), named }
    }

    #[test]
    fn the_worst_outcome_decides_and_only_named_segments_must_go() {
        use Outcome::{Failed, Foreign, Live, Missing, Removed};
        assert_eq!(report(&[], false).verdict(), Verdict::Fine);
        assert_eq!(report(&[Removed, Live, Foreign], false).verdict(), Verdict::Fine);
        assert_eq!(report(&[Removed, Live], true).verdict(), Verdict::Wrong);
        assert_eq!(report(&[Missing, Live], true).verdict(), Verdict::Failed);
        assert_eq!(report(&[Failed], false).verdict(), Verdict::Failed);
    }

    #[test]
    fn the_last_line_sums_up() {
        let last = |r: Cleaning| r.text(Page::plain()).lines().last().unwrap().to_string();
        assert_eq!(last(report(&[], false)), "Nothing to clean: no ringmill segments in /dev/shm.");
        assert_eq!(last(report(&[Outcome::Live], false)), "Nothing is stale.");
        assert_eq!(last(report(&[Outcome::Removed; 2], false)), "Removed 2 segments, 8.0 KiB.");
    }

    #[test]
    fn json_has_the_documented_fields() {
        let value = serde_json::to_value(report(&[Outcome::WouldRemove], true)).unwrap();
        let expected = serde_json::json!({"dry_run": false, "segments": [{
            "name": "x", "path": "/dev/shm/ringmill-x", "bytes": 4096,
            "outcome": "would_remove", "reason": null,
        }]});
        assert_eq!(value, expected);
    }
}
