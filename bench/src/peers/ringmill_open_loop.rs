//! ringmill driven by one thread that never waits: requests are submitted, and their outcomes looked for.
//!
//! Twice: with the default wait, so that its worker sleeps when requests are rare; and with a worker that spins all the time, as
//! rivals do that cannot wait otherwise.

use std::collections::VecDeque;
use std::time::Duration;

use ::ringmill::call::Pending;
use ::ringmill::{CallError, CallOptions, Server, Wait};

use super::ringmill::{echo, server_builder};
use crate::Error;
use crate::contestant::Point;
use crate::open_loop::{Answers, Link, OpenLoop, drive};
use crate::payload::Payload;
use crate::pin::CpuPair;
use crate::procfs;

/// A worker spins for this many mean gaps between requests: longer than any gap by chance.
const GAPS: u32 = 20;

/// A server with one worker process.
#[derive(Debug)]
pub struct OpenRingmill<const WORDS: usize> {
    who: &'static str,
    server: Server<Payload<WORDS>, Payload<WORDS>>,
}

impl<const WORDS: usize> OpenRingmill<WORDS> {
    /// The server as it is if nothing is said.
    ///
    /// # Errors
    ///
    /// [`Error::Start`] if it does not start.
    pub fn adaptive(point: Point, cpus: CpuPair) -> Result<Self, Error> {
        Self::start("ringmill", Wait::Adaptive, point, cpus)
    }

    /// A server whose worker spins from each request to the next, where `rate_per_s` of them arrive.
    ///
    /// # Errors
    ///
    /// [`Error::Start`] if it does not start.
    pub fn spinning(rate_per_s: u32, point: Point, cpus: CpuPair) -> Result<Self, Error> {
        let spin = Duration::from_secs(1) * GAPS / rate_per_s;
        Self::start("ringmill-spinning", Wait::Spin(spin), point, cpus)
    }

    fn start(who: &'static str, wait: Wait, point: Point, cpus: CpuPair) -> Result<Self, Error> {
        let server = server_builder(point).max_payload(Payload::<WORDS>::BYTES).wait(wait);
        Ok(Self { who, server: server.start(echo(cpus))? })
    }
}

impl<const WORDS: usize> OpenLoop for OpenRingmill<WORDS> {
    fn name(&self) -> &'static str {
        self.who
    }

    /// Waits until the worker has spun long enough, and sleeps.
    fn pause(&mut self) {
        super::ringmill::worker_pids(&self.server).for_each(procfs::wait_until_asleep);
    }

    fn offer(&mut self, due_ns: &[u64]) -> Result<Answers, Error> {
        let mut submitted = Submitted { who: self.who, server: &self.server, pending: VecDeque::new() };
        drive(&mut submitted, due_ns)
    }
}

/// What has been submitted, oldest first; one worker answers in that order, several nearly.
pub(super) struct Submitted<'s, const WORDS: usize> {
    pub(super) who: &'static str,
    pub(super) server: &'s Server<Payload<WORDS>, Payload<WORDS>>,
    pub(super) pending: VecDeque<(u64, Pending<'s, Payload<WORDS>>)>,
}

impl<const WORDS: usize> Link for Submitted<'_, WORDS> {
    #[inline]
    fn try_send(&mut self, item: u64) -> Result<bool, Error> {
        // Without a limit of time: rivals have none, and would not look at the clock for it either.
        let unlimited = CallOptions::new().timeout(Duration::MAX);
        match self.server.submit_with(&Payload::question(item), unlimited) {
            Ok(pending) => self.pending.push_back((item, pending)),
            Err(CallError::ServerBacklogFull { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        Ok(true)
    }

    #[inline]
    fn try_receive(&mut self) -> Result<Option<u64>, Error> {
        let Some((item, oldest)) = self.pending.front_mut() else { return Ok(None) };
        let item = *item;
        let Some(answer) = oldest.try_take() else { return Ok(None) };
        if !answer?.answers(item) {
            return Err(Error::WrongAnswer { who: self.who, item });
        }
        self.pending.pop_front();
        Ok(Some(item))
    }
}
