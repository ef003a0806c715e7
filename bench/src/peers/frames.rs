//! A frame that goes through three stages, each of which changes all of it: through ringmill's workers in place, and as a
//! vector that is moved from thread to thread.

use std::collections::VecDeque;
use std::thread::{self, JoinHandle};

use ::ringmill::{Batch, BatchWorker, BoxError, Context, ProcessServlet, Server, Servlet};
use crossbeam_channel::{Receiver, Sender, bounded};

use super::ringmill::server_builder;
use crate::Error;
use crate::bulk;
use crate::contestant::{Contestant, Point};
use crate::pin::{CpuPair, pin_to};

/// How many stages a frame goes through.
pub const STAGES: u64 = 3;

/// What a stage does to a frame.
fn change(words: &mut [u64]) {
    words.iter_mut().for_each(|word| *word = word.wrapping_add(1));
}

/// Whether `words` are those of item number `item` after all stages: it reads every word.
fn check(who: &'static str, words: impl ExactSizeIterator<Item = u64>, item: u64) -> Result<(), Error> {
    let count = words.len();
    bulk::check(who, bulk::sum(words), item + STAGES, count).map_err(|_| Error::WrongAnswer { who, item })
}

/// A stage of [`Changed`]. List it in `ringmill::init!` of every program that starts one.
#[derive(Debug)]
pub struct Change;

impl BatchWorker for Change {
    type Config = ();
    type In = Vec<u64>;
    type Out = Vec<u64>;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        batch.into_iter().for_each(|item| item.pass_changed(change));
        Ok(())
    }
}

/// ringmill: each stage a process of its own. The client writes its frames into the segment and reads them there.
#[derive(Debug)]
pub struct Changed {
    server: Server<Vec<u64>, Vec<u64>>,
    words: usize,
}

impl Changed {
    /// Starts the server, its workers on the partner's CPU.
    ///
    /// # Errors
    ///
    /// [`Error::Start`] if the server does not start.
    pub fn start(point: Point, cpus: CpuPair) -> Result<Self, Error> {
        let stage = || ProcessServlet::<Change>::new(()).cpus([cpus.partner]);
        let block_bytes = point.payload_bytes as usize + 64; // the numbers, and their root
        let server = server_builder(point)
            .capacity(point.window as usize)
            .payload_classes([(block_bytes, point.window as usize)])
            .start(stage().then(stage()).then(stage()))?;
        Ok(Self { server, words: bulk::words_in(point.payload_bytes) })
    }
}

impl Contestant for Changed {
    fn name(&self) -> &'static str {
        "ringmill"
    }

    fn call(&mut self, items: u64) -> Result<(), Error> {
        self.stream(items, 1)
    }

    fn stream(&mut self, items: u64, window: u32) -> Result<(), Error> {
        let mut pending = VecDeque::new();
        let (mut sent, mut checked) = (0, 0);
        while checked < items {
            while sent < items.min(checked + u64::from(window)) {
                let mut frame = self.server.loan(self.words)?;
                bulk::write(frame.as_mut_slice(), sent);
                pending.push_back(self.server.submit_loan(frame)?);
                sent += 1;
            }
            let frame = pending.pop_front().map(|oldest| oldest.wait()).transpose()?;
            let frame = frame.ok_or(Error::WrongAnswer { who: "ringmill", item: checked })?;
            check("ringmill", frame.iter().map(|word| word.to_native()), checked)?;
            checked += 1;
        }
        Ok(())
    }
}

/// A vector that is moved through crossbeam's channels, by three threads on the partner's CPU, which sleep while there is
/// nothing to receive: with several threads on one CPU spinning would be pure loss. No byte of it is copied, and it is
/// written again when it comes back.
#[derive(Debug)]
pub struct Moved {
    /// `None` once the contestant goes: the stages end when their channel does.
    frames: Option<Sender<Vec<u64>>>,
    changed: Receiver<Vec<u64>>,
    idle: Vec<Vec<u64>>,
    stages: Vec<JoinHandle<()>>,
}

const MOVED: &str = "moved-vec";

impl Moved {
    /// Takes memory for as many vectors as there are items in progress, and starts the threads.
    ///
    /// # Errors
    ///
    /// [`Error::Spawn`] or [`Error::Pin`] if the system refuses a thread or a CPU.
    pub fn start(point: Point, cpus: CpuPair) -> Result<Self, Error> {
        let room = point.window as usize;
        let (frames, mut last) = bounded(room);
        let idle = vec![vec![0; bulk::words_in(point.payload_bytes)]; room];
        let (pinned, ready) = bounded(STAGES as usize);
        let mut stages = Vec::new();
        for _ in 0..STAGES {
            let (next, changed) = bounded(room);
            let (from, pinned) = (std::mem::replace(&mut last, changed), pinned.clone());
            let stage = move || {
                let result = pin_to(cpus.partner);
                let refused = result.is_err();
                if pinned.send(result).is_ok() && !refused {
                    run(&from, &next);
                }
            };
            let thread = thread::Builder::new().name(format!("{MOVED} stage")).spawn(stage);
            stages.push(thread.map_err(|source| Error::Spawn { who: MOVED, source })?);
        }
        let all = Self { frames: Some(frames), changed: last, idle, stages };
        for _ in 0..STAGES {
            ready.recv().expect("a stage reports before it ends")?;
        }
        Ok(all)
    }
}

/// A stage, until the one before it has gone.
fn run(from: &Receiver<Vec<u64>>, to: &Sender<Vec<u64>>) {
    for mut frame in from {
        change(&mut frame);
        if to.send(frame).is_err() {
            return;
        }
    }
}

impl Contestant for Moved {
    fn name(&self) -> &'static str {
        MOVED
    }

    fn call(&mut self, items: u64) -> Result<(), Error> {
        self.stream(items, 1)
    }

    fn stream(&mut self, items: u64, window: u32) -> Result<(), Error> {
        let frames = self.frames.as_ref().expect("it goes last");
        let (mut sent, mut checked) = (0, 0);
        while checked < items {
            while sent < items.min(checked + u64::from(window)) {
                let mut frame = self.idle.pop().expect("as many as there are items in progress");
                bulk::write(&mut frame, sent);
                frames.send(frame).expect("the stages stay");
                sent += 1;
            }
            let frame = self.changed.recv().expect("the stages stay");
            check(MOVED, frame.iter().copied(), checked)?;
            self.idle.push(frame);
            checked += 1;
        }
        Ok(())
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        self.frames = None;
        for stage in self.stages.drain(..) {
            stage.join().expect("a stage only changes frames");
        }
    }
}
