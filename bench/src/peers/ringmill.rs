//! ringmill through its public API, with a worker in a process of its own.

use std::time::Duration;

use ::ringmill::{BoxError, Context, ProcessServlet, Server, StreamOptions, Worker};
use rkyv::Archived;

use crate::Error;
use crate::contestant::Contestant;
use crate::payload::Payload;
use crate::pin::CpuPair;

/// The worker: answers questions. List it in `ringmill::init!` of every program that starts a [`Ringmill`].
#[derive(Debug)]
pub struct Echo;

impl Worker for Echo {
    type Config = ();
    type In = Payload;
    type Out = Payload;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, question: &Archived<Payload>) -> Result<Payload, BoxError> {
        Ok(question.answer())
    }
}

/// A server with one worker process.
///
/// It needs no [`resume`](Contestant::resume) and no [`pause`](Contestant::pause): a worker without work goes
/// to sleep by itself after a spin of some microseconds, well within the next reading's warm-up.
#[derive(Debug)]
pub struct Ringmill {
    server: Server<Payload, Payload>,
}

/// The most items that the worker takes at once; enough of them to keep both sides busy within one window.
const BATCH_SIZE: usize = 64;

impl Ringmill {
    /// Starts the server, with room for `room` items in progress and its worker pinned to the partner's CPU.
    ///
    /// The worker takes what is there and never waits for more, so one item alone leaves at once.
    ///
    /// # Errors
    ///
    /// [`Error::Start`] if the server does not start.
    pub fn start(room: u32, cpus: CpuPair) -> Result<Self, Error> {
        let echo = ProcessServlet::<Echo>::new(())
            .cpus([cpus.partner])
            .batch_size(BATCH_SIZE)
            .batch_wait_time(Duration::ZERO);
        let server = Server::builder("compare").capacity(room as usize).start(echo)?;
        Ok(Self { server })
    }
}

impl Contestant for Ringmill {
    fn name(&self) -> &'static str {
        "ringmill"
    }

    fn call(&mut self, items: u64) -> Result<(), Error> {
        for item in 0..items {
            let answer = self.server.call(&Payload::question(item))?;
            check(answer.answers(item), item)?;
        }
        Ok(())
    }

    fn stream(&mut self, items: u64, window: u32) -> Result<(), Error> {
        let questions = (0..items).map(Payload::question);
        let mut answers = self.server.stream_with(questions, StreamOptions::new().window(window as usize));
        for item in 0..items {
            let right = match answers.next_reply() {
                Some(answer) => answer?.answers(item),
                None => false,
            };
            check(right, item)?;
        }
        Ok(())
    }
}

#[inline]
fn check(right: bool, item: u64) -> Result<(), Error> {
    if right { Ok(()) } else { Err(Error::WrongAnswer { who: "ringmill", item }) }
}
