//! A record as it is read: samples in no more columns than a picture has room for.

use crate::error::ToolError;
use crate::record::{FORMAT, Head, VERSION};
use crate::stats::why::{Finding, Kind};
use ringmill_shm::text::shown;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// The longest line that is read: a sample of the largest plan is far below it.
const LINE_LIMIT: u64 = 1 << 26;
/// With more columns, two become one.
const COLUMNS: usize = 1_000;
/// A period below this part of the interval becomes a part of the one before it.
const SHORT: f64 = 0.5;

/// A record.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) head: Head,
    /// How many samples it has.
    pub(super) samples: u64,
    /// Samples, or several together.
    pub(super) columns: Vec<Column>,
    /// What limited the server, by its kind and what it is about.
    pub(super) findings: BTreeMap<(Kind, Option<String>), Found>,
    /// The last line had no end.
    pub(super) last_line_cut: bool,
}

/// A finding of one or more samples.
#[derive(Debug)]
pub(super) struct Found {
    /// In how many.
    pub(super) samples: u64,
    /// Its words in the last of them.
    pub(super) text: String,
}

/// What `stats` says of a period, as far as it is drawn.
#[derive(Debug, Deserialize)]
struct Sample {
    period_s: f64,
    capacity: u32,
    in_progress: u32,
    findings: Vec<Finding>,
    requests: Requests,
    deaths: Deaths,
    servlets: Vec<ServletSample>,
}

#[derive(Debug, Deserialize)]
struct Requests {
    answered: u64,
    ended: u64,
    total_time: Values,
}

#[derive(Debug, Deserialize)]
struct Deaths {
    deaths: u64,
}

#[derive(Debug, Deserialize)]
struct ServletSample {
    name: String,
    depth: u64,
    busy: Option<f64>,
    counters: Counters,
    batch_size: Values,
    queue_time: Values,
    run_time: Values,
}

#[derive(Debug, Deserialize)]
struct Counters {
    items: u64,
    batches: u64,
}

/// Percentiles of a period; of several periods together, the highest of each.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) struct Values {
    pub(super) count: u64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
}

/// A period, or several that follow each other.
#[derive(Debug, Clone)]
pub(super) struct Column {
    /// Its end, in seconds since the record's start: all periods up to there, whatever a clock said.
    pub(super) at_s: f64,
    /// Of how many samples it is made.
    samples: u64,
    pub(super) period_s: f64,
    pub(super) capacity: u32,
    pub(super) in_progress: u32,
    pub(super) ended: u64,
    /// Of those that ended, not answered.
    pub(super) failed: u64,
    pub(super) total_time: Values,
    pub(super) deaths: u64,
    pub(super) servlets: Vec<Servlet>,
}

#[derive(Debug, Clone)]
pub(super) struct Servlet {
    pub(super) name: String,
    pub(super) items: u64,
    pub(super) batches: u64,
    pub(super) depth: u64,
    /// The seconds of a period in which its workers ran code, as far as they were timed.
    busy_s: Option<f64>,
    pub(super) batch_size: Values,
    pub(super) queue_time: Values,
    pub(super) run_time: Values,
}

impl Record {
    /// Reads a record. A last line without an end is left out: its recorder died, or still writes.
    pub(super) fn read(path: &Path) -> Result<Self, ToolError> {
        let system = |error| ToolError::System { what: "read", path: path.into(), error };
        let wrong = |line: u64, why: String| ToolError::NoRecord { path: path.into(), line, why };
        let mut file = BufReader::new(File::open(path).map_err(system)?);
        let mut lines = |number: u64| -> Result<Option<(String, bool)>, ToolError> {
            let mut bytes = Vec::new();
            file.by_ref().take(LINE_LIMIT).read_until(b'\n', &mut bytes).map_err(system)?;
            let has_end = bytes.pop_if(|last| *last == b'\n').is_some();
            match (bytes.is_empty() && !has_end, bytes.len() as u64 == LINE_LIMIT) {
                (true, _) => Ok(None),
                (_, true) => Err(wrong(number, format!("it has more than {LINE_LIMIT} bytes"))),
                _ => match String::from_utf8(bytes) {
                    Ok(text) => Ok(Some((text, has_end))),
                    Err(_) if !has_end => Ok(Some((String::new(), false))),
                    Err(error) => Err(wrong(number, error.to_string())),
                },
            }
        };
        let (first, _) = lines(1)?.ok_or_else(|| wrong(1, "the file is empty".into()))?;
        let head: Head = serde_json::from_str(&first).map_err(|error| wrong(1, error.to_string()))?;
        if (head.format.as_str(), head.version) != (FORMAT, VERSION) {
            let why =
                format!("it is {:?} version {}, not {FORMAT:?} version {VERSION}", head.format, head.version);
            return Err(wrong(1, why));
        }
        let (columns, findings) = (Vec::new(), BTreeMap::new());
        let mut record = Self { head, samples: 0, columns, findings, last_line_cut: false };
        let mut each = 1;
        for number in 2.. {
            match lines(number)? {
                None => break,
                Some((_, false)) => record.last_line_cut = true, // and nothing follows
                Some((text, true)) => {
                    let sample =
                        serde_json::from_str(&text).map_err(|error| wrong(number, error.to_string()))?;
                    each = record.add(sample, each);
                }
            }
        }
        record.head.name = shown(&record.head.name);
        Ok(record)
    }

    /// Adds a sample; `each` is of how many a column is made.
    fn add(&mut self, sample: Sample, each: u64) -> u64 {
        for Finding { kind, about, text } in &sample.findings {
            let before = self.findings.get(&(*kind, about.clone())).map_or(0, |found| found.samples);
            let found = Found { samples: before + 1, text: shown(text) };
            self.findings.insert((*kind, about.clone()), found);
        }
        let column = Column::of(sample, self.seconds());
        // In a short period, as the last one may be, a few requests would make a high rate.
        let is_short = column.period_s < SHORT * self.head.interval_s;
        match self.columns.last_mut() {
            Some(last) if is_short || last.samples < each => last.add(column),
            _ => self.columns.push(column),
        }
        self.samples += 1;
        let is_full = self.columns.last().is_some_and(|last| last.samples >= each);
        if self.columns.len() < 2 * COLUMNS || !is_full {
            return each;
        }
        let pairs = std::mem::take(&mut self.columns);
        for (index, column) in pairs.into_iter().enumerate() {
            match self.columns.last_mut() {
                Some(last) if index % 2 == 1 => last.add(column),
                _ => self.columns.push(column),
            }
        }
        2 * each
    }

    /// The time that it covers.
    pub(super) fn seconds(&self) -> f64 {
        self.columns.last().map_or(0.0, |last| last.at_s)
    }

    /// A number of all columns together.
    pub(super) fn sum(&self, of: impl Fn(&Column) -> u64) -> u64 {
        self.columns.iter().map(of).fold(0, u64::saturating_add)
    }

    /// The servlets, in the order of the plan.
    pub(super) fn servlets(&self) -> Vec<&str> {
        self.columns
            .first()
            .map_or_else(Vec::new, |first| first.servlets.iter().map(|of| of.name.as_str()).collect())
    }
}

impl Values {
    fn add(&mut self, other: Self) {
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            return *self = other;
        }
        self.count = self.count.saturating_add(other.count);
        for (own, other) in [
            (&mut self.p50, other.p50),
            (&mut self.p90, other.p90),
            (&mut self.p99, other.p99),
            (&mut self.p999, other.p999),
        ] {
            *own = own.max(other);
        }
    }
}

impl Column {
    fn of(sample: Sample, begun_s: f64) -> Self {
        let period_s = sample.period_s.max(0.0);
        let servlet = |of: ServletSample| Servlet {
            name: shown(&of.name),
            items: of.counters.items,
            batches: of.counters.batches,
            depth: of.depth,
            busy_s: of.busy.map(|busy| busy * period_s),
            batch_size: of.batch_size,
            queue_time: of.queue_time,
            run_time: of.run_time,
        };
        Self {
            at_s: begun_s + period_s,
            samples: 1,
            period_s,
            capacity: sample.capacity,
            in_progress: sample.in_progress,
            ended: sample.requests.ended,
            failed: sample.requests.ended.saturating_sub(sample.requests.answered),
            total_time: sample.requests.total_time,
            deaths: sample.deaths.deaths,
            servlets: sample.servlets.into_iter().map(servlet).collect(),
        }
    }

    /// A number a second.
    pub(super) fn per_s(&self, n: u64) -> f64 {
        if self.period_s > 0.0 { n as f64 / self.period_s } else { 0.0 }
    }

    /// The part of the time in which a servlet's workers ran code.
    pub(super) fn busy(&self, servlet: &Servlet) -> Option<f64> {
        (self.period_s > 0.0).then(|| servlet.busy_s.map(|busy_s| busy_s / self.period_s))?
    }

    /// What follows it becomes a part of it. Of what is of a moment the greatest stays.
    fn add(&mut self, next: Self) {
        self.at_s = next.at_s;
        self.samples = self.samples.saturating_add(next.samples);
        self.period_s += next.period_s;
        self.in_progress = self.in_progress.max(next.in_progress);
        self.ended = self.ended.saturating_add(next.ended);
        self.failed = self.failed.saturating_add(next.failed);
        self.deaths = self.deaths.saturating_add(next.deaths);
        self.total_time.add(next.total_time);
        for (own, next) in self.servlets.iter_mut().zip(next.servlets) {
            own.items = own.items.saturating_add(next.items);
            own.batches = own.batches.saturating_add(next.batches);
            own.depth = own.depth.max(next.depth);
            own.busy_s = own.busy_s.zip(next.busy_s).map(|(a, b)| a + b).or(own.busy_s).or(next.busy_s);
            own.batch_size.add(next.batch_size);
            own.queue_time.add(next.queue_time);
            own.run_time.add(next.run_time);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record() -> Record {
        let head = Head {
            format: FORMAT.into(),
            version: VERSION,
            name: "n".into(),
            started_unix_s: 1_000.0,
            interval_s: 1.0,
            shmtool: String::new(),
        };
        Record { head, samples: 0, columns: Vec::new(), findings: BTreeMap::new(), last_line_cut: false }
    }

    fn sample(number: u64) -> Sample {
        let values = |p: u64| json!({"count": 1, "p50": p, "p90": p, "p99": p, "p999": p});
        let servlet = json!({
            "name": "split", "depth": number % 7, "busy": 0.5, "counters": {"items": 4, "batches": 2},
            "batch_size": values(2), "queue_time": values(number), "run_time": values(5),
        });
        let finding =
            |kind, about, number| json!({"kind": kind, "about": about, "text": format!("{about}: {number}")});
        serde_json::from_value(json!({
            "time_unix_s": 7, "period_s": 1.0, "capacity": 8, "in_progress": 1,
            "findings": [finding("bottleneck", "stage 1", number), finding("bottleneck", "stage 2", number)],
            "requests": {"answered": 9, "ended": 10, "total_time": values(number)},
            "deaths": {"deaths": u64::from(number == 77)}, "servlets": [servlet],
        }))
        .unwrap()
    }

    #[test]
    fn many_samples_become_few_columns_and_nothing_is_lost() {
        let (mut record, mut each) = (record(), 1);
        for number in 0..10_001 {
            each = record.add(sample(number), each);
        }
        assert_eq!((record.samples, each), (10_001, 8));
        assert!(record.columns.len() <= 2 * COLUMNS, "{}", record.columns.len());
        let sums = (record.sum(|c| c.ended), record.sum(|c| c.failed), record.sum(|c| c.deaths));
        assert_eq!(sums, (100_010, 10_001, 1));
        assert_eq!((record.seconds(), record.columns[0].at_s), (10_001.0, 8.0));
        let first = &record.columns[0];
        assert_eq!((first.period_s, first.per_s(first.ended)), (8.0, 10.0));
        assert_eq!((first.total_time.p99, first.servlets[0].depth), (7.0, 6), "the greatest");
        assert_eq!(first.busy(&first.servlets[0]), Some(0.5));
        let found: Vec<_> = record.findings.values().map(|found| (found.samples, &*found.text)).collect();
        assert_eq!(found, [(10_001, "stage 1: 10000"), (10_001, "stage 2: 10000")]);
    }

    /// Symptom: a record that a signal ended had the highest rate in its last milliseconds. Cause: one request in a period that
    /// short is a high rate. Fix: a short period is a part of the one before it.
    #[test]
    fn a_short_period_is_a_part_of_the_one_before_it() {
        let mut record = record();
        record.add(sample(0), 1);
        record.add(sample(1), 1);
        record.add(Sample { period_s: 0.001, ..sample(2) }, 1);
        let rates: Vec<f64> = record.columns.iter().map(|column| column.per_s(column.ended)).collect();
        assert_eq!(rates, [10.0, 20.0 / 1.001]);
        assert_eq!((record.samples, record.seconds()), (3, 2.001));
        assert_eq!(record.sum(|column| column.ended), 30);
    }
}
