//! A pair of rtrb rings with their batching interface: many items move with one store of an index.
//!
//! The rings are those of [`rtrb`](super::rtrb). Only `stream` can profit: `call` has one item in progress, and a chunk of
//! one costs more than a push and a pop.

use std::hint;

use rtrb::{Consumer, Producer, RingBuffer};

use crate::Error;
use crate::contestant::{Contestant, Point};
use crate::partner::Partner;
use crate::payload::Payload;
use crate::pin::CpuPair;

/// Items that move with one store at most. Larger chunks leave the other side idle for longer, smaller ones
/// move the line with the index more often; 16 to 64 are about equally good.
const CHUNK: usize = 32;

/// A pair of rings and the thread that answers at their far end.
#[derive(Debug)]
pub struct RtrbChunks<const WORDS: usize> {
    questions: Producer<Payload<WORDS>>,
    answers: Consumer<Payload<WORDS>>,
    partner: Partner,
}

const WHO: &str = "rtrb-chunks";

impl<const WORDS: usize> RtrbChunks<WORDS> {
    /// Starts the pair; each ring holds as many items as `point` has room for.
    ///
    /// # Errors
    ///
    /// Those of [`Partner::spawn`].
    pub fn start(point: Point, cpus: CpuPair) -> Result<Self, Error> {
        let room = point.room() as usize;
        let (questions, mut asked) = RingBuffer::new(room);
        let (mut answered, answers) = RingBuffer::new(room);
        let partner = Partner::spawn(WHO, cpus.partner, move || {
            if answer_chunk(&mut asked, &mut answered) == 0 {
                hint::spin_loop();
            }
        })?;
        Ok(Self { questions, answers, partner })
    }
}

impl<const WORDS: usize> Contestant for RtrbChunks<WORDS> {
    fn name(&self) -> &'static str {
        WHO
    }

    fn resume(&mut self) {
        self.partner.resume();
    }

    fn pause(&mut self) {
        self.partner.pause();
    }

    fn call(&mut self, items: u64) -> Result<(), Error> {
        self.stream(items, 1)
    }

    fn stream(&mut self, items: u64, window: u32) -> Result<(), Error> {
        let (mut sent, mut checked) = (0, 0);
        while checked < items {
            let unsent = items.min(checked + u64::from(window)) - sent;
            let chunk = CHUNK.min(unsent as usize);
            sent += fill(&mut self.questions, chunk, (sent..).map(Payload::question)) as u64;
            let chunk = CHUNK.min(self.answers.slots());
            for answer in self.answers.read_chunk(chunk).expect("only this side takes answers") {
                if !answer.answers(checked) {
                    return Err(Error::WrongAnswer { who: WHO, item: checked });
                }
                checked += 1;
            }
        }
        Ok(())
    }
}

/// Answers one chunk of what has been asked, from ring to ring; returns its length.
fn answer_chunk<const WORDS: usize>(
    asked: &mut Consumer<Payload<WORDS>>,
    answered: &mut Producer<Payload<WORDS>>,
) -> usize {
    let chunk = CHUNK.min(asked.slots()).min(answered.slots());
    let questions = asked.read_chunk(chunk).expect("only this side takes questions");
    fill(answered, chunk, questions.into_iter().map(|question| question.answer()))
}

/// Puts at most `chunk` of `payloads` into `ring`, as many as it has room for; returns how many.
fn fill<const WORDS: usize>(
    ring: &mut Producer<Payload<WORDS>>,
    chunk: usize,
    payloads: impl Iterator<Item = Payload<WORDS>>,
) -> usize {
    let chunk = chunk.min(ring.slots());
    ring.write_chunk_uninit(chunk).expect("only this side fills the ring").fill_from_iter(payloads)
}
