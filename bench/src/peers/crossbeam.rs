//! A pair of bounded crossbeam channels, polled.

use crossbeam_channel::{Receiver, Sender, bounded};

use super::threads::{Link, Threads};
use crate::Error;
use crate::contestant::Point;
use crate::payload::Payload;
use crate::pin::CpuPair;

/// One side of the pair.
#[derive(Debug)]
pub struct Channels<const WORDS: usize> {
    out: Sender<Payload<WORDS>>,
    back: Receiver<Payload<WORDS>>,
}

/// Starts the pair; each channel holds as many items as `point` has room for.
///
/// # Errors
///
/// Those of [`Threads::start`].
pub fn start<const WORDS: usize>(
    point: Point,
    cpus: CpuPair,
) -> Result<Threads<Channels<WORDS>, WORDS>, Error> {
    let room = point.room() as usize;
    let (questions, asked) = bounded(room);
    let (answers, answered) = bounded(room);
    let near = Channels { out: questions, back: answered };
    let far = Channels { out: answers, back: asked };
    Threads::start("crossbeam", near, far, cpus)
}

impl<const WORDS: usize> Link<WORDS> for Channels<WORDS> {
    #[inline]
    fn try_send(&mut self, payload: Payload<WORDS>) -> bool {
        self.out.try_send(payload).is_ok()
    }

    #[inline]
    fn try_receive(&mut self) -> Option<Payload<WORDS>> {
        self.back.try_recv().ok()
    }
}
