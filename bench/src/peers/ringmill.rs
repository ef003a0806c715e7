//! ringmill through its public API, with a worker in a process of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use ::ringmill::{BoxError, Context, Cpus, ProcessServlet, Server, ServerBuilder, StreamOptions, Worker};
use rkyv::Archived;

use crate::Error;
use crate::callers::{Caller, Callers, Stopwatch};
use crate::contestant::{Contestant, Notes, Point};
use crate::payload::Payload;
use crate::pin::CpuPair;

/// The worker: answers questions. List it in `ringmill::init!` of every program that starts a [`Ringmill`].
#[derive(Debug)]
pub struct Echo<const WORDS: usize>;

impl<const WORDS: usize> Worker for Echo<WORDS> {
    type Config = ();
    type In = Payload<WORDS>;
    type Out = Payload<WORDS>;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, question: &Archived<Payload<WORDS>>) -> Result<Payload<WORDS>, BoxError> {
        Ok(question.answer())
    }
}

/// A server with one worker process.
///
/// It needs no [`resume`](Contestant::resume) and no [`pause`](Contestant::pause): a worker without work goes
/// to sleep by itself after a spin of some microseconds, well within the next reading's warm-up.
#[derive(Debug)]
pub struct Ringmill<const WORDS: usize> {
    server: Server<Payload<WORDS>, Payload<WORDS>>,
}

/// The most items that the worker takes at once; enough of them to keep both sides busy within one window.
const BATCH_SIZE: usize = 64;

impl<const WORDS: usize> Ringmill<WORDS> {
    /// Starts the server, with as much room as `point` asks for and its worker pinned to the partner's CPU.
    ///
    /// # Errors
    ///
    /// [`Error::Start`] if the server does not start.
    pub fn start(point: Point, cpus: CpuPair) -> Result<Self, Error> {
        Ok(Self { server: start_server(point, cpus)? })
    }
}

/// A server with as many workers as `point` asks for, all on the partner's CPU.
fn start_server<const WORDS: usize>(
    point: Point,
    cpus: CpuPair,
) -> Result<Server<Payload<WORDS>, Payload<WORDS>>, Error> {
    let echo = echo(cpus).cpus(on_one_cpu(point.workers, cpus.partner));
    Ok(server_builder(point).max_payload(Payload::<WORDS>::BYTES).start(echo)?)
}

/// This many workers that share a CPU.
pub fn on_one_cpu(workers: u32, cpu: usize) -> Cpus {
    Cpus::list((0..workers).map(|_| cpu.into()))
}

/// One worker on the partner's CPU. It takes the items there are and never waits for more, so one item alone leaves at once.
pub fn echo<const WORDS: usize>(cpus: CpuPair) -> ProcessServlet<Echo<WORDS>> {
    ProcessServlet::new(()).cpus([cpus.partner]).batch_size(BATCH_SIZE).batch_wait_time(Duration::ZERO)
}

/// The processes of a server's workers.
pub fn worker_pids<In: ::ringmill::Payload, Out: ::ringmill::Payload>(
    server: &Server<In, Out>,
) -> impl Iterator<Item = u32> + use<In, Out> {
    server.debug_info().servlets.into_iter().flat_map(|servlet| servlet.workers).map(|worker| worker.pid)
}

/// A server with as much room as `point` asks for, and a name that no other one has.
pub fn server_builder(point: Point) -> ServerBuilder {
    name_and_room(point.room())
}

/// A server with room for this many items, and a unique name.
pub fn name_and_room(room: u32) -> ServerBuilder {
    static SERVERS: AtomicU32 = AtomicU32::new(0);
    let (program, server) = (std::process::id(), SERVERS.fetch_add(1, Relaxed));
    Server::builder(format!("compare-{program}-{server}")).capacity(room as usize)
}

impl<const WORDS: usize> Contestant for Ringmill<WORDS> {
    fn name(&self) -> &'static str {
        "ringmill"
    }

    fn call(&mut self, items: u64) -> Result<(), Error> {
        call_through(&self.server, items)
    }

    fn stream(&mut self, items: u64, window: u32) -> Result<(), Error> {
        stream_through(&self.server, items, window)
    }
}

/// `items` questions to a server, one after the other, each answer checked.
///
/// # Errors
///
/// [`Error::Call`] and [`Error::WrongAnswer`].
#[inline]
pub fn call_through<const WORDS: usize>(
    server: &Server<Payload<WORDS>, Payload<WORDS>>,
    items: u64,
) -> Result<(), Error> {
    for item in 0..items {
        let answer = server.call(&Payload::question(item))?;
        check(answer.answers(item), item)?;
    }
    Ok(())
}

/// A stream of `items` questions to a server, each answer checked.
///
/// # Errors
///
/// [`Error::Call`] and [`Error::WrongAnswer`].
#[inline]
pub fn stream_through<const WORDS: usize>(
    server: &Server<Payload<WORDS>, Payload<WORDS>>,
    items: u64,
    window: u32,
) -> Result<(), Error> {
    let questions = (0..items).map(Payload::question);
    let mut answers = server.stream_with(questions, StreamOptions::new().window(window as usize));
    for item in 0..items {
        let right = match answers.next() {
            Some(answer) => answer?.answers(item),
            None => false,
        };
        check(right, item)?;
    }
    Ok(())
}

/// A server with several calling threads on the client's CPU.
#[derive(Debug)]
pub struct RingmillCallers<const WORDS: usize> {
    callers: Callers,
}

impl<const WORDS: usize> RingmillCallers<WORDS> {
    /// Starts the server as [`Ringmill::start`] does, and the threads.
    ///
    /// # Errors
    ///
    /// [`Error::Start`], [`Error::Spawn`] or [`Error::Pin`].
    pub fn start(point: Point, cpus: CpuPair) -> Result<Self, Error> {
        let server = Arc::new(start_server::<WORDS>(point, cpus)?);
        let callers = (0..point.threads).map(|_| Arc::clone(&server));
        Ok(Self { callers: Callers::spawn("ringmill", cpus.client, callers)? })
    }
}

impl<const WORDS: usize> Caller for Arc<Server<Payload<WORDS>, Payload<WORDS>>> {
    fn stream(&mut self, items: u64, window: u32, stopwatch: &Stopwatch) -> Result<(), Error> {
        let questions = (0..items).map(|item| {
            stopwatch.asked(item);
            Payload::question(item)
        });
        let mut answers = self.stream_with(questions, StreamOptions::new().window(window as usize));
        for item in 0..items {
            let right = match answers.next() {
                Some(answer) => answer?.answers(item),
                None => false,
            };
            check(right, item)?;
            stopwatch.answered(item);
        }
        Ok(())
    }
}

impl<const WORDS: usize> Contestant for RingmillCallers<WORDS> {
    fn name(&self) -> &'static str {
        "ringmill"
    }

    fn call(&mut self, items: u64) -> Result<(), Error> {
        self.stream(items, 1)
    }

    fn stream(&mut self, items: u64, window: u32) -> Result<(), Error> {
        self.callers.stream(items, window)
    }

    fn notes(&mut self) -> Notes {
        Notes { latencies_ns: self.callers.latencies_ns(), ..Notes::default() }
    }
}

#[inline]
fn check(right: bool, item: u64) -> Result<(), Error> {
    if right { Ok(()) } else { Err(Error::WrongAnswer { who: "ringmill", item }) }
}
