//! Spans that a receiver of OTLP gets, over a socket: of requests, their stages, and of a worker that was killed.

use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use ringmill::stats::Timing;
use ringmill::trace::TraceContext;
use ringmill::{
    Batch, BatchWorker, BoxError, CallOptions, Context, OnDeath, ProcessServlet, Server, Servlet,
};
use ringmill_telemetry::export;
use rkyv::string::ArchivedString;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

ringmill::make_worker!(Trim: String => String, |text: &ArchivedString| text.trim().to_owned());
ringmill::init!(Trim, Held);

/// Answers when the test says so, through a socket of this path; or dies.
struct Held(String);

impl BatchWorker for Held {
    type Config = String;
    type In = String;
    type Out = String;

    fn new(path: String, _: &Context) -> Result<Self, BoxError> {
        Ok(Self(path))
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        for item in batch {
            let context = item.trace_context().map_or_else(String::new, |context| context.to_string());
            let mut stream = UnixStream::connect(&self.0)?;
            stream.write_all(&std::process::id().to_le_bytes())?;
            stream.read_exact(&mut [0])?;
            item.reply(context);
        }
        Ok(())
    }
}

/// A collector that keeps what it gets.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let scopes = request.into_inner().resource_spans.into_iter().flat_map(|of| of.scope_spans);
        self.0.lock().unwrap().extend(scopes.flat_map(|of| of.spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn number(span: &Span, key: &str) -> i64 {
    let attribute = span.attributes.iter().find(|attribute| attribute.key == key).expect(key);
    match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::IntValue(number)) => *number,
        other => panic!("{key}: {other:?}"),
    }
}

fn events(span: &Span) -> Vec<&str> {
    span.events.iter().map(|event| event.name.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_a_span_for_each_part_also_of_a_worker_that_was_killed() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let collector = Collector::default();
    let service = TraceServiceServer::new(collector.clone());
    let receiver = tonic::transport::Server::builder().add_service(service);
    let receiver = tokio::spawn(receiver.serve_with_incoming(TcpListenerStream::new(listener)));
    let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build().unwrap();

    let directory = std::env::temp_dir().join(format!("ringmill-otlp-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let path = directory.join("gate");
    let gate = UnixListener::bind(&path).unwrap();
    let arrival = || {
        let (mut stream, _) = gate.accept().unwrap();
        let mut pid = [0; 4];
        stream.read_exact(&mut pid).unwrap();
        (u32::from_le_bytes(pid), stream)
    };
    let trim = ProcessServlet::<Trim>::new(()).name("trim");
    let held =
        ProcessServlet::<Held>::new(path.display().to_string()).name("held").on_death(OnDeath::Retry(1));
    let server = Server::anonymous("otlp").timing(Timing::Never).start(trim.then(held)).unwrap();
    let mut traces = server.traces();

    let sent: TraceContext = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
    let pending = server.submit_with(&" text ".into(), CallOptions::new().trace_context(sent)).unwrap();
    let (victim, of_victim) = arrival();
    assert!(
        std::process::Command::new("kill").args(["-KILL", &victim.to_string()]).status().unwrap().success()
    );
    let (successor, mut of_successor) = arrival();
    of_successor.write_all(&[1]).unwrap();
    let seen: TraceContext = pending.wait().unwrap().into_owned().unwrap().parse().unwrap();
    drop(of_victim);
    let untraced = server.submit(&"text".into()).unwrap();
    arrival().1.write_all(&[1]).unwrap();
    assert_eq!(untraced.wait().unwrap().into_owned().unwrap(), "");

    assert_eq!(export(&mut traces, &exporter).await.unwrap(), 4);
    assert_eq!(export(&mut traces, &exporter).await.unwrap(), 0, "each is sent once");
    receiver.abort();
    std::fs::remove_dir_all(&directory).unwrap();

    let spans = collector.0.lock().unwrap().clone();
    assert!(spans.iter().all(|span| span.trace_id == sent.trace_id().to_be_bytes()), "{spans:?}");
    let [request, trim, died, answered] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!([&request.name, &trim.name, &died.name, &answered.name], ["otlp", "trim", "held", "held"]);
    assert_eq!(request.parent_span_id, sent.parent_id().to_be_bytes());
    assert!([trim, died, answered].iter().all(|span| span.parent_span_id == request.span_id));
    assert_eq!(answered.span_id, seen.parent_id().to_be_bytes(), "the worker's own spans are its children");
    let code = |span: &Span| span.status.as_ref().map_or(StatusCode::Unset, |status| status.code());
    assert_eq!([code(request), code(trim), code(answered)], [StatusCode::Ok; 3]);
    assert_eq!(
        (code(died), &died.status.as_ref().unwrap().message[..]),
        (StatusCode::Error, "the worker died")
    );
    assert_eq!(events(died), ["taken", "call", "worker died"]);
    assert_eq!(events(answered), ["taken", "call"]);
    assert_eq!((number(died, "process.pid"), number(died, "ringmill.attempt")), (victim.into(), 0));
    assert_eq!(
        (number(answered, "process.pid"), number(answered, "ringmill.attempt")),
        (successor.into(), 1)
    );
    for span in &spans {
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{span:?}");
        assert!(request.start_time_unix_nano <= span.start_time_unix_nano + 32, "{span:?}");
        assert!(span.end_time_unix_nano <= request.end_time_unix_nano, "{span:?}");
    }
    assert!(died.end_time_unix_nano <= answered.start_time_unix_nano + 32, "it was queued again after that");
}
