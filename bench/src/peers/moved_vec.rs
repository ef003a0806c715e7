//! A vector that is moved through crossbeam channels between two threads, spinning: no byte of it is copied.
//!
//! It comes back with the answer and is written again, so that neither side waits for memory from the system.

use std::hint;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::Error;
use crate::bulk;
use crate::contestant::{Contestant, Point};
use crate::partner::Partner;
use crate::pin::CpuPair;

const WHO: &str = "moved-vec";

/// A pair of channels, the thread that adds up at their far end, and the vectors that are here.
#[derive(Debug)]
pub struct MovedVec {
    questions: Sender<Vec<u64>>,
    answers: Receiver<(u64, Vec<u64>)>,
    idle: Vec<Vec<u64>>,
    partner: Partner,
}

impl MovedVec {
    /// Takes memory for as many vectors as there are items in progress, and starts the thread.
    ///
    /// # Errors
    ///
    /// Those of [`Partner::spawn`].
    pub fn start(point: Point, cpus: CpuPair) -> Result<Self, Error> {
        let window = point.window as usize;
        let (questions, asked) = bounded::<Vec<u64>>(window);
        let (answered, answers) = bounded(window);
        let partner = Partner::spawn(WHO, cpus.partner, move || match asked.try_recv() {
            Ok(question) => {
                let answer = bulk::sum(question.iter().copied());
                answered.send((answer, question)).expect("the client goes after its partner");
            }
            Err(_) => hint::spin_loop(),
        })?;
        let idle = vec![vec![0; bulk::words_in(point.payload_bytes)]; window];
        Ok(Self { questions, answers, idle, partner })
    }
}

impl Contestant for MovedVec {
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
            if sent < items.min(checked + u64::from(window))
                && let Some(mut question) = self.idle.pop()
            {
                bulk::write(&mut question, sent);
                self.questions.send(question).expect("the partner stays");
                sent += 1;
            } else {
                hint::spin_loop();
            }
            while let Ok((answer, question)) = self.answers.try_recv() {
                bulk::check(WHO, answer, checked, question.len())?;
                self.idle.push(question);
                checked += 1;
            }
        }
        Ok(())
    }
}
