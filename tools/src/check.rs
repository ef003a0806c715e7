//! `shmtool check`: is a segment consistent?

pub(crate) mod args;

use crate::error::ToolError;
use crate::output::{Page, Report, Verdict};
use crate::survey::{Liveness, Survey, way_out};
use crate::units;
use ringmill_shm::check::{self, Problem};
use ringmill_shm::text::{shown, shown_path};
use serde::Serialize;

/// The report on one segment.
#[derive(Debug, Serialize)]
pub(crate) struct Checked {
    /// The argument that commands take.
    name: String,
    /// The file.
    path: String,
    /// Whether it is in use.
    state: Liveness,
    /// Whether there are no problems.
    consistent: bool,
    /// Its inconsistencies.
    problems: Vec<Told>,
}

#[derive(Debug, Serialize)]
struct Told {
    #[serde(flatten)]
    problem: Problem,
    /// The problem as a sentence.
    message: String,
}

/// Checks a segment.
pub(crate) fn check(name: &str) -> Result<Checked, ToolError> {
    let (survey, segment) = Survey::open(name)?;
    let problems: Vec<_> = check::check(&segment)
        .into_iter()
        .map(|problem| Told { message: problem.to_string(), problem })
        .collect();
    Ok(Checked {
        name: shown(&survey.location.to_text()),
        path: shown_path(&survey.location.path()),
        state: survey.state,
        consistent: problems.is_empty(),
        problems,
    })
}

impl Report for Checked {
    fn text(&self, _: Page) -> String {
        let mut text = if self.consistent {
            format!("{}: consistent\n", self.name)
        } else {
            format!("{}: {}\n", self.name, units::count(self.problems.len(), "problem"))
        };
        for told in &self.problems {
            text += &format!("  {}\n", told.message);
        }
        if self.state == Liveness::Stale {
            text += &format!("It is stale: its server has died; {}.\n", way_out(&self.name));
        }
        text
    }

    fn verdict(&self) -> Verdict {
        if self.consistent { Verdict::Fine } else { Verdict::Wrong }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_keeps_its_numbers_beside_the_message() {
        let problem = Problem::DeadHolder { node: 2, token: 0x405 };
        let told = Told { message: problem.to_string(), problem };
        let expected = serde_json::json!({
            "kind": "dead_holder", "node": 2, "token": 0x405,
            "message": "node 2: the holder 0x405 of its reader lock is dead",
        });
        assert_eq!(serde_json::to_value(&told).unwrap(), expected);
    }
}
