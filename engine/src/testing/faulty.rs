//! A worker that fails at a chosen item.

use crate::error::BoxError;
use crate::wire::Payload;
use crate::worker::{Batch, BatchWorker, Context, Stop};
use ringmill_shm::sys::process::PidFd;

/// What a [`Faulty`] worker does when its item comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
#[non_exhaustive]
pub enum Fault {
    /// Its process ends by SIGKILL in the midst of the batch. A worker in a thread is not built with this one.
    Die,
    /// It panics.
    Panic,
    /// It returns an error, for the whole batch.
    Fail,
    /// It returns a [fatal](BoxError::fatal) error, and is restarted.
    GiveUp,
}

impl Fault {
    /// This fault at the batch with the worker's item of this number, counted from 1, from when it was first started. Each
    /// worker, and each of its threads, counts its own items.
    #[must_use]
    pub fn at_item(self, number: u64) -> FaultAt {
        FaultAt { fault: self, number: number.max(1) }
    }
}

/// A [`Fault`] and its item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct FaultAt {
    fault: Fault,
    number: u64,
}

/// The worker `W` with a fault at one item; before and after that, and once it has been restarted, it is as `W` is. Its
/// configuration is that of `W`, and the fault.
///
/// It is a type of its own, so a worker without faults has no trace of it; in a process [`init!`](crate::init) has to list it.
///
/// ```no_run
/// use ringmill::testing::{self, Fault, Faulty};
/// use ringmill::{BoxError, CallError, PassThrough, ProcessServlet};
///
/// # fn main() -> Result<(), BoxError> {
/// ringmill::init!(Faulty<PassThrough<u64>>);
/// let echo = ProcessServlet::<Faulty<PassThrough<u64>>>::new(((), Fault::Die.at_item(2))).name("echo");
/// let server = testing::server(echo)?;
/// assert_eq!(*server.call(&1)?, 1);
/// assert!(matches!(server.call(&2), Err(CallError::WorkerDied(_))));
/// assert_eq!(*server.call(&3)?, 3); // answered by its successor
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Faulty<W> {
    worker: W,
    fault: Fault,
    /// How many items come up to that of the fault, and it among them; 0: it is over.
    left: u64,
}

impl<W: BatchWorker> BatchWorker for Faulty<W>
where
    (W::Config, FaultAt): Payload,
{
    type Config = (W::Config, FaultAt);
    type In = W::In;
    type Out = W::Out;
    const SCHEMA: u64 = W::SCHEMA;

    fn new((config, at): Self::Config, context: &Context) -> Result<Self, BoxError> {
        if at.fault == Fault::Die && context.is_thread {
            return Err(BoxError::msg("a thread cannot die alone: Fault::Die needs a ProcessServlet"));
        }
        let left = if context.restarts() == 0 { at.number } else { 0 };
        Ok(Self { worker: W::new(config, context)?, fault: at.fault, left })
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        let items = batch.len() as u64;
        let is_due = (1..=items).contains(&self.left);
        self.left = self.left.saturating_sub(items);
        if is_due {
            return self.fault.commit();
        }
        let Batch { desk, inputs, staged } = batch;
        self.worker.call(Batch { desk, inputs, staged })
    }

    fn warm_up(&mut self, context: &Context) -> Result<(), BoxError> {
        self.worker.warm_up(context)
    }

    fn cleanup(&mut self, reason: &Stop) {
        self.worker.cleanup(reason);
    }
}

impl Fault {
    fn commit(self) -> Result<(), BoxError> {
        const WHAT: &str = "a fault of testing::Faulty";
        match self {
            Self::Die => {
                PidFd::open(std::process::id())?.send_signal(libc::SIGKILL)?;
                unreachable!("SIGKILL has ended this process")
            }
            Self::Panic => panic!("{WHAT}"),
            Self::Fail => Err(BoxError::msg(WHAT)),
            Self::GiveUp => Err(BoxError::msg(WHAT).fatal()),
        }
    }
}
