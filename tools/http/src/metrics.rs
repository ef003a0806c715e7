//! What the API counts of itself, beside what its servers count.

use axum::http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use ringmill::stats::Collector;
use std::sync::Arc;
use std::time::Instant;

/// Upper bounds of times in seconds: each twice or two and a half times the one before.
const BOUNDS_S: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// The status of a request whose client has gone: no client sees it.
const CLIENT_CLOSED: u16 = 499;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    servlet: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    servlet: String,
}

/// All counts, by servlet. A path that does not exist is counted under no name, so that clients cannot make new ones.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    ended: Family<Ended, Counter>,
    in_progress: Family<Of, Gauge>,
    seconds: Family<Of, Histogram, fn() -> Histogram>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(BOUNDS_S);
        Self {
            ended: Family::default(),
            in_progress: Family::default(),
            seconds: Family::new_with_constructor(histogram),
        }
    }

    /// A registry with these counts, and those of the servers.
    pub(crate) fn registry(&self, servers: Option<Collector>) -> Registry {
        let mut registry = Registry::default();
        if let Some(servers) = servers {
            registry.register_collector(Box::new(servers));
        }
        let http = registry.sub_registry_with_prefix("ringmill_http");
        let help = "HTTP requests that have ended, by servlet and status; 499: the client had gone";
        http.register("requests", help, self.ended.clone());
        http.register("requests_in_progress", "HTTP requests in progress", self.in_progress.clone());
        let help = "From the head of a request to the end of its outcome";
        http.register_with_unit("request_duration", help, Unit::Seconds, self.seconds.clone());
        registry
    }

    pub(crate) fn of(&self, servlet: &str) -> Arc<Counts> {
        let label = Of { servlet: servlet.to_owned() };
        Arc::new(Counts {
            servlet: servlet.to_owned(),
            ended: self.ended.clone(),
            in_progress: self.in_progress.get_or_create_owned(&label),
            seconds: self.seconds.get_or_create_owned(&label),
            answered: self.ended.get_or_create_owned(&Ended { servlet: servlet.to_owned(), status: 200 }),
        })
    }
}

/// The counts of one servlet.
#[derive(Debug)]
pub(crate) struct Counts {
    servlet: String,
    ended: Family<Ended, Counter>,
    in_progress: Gauge,
    seconds: Histogram,
    /// That of the status 200, which is the usual one.
    answered: Counter,
}

impl Counts {
    /// A request begins.
    pub(crate) fn begin(self: &Arc<Self>) -> Counted {
        self.in_progress.inc();
        Counted { counts: Arc::clone(self), begun: Instant::now(), status: CLIENT_CLOSED }
    }
}

/// A request that is counted when this is dropped: under the status that it was given, or if it was given none, as one whose
/// client has gone.
#[derive(Debug)]
pub(crate) struct Counted {
    counts: Arc<Counts>,
    begun: Instant,
    status: u16,
}

impl Counted {
    /// It ends in order.
    pub(crate) fn end(mut self, status: StatusCode) {
        self.status = status.as_u16();
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let counts = &self.counts;
        counts.in_progress.dec();
        counts.seconds.observe(self.begun.elapsed().as_secs_f64());
        match self.status {
            200 => counts.answered.inc(),
            status => counts.ended.get_or_create(&Ended { servlet: counts.servlet.clone(), status }).inc(),
        };
    }
}
