//! `start`: from nothing to a server whose workers are all ready, and on to its first answer.
//!
//! Beside it, for scale, `exec`: as many processes of a program that does nothing, started one after the other as
//! workers are, until all of them have ended.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use ringmill::{ProcessServlet, Server};

use super::{Job, Session};
use crate::Error;
use crate::contestant::Point;
use crate::payload::Payload;
use crate::peers::ringmill::{Echo, server_builder};
use crate::report::Row;
use crate::rounds::Quartiles;

/// How many workers are started.
pub const WORKERS: [u32; 5] = [1, 2, 4, 8, 16];

/// A program that does nothing.
const NOTHING: &str = "/bin/true";

/// Measures every number of workers.
///
/// # Errors
///
/// Those of starting and calling the server, and of starting a program.
pub fn run(session: &mut Session<'_>) -> Result<(), Error> {
    if !session.wants_ringmill() {
        return Ok(());
    }
    for workers in WORKERS {
        let (mut starts, mut execs) = (Vec::new(), Vec::new());
        for round in 0..session.rounds {
            session
                .audience
                .progress(format_args!("start, {workers} workers: {round} of {}", session.rounds));
            starts.push(Start::measure(workers)?);
            execs.push(exec(workers)?);
        }
        let quartiles = |part: fn(&Start) -> Duration| ms(starts.iter().map(part));
        let row = |who, ready: Quartiles| {
            Row::new(Job::Start.name(), who)
                .at("workers", workers)
                .figure("ready_ms", ready.median)
                .figure("lower", ready.lower)
                .figure("upper", ready.upper)
        };
        let of_ringmill = row("ringmill", quartiles(|start| start.ready))
            .figure("first_call_us", quartiles(|start| start.first_call).median * 1e3)
            .figure("stop_ms", quartiles(|start| start.stop).median)
            .figure("rounds", starts.len() as f64);
        let of_exec = row("exec", ms(execs.iter().copied())).figure("rounds", execs.len() as f64);
        session.audience.rows(&[of_ringmill, of_exec])?;
    }
    Ok(())
}

fn ms(times: impl Iterator<Item = Duration>) -> Quartiles {
    Quartiles::of(times.map(|time| time.as_secs_f64() * 1e3)).expect("there is at least one round")
}

/// One server's life.
struct Start {
    ready: Duration,
    first_call: Duration,
    stop: Duration,
}

impl Start {
    fn measure(workers: u32) -> Result<Self, Error> {
        let (server, ready) = timed(|| {
            let servlet = ProcessServlet::<Echo<8>>::new(()).cpus(workers as usize);
            server_builder(Point::STANDARD).start(servlet)
        });
        let server: Server<Payload<8>, Payload<8>> = server?;
        let (right, first_call) = timed(|| Ok::<_, Error>(server.call(&Payload::question(0))?.answers(0)));
        if !right? {
            return Err(Error::WrongAnswer { who: "ringmill", item: 0 });
        }
        let ((), stop) = timed(|| drop(server));
        Ok(Self { ready, first_call, stop })
    }
}

/// Starts a program this many times, and waits until all have ended.
fn exec(times: u32) -> Result<Duration, Error> {
    let who = "exec";
    let (done, took) = timed(|| {
        let children =
            (0..times).map(|_| Command::new(NOTHING).spawn()).collect::<Result<Vec<Child>, _>>()?;
        children.into_iter().try_for_each(|mut child| child.wait().map(drop))
    });
    done.map_err(|source| Error::SpawnProcess { who, source })?;
    Ok(took)
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begin = Instant::now();
    (work(), begin.elapsed())
}
