//! A pair of queues between two threads of this process: what rtrb and crossbeam have in common here.
//!
//! Both sides spin, as these queues do at their best.

use std::hint;

use crate::Error;
use crate::contestant::Contestant;
use crate::open_loop::{self, Answers, OpenLoop, drive};
use crate::partner::Partner;
use crate::payload::Payload;
use crate::pin::CpuPair;

/// One side of a pair of queues.
pub trait Link<const WORDS: usize>: Send + 'static {
    /// Puts `payload` into the outgoing queue; `false` if it is full.
    fn try_send(&mut self, payload: Payload<WORDS>) -> bool;

    /// Takes the oldest payload out of the incoming queue, if there is one.
    fn try_receive(&mut self) -> Option<Payload<WORDS>>;
}

/// A pair of queues and the thread that answers at their far end.
#[derive(Debug)]
pub struct Threads<L, const WORDS: usize> {
    who: &'static str,
    near: L,
    partner: Partner,
}

impl<L: Link<WORDS>, const WORDS: usize> Threads<L, WORDS> {
    /// Starts the partner's thread, which answers at `far` what is sent into `near`.
    ///
    /// # Errors
    ///
    /// Those of [`Partner::spawn`].
    pub fn start(who: &'static str, near: L, mut far: L, cpus: CpuPair) -> Result<Self, Error> {
        let partner = Partner::spawn(who, cpus.partner, move || match far.try_receive() {
            Some(question) => send(&mut far, question.answer()),
            None => hint::spin_loop(),
        })?;
        Ok(Self { who, near, partner })
    }

    fn check(&self, answer: Payload<WORDS>, item: u64) -> Result<(), Error> {
        if answer.answers(item) { Ok(()) } else { Err(Error::WrongAnswer { who: self.who, item }) }
    }
}

impl<L: Link<WORDS> + std::fmt::Debug, const WORDS: usize> Contestant for Threads<L, WORDS> {
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
            send(&mut self.near, Payload::question(item));
            let answer = loop {
                match self.near.try_receive() {
                    Some(answer) => break answer,
                    None => hint::spin_loop(),
                }
            };
            self.check(answer, item)?;
        }
        Ok(())
    }

    fn stream(&mut self, items: u64, window: u32) -> Result<(), Error> {
        let (mut sent, mut checked) = (0, 0);
        while checked < items {
            let room = items.min(checked + u64::from(window));
            while sent < room && self.near.try_send(Payload::question(sent)) {
                sent += 1;
            }
            while let Some(answer) = self.near.try_receive() {
                self.check(answer, checked)?;
                checked += 1;
            }
        }
        Ok(())
    }
}

impl<L: Link<WORDS> + std::fmt::Debug, const WORDS: usize> OpenLoop for Threads<L, WORDS> {
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
        drive(&mut InOrder { threads: self, received: 0 }, due_ns)
    }
}

/// Answers come in the order of their requests.
struct InOrder<'t, L, const WORDS: usize> {
    threads: &'t mut Threads<L, WORDS>,
    received: u64,
}

impl<L: Link<WORDS>, const WORDS: usize> open_loop::Link for InOrder<'_, L, WORDS> {
    #[inline]
    fn try_send(&mut self, item: u64) -> Result<bool, Error> {
        Ok(self.threads.near.try_send(Payload::question(item)))
    }

    #[inline]
    fn try_receive(&mut self) -> Result<Option<u64>, Error> {
        let Some(answer) = self.threads.near.try_receive() else { return Ok(None) };
        let item = self.received;
        self.threads.check(answer, item)?;
        self.received += 1;
        Ok(Some(item))
    }
}

fn send<const WORDS: usize>(link: &mut impl Link<WORDS>, payload: Payload<WORDS>) {
    while !link.try_send(payload) {
        hint::spin_loop();
    }
}
