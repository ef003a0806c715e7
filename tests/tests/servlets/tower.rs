//! A server as a `tower::Service`: what it holds and when, and under the layers of tower and axum.

use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::IntoResponse;
use futures_util::FutureExt;
use ringmill::call::CallService;
use ringmill::error::{ErrorKind, NotReady};
use ringmill::{CallError, CallOptions, PassThrough, Reply, Server, ThreadServlet, WhenFull};
use ringmill_tests::gate::{Arrival, Gate};
use ringmill_tests::host::{Crew, Host};
use ringmill_tests::probe::{Ask, Probe, Seen, ask, stopper};
use ringmill_tests::{GUARD, fresh_name, wait_until};
use std::cell::RefCell;
use std::future::Future;
use std::time::{Duration, Instant};
use tower::retry::Policy;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt};

/// A server of this capacity, whose one worker is a thread that stops at the gate.
fn start(tag: &str, capacity: usize, gate: &Gate) -> Server<Ask, Seen> {
    Host::Threads.start::<Probe>(
        Server::builder(fresh_name(tag)).capacity(capacity),
        gate.name(),
        Crew::of(1),
    )
}

fn run<T>(body: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(body)
}

/// Whether the service is ready; it may wait from now on.
fn is_ready(service: &mut CallService<Ask, Seen>) -> bool {
    match service.ready().now_or_never() {
        Some(ready) => ready.map(|_| true).expect("the server is open"),
        None => false,
    }
}

/// The kind of an error that layers have boxed.
fn kind(error: &BoxError) -> Option<ErrorKind> {
    Some(error.downcast_ref::<CallError>()?.kind())
}

#[test]
fn a_service_that_is_ready_holds_a_permit_and_its_clone_none() {
    let gate = Gate::new();
    let server = start("permit", 1, &gate);
    run(async {
        let mut first = server.service();
        let mut second = first.clone();
        assert_eq!(server.backlog(), 0, "a service that was not polled has nothing");
        assert!(is_ready(&mut first) && is_ready(&mut first));
        assert_eq!(server.backlog(), 1);
        assert!(!is_ready(&mut second), "the only permit is taken");
        drop(first.clone());
        assert_eq!(server.backlog(), 1);

        let outcome = first.call(stopper());
        let held = gate.arrival();
        assert!(!is_ready(&mut second) && !is_ready(&mut first));
        held.release();
        let reply = outcome.await.expect("an answer");
        assert!(!is_ready(&mut second), "a reply keeps its permit");
        drop(reply);
        let reply = second.ready().await.expect("a permit").call(ask(7)).await.expect("an answer");
        assert_eq!(reply.value, 7);
        drop(reply);
        // `first` stands in line too; the permit that comes free is its.
        assert!(is_ready(&mut first));
        drop(first);
        assert_eq!(server.backlog(), 0, "dropped, a service gives its permit back");
    });
}

#[test]
fn a_future_that_is_dropped_cancels_its_request() {
    let gate = Gate::new();
    let server = start("cancel", 2, &gate);
    run(async {
        let mut service = server.service();
        let held = service.ready().await.expect("a permit").call(stopper());
        let arrival = gate.arrival();
        let waits = service.ready().await.expect("a permit").call(ask(1));
        drop((held, waits));
        arrival.release();
        wait_until("both permits are free", || server.backlog() == 0);
        assert_eq!(server.stats().servlets[0].total().skipped, 1, "no worker has begun the second");
    });
}

#[test]
fn no_permit_in_time_is_an_error_of_the_call_and_the_service_works_on() {
    let gate = Gate::new();
    let server = start("full", 1, &gate);
    run(async {
        let mut holder = server.service();
        assert!(is_ready(&mut holder));
        let fails = CallOptions::new().when_full(WhenFull::Fail);
        let waits = CallOptions::new().when_full(WhenFull::Wait).timeout(Duration::from_millis(20));
        for options in [fails, waits] {
            let mut service = server.service().with_options(options);
            let error = service.ready().await.expect("ready to say so").call(ask(1)).await.expect_err("full");
            assert!(matches!(error, CallError::ServerBacklogFull { capacity: 1, .. }), "{error}");
            assert!(error.is_retryable());
        }
        let mut service = server.service().with_options(fails);
        service.ready().await.expect("ready to say so");
        drop(holder);
        let reply = service.ready().await.expect("a permit").call(ask(2)).await.expect("an answer");
        assert_eq!(reply.value, 2, "poll_ready looks again");
    });
}

#[test]
fn a_deadline_in_the_past_takes_no_permit() {
    let gate = Gate::new();
    let server = start("late", 1, &gate);
    run(async {
        let mut service = server.service().with_options(CallOptions::new().deadline(Instant::now()));
        let outcome = service.ready().await.expect("ready to say so").call(stopper());
        assert_eq!(server.backlog(), 0);
        assert_eq!(outcome.await.expect_err("late").kind(), ErrorKind::Timeout);
        assert!(gate.arrival_if_any().is_none());
    });
}

#[test]
fn a_drain_does_not_wait_for_a_service_that_is_ready_only() {
    let gate = Gate::new();
    let server = start("drain", 4, &gate);
    run(async {
        let (mut idle, mut busy) = (server.service(), server.service());
        assert!(is_ready(&mut idle) && is_ready(&mut busy));
        let outcome = busy.call(stopper());
        let held = gate.arrival();
        let left = server.drain(Duration::ZERO).expect_err("one request is in progress").to_string();
        assert!(left.starts_with("1 requests"), "{left}");
        held.release();
        drop(outcome.await.expect("an answer"));
        server.drain(GUARD).expect("none is in progress");
        assert_eq!(server.handle().readiness(), Err(NotReady::ShuttingDown { server: server.name().into() }));
        // The permit of a service that is ready does not let it in any more.
        let late = idle.call(ask(1)).await.expect_err("the server is closing");
        assert!(matches!(late, CallError::ShuttingDown), "{late}");
        let closed = idle.ready().await.map(|_| ()).expect_err("no call can succeed");
        assert!(matches!(closed, CallError::ShuttingDown), "{closed}");
        assert_eq!(server.backlog(), 0);
    });
}

#[test]
fn a_servlet_that_takes_no_requests_is_an_error_of_the_call() {
    let gate = Gate::new();
    let server = start("lever", 2, &gate);
    let servlet = server.stats().servlets[0].name.clone();
    run(async {
        let mut service = server.service();
        assert!(is_ready(&mut service));
        assert_eq!(server.readiness(), Ok(()));
        server.drain_servlet(&servlet, GUARD).expect("it is empty");
        assert_eq!(server.readiness(), Err(NotReady::Drained { servlet: servlet.clone() }));
        let error = service.ready().await.expect("ready to say so").call(ask(1)).await.expect_err("drained");
        assert!(matches!(error, CallError::ServletDrained { .. }), "{error}");
        server.resume_servlet(&servlet).expect("it is drained");
        assert_eq!(service.ready().await.expect("a permit").call(ask(2)).await.expect("an answer").value, 2);
    });
}

#[test]
#[should_panic(expected = "called before poll_ready was ready")]
fn a_call_without_a_permit_panics_as_tower_asks_for() {
    let server =
        Server::anonymous("hasty").start(ThreadServlet::<PassThrough<u64>>::new(())).expect("a server");
    drop(server.service().call(1));
}

#[test]
fn load_shed_sheds_what_has_no_permit() {
    let gate = Gate::new();
    let server = start("shed", 1, &gate);
    run(async {
        let service = ServiceBuilder::new().load_shed().service(server.service());
        let first = tokio::spawn(service.clone().oneshot(stopper()));
        tokio::task::yield_now().await;
        let held = gate.arrival();
        let error = service.clone().oneshot(ask(1)).await.expect_err("it is shed");
        assert!(error.is::<tower::load_shed::error::Overloaded>(), "{error}");
        held.release();
        drop(first.await.expect("it does not panic").expect("an answer"));
        assert_eq!(service.oneshot(ask(2)).await.expect("an answer").value, 2);
    });
}

#[test]
fn a_timeout_of_tower_cancels_the_request() {
    let gate = Gate::new();
    let server = start("timeout", 1, &gate);
    run(async {
        let service = ServiceBuilder::new().timeout(Duration::from_millis(20)).service(server.service());
        let error = service.clone().oneshot(stopper()).await.expect_err("the worker is held");
        assert!(error.is::<tower::timeout::error::Elapsed>(), "{error}");
        gate.arrival().release();
        let reply = service.oneshot(ask(3)).await.expect("an answer, once the worker has freed the permit");
        assert_eq!(reply.value, 3);
    });
}

#[test]
fn a_concurrency_limit_is_below_the_capacity() {
    let gate = Gate::new();
    let server = start("limit", 8, &gate);
    run(async {
        let mut service = ServiceBuilder::new().concurrency_limit(2).service(server.service());
        let first = service.ready().await.expect("a permit").call(stopper());
        let second = service.ready().await.expect("a permit").call(ask(1));
        let mut third = service.clone();
        assert!(third.ready().now_or_never().is_none(), "two are in progress");
        gate.arrival().release();
        drop((first.await.expect("an answer"), second.await.expect("an answer")));
        assert_eq!(third.ready().await.expect("room").call(ask(4)).await.expect("an answer").value, 4);
    });
}

/// Retries what may be retried; the first retry lets the worker go on.
#[derive(Clone)]
struct Patient<'t> {
    held: &'t RefCell<Option<Arrival>>,
    retries: &'t RefCell<u32>,
}

impl Policy<Ask, Reply<'static, Seen>, CallError> for Patient<'_> {
    type Future = std::pin::Pin<Box<dyn Future<Output = ()>>>;

    fn retry(
        &mut self,
        _: &mut Ask,
        result: &mut Result<Reply<'static, Seen>, CallError>,
    ) -> Option<Self::Future> {
        let error = result.as_ref().err()?;
        error.is_retryable().then(|| {
            *self.retries.borrow_mut() += 1;
            drop(self.held.borrow_mut().take());
            Box::pin(tokio::time::sleep(Duration::from_millis(1))) as Self::Future // a pause, as policies have
        })
    }

    fn clone_request(&mut self, request: &Ask) -> Option<Ask> {
        Some(request.clone())
    }
}

#[test]
fn a_retry_sends_what_found_no_permit_again() {
    let gate = Gate::new();
    let server = start("retry", 1, &gate);
    run(async {
        let eager = server.service().with_options(CallOptions::new()); // fails at once where there is no permit
        let first = eager.clone().oneshot(stopper());
        let mut first = Box::pin(first);
        assert!(first.as_mut().now_or_never().is_none());
        let (held, retries) = (RefCell::new(Some(gate.arrival())), RefCell::new(0));
        let policy = Patient { held: &held, retries: &retries };
        let again = ServiceBuilder::new().retry(policy).service(eager).oneshot(ask(5));
        let first = async { drop(first.await.expect("an answer")) };
        let ((), reply) = futures_util::future::join(first, again).await;
        assert_eq!(reply.expect("an answer").value, 5);
        assert!(*retries.borrow() >= 1, "the first attempt found no permit");
    });
}

/// An answer of a service, with the status of its error's kind.
async fn answer(
    State(service): State<tower::util::BoxCloneSyncService<Ask, u64, BoxError>>,
    number: String,
) -> axum::response::Response {
    let Ok(number) = number.parse() else { return StatusCode::BAD_REQUEST.into_response() };
    match service.oneshot(if number == 0 { stopper() } else { ask(number) }).await {
        Ok(value) => value.to_string().into_response(),
        Err(error) => match kind(&error) {
            Some(ErrorKind::Rejected) => StatusCode::TOO_MANY_REQUESTS.into_response(),
            Some(ErrorKind::Unavailable) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
            _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        },
    }
}

#[test]
fn an_axum_handler_calls_it_under_layers() {
    let gate = Gate::new();
    let server = start("axum", 1, &gate);
    run(async {
        let service = ServiceBuilder::new()
            .map_err(BoxError::from)
            .map_response(|reply: Reply<'static, Seen>| reply.value.to_native())
            .service(server.service().with_options(CallOptions::new()));
        let app = axum::Router::new()
            .route("/", axum::routing::post(answer))
            .with_state(tower::util::BoxCloneSyncService::new(service));
        let post = |number: &str| {
            let request =
                Request::post("/").body(axum::body::Body::from(number.to_owned())).expect("a request");
            app.clone().oneshot(request)
        };
        assert_eq!(post("7").await.expect("infallible").status(), StatusCode::OK);
        let first = tokio::spawn(post("0"));
        tokio::task::yield_now().await;
        let held = gate.arrival();
        assert_eq!(post("8").await.expect("infallible").status(), StatusCode::TOO_MANY_REQUESTS);
        held.release();
        assert_eq!(first.await.expect("no panic").expect("infallible").status(), StatusCode::OK);
        server.drain(GUARD).expect("none is in progress");
        assert_eq!(post("9").await.expect("infallible").status(), StatusCode::SERVICE_UNAVAILABLE);
    });
}
