//! Workers that make batches out of one crossbeam channel without a lock between them.
//!
//! Each worker sleeps until it gets an item, and then takes more: until its batch is full, or as long as its first item may
//! wait. No lock keeps the others from doing so meanwhile, so several workers share the items that arrive.

use std::collections::VecDeque;
use std::hint;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::Error;
use crate::batching::{Batches, Batching, Plan};
use crate::contestant::{Contestant, Notes};
use crate::device::Device;
use crate::open_loop::{Answers, Link, drive};
use crate::pin::{CpuPair, pin_to};

type Payload = crate::payload::Payload<8>;

const WHO: &str = "crossbeam-blocking";

/// A question or an answer, and its item's number.
type Message = (u64, Payload);

/// Two channels, and the workers between them.
#[derive(Debug)]
pub struct CrossbeamBatch {
    /// None once the contestant goes: the workers wait for it.
    questions: Option<Sender<Message>>,
    answers: Receiver<Message>,
    workers: Vec<JoinHandle<()>>,
    counters: Arc<Counters>,
    told: Batches,
}

#[derive(Debug, Default)]
struct Counters {
    batches: AtomicU64,
    items: AtomicU64,
}

impl CrossbeamBatch {
    /// Starts the workers' threads.
    ///
    /// # Errors
    ///
    /// [`Error::Spawn`], [`Error::Pin`] or [`Error::Device`] if the system refuses something.
    pub fn start(plan: Plan, cpus: CpuPair) -> Result<Self, Error> {
        let (questions, asked) = bounded(plan.room as usize);
        let (answered, answers) = bounded(plan.room as usize);
        let counters = Arc::new(Counters::default());
        let mut all = Self {
            questions: Some(questions),
            answers,
            workers: Vec::new(),
            counters: Arc::clone(&counters),
            told: Batches::default(),
        };
        let (begun, ready) = bounded(plan.workers as usize);
        for _ in 0..plan.workers {
            let worker = Worker {
                plan,
                asked: asked.clone(),
                answered: answered.clone(),
                counters: Arc::clone(&counters),
                batch: Vec::with_capacity(plan.batch_size),
            };
            let begun = begun.clone();
            let body = move || {
                let device = pin_to(cpus.partner).and_then(|()| plan.device.open().map_err(Error::Device));
                match device {
                    Ok(device) => {
                        let told = begun.send(Ok(()));
                        drop(begun);
                        if told.is_ok() {
                            worker.work(device);
                        }
                    }
                    Err(error) => {
                        // Its starter has gone, or gets the error.
                        let _ = begun.send(Err(error));
                    }
                }
            };
            let thread = thread::Builder::new().name(format!("{WHO} worker")).spawn(body);
            all.workers.push(thread.map_err(|source| Error::Spawn { who: WHO, source })?);
        }
        for _ in 0..plan.workers {
            ready.recv().expect("a worker reports before it ends")?;
        }
        Ok(all)
    }

    fn link(&self) -> Channels<'_> {
        let questions = self.questions.as_ref().expect("it goes last");
        Channels { questions, answers: &self.answers }
    }
}

struct Worker {
    plan: Plan,
    asked: Receiver<Message>,
    answered: Sender<Message>,
    counters: Arc<Counters>,
    batch: Vec<Message>,
}

impl Worker {
    /// One batch after the other, until the client has gone.
    fn work(mut self, device: Device) {
        while let Ok(first) = self.asked.recv() {
            let end = Instant::now() + self.plan.batch_wait;
            self.batch.push(first);
            while self.batch.len() < self.plan.batch_size
                && let Ok(next) = self.asked.recv_deadline(end)
            {
                self.batch.push(next);
            }
            device.work(self.batch.len());
            self.counters.batches.fetch_add(1, Relaxed);
            self.counters.items.fetch_add(self.batch.len() as u64, Relaxed);
            for (item, question) in self.batch.drain(..) {
                if self.answered.send((item, question.answer())).is_err() {
                    return;
                }
            }
        }
    }
}

/// The client's ends of the channels.
struct Channels<'c> {
    questions: &'c Sender<Message>,
    answers: &'c Receiver<Message>,
}

impl Link for Channels<'_> {
    fn try_send(&mut self, item: u64) -> Result<bool, Error> {
        Ok(self.questions.try_send((item, Payload::question(item))).is_ok())
    }

    fn try_receive(&mut self) -> Result<Option<u64>, Error> {
        let Ok((item, answer)) = self.answers.try_recv() else { return Ok(None) };
        if answer.answers(item) { Ok(Some(item)) } else { Err(Error::WrongAnswer { who: WHO, item }) }
    }
}

impl Contestant for CrossbeamBatch {
    fn name(&self) -> &'static str {
        WHO
    }

    fn notes(&mut self) -> Notes {
        let Counters { batches, items } = &*self.counters;
        // The workers counted before they answered, and all have been answered.
        self.told.notes_until(Batches { count: batches.load(Relaxed), items: items.load(Relaxed) })
    }

    fn call(&mut self, items: u64) -> Result<(), Error> {
        self.stream(items, 1)
    }

    fn stream(&mut self, items: u64, window: u32) -> Result<(), Error> {
        let mut channels =
            Channels { questions: self.questions.as_ref().expect("it goes last"), answers: &self.answers };
        let (mut sent, mut checked) = (0, 0);
        // Which of those from `checked` on have been answered.
        let mut answered = VecDeque::with_capacity(window as usize);
        while checked < items {
            while sent < items.min(checked + u64::from(window)) && channels.try_send(sent)? {
                answered.push_back(false);
                sent += 1;
            }
            let Some(item) = channels.try_receive()? else {
                hint::spin_loop();
                continue;
            };
            let slot = item.checked_sub(checked).and_then(|slot| answered.get_mut(slot as usize));
            match slot {
                Some(answered) if !*answered => *answered = true,
                _ => return Err(Error::WrongAnswer { who: WHO, item }),
            }
            while answered.front() == Some(&true) {
                answered.pop_front();
                checked += 1;
            }
        }
        Ok(())
    }
}

impl Batching for CrossbeamBatch {
    fn offer(&mut self, due_ns: &[u64]) -> Result<Answers, Error> {
        drive(&mut self.link(), due_ns)
    }
}

impl Drop for CrossbeamBatch {
    fn drop(&mut self) {
        self.questions = None;
        for worker in self.workers.drain(..) {
            worker.join().expect("a worker only works");
        }
    }
}
