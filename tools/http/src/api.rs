//! The API: which servers it has, under which names, and within which limits.

use crate::body::Limits;
use crate::describe::{self, Operation};
use crate::metrics::{Counts, Metrics};
use crate::problem::Problem;
use crate::servlet::{self, Call, JSON, Raw, Shared};
use crate::tensors::{self, Model, Row, Tensor};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use axum::routing::{MethodRouter, get, post};
use prometheus_client::encoding::{prometheus_text, text};
use ringmill::call::DEFAULT_TIMEOUT;
use ringmill::error::NotReady;
use ringmill::stats::Collector;
use ringmill::{Handle, Payload};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// An input that comes as JSON: read by serde, and described by schemars.
pub trait Input: Payload + DeserializeOwned + JsonSchema + Send + Sync {}
impl<T: Payload + DeserializeOwned + JsonSchema + Send + Sync> Input for T {}

/// An outcome that goes as JSON.
pub trait Outcome: Payload + Serialize + JsonSchema + Send + Sync {}
impl<T: Payload + Serialize + JsonSchema + Send + Sync> Outcome for T {}

/// The most bytes of a body, unless [`Api::max_body`] says otherwise.
const MAX_BODY: usize = 2 << 20;
/// The longest name of a servlet.
const NAME_BYTES: usize = 55;

/// Why an API has no routes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// A name that cannot be in a path as it is.
    #[error(
        "a path cannot end with the name {name:?}: 1 to {NAME_BYTES} characters of A-Z a-z 0-9 . _ - are allowed"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// Two servlets of one name.
    #[error("two servlets have the name {name}: give one of them another")]
    NameTwice {
        /// The name.
        name: String,
    },
}

/// An API over servers. See the [crate](crate).
///
/// ```
/// use ringmill::{PassThrough, Server, ThreadServlet};
/// use ringmill_http::{Api, axum};
/// use std::time::Duration;
///
/// # fn main() -> Result<(), ringmill::BoxError> {
/// let server = Server::anonymous("echo").start(ThreadServlet::<PassThrough<Vec<u32>>>::new(()))?;
/// let api = Api::new().json("echo", server.handle()).max_body(64 << 10).timeout(Duration::from_secs(2));
/// let app = axum::Router::new().nest("/models", api.router()?); // POST /models/v1/echo
/// # drop(app);
/// # Ok(())
/// # }
/// ```
pub struct Api {
    title: String,
    limits: Limits,
    servlets: Vec<Servlet>,
    models: Vec<ModelRoute>,
    collector: Option<Collector>,
    pub(crate) draining: Arc<AtomicBool>,
}

struct Servlet {
    name: String,
    readiness: Readiness,
    operation: Operation,
    route: Box<dyn FnOnce(Arc<Shared>) -> MethodRouter + Send>,
}

/// A model of the Open Inference Protocol.
struct ModelRoute {
    name: String,
    readiness: Readiness,
    metadata: Value,
    infer: Box<dyn FnOnce(Arc<Shared>) -> MethodRouter + Send>,
}

/// Whether what is behind a name is ready.
type Readiness = Arc<dyn Fn() -> Result<(), NotReady> + Send + Sync>;

impl Default for Api {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.servlets.iter().map(|servlet| &servlet.name).collect();
        f.debug_struct("Api").field("servlets", &names).field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Api {
    /// An API without servlets: bodies of up to 2 MiB that come within 30 s, calls of up to a minute.
    #[must_use]
    pub fn new() -> Self {
        Self {
            title: "ringmill".into(),
            limits: Limits {
                max_body: MAX_BODY,
                body_timeout: Duration::from_secs(30),
                timeout: DEFAULT_TIMEOUT,
            },
            servlets: Vec::new(),
            models: Vec::new(),
            collector: None,
            draining: Arc::default(),
        }
    }

    /// The title of the description; `ringmill` by default.
    #[must_use]
    pub fn title(self, title: impl Into<String>) -> Self {
        Self { title: title.into(), ..self }
    }

    /// The most bytes of a body, or of a line of a stream; beyond it 413. 2 MiB by default. What is larger than the server's own
    /// [`max_payload`](ringmill::ServerBuilder::max_payload) is refused too.
    #[must_use]
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.limits.max_body = bytes;
        self
    }

    /// How long a body may take to come, or the next line of a stream; beyond it 408. 30 s by default.
    #[must_use]
    pub fn body_timeout(mut self, limit: Duration) -> Self {
        self.limits.body_timeout = limit;
        self
    }

    /// How long a call may take from the head of its request on, unless its client wants it sooner; beyond it 504. A minute by
    /// default. Of a stream, each item.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.limits.timeout = limit;
        self
    }

    /// `POST /v1/NAME`: JSON in, JSON out, or a stream of lines of both.
    #[must_use]
    pub fn json<In: Input, Out: Outcome>(self, name: impl Into<String>, handle: Handle<In, Out>) -> Self {
        let operation = Operation::json::<In, Out>();
        self.add(name.into(), &handle.clone(), operation, move |shared| {
            post(move |request: Request<Body>| servlet::json(Arc::clone(&shared), handle.clone(), request))
        })
    }

    /// `POST /v1/NAME`: the body is the input as it is, of the outcome likewise.
    #[must_use]
    pub fn bytes<In: Raw, Out: Raw>(self, name: impl Into<String>, handle: Handle<In, Out>) -> Self {
        let operation = Operation::bytes(In::MEDIA_TYPE, Out::MEDIA_TYPE);
        self.add(name.into(), &handle.clone(), operation, move |shared| {
            post(move |request: Request<Body>| servlet::bytes(Arc::clone(&shared), handle.clone(), request))
        })
    }

    /// `POST /v1/NAME`: JSON in, then partials of type `P` as the worker [emits](ringmill::worker::Item::emit) them, then the
    /// outcome.
    #[must_use]
    pub fn partials<In: Input, P: Outcome, Out: Outcome>(
        self,
        name: impl Into<String>,
        handle: Handle<In, Out>,
    ) -> Self {
        let operation = Operation::partials::<In>();
        self.add(name.into(), &handle.clone(), operation, move |shared| {
            post(move |request: Request<Body>| {
                servlet::partials::<In, P, Out>(Arc::clone(&shared), handle.clone(), request)
            })
        })
    }

    fn add<In: 'static, Out: 'static>(
        mut self,
        name: String,
        handle: &Handle<In, Out>,
        operation: Operation,
        route: impl FnOnce(Arc<Shared>) -> MethodRouter + Send + 'static,
    ) -> Self {
        let readiness = self.know(handle);
        self.servlets.push(Servlet { name, readiness, operation, route: Box::new(route) });
        self
    }

    /// The Open Inference Protocol (KServe V2) over REST, with binary tensors: `/v2/models/NAME`, whose input is a tensor of
    /// rows, each of which becomes an input of the server, and each outcome a row of the output. So rows of all requests are
    /// batched together. A request of one row is refused if the server is full, one of more waits for permits.
    ///
    /// ```
    /// use ringmill::{PassThrough, Server, ThreadServlet};
    /// use ringmill_http::{Api, Tensor};
    ///
    /// # fn main() -> Result<(), ringmill::BoxError> {
    /// let server = Server::anonymous("echo").start(ThreadServlet::<PassThrough<Vec<f32>>>::new(()))?;
    /// let api = Api::new().tensors("echo", server.handle(), Tensor::new("in", [3]), Tensor::new("out", [3]));
    /// # drop(api);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn tensors<In: Row, Out: Row>(
        mut self,
        name: impl Into<String>,
        handle: Handle<In, Out>,
        input: Tensor,
        output: Tensor,
    ) -> Self {
        let (name, readiness) = (name.into(), self.know(&handle));
        let model = Arc::new(Model { name: name.clone(), input, output });
        let metadata = model.metadata::<In, Out>();
        let infer = move |shared: Arc<Shared>| {
            post(move |request: Request<Body>| {
                let (call, body) = Call::begin(&shared, request);
                tensors::answer(call, Arc::clone(&model), handle.clone(), body)
            })
        };
        self.models.push(ModelRoute { name, readiness, metadata, infer: Box::new(infer) });
        self
    }

    /// Adds a server's metrics, and gives its readiness.
    fn know<In: 'static, Out: 'static>(&mut self, handle: &Handle<In, Out>) -> Readiness {
        let collector = handle.collector();
        self.collector = Some(match self.collector.take() {
            Some(others) => others.and(collector), // once, where two names lead to one server
            None => collector,
        });
        let of = handle.clone();
        Arc::new(move || of.readiness())
    }

    /// The routes: `/v1/NAME` of each servlet, `/openapi.json`, `/livez`, `/readyz`, `/metrics`.
    ///
    /// # Errors
    /// If a name cannot be in a path, or two servlets have one.
    pub fn router(self) -> Result<Router, ApiError> {
        let metrics = Metrics::new();
        let nowhere = metrics.of("");
        let mut names = BTreeSet::new();
        let (mut router, mut described, mut ready) = (Router::new(), Vec::new(), Vec::<Readiness>::new());
        for Servlet { name, readiness, operation, route } in self.servlets {
            check_name(&name)?;
            if !names.insert(name.clone()) {
                return Err(ApiError::NameTwice { name });
            }
            let counts = metrics.of(&name);
            let shared =
                Arc::new(Shared { name: name.clone(), limits: self.limits, counts: Arc::clone(&counts) });
            let path = format!("/v1/{name}");
            let refused = move || std::future::ready(counted(&counts, Problem::method("POST")));
            router = router.route(&path, route(shared).fallback(refused));
            described.push((path, operation));
            ready.push(readiness);
        }
        let mut models = BTreeSet::new();
        for ModelRoute { name, readiness, metadata, infer } in self.models {
            check_name(&name)?;
            if !models.insert(name.clone()) {
                return Err(ApiError::NameTwice { name });
            }
            let shared =
                Arc::new(Shared { name: name.clone(), limits: self.limits, counts: metrics.of(&name) });
            let described = Bytes::from(metadata.to_string());
            let infer = infer(shared).fallback(async || tensors::error(Problem::method("POST")));
            for path in [format!("/v2/models/{name}"), format!("/v2/models/{name}/versions/1")] {
                let (described, of) = (described.clone(), Arc::clone(&readiness));
                router = router
                    .route(&path, get(async move || text_of(JSON, described)))
                    .route(&format!("{path}/ready"), get(async move || ready_model(&of)))
                    .route(&format!("{path}/infer"), infer.clone());
            }
            ready.push(readiness);
        }
        if !models.is_empty() {
            let named = json!({ "name": self.title, "version": env!("CARGO_PKG_VERSION"), "extensions": ["binary_tensor_data"] });
            let (named, draining) = (Bytes::from(named.to_string()), Arc::clone(&self.draining));
            let all: Arc<[Readiness]> = ready.clone().into();
            router = router
                .route("/v2", get(async move || text_of(JSON, named)))
                .route("/v2/health/live", get(async || Response::new(Body::empty())))
                .route("/v2/health/ready", get(async move || answer_ready(&draining, &all)));
        }
        let document = Bytes::from(describe::document(&self.title, &described));
        let registry = Arc::new(metrics.registry(self.collector));
        let (draining, ready): (_, Arc<[Readiness]>) = (self.draining, ready.into());
        let only_get = || std::future::ready(Problem::method("GET, HEAD").into_response());
        Ok(router
            .route("/openapi.json", get(async move || text_of(JSON, document)).fallback(only_get))
            .route("/livez", get(async || text_of("text/plain", "alive\n")).fallback(only_get))
            .route("/readyz", get(async move || answer_ready(&draining, &ready)).fallback(only_get))
            .route("/metrics", get(async move |head: HeaderMap| scrape(&registry, &head)).fallback(only_get))
            .fallback(async move || {
                counted(&nowhere, Problem::new(StatusCode::NOT_FOUND, "unknown", "there is no such path"))
            }))
    }
}

fn check_name(name: &str) -> Result<(), ApiError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ['.', '_', '-'].contains(&c);
    let fits = (1..=NAME_BYTES).contains(&name.len()) && name.chars().all(is_plain) && !name.starts_with('.');
    if fits { Ok(()) } else { Err(ApiError::Name { name: name.to_owned() }) }
}

fn ready_model(readiness: &Readiness) -> Response<Body> {
    match readiness() {
        Ok(()) => Response::new(Body::empty()),
        Err(why) => tensors::error(Problem::unavailable(why.to_string())),
    }
}

fn counted(counts: &Arc<Counts>, problem: Problem) -> Response<Body> {
    counts.begin().end(problem.status);
    problem.into_response()
}

fn text_of(media_type: &'static str, text: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(text.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

fn answer_ready(draining: &AtomicBool, readiness: &[Readiness]) -> Response<Body> {
    if draining.load(Ordering::SeqCst) {
        return Problem::unavailable("the service ends").into_response();
    }
    match readiness.iter().try_for_each(|ready| ready()) {
        Ok(()) => text_of("text/plain", "ready\n"),
        Err(why) => Problem::unavailable(why.to_string()).into_response(),
    }
}

/// The metrics, in the format that the client asks for: OpenMetrics if it names that, else the older one.
fn scrape(registry: &prometheus_client::registry::Registry, head: &HeaderMap) -> Response<Body> {
    let accept = head.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let mut body = String::new();
    let (media_type, encoded) = match accept.contains("application/openmetrics-text") {
        true => {
            ("application/openmetrics-text; version=1.0.0; charset=utf-8", text::encode(&mut body, registry))
        }
        false => (prometheus_text::CONTENT_TYPE, prometheus_text::encode(&mut body, registry)),
    };
    match encoded {
        Ok(()) => text_of(media_type, body),
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be encoded");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the service failed").into_response()
        }
    }
}
