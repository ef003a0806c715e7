//! A server's statistics for Prometheus, read from shared memory when they are scraped.

use prometheus_client::collector;
use prometheus_client::encoding::DescriptorEncoder;
use ringmill_shm::metrics::Metrics;
use ringmill_shm::segment::Segment;
use std::fmt;
use std::sync::Arc;

/// The statistics of a server, or of several, for a [`Registry`](prometheus_client::registry::Registry) of Prometheus. From
/// [`Server::collector`](crate::Server::collector) and [`Handle::collector`](crate::Handle::collector); needs the feature
/// `prometheus`.
///
/// Each scrape reads all counters and histograms of [`stats`](crate::stats), and how many requests, workers, items and
/// payload blocks there are at the moment, from the segment. Between scrapes it does nothing, and a request costs the same with
/// it as without. [`ringmill_shm::metrics`] has the labels and the bounds of histograms.
///
/// ```
/// use ringmill::prometheus_client::{encoding::text, registry::Registry};
/// use ringmill::{PassThrough, Server, ThreadServlet};
///
/// # fn main() -> Result<(), ringmill::BoxError> {
/// let server = Server::anonymous("scraped").start(ThreadServlet::<PassThrough<u32>>::new(()))?;
/// let mut registry = Registry::default();
/// registry.register_collector(Box::new(server.collector()));
/// server.call(&1)?;
///
/// // In the handler of `/metrics`:
/// let mut body = String::new();
/// text::encode(&mut body, &registry)?;
/// assert!(body.contains("ringmill_requests_total{server=\"scraped\",outcome=\"answered\"} 1\n"));
/// # Ok(())
/// # }
/// ```
///
/// Register one collector: a text in which a metric begins twice is invalid. For several servers, put theirs together by
/// [`and`](Self::and).
///
/// A collector keeps no worker alive. Once its server is gone, it gives the last values, and that no worker is ready; the
/// segment's memory stays mapped until it is dropped.
#[derive(Clone)]
pub struct Collector {
    segments: Vec<Arc<Segment>>,
}

impl Collector {
    pub(super) fn new(segment: &Arc<Segment>) -> Self {
        Self { segments: vec![Arc::clone(segment)] }
    }

    /// The statistics of the servers of both. Where servers have one name, the label `server` of each but the first has a
    /// number behind the name, in the order in which they were added. A server that is in both is there once.
    ///
    /// ```
    /// use ringmill::{PassThrough, Server, ThreadServlet};
    ///
    /// # fn main() -> Result<(), ringmill::BoxError> {
    /// let replica = || Server::anonymous("replica").start(ThreadServlet::<PassThrough<u32>>::new(()));
    /// let (one, other) = (replica()?, replica()?);
    /// let text = one.collector().and(other.collector()).text();
    /// assert!(text.contains("ringmill_server_deaths_total{server=\"replica\"} 0\n"));
    /// assert!(text.contains("ringmill_server_deaths_total{server=\"replica-2\"} 0\n"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        for segment in other.segments {
            if !self.segments.iter().any(|known| Arc::ptr_eq(known, &segment)) {
                self.segments.push(segment);
            }
        }
        self
    }

    /// The statistics now, as a text in the format of Prometheus (version 0.0.4), for programs that have no registry. Its
    /// `Content-Type` is [`CONTENT_TYPE`](prometheus_client::encoding::prometheus_text::CONTENT_TYPE).
    #[must_use]
    pub fn text(&self) -> String {
        self.read().into_text()
    }

    fn read(&self) -> Metrics {
        Metrics::of(self.segments.iter().map(|segment| &**segment))
    }
}

impl collector::Collector for Collector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.read().encode(encoder)
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.segments.iter().map(|segment| segment.identity().name);
        f.debug_list().entries(names).finish()
    }
}
