//! ringmill's servlets made of servlets: what a further stage, or a further member, costs.
//!
//! Every stage and every member is a worker process of its own that passes its items through, pinned to the
//! partner's CPU; so the figures are those of the engine's moving things on, all on one CPU.

use std::fmt::Debug;
use std::time::Duration;

use ::ringmill::{BoxServlet, Ensemble, PassThrough, ProcessServlet, Server, Servlet, StreamOptions};
use rkyv::Archived;

use crate::Error;
use crate::contestant::{Contestant, Job};
use crate::payload::Payload;
use crate::pin::CpuPair;

/// A worker that passes its items through. List it in `ringmill::init!` of every program that calls [`start`].
pub type Stage = PassThrough<Payload>;

/// What comes out of an ensemble.
type Outcomes = Vec<Box<Payload>>;

/// The most items that a worker takes at once.
const BATCH_SIZE: usize = 64;

/// How many stages the pipelines have, and how many members the ensembles.
const PIPELINES: [(usize, &str); 4] = [(1, "1 stage"), (2, "2 stages"), (4, "4 stages"), (8, "8 stages")];
const ENSEMBLES: [(usize, &str); 4] = [(1, "1 member"), (2, "2 members"), (4, "4 members"), (8, "8 members")];

/// Starts all of them.
///
/// # Errors
///
/// [`Error::Start`] if a server does not start.
pub fn start(job: Job, cpus: CpuPair) -> Result<Vec<Box<dyn Contestant>>, Error> {
    let stage = || {
        let servlet = ProcessServlet::<Stage>::new(()).name("stage").cpus([cpus.partner]);
        servlet.batch_size(BATCH_SIZE).batch_wait_time(Duration::ZERO)
    };
    let builder = |name: &str| {
        let name = format!("compare-{}", name.replace(' ', "-"));
        Server::builder(name).capacity(job.room() as usize).max_payload(1024)
    };
    let mut all: Vec<Box<dyn Contestant>> = Vec::new();
    for (count, name) in PIPELINES {
        let stages =
            (1..count).fold(stage().boxed(), |first: BoxServlet<_, _>, _| first.then(stage()).boxed());
        let server = builder(name).start(stages)?;
        all.push(Box::new(Tree { name, server, is_right: |answer, question| answer == question }));
    }
    for (count, name) in ENSEMBLES {
        let members = Ensemble::each((0..count).map(|_| stage()));
        let server = builder(name).start(members)?;
        let all_right = |outcomes: &Archived<Outcomes>, question: &Payload| {
            !outcomes.is_empty() && outcomes.iter().all(|outcome| **outcome == *question)
        };
        all.push(Box::new(Tree { name, server, is_right: all_right }));
    }
    Ok(all)
}

/// A server, and what its answers must be.
#[derive(Debug)]
struct Tree<Out: rkyv::Archive> {
    name: &'static str,
    server: Server<Payload, Out>,
    is_right: fn(&Archived<Out>, &Payload) -> bool,
}

impl<Out: ::ringmill::Payload + Debug> Contestant for Tree<Out> {
    fn name(&self) -> &'static str {
        self.name
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
                return Err(Error::WrongAnswer { who: self.name, item });
            }
        }
        Ok(())
    }
}
