//! Requests that arrive whether or not the earlier ones have been answered.
//!
//! One thread sends each request as soon as it is due and looks for answers in between. What is measured is the time
//! from the instant a request was *due* until its answer has been read and checked. So a request that had to wait,
//! because the thread was late or the contestant had no room, has waited: nothing is left out because the contestant
//! was slow (no coordinated omission).

use std::fmt;
use std::time::Instant;

use crate::Error;

/// A contestant that a single thread can drive without blocking.
///
/// As of a [`Contestant`](crate::contestant::Contestant), its partner runs between [`resume`](Self::resume) and
/// [`pause`](Self::pause).
pub trait OpenLoop: fmt::Debug {
    /// The name in reports.
    fn name(&self) -> &'static str;

    /// Lets the partner run.
    fn resume(&mut self) {}

    /// Stops the partner; once this has returned it takes no CPU, or stops taking it within the next reading's
    /// warm-up.
    fn pause(&mut self) {}

    /// Lets requests arrive, the one with number n at `due_ns[n]` from now: [`drive`] over the contestant's [`Link`].
    ///
    /// # Errors
    ///
    /// Those of the link.
    fn offer(&mut self, due_ns: &[u64]) -> Result<Answers, Error>;
}

/// Sends requests and takes answers, and never waits for either.
pub trait Link {
    /// Sends the request with number `item`; `false` if there is no room for it now.
    ///
    /// # Errors
    ///
    /// An error of the transport.
    fn try_send(&mut self, item: u64) -> Result<bool, Error>;

    /// Takes an answer that is there, checks it, and says to which request it is.
    ///
    /// # Errors
    ///
    /// [`Error::WrongAnswer`], or what the transport reports.
    fn try_receive(&mut self) -> Result<Option<u64>, Error>;
}

/// When requests were answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers {
    /// From when it was due, for each request.
    pub latencies_ns: Vec<u64>,
    /// When the last answer was there.
    pub end_ns: u64,
}

/// Sends each request when it is due, or as soon as there is room from then on, until all are answered.
///
/// # Errors
///
/// Those of the link.
pub fn drive(link: &mut impl Link, due_ns: &[u64]) -> Result<Answers, Error> {
    // One more than any latency can be: set before the clock runs, so that no page is new while it does.
    let mut latencies_ns = vec![u64::MAX; due_ns.len()];
    let (mut sent, mut answered) = (0, 0);
    let begin = Instant::now();
    let mut now_ns = 0;
    while answered < due_ns.len() {
        if due_ns.get(sent).is_some_and(|&due_ns| due_ns <= now_ns) && link.try_send(sent as u64)? {
            sent += 1;
        }
        let answer = link.try_receive()?;
        now_ns = begin.elapsed().as_nanos() as u64;
        if let Some(item) = answer {
            let item = item as usize;
            latencies_ns[item] = now_ns - due_ns[item];
            answered += 1;
        }
    }
    Ok(Answers { latencies_ns, end_ns: now_ns })
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// Answers only when it is full, or all have been sent, the newest first.
    struct Stack {
        items: VecDeque<u64>,
        room: usize,
        answering: bool,
        left_to_send: u64,
    }

    impl Link for Stack {
        fn try_send(&mut self, item: u64) -> Result<bool, Error> {
            if self.answering || self.items.len() == self.room {
                self.answering = true;
                return Ok(false);
            }
            self.items.push_back(item);
            self.left_to_send -= 1;
            self.answering = self.left_to_send == 0;
            Ok(true)
        }

        fn try_receive(&mut self) -> Result<Option<u64>, Error> {
            let answer = if self.answering { self.items.pop_back() } else { None };
            self.answering &= !self.items.is_empty();
            Ok(answer)
        }
    }

    #[test]
    fn all_are_sent_once_and_answered_once() {
        let due_ns: Vec<u64> = (0..1000).map(|item| item * 500).collect();
        let mut stack = Stack { items: VecDeque::new(), room: 16, answering: false, left_to_send: 1000 };
        let answers = drive(&mut stack, &due_ns).unwrap();
        assert!(stack.items.is_empty() && stack.left_to_send == 0);
        assert!(answers.end_ns >= 999 * 500, "none is sent before it is due");
        assert!(answers.latencies_ns.iter().all(|&ns| ns <= answers.end_ns), "each has one");
    }

    /// Does not take the first request before 2 ms are over.
    struct Late {
        begin: Instant,
        sent: VecDeque<u64>,
    }

    impl Link for Late {
        fn try_send(&mut self, item: u64) -> Result<bool, Error> {
            let takes = self.begin.elapsed().as_nanos() >= 2_000_000;
            if takes {
                self.sent.push_back(item);
            }
            Ok(takes)
        }

        fn try_receive(&mut self) -> Result<Option<u64>, Error> {
            Ok(self.sent.pop_front())
        }
    }

    #[test]
    fn waiting_for_room_counts_from_when_a_request_was_due() {
        let due_ns = [0, 100_000, 200_000];
        let mut link = Late { begin: Instant::now(), sent: VecDeque::new() };
        let begin = link.begin;
        let answers = drive(&mut link, &due_ns).unwrap();
        // The driver's clock began at most so much later than the link's.
        let slack_ns = begin.elapsed().as_nanos() as u64 - answers.end_ns;
        for (due_ns, latency_ns) in due_ns.into_iter().zip(answers.latencies_ns) {
            assert!(latency_ns + slack_ns + due_ns >= 2_000_000, "{latency_ns} of the one due at {due_ns}");
        }
    }
}
