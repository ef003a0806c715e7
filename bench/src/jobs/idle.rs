//! `idle`: the CPU time that a server and its workers use while there is nothing to do.

use std::thread;
use std::time::{Duration, Instant};

use ringmill::{ProcessServlet, Server};

use super::{Job, Session};
use crate::contestant::Point;
use crate::payload::Payload;
use crate::peers::ringmill::{Echo, server_builder, worker_pids};
use crate::procfs;
use crate::report::Row;
use crate::rounds::Quartiles;
use crate::{Error, cpu_time};

/// How many workers are idle.
const WORKERS: u32 = 8;

/// How long a span is: longer than the longest sleep of any thread.
const SPAN: Duration = Duration::from_secs(1);

/// Calls before, so that all threads have been awake.
const CALLS: u64 = 10_000;

/// Measures ringmill.
///
/// # Errors
///
/// Those of starting and calling the server.
pub fn run(session: &mut Session<'_>) -> Result<(), Error> {
    if !session.wants_ringmill() {
        return Ok(());
    }
    let servlet = ProcessServlet::<Echo<8>>::new(()).cpus(WORKERS as usize);
    let server: Server<Payload<8>, Payload<8>> = server_builder(Point::STANDARD).start(servlet)?;
    let outcomes = server.stream((0..CALLS).map(Payload::question));
    for (item, answer) in (0..).zip(outcomes) {
        if !answer?.answers(item) {
            return Err(Error::WrongAnswer { who: "ringmill", item });
        }
    }
    let workers: Vec<u32> = worker_pids(&server).collect();
    workers.iter().copied().for_each(procfs::wait_until_asleep);
    let mut spans = Vec::new();
    for span in 0..session.rounds {
        session.audience.progress(format_args!("idle: {span} of {} seconds", session.rounds));
        spans.push(Span::measure(&workers)?);
    }
    let quartiles = |part: fn(&Span) -> f64| Quartiles::of(spans.iter().map(part)).expect("there are spans");
    let all = quartiles(|span| span.workers + span.server);
    let row = Row::new(Job::Idle.name(), "ringmill")
        .at("workers", WORKERS)
        .figure("cpu_percent", all.median)
        .figure("lower", all.lower)
        .figure("upper", all.upper)
        .figure("workers_cpu_percent", quartiles(|span| span.workers).median)
        .figure("server_cpu_percent", quartiles(|span| span.server).median)
        .figure("rounds", spans.len() as f64);
    session.audience.rows(&[row])
}

/// Percent of one CPU, over one span.
struct Span {
    /// All workers together.
    workers: f64,
    server: f64,
}

impl Span {
    fn measure(workers: &[u32]) -> Result<Self, Error> {
        let of_workers = || {
            let times = workers.iter().map(|&pid| cpu_time::of_process(pid));
            times
                .sum::<Result<Duration, _>>()
                .map_err(|source| Error::Look { what: "a worker's CPU time", source })
        };
        let begin = Instant::now();
        let (workers_before, server_before) = (of_workers()?, cpu_time::of_this_process());
        thread::sleep(SPAN); // the wait itself is the point
        let (workers, server) = (of_workers()? - workers_before, cpu_time::of_this_process() - server_before);
        let percent = 100.0 / begin.elapsed().as_secs_f64();
        Ok(Self { workers: workers.as_secs_f64() * percent, server: server.as_secs_f64() * percent })
    }
}
