//! Rows: the results of every job, as a table for people and as lines of JSON, which can be read back.
//!
//! A line of JSON is one flat object: the job, who, the regime if there is one, its parameters ([`PARAMETERS`], whole numbers),
//! and its figures (every other name, a number each). A missing value is left out.

use std::fmt;

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, TableStyle};
use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::rounds::{Quartiles, Regime};

/// The names of where something is measured, in the order of columns. Units last.
pub const PARAMETERS: [&str; 9] = [
    "payload_bytes",
    "window",
    "threads",
    "workers",
    "stages",
    "members",
    "batch_size",
    "rate_per_s",
    "spin_us",
];

/// One line of a report: one contestant at one point in one regime.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The job's name.
    pub job: String,
    /// The contestant's name.
    pub who: String,
    /// The regime in which it was measured; none where cache lines have no part in it.
    pub regime: Option<Regime>,
    /// Its parameters: names out of [`PARAMETERS`].
    pub at: Vec<(String, u64)>,
    /// Its figures: names in snake case, units last.
    pub figures: Vec<(String, f64)>,
}

impl Row {
    /// A row without parameters and figures.
    pub fn new(job: &str, who: &str) -> Self {
        Self { job: job.into(), who: who.into(), regime: None, at: Vec::new(), figures: Vec::new() }
    }

    /// Sets the regime.
    #[must_use]
    pub fn regime(mut self, regime: Regime) -> Self {
        self.regime = Some(regime);
        self
    }

    /// Sets a parameter to `value`.
    ///
    /// # Panics
    ///
    /// If `parameter` is none of [`PARAMETERS`]: it would come back as a figure.
    #[must_use]
    pub fn at(mut self, parameter: &str, value: impl Into<u64>) -> Self {
        assert!(is_parameter(parameter), "{parameter} is missing in PARAMETERS");
        self.at.push((parameter.into(), value.into()));
        self
    }

    /// Adds a figure, rounded to three decimals, or to four digits where those lie further behind; more would only show noise.
    /// A figure that is not finite is left out.
    ///
    /// # Panics
    ///
    /// If `name` is not the name of a figure.
    #[must_use]
    pub fn figure(mut self, name: &str, value: f64) -> Self {
        assert!(!is_parameter(name) && !["job", "who", "regime"].contains(&name), "{name} is no figure");
        if value.is_finite() {
            self.figures.push((name.into(), rounded(value)));
        }
        self
    }

    /// Adds the median of a ratio as the figure `name`, and its quartiles.
    #[must_use]
    pub fn ratio(self, name: &str, ratio: Quartiles) -> Self {
        let Quartiles { lower, median, upper } = ratio;
        self.figure(name, median).figure("ratio_lower", lower).figure("ratio_upper", upper)
    }

    /// The value of a parameter.
    pub fn parameter(&self, name: &str) -> Option<u64> {
        self.at.iter().find(|(parameter, _)| parameter == name).map(|&(_, value)| value)
    }

    /// The value of a figure.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|(figure, _)| figure == name).map(|&(_, value)| value)
    }
}

fn rounded(value: f64) -> f64 {
    let leading_zeros = if value == 0.0 { 0.0 } else { -value.abs().log10().floor() };
    let scale = 10_f64.powi((3.0 + leading_zeros).clamp(3.0, 20.0) as i32);
    (value * scale).round() / scale
}

fn is_parameter(name: &str) -> bool {
    PARAMETERS.contains(&name)
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("job", &self.job)?;
        map.serialize_entry("who", &self.who)?;
        if let Some(regime) = self.regime {
            map.serialize_entry("regime", &regime)?;
        }
        for (parameter, value) in &self.at {
            map.serialize_entry(parameter, value)?;
        }
        for (name, value) in &self.figures {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RowVisitor)
    }
}

struct RowVisitor;

impl<'de> Visitor<'de> for RowVisitor {
    type Value = Row;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a flat object with job, who and numbers")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row, A::Error> {
        let (mut job, mut who) = (None, None);
        let mut row = Row::new("", "");
        while let Some(name) = map.next_key::<String>()? {
            match name.as_str() {
                "job" => job = Some(map.next_value()?),
                "who" => who = Some(map.next_value()?),
                "regime" => row.regime = map.next_value()?,
                parameter if is_parameter(parameter) => row.at.push((name, map.next_value()?)),
                _ => row.figures.push((name, map.next_value()?)),
            }
        }
        row.job = job.ok_or_else(|| de::Error::missing_field("job"))?;
        row.who = who.ok_or_else(|| de::Error::missing_field("who"))?;
        Ok(row)
    }
}

/// One JSON object a line.
///
/// # Panics
///
/// Never: a row holds nothing that JSON cannot.
pub fn json(rows: &[Row]) -> String {
    rows.iter().map(|row| serde_json::to_string(row).expect("a row is plain data") + "\n").collect()
}

/// The rows of `text`, as [`json`] writes them; blank lines are skipped.
///
/// # Errors
///
/// The error of the first line that is no row.
pub fn read(text: &str) -> Result<Vec<Row>, serde_json::Error> {
    text.lines().filter(|line| !line.trim().is_empty()).map(serde_json::from_str).collect()
}

/// One table a job for people: a column for every parameter and every figure that a row of the job has. Blank lines keep
/// jobs and regimes apart.
pub fn table(rows: &[Row]) -> String {
    rows.chunk_by(|one, next| one.job == next.job).map(table_of_job).collect::<Vec<_>>().join("\n\n") + "\n"
}

fn table_of_job(rows: &[Row]) -> String {
    let has_regimes = rows.iter().any(|row| row.regime.is_some());
    let parameters: Vec<&str> = PARAMETERS
        .into_iter()
        .filter(|parameter| rows.iter().any(|row| row.parameter(parameter).is_some()))
        .collect();
    let mut figures: Vec<&str> = Vec::new();
    for row in rows {
        // One that no row before had comes behind the one that it follows in this row.
        let mut column = 0;
        for (name, _) in &row.figures {
            column = 1 + figures.iter().position(|figure| figure == name).unwrap_or_else(|| {
                figures.insert(column, name);
                column
            });
        }
    }
    let left = |text: &str| Cell::new(text);
    let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);

    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_content_arrangement(ContentArrangement::Disabled);
    let mut header = vec![left("job"), left("who")];
    header.extend(has_regimes.then(|| left("regime")));
    header.extend(parameters.iter().chain(&figures).map(|name| right((*name).into())));
    table.set_header(header);
    let mut last: Option<&Row> = None;
    for row in rows {
        if last.is_some_and(|last| last.regime != row.regime) {
            table.add_row([""]);
        }
        let mut cells = vec![left(&row.job), left(&row.who)];
        cells.extend(has_regimes.then(|| left(row.regime.map_or("", Regime::name))));
        cells.extend(
            parameters
                .iter()
                .map(|parameter| right(row.parameter(parameter).map_or_else(String::new, |n| n.to_string()))),
        );
        cells.extend(figures.iter().map(|name| right(row.value(name).map_or_else(String::new, brief))));
        table.add_row(cells);
        last = Some(row);
    }
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, 2));
    });
    table.trim_fmt()
}

/// Four digits or so.
fn brief(figure: f64) -> String {
    match figure {
        whole if whole.fract() == 0.0 => format!("{whole}"),
        large if large.abs() >= 1000.0 => format!("{large:.0}"),
        tens if tens.abs() >= 10.0 => format!("{tens:.1}"),
        few if few.abs() >= 0.1 => format!("{few:.3}"),
        small => format!("{small}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        let row = |who, regime, ns| {
            Row::new("stream", who)
                .regime(regime)
                .at("payload_bytes", 64_u32)
                .at("window", 256_u32)
                .figure("ns_per_item", ns)
                .figure("rounds", 12.0)
        };
        vec![
            row("rtrb", Regime::Near, 33.123_456),
            row("ringmill", Regime::Near, 41.5).figure("slowest_thread_p999_us", 7.25),
            row("rtrb", Regime::Far, 150.0),
            Row::new("start", "ringmill")
                .at("workers", 16_u32)
                .figure("ready_ms", 98.7)
                .figure("lower", f64::NAN),
        ]
    }

    #[test]
    fn json_is_flat() {
        let text = json(&rows());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            r#"{"job":"stream","who":"rtrb","regime":"near","payload_bytes":64,"window":256,"ns_per_item":33.123,"rounds":12.0}"#
        );
        assert_eq!(lines[3], r#"{"job":"start","who":"ringmill","workers":16,"ready_ms":98.7}"#);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let rows = rows();
        assert_eq!(read(&json(&rows)).unwrap(), rows);
        assert_eq!(read("\n").unwrap(), []);
        assert!(read(r#"{"who":"rtrb","window":256}"#).unwrap_err().to_string().contains("job"));
        assert!(read(r#"{"job":"stream","who":"rtrb","window":2.5}"#).is_err());
        // Whole numbers may lose their point on the way, through jq say.
        let row = &read(r#"{"job":"stream","who":"rtrb","window":256,"rounds":12}"#).unwrap()[0];
        assert_eq!(
            (row.parameter("window"), row.value("rounds"), row.value("window")),
            (Some(256), Some(12.0), None)
        );
    }

    #[test]
    fn figures_have_digits_that_count() {
        let row = |value| Row::new("idle", "ringmill").figure("cpu_percent", value);
        for (value, figure) in
            [(0.0, 0.0), (33.123_456, 33.123), (-0.5, -0.5), (0.000_456_789, 0.000_456_8), (1e9, 1e9)]
        {
            assert_eq!(row(value).value("cpu_percent"), Some(figure));
            assert_eq!(read(&json(&[row(value)])).unwrap(), [row(value)]);
        }
    }

    #[test]
    #[should_panic(expected = "missing in PARAMETERS")]
    fn an_unknown_place_is_a_mistake() {
        let _ = Row::new("stream", "rtrb").at("widow", 256_u32);
    }

    #[test]
    fn a_table_has_the_columns_of_its_job() {
        let text = table(&rows());
        let tables: Vec<&str> = text.split("\n\njob").collect();
        assert_eq!(tables.len(), 2, "{text}");
        let lines: Vec<&str> = tables[0].lines().collect();
        let names: Vec<&str> = lines[0].split_whitespace().collect();
        assert_eq!(
            names,
            [
                "job",
                "who",
                "regime",
                "payload_bytes",
                "window",
                "ns_per_item",
                "rounds",
                "slowest_thread_p999_us"
            ]
        );
        assert!(lines[2].contains("near") && lines[3].is_empty() && lines[4].contains("far"), "{text}");
        assert!(lines[2].ends_with("7.250") && lines[1].ends_with("12"), "{text}");
        let names: Vec<&str> = tables[1].lines().next().unwrap().split_whitespace().collect();
        assert_eq!(names, ["who", "workers", "ready_ms"]);
    }

    #[test]
    fn a_column_that_comes_late_has_its_place() {
        let row = |names: &[&str]| {
            names.iter().fold(Row::new("latency", "rtrb"), |row, name| row.figure(name, 1.0))
        };
        let rows = [row(&["p50_us", "rounds"]), row(&["sent_per_s", "p50_us", "p99_us", "rounds"])];
        let text = table(&rows);
        let names: Vec<&str> = text.lines().next().unwrap().split_whitespace().collect();
        assert_eq!(names, ["job", "who", "sent_per_s", "p50_us", "p99_us", "rounds"]);
    }
}
