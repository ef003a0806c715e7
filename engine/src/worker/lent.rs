//! Seats that a server's worker threads lend to the thread that started the server: there a worker can be built and given a
//! batch, although its type may not be sent to another thread.
//!
//! # Protocol
//!
//! ```text
//! worker's thread:  LENT ──borrower drops it──▶ IDLE ──the server stops──▶ leaves in order
//! ```
//!
//! While a seat is lent its own thread does not act under it. It lends before it says that it is ready, so the borrower of
//! a server that has started has all its seats.

use super::batch::BatchWorker;
use super::collect::{Loop, SLEEP_LIMIT};
use super::context::Stop;
use super::desk::Desk;
use super::life::{LifeEnd, Live, construct};
use super::seat::Seat;
use crate::error::{RemoteCause, RemoteError, while_built};
use crate::panics;
use ringmill_shm::participant::Life;
use ringmill_shm::segment::Run;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// The seats of a server that lends them.
#[derive(Debug)]
pub(crate) struct SeatsToLend(Receiver<LentSeat>);

/// A seat that is lent; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct LentSeat {
    seat: Arc<Seat>,
    /// Dropped with this, which the seat's own thread waits for.
    _until: Sender<()>,
}

/// The life of workers that lend their seats, and where these are to be had.
pub(crate) fn lend_seats() -> (Live, SeatsToLend) {
    let (lend, lent) = channel();
    (Arc::new(move |seat| live(&seat, &lend)), SeatsToLend(lent))
}

fn live(seat: &Arc<Seat>, lend: &Sender<LentSeat>) -> LifeEnd {
    let (until, given_back) = channel();
    let lent = lend.send(LentSeat { seat: Arc::clone(seat), _until: until });
    if seat.unit.await_unit() {
        seat.entry().set_life(Life::Ready);
        seat.segment.startup().ring();
    }
    if lent.is_ok() {
        let _ = given_back.recv(); // nothing is sent: it ends when the borrower drops the seat
    }
    let bell = seat.entry().bell();
    loop {
        let count = bell.count();
        if matches!(seat.segment.run(), Run::Stopping | Run::Closed) {
            break;
        }
        bell.sleep(count, Some(SLEEP_LIMIT));
    }
    seat.entry().leave(&[]);
    LifeEnd::Stopped(Stop::Shutdown)
}

impl SeatsToLend {
    /// The seats of a server that has started, by worker and thread.
    pub(crate) fn take(self) -> Vec<LentSeat> {
        let mut seats: Vec<LentSeat> = self.0.try_iter().collect();
        seats.sort_by_key(|lent| lent.seat.row);
        seats
    }
}

impl LentSeat {
    /// Builds a worker from the configuration in the segment, in this thread.
    ///
    /// # Errors
    /// As the start of a server with that worker.
    pub(crate) fn build<W: BatchWorker>(&self) -> Result<W, RemoteError> {
        let context = self.seat.context();
        let built = panics::watched(|| while_built(|| construct::<W>(&self.seat, &context, &W::new)));
        built.map_err(|cause| self.seat.error(0, cause))
    }

    /// Has the worker handle one batch of what is in the ring, in this thread. Returns the error with which it gives up, if
    /// it does.
    pub(crate) fn handle_batch<W: BatchWorker>(&self, worker: &mut W) -> Option<RemoteCause> {
        let mut desk = Desk::new(&self.seat);
        panics::watched(|| Loop::new(&self.seat).work_once(worker, &mut desk))
    }
}
