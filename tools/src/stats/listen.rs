//! `stats --listen`: what Prometheus scrapes, over HTTP.
//!
//! One thread serves all connections. A connection has one request and one answer, and a time within which it must have
//! asked; of more than [`CONNECTIONS`] the oldest gives way, so that peers that say nothing keep none out. The segment is
//! opened anew for each scrape: so a server that starts again under its name is the one that is scraped, and meanwhile its
//! absence is told.

use crate::error::ToolError;
use crate::output::{self, Verdict, say};
use crate::survey::{Liveness, Survey};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use ringmill_shm::metrics::Metrics;
use ringmill_shm::segment::Location;
use ringmill_shm::text::shown;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{AbortHandle, LocalSet};

/// How many connections there may be at a time.
const CONNECTIONS: usize = 16;
/// How long a connection may take to ask.
const ASK_LIMIT: Duration = Duration::from_secs(5);
/// How long it may take in all, with the answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Serves until the process is told to end by SIGINT or SIGTERM.
///
/// # Errors
/// If it cannot listen there.
pub(super) fn listen(
    name: &str,
    address: SocketAddr,
    beyond_loopback: bool,
) -> Result<(String, Verdict), ToolError> {
    let location = Location::parse(name)?;
    if !address.ip().is_loopback() && !beyond_loopback {
        return Err(ToolError::NotLoopback(address));
    }
    let refused = |error| ToolError::Listen { address, error };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused)?;
    LocalSet::new().block_on(&runtime, serve(location, address)).map_err(refused)?;
    Ok((String::new(), Verdict::Fine))
}

async fn serve(location: Location, address: SocketAddr) -> io::Result<()> {
    let mut ends = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
    let listener = TcpListener::bind(address).await?;
    // A reader that has gone is not an error.
    let _ = output::print(&format!("listening on http://{}/metrics\n", listener.local_addr()?));
    let scraped = Rc::new(RefCell::new(Scraped::new(location)));
    scraped.borrow_mut().look();
    let mut connections = Connections::default();
    let [interrupt, terminate] = &mut ends;
    loop {
        let next = async {
            match listener.accept().await {
                Ok((stream, _)) => Some(stream),
                Err(_) => {
                    // Out of descriptors, say: that passes, and must not be asked for without a pause.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    None
                }
            }
        };
        let accepted = tokio::select! {
            accepted = next => accepted,
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
        };
        if let Some(stream) = accepted {
            connections.add(answer(stream, Rc::clone(&scraped)));
        }
    }
}

/// The connections that are served, the oldest first.
#[derive(Default)]
struct Connections(VecDeque<AbortHandle>);

impl Connections {
    /// Serves one more. If there are too many, the oldest is closed.
    fn add(&mut self, serve: impl Future<Output = ()> + 'static) {
        self.0.retain(|served| !served.is_finished());
        if self.0.len() == CONNECTIONS
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.abort();
        }
        self.0.push_back(tokio::task::spawn_local(serve).abort_handle());
    }
}

/// Answers the one request of a connection. One that breaks off, or takes too long, has its own reasons.
async fn answer(stream: TcpStream, scraped: Rc<RefCell<Scraped>>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = respond(request.method(), request.uri().path(), &mut scraped.borrow_mut());
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ASK_LIMIT)
        .keep_alive(false)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    let _ = tokio::time::timeout(ANSWER_LIMIT, connection).await;
}

fn respond(method: &Method, path: &str, scraped: &mut Scraped) -> Response<Full<Bytes>> {
    let plain = "text/plain; charset=utf-8";
    let (status, kind, text) = match (method, path) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            (StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", scraped.text())
        }
        (&Method::GET | &Method::HEAD, "/") => {
            (StatusCode::OK, plain, "Prometheus finds the metrics at /metrics.\n".into())
        }
        (&Method::GET | &Method::HEAD, _) => (StatusCode::NOT_FOUND, plain, "see /metrics\n".into()),
        _ => (StatusCode::METHOD_NOT_ALLOWED, plain, "only GET and HEAD\n".into()),
    };
    let response = Response::builder().status(status).header(CONTENT_TYPE, kind).header(ALLOW, "GET, HEAD");
    response.body(Full::from(text)).expect("constant headers")
}

/// The segments of one name, one after the other.
struct Scraped {
    location: Location,
    /// The value of the label: the name of the last segment that was scraped, or else that of the command line.
    label: String,
    /// Why the last look found no server; none before the first, and while there is one.
    told: Option<String>,
}

impl Scraped {
    fn new(location: Location) -> Self {
        Self { label: shown(&location.to_text()), location, told: None }
    }

    /// The metrics of a server that lives, and in any case whether it does.
    fn text(&mut self) -> String {
        match self.look() {
            Some(metrics) => metrics.with_up(&self.label, true).into_text(),
            None => Metrics::default().with_up(&self.label, false).into_text(),
        }
    }

    /// What the server has counted, if it lives; says on standard error if that is another answer than the last one.
    fn look(&mut self) -> Option<Metrics> {
        match self.read() {
            Ok(metrics) => {
                if self.told.take().is_some() {
                    say(&format!("{} is up", self.label));
                }
                Some(metrics)
            }
            Err(why) => {
                if self.told.as_ref() != Some(&why) {
                    say(&format!("{} is down: {why}", self.label));
                    self.told = Some(why);
                }
                None
            }
        }
    }

    fn read(&mut self) -> Result<Metrics, String> {
        let (survey, segment) = Survey::open_at(self.location.clone()).map_err(|e| shown(&e.to_string()))?;
        if survey.state == Liveness::Stale {
            return Err("it has died".into());
        }
        self.label = shown(&segment.identity().name);
        Ok(Metrics::of([&segment]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    /// Symptom: a scrape waited for seconds while peers said nothing. Cause: only so many connections were accepted. Fix: the
    /// oldest gives way.
    #[test]
    fn of_too_many_connections_the_oldest_is_closed() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let mut connections = Connections::default();
            (0..CONNECTIONS).for_each(|_| connections.add(pending()));
            let all: Vec<AbortHandle> = connections.0.iter().cloned().collect();
            let closed = || all.iter().filter(|served| served.is_finished()).count();
            connections.add(async {});
            tokio::task::yield_now().await;
            assert!(closed() == 1 && all[0].is_finished(), "{} are closed", closed());
            // One that has ended gives way before any that is served.
            connections.add(pending());
            tokio::task::yield_now().await;
            assert_eq!(closed(), 1);
        });
    }
}
