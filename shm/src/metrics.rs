//! Statistics for Prometheus: all counters and histograms of segments, and what they hold at the moment.
//!
//! Nothing is counted twice, and nothing while nobody looks: [`Metrics`] are read from the segments when they are scraped,
//! and [encoded](Collector) by `prometheus-client`, which must be of the version that this crate is built with.
//!
//! # Names
//!
//! Names, help texts and labels of counters and histograms follow from their tables ([`stats`](crate::stats)). All names begin
//! with `ringmill_`. Times are in seconds.
//!
//! | Label | Value |
//! |---|---|
//! | `server` | the server's name; if several servers have one name, a number follows that of each but the first |
//! | `servlet` | the servlet's name |
//! | `worker`, `thread` | the worker's index within its servlet, and where it has several threads, which of them |
//! | `outcome`, `reason`, `phase` | which of a family of counters, or in which phase requests are |
//! | `block_bytes` | the size of payload blocks |
//!
//! Names come from a segment, so they are escaped as [`shown`] does.
//!
//! # Histograms
//!
//! There is one for each servlet, over all its workers. Its buckets are the powers of two from about a microsecond to about a
//! minute (1.024 µs to 68.7 s), whatever the values are; those of items are 1, 3, 7 and so on to 65,535. Times are of a
//! sample, as the documentation of [`stats`](crate::stats) says, so counts are estimates.

use crate::check::PhaseCounts;
use crate::participant::Life;
use crate::pool;
use crate::segment::{Node, Segment};
use crate::stats::{
    CallerCounter, CallerHistogram, CallerStats, Counter, Distribution, HistogramWords, Merge, Quantity,
    ServerCounter, Words, WorkerDistributions, WorkerHistogram,
};
use crate::text::shown;
use crate::word::Phase;
use core::fmt;
use core::ops::RangeInclusive;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

/// The metrics of one segment, in the text format of Prometheus (version 0.0.4).
///
/// ```no_run
/// use ringmill_shm::{metrics, segment::{Location, Segment}};
///
/// let segment = Segment::inspect(Location::parse("digits")?)?;
/// print!("{}", metrics::text(&segment));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn text(segment: &Segment) -> String {
    Metrics::of([segment]).into_text()
}

/// The metrics of segments, as they were when they were read.
#[derive(Debug, Default)]
pub struct Metrics {
    servers: Vec<String>,
    families: Vec<Family>,
}

/// What has one name: its samples differ in their labels.
#[derive(Debug)]
struct Family {
    /// As the encoder wants it: that adds `_total`.
    name: String,
    help: &'static str,
    kind: MetricType,
    samples: Vec<(Labels, Value)>,
}

type Labels = Vec<(&'static str, String)>;

#[derive(Debug)]
enum Value {
    Number(u64),
    /// Each bucket's bound, and how many values are within it and not within the one before.
    Histogram {
        sum: f64,
        count: u64,
        buckets: Vec<(f64, u64)>,
    },
}

impl Metrics {
    /// Reads segments, each of another server. It takes some microseconds for each worker, and for each thousand of the
    /// capacity and of the payload blocks; the workers and callers do not wait for it.
    #[must_use]
    pub fn of<'s>(segments: impl IntoIterator<Item = &'s Segment>) -> Self {
        let mut metrics = Self::default();
        for segment in segments {
            let name = metrics.free_name(shown(&segment.identity().name));
            metrics.servers.push(name.clone());
            Reading { metrics: &mut metrics, server: name, segment }.read();
        }
        metrics
    }

    /// A name that no other server has.
    fn free_name(&self, name: String) -> String {
        let numbered = (2..).map(|number| format!("{name}-{number}"));
        let free = std::iter::once(name.clone()).chain(numbered).find(|name| !self.servers.contains(name));
        free.unwrap_or(name)
    }

    /// With a metric of its own that says whether the server of this name lives: for a scrape that found none too.
    #[must_use]
    pub fn with_up(mut self, server: &str, is_up: bool) -> Self {
        let labels = vec![("server", shown(server))];
        let help = "Whether the server lives: 1 or 0.";
        self.add("ringmill_up", help, MetricType::Gauge, labels, Value::Number(is_up.into()));
        self
    }

    /// The text format of Prometheus (version 0.0.4).
    #[must_use]
    pub fn into_text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry).expect("a String takes all text");
        text
    }

    fn add(&mut self, name: &str, help: &'static str, kind: MetricType, labels: Labels, value: Value) {
        let name = name.strip_suffix("_total").unwrap_or(name);
        let index = self.families.iter().position(|family| family.name == name).unwrap_or_else(|| {
            self.families.push(Family { name: name.into(), help, kind, samples: Vec::new() });
            self.families.len() - 1
        });
        self.families[index].samples.push((labels, value));
    }
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in &self.families {
            let mut all = encoder.encode_descriptor(&family.name, family.help, None, family.kind)?;
            for (labels, value) in &family.samples {
                let mut one = all.encode_family(labels)?;
                match value {
                    Value::Histogram { sum, count, buckets } => {
                        one.encode_histogram::<NoLabelSet>(*sum, *count, buckets, None)?;
                    }
                    Value::Number(number) if family.kind == MetricType::Counter => {
                        one.encode_counter::<NoLabelSet, u64, f64>(number, None)?;
                    }
                    Value::Number(number) => one.encode_gauge(number)?,
                }
            }
        }
        Ok(())
    }
}

/// One segment as it is read.
struct Reading<'m> {
    metrics: &'m mut Metrics,
    /// The value of the label.
    server: String,
    segment: &'m Segment,
}

impl Reading<'_> {
    fn read(&mut self) {
        self.requests();
        self.deaths();
        self.memory();
        for node in (0..self.segment.shape().nodes).filter_map(|index| self.segment.node(index)) {
            self.servlet(&node);
        }
    }

    fn labels<'l>(&self, others: impl IntoIterator<Item = (&'static str, &'l str)>) -> Labels {
        let others = others.into_iter().map(|(label, value)| (label, value.to_owned()));
        std::iter::once(("server", self.server.clone())).chain(others).collect()
    }

    fn gauge<'l>(
        &mut self,
        name: &str,
        help: &'static str,
        labels: impl IntoIterator<Item = (&'static str, &'l str)>,
        value: u64,
    ) {
        let labels = self.labels(labels);
        self.metrics.add(name, help, MetricType::Gauge, labels, Value::Number(value));
    }

    /// A counter of a table; of several lines the least or the greatest is no counter for Prometheus.
    fn counter<'l>(
        &mut self,
        words: &Words,
        labels: impl IntoIterator<Item = (&'static str, &'l str)>,
        value: u64,
    ) {
        let kind = if words.merge == Merge::Sum { MetricType::Counter } else { MetricType::Gauge };
        let labels = self.labels(labels.into_iter().chain(words.label()));
        self.metrics.add(&words.metric(), words.metric_help(), kind, labels, Value::Number(value));
    }

    fn histogram<'l>(
        &mut self,
        words: &HistogramWords,
        labels: impl IntoIterator<Item = (&'static str, &'l str)>,
        values: &Distribution,
    ) {
        let labels = self.labels(labels);
        let value = Value::Histogram {
            sum: in_base_unit(values.quantity(), values.sum()),
            count: values.count(),
            buckets: buckets(values),
        };
        self.metrics.add(&words.metric(), words.help, MetricType::Histogram, labels, value);
    }

    fn requests(&mut self) {
        let (counters, times) = CallerStats::of_all(self.segment.callers());
        for counter in CallerCounter::ALL {
            self.counter(counter.words(), [], counters.get(counter));
        }
        for histogram in CallerHistogram::ALL {
            self.histogram(histogram.words(), [], times.get(histogram));
        }
        let phases = PhaseCounts::of(self.segment);
        for phase in Phase::ALL.into_iter().filter(|phase| *phase != Phase::Free) {
            let (name, help) = ("ringmill_requests_in_progress", "Requests in progress, by phase.");
            self.gauge(name, help, [("phase", phase.name())], phases[phase].into());
        }
        let capacity = self.segment.shape().requests;
        self.gauge("ringmill_capacity_requests", "Requests that can be in progress.", [], capacity.into());
    }

    fn deaths(&mut self) {
        let counters = self.segment.server_counters().snapshot();
        for counter in ServerCounter::ALL {
            self.counter(counter.words(), [], counters.get(counter));
        }
    }

    fn memory(&mut self) {
        for (class, in_use) in self.segment.shape().classes().iter().zip(pool::in_use(self.segment)) {
            let size = class.block_bytes.to_string();
            let size = [("block_bytes", size.as_str())];
            self.gauge("ringmill_blocks", "Payload blocks, by size.", size, class.count);
            self.gauge("ringmill_blocks_in_use", "Payload blocks in use, by size.", size, in_use);
        }
    }

    fn servlet(&mut self, node: &Node<'_>) {
        let (info, name) = (node.info(), shown(&node.info().name));
        let servlet = ("servlet", name.as_str());
        let mut times = WorkerDistributions::default();
        let mut ready = 0;
        for ((number, row), entry) in (0..).zip(info.first_participant..).zip(node.workers()) {
            let threads = info.facts.threads;
            let (worker, thread) = ((number / threads).to_string(), (number % threads).to_string());
            let labels = [servlet, ("worker", &worker), ("thread", &thread)];
            let labels = if threads > 1 { &labels[..] } else { &labels[..2] };
            let (counters, of_row) = self.segment.worker_stats(row).unwrap_or_default();
            times = times.merged(&of_row);
            for counter in Counter::ALL {
                self.counter(counter.words(), labels.iter().copied(), counters.get(counter));
            }
            let (name, help) = ("ringmill_worker_restarts_total", "Times that the worker was started again.");
            let of_restarts = self.labels(labels.iter().copied());
            let restarts = Value::Number(entry.restarts().into());
            self.metrics.add(name, help, MetricType::Counter, of_restarts, restarts);
            let lives = entry.token().is_some_and(|token| !self.segment.is_dead(token));
            ready += u64::from(lives && entry.life() == Life::Ready);
        }
        for histogram in WorkerHistogram::ALL {
            self.histogram(histogram.words(), [servlet], times.get(histogram));
        }
        let rows = node.workers().len() as u64;
        self.gauge("ringmill_workers", "Workers, threads counted one by one.", [servlet], rows);
        self.gauge("ringmill_workers_ready", "Workers that live and take requests.", [servlet], ready);
        let down = node.doorbell().is_down();
        self.gauge(
            "ringmill_servlet_down",
            "Whether the servlet is without workers, and refuses items: 1 or 0.",
            [servlet],
            down.into(),
        );
        self.gauge(
            "ringmill_ring_depth",
            "Items in the servlet's ring, roughly.",
            [servlet],
            node.ring().depth(),
        );
    }
}

/// The bounds of buckets, below which values are, in a histogram's units: powers of two.
fn bounds(quantity: Quantity) -> RangeInclusive<u64> {
    match quantity {
        Quantity::Items => 1 << 1..=1 << 16,
        Quantity::Time => 1 << 10..=1 << 36,
    }
}

/// A number of items as it is, a time in seconds.
fn in_base_unit(quantity: Quantity, value: u64) -> f64 {
    match quantity {
        Quantity::Items => value as f64,
        Quantity::Time => value as f64 / 1e9,
    }
}

/// The buckets of a histogram, as the encoder adds them up.
fn buckets(values: &Distribution) -> Vec<(f64, u64)> {
    let quantity = values.quantity();
    let mut before = 0;
    let mut within = |below: u64| {
        let within = below.saturating_sub(before);
        before = below;
        within
    };
    let cumulative = values.cumulative().filter(|(bound, _)| bounds(quantity).contains(bound));
    let mut buckets: Vec<(f64, u64)> = cumulative
        .map(|(bound, below)| {
            // A bucket of Prometheus has its bound in it.
            let greatest = if quantity == Quantity::Items { bound - 1 } else { bound };
            (in_base_unit(quantity, greatest), within(below))
        })
        .collect();
    buckets.push((f64::INFINITY, within(values.count())));
    buckets
}
