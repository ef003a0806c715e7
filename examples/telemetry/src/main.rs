//! A service whose requests are traced; in one of them a worker dies, and its successor answers. Their spans go to a collector
//! by OTLP over gRPC, at the address in `OTEL_EXPORTER_OTLP_ENDPOINT`; by default `http://localhost:4317`.

use opentelemetry_otlp::SpanExporter;
use ringmill::trace::TraceContext;
use ringmill::{BoxError, CallOptions, Context, OnDeath, ProcessServlet, Server, Servlet, Worker};
use ringmill_telemetry::export;
use rkyv::string::ArchivedString;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

ringmill::make_worker!(Trim: String => String, |text: &ArchivedString| text.trim().to_owned());

const DEADLY: &str = "a text at which a worker dies that has not died before";

/// Counts characters.
struct Count {
    restarts: u32,
}

impl Worker for Count {
    type Config = ();
    type In = String;
    type Out = u64;

    fn new((): (), context: &Context) -> Result<Self, BoxError> {
        Ok(Self { restarts: context.restarts() })
    }

    fn call(&mut self, text: &ArchivedString) -> Result<u64, BoxError> {
        if text.as_str() == DEADLY && self.restarts == 0 {
            std::process::abort();
        }
        Ok(text.chars().count() as u64)
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    ringmill::init!(Trim, Count);
    let exporter = SpanExporter::builder().with_tonic().build()?;
    let trim = ProcessServlet::<Trim>::new(()).name("trim");
    let count = ProcessServlet::<Count>::new(()).name("count").on_death(OnDeath::Retry(1));
    let server = Server::anonymous("telemetry").start_async(trim.then(count)).await?;
    let mut traces = server.traces();

    // In a real service the context is that of the request that came in.
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
    let context = TraceContext::new(now, 1, true).ok_or_else(|| BoxError::msg("it is 1970"))?;
    for text in [" a request ", DEADLY, "another one"] {
        let options = CallOptions::new().trace_context(context).timeout(Duration::from_secs(30));
        let text = text.to_owned();
        let length = server.call_async_with(&text, options).await?;
        println!("{text:?}: {length} characters");
    }
    // A real service does this in a task of its own, every second.
    let sent = export(&mut traces, &exporter).await?;
    println!("{sent} spans sent, of trace {:032x}; {} requests lost", context.trace_id(), traces.lost());
    Ok(())
}
