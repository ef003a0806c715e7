//! A pair of rtrb rings.

use rtrb::{Consumer, Producer, RingBuffer};

use super::threads::{Link, Threads};
use crate::Error;
use crate::contestant::Point;
use crate::payload::Payload;
use crate::pin::CpuPair;

/// One side of the pair.
#[derive(Debug)]
pub struct Rings<const WORDS: usize> {
    out: Producer<Payload<WORDS>>,
    back: Consumer<Payload<WORDS>>,
}

/// Starts the pair; each ring holds as many items as `point` has room for.
///
/// # Errors
///
/// Those of [`Threads::start`].
pub fn start<const WORDS: usize>(point: Point, cpus: CpuPair) -> Result<Threads<Rings<WORDS>, WORDS>, Error> {
    let room = point.room() as usize;
    let (questions, asked) = RingBuffer::new(room);
    let (answers, answered) = RingBuffer::new(room);
    let near = Rings { out: questions, back: answered };
    let far = Rings { out: answers, back: asked };
    Threads::start("rtrb", near, far, cpus)
}

impl<const WORDS: usize> Link<WORDS> for Rings<WORDS> {
    #[inline]
    fn try_send(&mut self, payload: Payload<WORDS>) -> bool {
        self.out.push(payload).is_ok()
    }

    #[inline]
    fn try_receive(&mut self) -> Option<Payload<WORDS>> {
        self.back.pop().ok()
    }
}
