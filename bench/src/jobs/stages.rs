//! `stages`: what a further stage of a pipeline, or a further member of an ensemble, costs.
//!
//! Every stage and every member is a worker process of its own that passes its items through, pinned to the
//! partner's CPU; so the figures are those of the engine's moving things on, all on one CPU.

use super::{Job, Session};
use crate::Error;
use crate::contestant::{Load, Point};
use crate::match_up::{Outcome, Setup, Standing};
use crate::peers::stages;
use crate::report::Row;

/// How many stages the pipelines have.
const PIPELINES: [u32; 4] = [1, 2, 4, 8];
/// How many members the ensembles have.
const ENSEMBLES: [u32; 5] = [1, 2, 4, 8, 16];

/// Measures all of them in one match.
///
/// # Errors
///
/// Those of [`Session::match_up`].
pub fn run(session: &mut Session<'_>) -> Result<(), Error> {
    let other = |only: u32| only != Point::STANDARD.payload_bytes;
    if !session.wants_ringmill() || session.only.payload_bytes.is_some_and(other) {
        return Ok(());
    }
    let window = session.only.window.unwrap_or(Point::STANDARD.window);
    let point = Point { window, ..Point::STANDARD };
    let outcome = session.match_up(&format!("stages, window {window}"), |cpus| {
        let pipelines = PIPELINES.map(|count| ("stages", count, stages::pipeline(count, point, cpus)));
        let ensembles = ENSEMBLES.map(|count| ("members", count, stages::ensemble(count, point, cpus)));
        let setup = |(what, count, contestant): (_, u32, Result<_, Error>)| {
            Ok(Setup::new(contestant?, Load::Stream { window }).at("window", window).at(what, count))
        };
        pipelines.into_iter().chain(ensembles).map(setup).collect()
    })?;
    if let Some(outcome) = outcome {
        session.audience.rows(&rows(&outcome))?;
    }
    Ok(())
}

/// The rows, with what each further stage or member adds to the ratio of one alone.
fn rows(outcome: &Outcome) -> Vec<Row> {
    outcome.rows_with(Job::Stages.name(), |standing, regime, row| {
        let kind = if standing.parameter("stages").is_some() { "stages" } else { "members" };
        let alone = outcome.standings.iter().find(|other| other.parameter(kind) == Some(1));
        let ratio = |standing: &Standing| Some(standing.tally.summary(regime)?.ratio_to_raw.median);
        match (ratio(standing), alone.and_then(ratio), standing.parameter(kind)) {
            (Some(all), Some(one), Some(count @ 2..)) => {
                row.figure("ratio_per_further", (all - one) / (count - 1) as f64)
            }
            _ => row,
        }
    })
}
