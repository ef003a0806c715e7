//! The table, and the lines of JSON.

use std::fmt::Write;

use serde::Serialize;

use crate::match_up::Outcome;
use crate::rounds::{Quartiles, Regime};

/// One contestant at one job in one regime. Its JSON has exactly the public fields.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The job's name.
    pub job: &'static str,
    /// The contestant's name.
    pub who: &'static str,
    /// The regime in which the slices were taken.
    pub regime: Regime,
    /// Bytes of a question, and of an answer.
    pub payload_bytes: usize,
    /// Items in progress at most.
    pub window: u32,
    /// Median nanoseconds an item.
    pub ns_per_item: f64,
    /// Median ratio to `raw`.
    pub ratio_to_raw: f64,
    /// Slices that counted.
    pub rounds: usize,
    #[serde(skip)]
    spread: Quartiles,
}

/// The rows of `outcome`, regime by regime, in the contestants' order; regimes without a slice have none.
pub fn rows(outcome: &Outcome) -> Vec<Row> {
    let of_regime = |regime: Regime| {
        outcome.standings.iter().filter_map(move |standing| {
            let summary = standing.tally.summary(regime)?;
            Some(Row {
                job: outcome.job.name(),
                who: standing.who,
                regime,
                payload_bytes: standing.shape.payload_bytes,
                window: standing.shape.window,
                ns_per_item: rounded(summary.ns_per_item),
                ratio_to_raw: rounded(summary.ratio_to_raw.median),
                rounds: summary.rounds,
                spread: summary.ratio_to_raw,
            })
        })
    };
    Regime::ALL.into_iter().flat_map(of_regime).collect()
}

/// Three decimals: more would only show noise.
fn rounded(figure: f64) -> f64 {
    (figure * 1e3).round() / 1e3
}

/// One JSON object a line.
///
/// # Panics
///
/// Never: a row holds nothing that JSON cannot.
pub fn json(rows: &[Row]) -> String {
    rows.iter().map(|row| serde_json::to_string(row).expect("a row is plain data") + "\n").collect()
}

/// A table for people, with a header and a blank line between regimes.
pub fn table(rows: &[Row]) -> String {
    let mut text =
        line(["job", "who", "regime", "payload", "window", "ns/item", "x raw", "quartiles", "rounds"]);
    for (place, row) in rows.iter().enumerate() {
        if place > 0 && (rows[place - 1].job, rows[place - 1].regime) != (row.job, row.regime) {
            text.push('\n');
        }
        text += &line([
            row.job,
            row.who,
            row.regime.name(),
            &format!("{} B", row.payload_bytes),
            &row.window.to_string(),
            &format!("{:.1}", row.ns_per_item),
            &format!("{:.2}", row.ratio_to_raw),
            &format!("{:.2} to {:.2}", row.spread.lower, row.spread.upper),
            &row.rounds.to_string(),
        ]);
    }
    text
}

/// Names to the left, figures to the right.
fn line(cells: [&str; 9]) -> String {
    let [job, who, regime, payload, window, ns, ratio, quartiles, rounds] = cells;
    let mut line = String::new();
    writeln!(
        line,
        "{job:<8}{who:<13}{regime:<8}{payload:>8}{window:>8}{ns:>10}{ratio:>8}  {quartiles:>14}{rounds:>8}"
    )
    .expect("a string takes what is written");
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contestant::{Job, Shape};
    use crate::match_up::Standing;
    use crate::rounds::{Reading, Tally};

    fn outcome() -> Outcome {
        let mut tally = Tally::default();
        for raw_ns in [70.0, 300.0] {
            let reading = Reading::of(&[raw_ns]);
            tally.add(3.0 * raw_ns, reading, reading);
        }
        let shape = Shape { payload_bytes: 64, window: 256 };
        let standings = vec![Standing { who: "rtrb", shape, tally }];
        Outcome { job: Job::Stream { window: 256 }, standings, shortfall: None }
    }

    #[test]
    fn json_has_exactly_the_agreed_fields() {
        let text = json(&rows(&outcome()));
        assert_eq!(
            text.lines().next().unwrap(),
            r#"{"job":"stream","who":"rtrb","regime":"near","payload_bytes":64,"window":256,"ns_per_item":210.0,"ratio_to_raw":3.0,"rounds":1}"#
        );
        assert_eq!(text.lines().count(), 2);
    }

    #[test]
    fn the_table_keeps_regimes_apart() {
        let text = table(&rows(&outcome()));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[1].contains("near") && lines[2].is_empty() && lines[3].contains("far"), "{text}");
        assert!(lines.iter().all(|line| line.is_empty() || line.len() == lines[0].len()), "{text}");
    }
}
