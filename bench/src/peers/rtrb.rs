//! A pair of rtrb rings.

use rtrb::{Consumer, Producer, RingBuffer};

use super::threads::{Link, Threads};
use crate::Error;
use crate::payload::Payload;
use crate::pin::CpuPair;

/// One side of the pair.
#[derive(Debug)]
pub struct Rings {
    out: Producer<Payload>,
    back: Consumer<Payload>,
}

/// Starts the pair; each ring holds `room` items.
///
/// # Errors
///
/// Those of [`Threads::start`].
pub fn start(room: u32, cpus: CpuPair) -> Result<Threads<Rings>, Error> {
    let (questions, asked) = RingBuffer::new(room as usize);
    let (answers, answered) = RingBuffer::new(room as usize);
    let near = Rings { out: questions, back: answered };
    let far = Rings { out: answers, back: asked };
    Threads::start("rtrb", near, far, cpus)
}

impl Link for Rings {
    #[inline]
    fn try_send(&mut self, payload: Payload) -> bool {
        self.out.push(payload).is_ok()
    }

    #[inline]
    fn try_receive(&mut self) -> Option<Payload> {
        self.back.pop().ok()
    }
}
