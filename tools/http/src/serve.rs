//! The program around an API: listens, tells systemd, ends in order.
//!
//! # Protocol
//!
//! | Stage | Left by, to |
//! |---|---|
//! | listens | SIGTERM or SIGINT → lame; the listener is of no use → an error |
//! | lame: `/readyz` says 503, all else goes on | the time of [`Serve::lame_duck`] is over → ends |
//! | ends: no connection is accepted, those that are idle are closed | all responses are sent, or the grace is over → drains |
//! | drains: the servers end what is in progress without its clients | → over |
//!
//! A second signal ends the process at once, with the exit code 1.

use crate::api::{Api, ApiError};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use ringmill::Server;
use ringmill::error::DrainError;
use sd_notify::NotifyState;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

/// How long a client may take to send the head of a request, and an idle connection stays open.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// A pause after an error of the listener: out of descriptors, say, which passes.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a service has ended, or has not begun.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The API has no routes.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The system refused.
    #[error("cannot {what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// Requests were in progress when the grace was over. They have been ended.
    #[error("server {server} is not drained: {error}")]
    Drain {
        /// The server's name.
        server: String,
        /// How many requests.
        error: DrainError,
    },
}

/// Ends one server; the argument is how long its requests may take.
type End = Box<dyn FnOnce(Duration) -> Result<(), ServeError> + Send>;

/// A service: an API, the servers behind it, and the program around both. See the [crate](crate).
///
/// It takes SIGTERM and SIGINT from the servers. It serves HTTP/1.1 without TLS: put a proxy in front where other machines are not
/// trusted.
pub struct Serve {
    api: Api,
    more: Router,
    ends: Vec<End>,
    grace: Duration,
    lame_duck: Duration,
    max_connections: usize,
}

impl std::fmt::Debug for Serve {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serve")
            .field("api", &self.api)
            .field("servers", &self.ends.len())
            .finish_non_exhaustive()
    }
}

impl Serve {
    /// A service of this API: a grace of 10 s, no time as a lame duck, 1,024 connections.
    #[must_use]
    pub fn new(api: Api) -> Self {
        Self {
            api,
            more: Router::new(),
            ends: Vec::new(),
            grace: Duration::from_secs(10),
            lame_duck: Duration::ZERO,
            max_connections: 1024,
        }
    }

    /// A server behind the API, which is drained and shut down at the end. It may be called for several.
    #[must_use]
    pub fn server<In: 'static, Out: 'static>(mut self, server: Server<In, Out>) -> Self {
        self.ends.push(Box::new(move |limit| {
            let drained = server.drain(limit);
            server.shutdown();
            let name = || server.name().to_owned();
            drained.map_err(|error| ServeError::Drain { server: name(), error })
        }));
        self
    }

    /// Routes of the program's own, beside those of the API.
    ///
    /// # Panics
    /// [`on`](Self::on) panics, as axum does, if they overlap with those of the API.
    #[must_use]
    pub fn merge(mut self, routes: Router) -> Self {
        self.more = self.more.merge(routes);
        self
    }

    /// How long responses that have begun may take after the signal, and then what is in progress without a client. 10 s by
    /// default. A manager that kills must wait longer: `TimeoutStopSec`, `terminationGracePeriodSeconds`.
    #[must_use]
    pub fn grace(mut self, limit: Duration) -> Self {
        self.grace = limit;
        self
    }

    /// How long the service goes on after the signal while `/readyz` says 503, so that a load balancer notices before it is
    /// refused. None by default.
    #[must_use]
    pub fn lame_duck(mut self, time: Duration) -> Self {
        self.lame_duck = time;
        self
    }

    /// The most connections at a time; others wait to be accepted. 1,024 by default.
    #[must_use]
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// Serves until a signal ends it. Tells systemd when it is ready and when it stops, and feeds its watchdog.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub async fn on(self, listener: TcpListener) -> Result<(), ServeError> {
        let draining = Arc::clone(&self.api.draining);
        let router = self.api.router()?.merge(self.more);
        let refused = |error| ServeError::System { what: "handle signals", error };
        let signals = [signal(SignalKind::terminate()), signal(SignalKind::interrupt())];
        let [terminate, interrupt] = signals.map(|signal| signal.map_err(refused));
        let mut told = Signals { terminate: terminate?, interrupt: interrupt? };
        let local = listener.local_addr().map_err(|error| ServeError::System { what: "listen", error })?;

        tell_systemd(&[NotifyState::Ready]);
        let watchdog = tokio::spawn(feed_watchdog());
        tracing::info!(%local, "listens");
        let connections = Connections::new(router, self.max_connections);
        connections.accept(&listener, told.next()).await;
        tell_systemd(&[NotifyState::Stopping]);
        draining.store(true, Ordering::SeqCst);
        tracing::info!("ends, once all responses are sent");
        let (over, mut is_over) = watch::channel(());
        tokio::spawn(async move {
            tokio::select! {
                () = told.next() => std::process::exit(1), // the workers see it, and leave nothing
                _ = is_over.changed() => {}
            }
        });
        connections.accept(&listener, sleep(self.lame_duck)).await;
        drop(listener);
        let is_sent = connections.end(self.grace).await;
        let limit = if is_sent { self.grace } else { Duration::ZERO }; // the rest is of clients that are too slow
        let ends = tokio::task::spawn_blocking(move || {
            let ended: Vec<_> = self.ends.into_iter().map(|end| end(limit)).collect();
            ended.into_iter().collect()
        });
        let ended = ends.await;
        watchdog.abort();
        drop(over);
        ended.unwrap_or_else(|error| {
            let error = io::Error::other(error);
            Err(ServeError::System { what: "end the servers", error })
        })
    }
}

/// The signals that end a service.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    async fn next(&mut self) {
        tokio::select! { _ = self.terminate.recv() => {}, _ = self.interrupt.recv() => {} }
    }
}

fn tell_systemd(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd cannot be told: {state:?}");
    }
}

/// Tells the watchdog of systemd, if there is one, twice in its interval that this runtime works.
async fn feed_watchdog() {
    if let Some(interval) = sd_notify::watchdog_enabled() {
        loop {
            tell_systemd(&[NotifyState::Watchdog]);
            sleep(interval / 2).await;
        }
    }
}

/// The connections of a service.
struct Connections {
    router: Router,
    room: Arc<Semaphore>,
    graceful: GracefulShutdown,
}

impl Connections {
    fn new(router: Router, most: usize) -> Self {
        let room = Arc::new(Semaphore::new(most.clamp(1, Semaphore::MAX_PERMITS)));
        Self { router, room, graceful: GracefulShutdown::new() }
    }

    /// Accepts and serves connections until that happens.
    async fn accept(&self, listener: &TcpListener, until: impl Future<Output = ()>) {
        let mut until = std::pin::pin!(until);
        loop {
            let next = async {
                let room = Arc::clone(&self.room).acquire_owned().await.expect("it is never closed");
                (room, listener.accept().await)
            };
            let (room, accepted) = tokio::select! { next = next => next, () = &mut until => return };
            let stream: TcpStream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection is not accepted");
                    tokio::select! { () = sleep(ACCEPT_PAUSE) => continue, () = &mut until => return }
                }
            };
            let _ = stream.set_nodelay(true); // where it cannot be, responses are slower
            let service =
                TowerToHyperService::new(self.router.clone().into_service::<hyper::body::Incoming>());
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            let served = self.graceful.watch(connection);
            tokio::spawn(async move {
                // A client that breaks off has its own reasons.
                let _ = served.await;
                drop(room);
            });
        }
    }

    /// Closes connections as their responses end; whether all have within the grace.
    async fn end(self, grace: Duration) -> bool {
        timeout(grace, self.graceful.shutdown()).await.is_ok()
    }
}
