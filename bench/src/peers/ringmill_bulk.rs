//! ringmill with large inputs: copied into the segment, or written there in the first place.

use std::collections::VecDeque;

use ::ringmill::call::Pending;
use ::ringmill::{BoxError, Context, ProcessServlet, Server, Worker};
use rkyv::Archived;

use super::ringmill::server_builder;
use crate::Error;
use crate::bulk;
use crate::contestant::{Contestant, Point};
use crate::pin::CpuPair;

/// The worker: adds up. List it in `ringmill::init!` of every program that starts a [`Copied`] or a [`Lent`].
#[derive(Debug)]
pub struct Sum;

impl Worker for Sum {
    type Config = ();
    type In = Vec<u64>;
    type Out = u64;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, question: &Archived<Vec<u64>>) -> Result<u64, BoxError> {
        Ok(bulk::sum(question.iter().map(|word| word.to_native())))
    }
}

/// Bytes that an archived vector has besides its numbers, and some.
const ROOT_BYTES: usize = 64;

/// A server whose segment has a block for each item in progress, and no more: every contestant uses as many buffers in turn as
/// there are items in progress. Answers need no block, they are small.
fn start(point: Point, cpus: CpuPair) -> Result<Server<Vec<u64>, u64>, Error> {
    let sum = ProcessServlet::<Sum>::new(()).cpus([cpus.partner]);
    let window = point.window as usize;
    let block_bytes = point.payload_bytes as usize + ROOT_BYTES;
    Ok(server_builder(point).capacity(window).payload_classes([(block_bytes, window)]).start(sum)?)
}

/// The client writes a vector of its own, which is copied into the segment as it is sent.
#[derive(Debug)]
pub struct Copied {
    server: Server<Vec<u64>, u64>,
    question: Vec<u64>,
}

impl Copied {
    /// Starts the server, its worker pinned to the partner's CPU.
    ///
    /// # Errors
    ///
    /// [`Error::Start`] if the server does not start.
    pub fn start(point: Point, cpus: CpuPair) -> Result<Self, Error> {
        Ok(Self { server: start(point, cpus)?, question: vec![0; bulk::words_in(point.payload_bytes)] })
    }
}

impl Contestant for Copied {
    fn name(&self) -> &'static str {
        "ringmill"
    }

    fn call(&mut self, items: u64) -> Result<(), Error> {
        self.stream(items, 1)
    }

    fn stream(&mut self, items: u64, window: u32) -> Result<(), Error> {
        let Self { server, question } = self;
        let words = question.len();
        in_window("ringmill", items, window, words, |item| {
            bulk::write(question, item);
            Ok(server.submit(question)?)
        })
    }
}

/// Sends `items` questions of `words` words, `window` of them in progress, and checks the answers.
fn in_window<'s>(
    who: &'static str,
    items: u64,
    window: u32,
    words: usize,
    mut send: impl FnMut(u64) -> Result<Pending<'s, u64>, Error>,
) -> Result<(), Error> {
    let take = |oldest: Pending<'_, u64>, item| bulk::check(who, oldest.wait()?.to_native(), item, words);
    let mut pending = VecDeque::new();
    for item in 0..items {
        if pending.len() == window as usize
            && let Some(oldest) = pending.pop_front()
        {
            take(oldest, item - u64::from(window))?;
        }
        pending.push_back(send(item)?);
    }
    let first = items - pending.len() as u64;
    (first..).zip(pending).try_for_each(|(item, oldest)| take(oldest, item))
}

/// The client writes where the segment has room for it.
#[derive(Debug)]
pub struct Lent {
    server: Server<Vec<u64>, u64>,
    words: usize,
}

impl Lent {
    /// Starts the server, its worker pinned to the partner's CPU.
    ///
    /// # Errors
    ///
    /// [`Error::Start`] if the server does not start.
    pub fn start(point: Point, cpus: CpuPair) -> Result<Self, Error> {
        Ok(Self { server: start(point, cpus)?, words: bulk::words_in(point.payload_bytes) })
    }
}

impl Contestant for Lent {
    fn name(&self) -> &'static str {
        "ringmill-loan"
    }

    fn call(&mut self, items: u64) -> Result<(), Error> {
        self.stream(items, 1)
    }

    fn stream(&mut self, items: u64, window: u32) -> Result<(), Error> {
        let Self { server, words } = &*self;
        in_window(self.name(), items, window, *words, |item| {
            let mut question = server.loan(*words)?;
            bulk::write(question.as_mut_slice(), item);
            Ok(server.submit_loan(question)?)
        })
    }
}
