//! Crossbeam channels that sleep while there is nothing to receive: any number of calling threads and workers.
//!
//! One channel of questions that all workers take from, and one of answers for each caller. With several threads on one
//! CPU polling would be pure loss. A question says which caller asks and which item it is, because several workers do not keep
//! the order; the caller puts the answers into order again.

use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::Error;
use crate::callers::{Caller, Callers, Stopwatch};
use crate::contestant::{Contestant, Notes, Point};
use crate::payload::Payload;
use crate::pin::{CpuPair, pin_to};

const WHO: &str = "crossbeam-blocking";

/// A question or an answer on its way.
#[derive(Debug)]
struct Message<const WORDS: usize> {
    caller: usize,
    item: u64,
    payload: Payload<WORDS>,
}

/// The callers' threads and the workers'.
#[derive(Debug)]
pub struct CrossbeamBlocking {
    /// None once the contestant goes: the callers hold the channel that the workers wait for.
    callers: Option<Callers>,
    workers: Vec<JoinHandle<()>>,
}

impl CrossbeamBlocking {
    /// Starts the threads; each channel holds as many items as can come into it.
    ///
    /// # Errors
    ///
    /// [`Error::Spawn`] or [`Error::Pin`] if the system refuses a thread or a CPU.
    pub fn start<const WORDS: usize>(point: Point, cpus: CpuPair) -> Result<Self, Error> {
        let (questions, asked) = bounded::<Message<WORDS>>(point.room() as usize);
        let (answers, answered): (Vec<_>, Vec<_>) =
            (0..point.threads).map(|_| bounded::<Message<WORDS>>(point.room() as usize)).unzip();
        let lines = answered.into_iter().enumerate().map(|(caller, answers)| Line {
            caller,
            questions: questions.clone(),
            answers,
            early: vec![false; point.window as usize],
        });
        let callers = Callers::spawn(WHO, cpus.client, lines)?;
        let mut all = Self { callers: Some(callers), workers: Vec::new() };
        let (pinned, ready) = bounded(point.workers as usize);
        for _ in 0..point.workers {
            let (asked, answers, pinned) = (asked.clone(), answers.clone(), pinned.clone());
            let worker = move || {
                let result = pin_to(cpus.partner);
                let refused = result.is_err();
                if pinned.send(result).is_ok() && !refused {
                    work(&asked, &answers);
                }
            };
            let thread = thread::Builder::new().name(format!("{WHO} worker")).spawn(worker);
            all.workers.push(thread.map_err(|source| Error::Spawn { who: WHO, source })?);
        }
        for _ in 0..point.workers {
            ready.recv().expect("a worker reports before it ends")?;
        }
        Ok(all)
    }
}

/// Answers until all callers have gone.
fn work<const WORDS: usize>(asked: &Receiver<Message<WORDS>>, answers: &[Sender<Message<WORDS>>]) {
    for question in asked {
        let answer = Message { payload: question.payload.answer(), ..question };
        if answers[question.caller].send(answer).is_err() {
            return;
        }
    }
}

impl Contestant for CrossbeamBlocking {
    fn name(&self) -> &'static str {
        WHO
    }

    fn call(&mut self, items: u64) -> Result<(), Error> {
        self.stream(items, 1)
    }

    fn stream(&mut self, items: u64, window: u32) -> Result<(), Error> {
        self.callers.as_ref().expect("they go last").stream(items, window)
    }

    fn notes(&mut self) -> Notes {
        let latencies_ns = self.callers.as_ref().expect("they go last").latencies_ns();
        Notes { latencies_ns, ..Notes::default() }
    }
}

impl Drop for CrossbeamBlocking {
    fn drop(&mut self) {
        // With the callers the last sender of questions goes.
        self.callers = None;
        for worker in self.workers.drain(..) {
            worker.join().expect("a worker only answers");
        }
    }
}

/// One caller's channels and window.
struct Line<const WORDS: usize> {
    caller: usize,
    questions: Sender<Message<WORDS>>,
    answers: Receiver<Message<WORDS>>,
    /// Which items of the window have been answered before an older one.
    early: Vec<bool>,
}

impl<const WORDS: usize> Caller for Line<WORDS> {
    fn stream(&mut self, items: u64, window: u32, stopwatch: &Stopwatch) -> Result<(), Error> {
        let (mut sent, mut checked) = (0, 0);
        while checked < items {
            while sent < items.min(checked + u64::from(window)) {
                stopwatch.asked(sent);
                let question = Message { caller: self.caller, item: sent, payload: Payload::question(sent) };
                self.questions.send(question).expect("workers stay while there are callers");
                sent += 1;
            }
            let mut next = Some(self.answers.recv().expect("workers stay while there are callers"));
            while let Some(answer) = next {
                checked = self.take(&answer, checked, sent, stopwatch)?;
                next = self.answers.try_recv().ok();
            }
        }
        Ok(())
    }
}

impl<const WORDS: usize> Line<WORDS> {
    /// Checks an answer to one of the items `checked..sent`; returns how many are checked without a gap.
    fn take(
        &mut self,
        answer: &Message<WORDS>,
        mut checked: u64,
        sent: u64,
        stopwatch: &Stopwatch,
    ) -> Result<u64, Error> {
        let slots = self.early.len() as u64;
        let item = answer.item;
        let slot = (item % slots) as usize;
        if !(checked..sent).contains(&item) || self.early[slot] || !answer.payload.answers(item) {
            return Err(Error::WrongAnswer { who: WHO, item });
        }
        self.early[slot] = true;
        while std::mem::take(&mut self.early[(checked % slots) as usize]) {
            stopwatch.answered(checked);
            checked += 1;
        }
        Ok(checked)
    }
}
