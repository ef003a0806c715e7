//! ringmill's servlets made of servlets, whose leaves pass their items through.

use std::fmt::Debug;
use std::time::Duration;

use ::ringmill::servlet::BoxServlet;
use ::ringmill::{Ensemble, PassThrough, ProcessServlet, Server, Servlet, StreamOptions};
use rkyv::Archived;

use super::ringmill::server_builder;
use crate::Error;
use crate::contestant::{Contestant, Point};
use crate::pin::CpuPair;

/// The item.
type Payload = crate::payload::Payload<8>;

/// A worker that passes its items through. List it in `ringmill::init!` of every program that calls [`pipeline`] or
/// [`ensemble`].
pub type Stage = PassThrough<Payload>;

/// The outcome of an ensemble.
type Outcomes = Vec<Box<Payload>>;

/// The most items that a worker takes at once.
const BATCH_SIZE: usize = 64;

/// Room for the outcomes of the largest ensemble, side by side.
const MAX_PAYLOAD: usize = 2048;

/// One stage or member: a worker process on the partner's CPU.
fn leaf(cpus: CpuPair) -> ProcessServlet<Stage> {
    let servlet = ProcessServlet::<Stage>::new(()).name("stage").cpus([cpus.partner]);
    servlet.batch_size(BATCH_SIZE).batch_wait_time(Duration::ZERO)
}

/// Starts a pipeline of `count` stages.
///
/// # Errors
///
/// [`Error::Start`] if the server does not start.
pub fn pipeline(count: u32, point: Point, cpus: CpuPair) -> Result<Box<dyn Contestant>, Error> {
    let first: BoxServlet<_, _> = leaf(cpus).boxed();
    let stages = (1..count).fold(first, |stages, _| stages.then(leaf(cpus)).boxed());
    let server = server_builder(point).max_payload(MAX_PAYLOAD).start(stages)?;
    Ok(Box::new(Tree { server, is_right: |answer, question| answer == question }))
}

/// Starts an ensemble of `count` members.
///
/// # Errors
///
/// [`Error::Start`] if the server does not start.
pub fn ensemble(count: u32, point: Point, cpus: CpuPair) -> Result<Box<dyn Contestant>, Error> {
    let members = Ensemble::each((0..count).map(|_| leaf(cpus)));
    let server = server_builder(point).max_payload(MAX_PAYLOAD).start(members)?;
    let all_right = |outcomes: &Archived<Outcomes>, question: &Payload| {
        !outcomes.is_empty() && outcomes.iter().all(|outcome| **outcome == *question)
    };
    Ok(Box::new(Tree { server, is_right: all_right }))
}

/// A server, and what its answers must be.
#[derive(Debug)]
struct Tree<Out: rkyv::Archive> {
    server: Server<Payload, Out>,
    is_right: fn(&Archived<Out>, &Payload) -> bool,
}

impl<Out: ::ringmill::Payload + Debug> Contestant for Tree<Out> {
    fn name(&self) -> &'static str {
        "ringmill"
    }

    fn call(&mut self, items: u64) -> Result<(), Error> {
        self.stream(items, 1)
    }

    fn stream(&mut self, items: u64, window: u32) -> Result<(), Error> {
        let questions = (0..items).map(Payload::question);
        let mut answers = self.server.stream_with(questions, StreamOptions::new().window(window as usize));
        for item in 0..items {
            let is_right = match answers.next_reply() {
                Some(answer) => (self.is_right)(&*answer?, &Payload::question(item)),
                None => false,
            };
            if !is_right {
                return Err(Error::WrongAnswer { who: self.name(), item });
            }
        }
        Ok(())
    }
}
