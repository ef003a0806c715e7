//! `stats --listen`: what Prometheus scrapes, over HTTP.
//!
//! One thread serves all connections. A connection has one request and one answer, and a time within which it must have
//! asked; there are never more than [`CONNECTIONS`], the others wait to be accepted. The segment is opened anew for each
//! scrape: so a server that starts again under its name is the one that is scraped, and meanwhile its absence is told.

use crate::error::ToolError;
use crate::output::{self, Verdict};
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
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::LocalSet;

/// How many connections are served at a time.
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
    let connections = Rc::new(Semaphore::new(CONNECTIONS));
    let [interrupt, terminate] = &mut ends;
    loop {
        let next = async {
            let permit = Rc::clone(&connections);
            let free = permit.acquire().await.expect("it is never closed");
            free.forget(); // given back when the connection has ended
            listener.accept().await
        };
        let accepted = tokio::select! {
            accepted = next => accepted,
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
        };
        let (scraped, connections) = (Rc::clone(&scraped), Rc::clone(&connections));
        tokio::task::spawn_local(async move {
            match accepted {
                Ok((stream, _)) => answer(stream, scraped).await,
                // Out of descriptors, say: that passes, and must not be asked for without a pause.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
            connections.add_permits(1);
        });
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
    /// Why the last scrape found no server; none before the first, and while there is one.
    told: Option<String>,
}

impl Scraped {
    fn new(location: Location) -> Self {
        Self { label: shown(&location.to_text()), location, told: None }
    }

    /// The metrics of a server that lives, and in any case whether it does.
    fn text(&mut self) -> String {
        match self.read() {
            Ok(metrics) => {
                if self.told.take().is_some() {
                    eprintln!("shmtool: {} is up", self.label);
                }
                metrics.with_up(&self.label, true).into_text()
            }
            Err(why) => {
                if self.told.as_ref() != Some(&why) {
                    eprintln!("shmtool: {} is down: {why}", self.label);
                    self.told = Some(why);
                }
                Metrics::default().with_up(&self.label, false).into_text()
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
