//! A pair of bounded crossbeam channels, polled.

use crossbeam_channel::{Receiver, Sender, bounded};

use super::threads::{Link, Threads};
use crate::Error;
use crate::payload::Payload;
use crate::pin::CpuPair;

/// One side of the pair.
#[derive(Debug)]
pub struct Channels {
    out: Sender<Payload>,
    back: Receiver<Payload>,
}

/// Starts the pair; each channel holds `room` items.
///
/// # Errors
///
/// Those of [`Threads::start`].
pub fn start(room: u32, cpus: CpuPair) -> Result<Threads<Channels>, Error> {
    let (questions, asked) = bounded(room as usize);
    let (answers, answered) = bounded(room as usize);
    let near = Channels { out: questions, back: answered };
    let far = Channels { out: answers, back: asked };
    Threads::start("crossbeam", near, far, cpus)
}

impl Link for Channels {
    #[inline]
    fn try_send(&mut self, payload: Payload) -> bool {
        self.out.try_send(payload).is_ok()
    }

    #[inline]
    fn try_receive(&mut self) -> Option<Payload> {
        self.back.try_recv().ok()
    }
}
