//! amate, a batching engine of one process: one worker thread that gets batches.
//!
//! It brings questions to its worker and leaves answers to its user. They come back through the fastest queue in this crate, a
//! ring of rtrb, and the client spins at its end. The worker sleeps while there is nothing to do, so it needs no pausing.

use std::fmt;
use std::hint;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use ::amate::{Batching, Config, Engine, Queued};
use rtrb::{Consumer, Producer, RingBuffer};

use crate::Error;
use crate::contestant::{Contestant, Point};
use crate::open_loop::{self, Answers, OpenLoop, drive};
use crate::payload::Payload;
use crate::pin::{CpuPair, pin_to};

/// The most items in a batch: as with ringmill.
const BATCH_SIZE: usize = 64;

/// The engine, and where its answers come in.
pub struct Amate<const WORDS: usize> {
    who: &'static str,
    room: u64,
    engine: Engine<Payload<WORDS>>,
    answers: Consumer<Payload<WORDS>>,
}

/// Only the one worker takes it, once a batch.
struct Answering<const WORDS: usize>(Mutex<Producer<Payload<WORDS>>>);

impl<const WORDS: usize> Batching for Answering<WORDS> {
    type Item = Payload<WORDS>;

    fn weight(&self, _: &Payload<WORDS>) -> usize {
        1
    }

    fn window(&self) -> Duration {
        Duration::ZERO
    }

    fn run(&self, batch: Vec<Queued<Payload<WORDS>>>) {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room =
            answers.write_chunk_uninit(batch.len()).expect("no more is in progress than there is room for");
        room.fill_from_iter(batch.iter().map(|queued| queued.item.answer()));
    }

    fn panicked(&self, _: usize) {
        // The client waits for what is lost.
        std::process::abort();
    }
}

/// Starts the engine with room for as many items as `point` asks for, and its worker on the partner's CPU.
///
/// # Errors
///
/// [`Error::Pin`] if the system refuses the CPU.
pub fn start<const WORDS: usize>(
    who: &'static str,
    point: Point,
    cpus: CpuPair,
) -> Result<Amate<WORDS>, Error> {
    let room = point.room() as usize;
    let (answering, answers) = RingBuffer::new(room);
    let config = Config { max_batch: BATCH_SIZE, workers: 1, capacity: Some(room), waits_unannounced: false };
    // A new thread may use what the one may that starts it.
    let engine = thread::scope(|scope| {
        let starter = scope.spawn(|| {
            pin_to(cpus.partner)?;
            Ok::<_, Error>(Engine::start(Answering(Mutex::new(answering)), config, |_| who.to_owned()))
        });
        starter.join().expect("it only starts a thread")
    })?;
    Ok(Amate { who, room: point.room().into(), engine, answers })
}

impl<const WORDS: usize> Contestant for Amate<WORDS> {
    fn name(&self) -> &'static str {
        self.who
    }

    fn call(&mut self, items: u64) -> Result<(), Error> {
        self.stream(items, 1)
    }

    fn stream(&mut self, items: u64, window: u32) -> Result<(), Error> {
        let (mut sent, mut checked) = (0, 0);
        while checked < items {
            let unsent = items.min(checked + u64::from(window));
            while sent < unsent && self.engine.submit(None, Payload::question(sent)).is_ok() {
                sent += 1;
            }
            let there = self.answers.slots();
            if there == 0 {
                hint::spin_loop();
            }
            for answer in self.answers.read_chunk(there).expect("only this side takes answers") {
                if !answer.answers(checked) {
                    return Err(Error::WrongAnswer { who: self.who, item: checked });
                }
                checked += 1;
            }
        }
        Ok(())
    }
}

impl<const WORDS: usize> OpenLoop for Amate<WORDS> {
    fn name(&self) -> &'static str {
        self.who
    }

    fn offer(&mut self, due_ns: &[u64]) -> Result<Answers, Error> {
        drive(&mut InOrder { amate: self, sent: 0, received: 0 }, due_ns)
    }
}

/// Answers come in the order of their requests, because there is one worker.
struct InOrder<'a, const WORDS: usize> {
    amate: &'a mut Amate<WORDS>,
    sent: u64,
    received: u64,
}

impl<const WORDS: usize> open_loop::Link for InOrder<'_, WORDS> {
    #[inline]
    fn try_send(&mut self, item: u64) -> Result<bool, Error> {
        // The engine has room for as many again as its worker has taken, the ring of answers has not.
        let is_sent = self.sent - self.received < self.amate.room
            && self.amate.engine.submit(None, Payload::question(item)).is_ok();
        self.sent += u64::from(is_sent);
        Ok(is_sent)
    }

    #[inline]
    fn try_receive(&mut self) -> Result<Option<u64>, Error> {
        let Ok(answer) = self.amate.answers.pop() else { return Ok(None) };
        let item = self.received;
        if !answer.answers(item) {
            return Err(Error::WrongAnswer { who: self.amate.who, item });
        }
        self.received += 1;
        Ok(Some(item))
    }
}

impl<const WORDS: usize> fmt::Debug for Amate<WORDS> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Amate").field("waiting", &self.engine.waiting()).finish_non_exhaustive()
    }
}
