//! A pair of disruptors between two threads, each with one producer and one polled consumer.
//!
//! Both sides publish and read in batches, as its authors recommend: what is there, up to 32 items.

use std::fmt;
use std::hint;

use ::disruptor::{
    BusySpin, EventGuard, EventPoller, Producer, SingleConsumerBarrier, SingleProducer,
    SingleProducerBarrier, build_single_producer,
};

use crate::Error;
use crate::contestant::{Contestant, Point};
use crate::open_loop::{self, Answers, OpenLoop, drive};
use crate::partner::Partner;
use crate::payload::Payload;
use crate::pin::CpuPair;

/// Items that move with one store at most: as with [`rtrb_chunks`](super::rtrb_chunks).
const CHUNK: usize = 32;

/// A pair of disruptors and the thread that answers at their far end.
pub struct Disruptors<const WORDS: usize> {
    who: &'static str,
    // First, so that it ends before the disruptor that it polls.
    partner: Partner,
    questions: Source<WORDS>,
    answers: Sink<WORDS>,
}

type Source<const WORDS: usize> = SingleProducer<Payload<WORDS>, SingleConsumerBarrier>;
type Taken<'a, const WORDS: usize> = EventGuard<'a, Payload<WORDS>, SingleProducerBarrier>;
type Sink<const WORDS: usize> = EventPoller<Payload<WORDS>, SingleProducerBarrier>;

/// Starts the pair; each has room for as many items as `point` asks for, rounded up to a power of two.
///
/// # Errors
///
/// Those of [`Partner::spawn`].
pub fn start<const WORDS: usize>(
    who: &'static str,
    point: Point,
    cpus: CpuPair,
) -> Result<Disruptors<WORDS>, Error> {
    let (questions, mut asked) = one_way(point.room());
    let (mut answered, answers) = one_way(point.room());
    let partner = Partner::spawn(who, cpus.partner, move || {
        if answer_chunk(&mut asked, &mut answered) == 0 {
            hint::spin_loop();
        }
    })?;
    Ok(Disruptors { who, partner, questions, answers })
}

fn one_way<const WORDS: usize>(room: u32) -> (Source<WORDS>, Sink<WORDS>) {
    let room = room.next_power_of_two() as usize;
    let (sink, builder) = build_single_producer(room, || Payload::question(0), BusySpin).new_event_poller();
    (builder.build(), sink)
}

/// Answers one chunk of what has been asked, from one into the other; returns its length.
fn answer_chunk<const WORDS: usize>(asked: &mut Sink<WORDS>, answered: &mut Source<WORDS>) -> usize {
    let Some(mut questions) = take(asked) else { return 0 };
    let mut questions = &mut questions;
    let chunk = questions.len();
    // The client keeps no more in progress than there is room for, so this does not wait.
    answered.batch_publish(chunk, |slots| {
        for (slot, question) in slots.zip(&mut questions) {
            *slot = question.answer();
        }
    });
    chunk
}

fn take<const WORDS: usize>(sink: &mut Sink<WORDS>) -> Option<Taken<'_, WORDS>> {
    // The other error says that the producer is gone; both are dropped after the partner.
    sink.take(CHUNK as u64).ok()
}

impl<const WORDS: usize> Contestant for Disruptors<WORDS> {
    fn name(&self) -> &'static str {
        self.who
    }

    fn resume(&mut self) {
        self.partner.resume();
    }

    fn pause(&mut self) {
        self.partner.pause();
    }

    fn call(&mut self, items: u64) -> Result<(), Error> {
        for item in 0..items {
            self.questions.publish(|slot| *slot = Payload::question(item));
            let mut answer = loop {
                match take(&mut self.answers) {
                    Some(answer) => break answer,
                    None => hint::spin_loop(),
                }
            };
            if !(&mut answer).next().is_some_and(|answer| answer.answers(item)) {
                return Err(Error::WrongAnswer { who: self.who, item });
            }
        }
        Ok(())
    }

    fn stream(&mut self, items: u64, window: u32) -> Result<(), Error> {
        let (mut sent, mut checked) = (0, 0);
        while checked < items {
            let unsent = items.min(checked + u64::from(window)) - sent;
            let chunk = CHUNK.min(unsent as usize);
            if chunk > 0 {
                self.questions.batch_publish(chunk, |slots| {
                    for slot in slots {
                        *slot = Payload::question(sent);
                        sent += 1;
                    }
                });
            }
            let Some(mut answers) = take(&mut self.answers) else { continue };
            for answer in &mut answers {
                if !answer.answers(checked) {
                    return Err(Error::WrongAnswer { who: self.who, item: checked });
                }
                checked += 1;
            }
        }
        Ok(())
    }
}

impl<const WORDS: usize> OpenLoop for Disruptors<WORDS> {
    fn name(&self) -> &'static str {
        self.who
    }

    fn resume(&mut self) {
        self.partner.resume();
    }

    fn pause(&mut self) {
        self.partner.pause();
    }

    fn offer(&mut self, due_ns: &[u64]) -> Result<Answers, Error> {
        drive(&mut InOrder { disruptors: self, received: 0 }, due_ns)
    }
}

/// Answers come in the order of their requests.
struct InOrder<'d, const WORDS: usize> {
    disruptors: &'d mut Disruptors<WORDS>,
    received: u64,
}

impl<const WORDS: usize> open_loop::Link for InOrder<'_, WORDS> {
    #[inline]
    fn try_send(&mut self, item: u64) -> Result<bool, Error> {
        Ok(self.disruptors.questions.try_publish(|slot| *slot = Payload::question(item)).is_ok())
    }

    #[inline]
    fn try_receive(&mut self) -> Result<Option<u64>, Error> {
        let Ok(mut answer) = self.disruptors.answers.take(1) else { return Ok(None) };
        let item = self.received;
        if !(&mut answer).next().is_some_and(|answer| answer.answers(item)) {
            return Err(Error::WrongAnswer { who: self.disruptors.who, item });
        }
        self.received += 1;
        Ok(Some(item))
    }
}

impl<const WORDS: usize> fmt::Debug for Disruptors<WORDS> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Disruptors").field("partner", &self.partner).finish_non_exhaustive()
    }
}
