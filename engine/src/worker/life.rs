//! A worker's life: construct, be ready, work, clean up.

use super::batch::BatchWorker;
use super::collect::{Loop, await_stop};
use super::context::{Context, Stop};
use super::desk::Desk;
use super::seat::Seat;
use super::terms::Settled;
use crate::error::{BoxError, RemoteCause, RemoteError, while_built};
use crate::panics::{self, Panic};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

/// How a worker's life ended.
#[derive(Debug)]
pub(crate) enum LifeEnd {
    /// It stopped in order.
    Stopped(Stop),
    /// It could not be constructed.
    Unborn(RemoteError),
    /// User code gave up.
    Fatal(RemoteError),
}

/// The whole life of a worker of any type.
pub(crate) type Live = Arc<dyn Fn(Arc<Seat>) -> LifeEnd + Send + Sync>;

/// What builds a worker.
pub(crate) type Build<W> = dyn Fn(<W as BatchWorker>::Config, &Context) -> Result<W, BoxError>;

/// The whole life of a worker that has its seat: construct, be ready, work, clean up.
pub(crate) fn live<W: BatchWorker>(seat: Arc<Seat>) -> LifeEnd {
    live_built_by::<W>(seat, &W::new)
}

/// The whole life of a worker that this builds.
pub(crate) fn live_built_by<W: BatchWorker>(seat: Arc<Seat>, build: &Build<W>) -> LifeEnd {
    panics::watch_this_thread();
    ringmill_shm::sys::cpu::set_precise_sleep();
    let context = seat.context();
    let by_worker = seat.node().info().facts.terms_by_worker.is_set();
    if by_worker && !seat.unit.await_terms(seat.thread()) {
        return sleep_for_life(&seat);
    }
    let built = while_built(|| {
        let worker = construct::<W>(&seat, &context, build)?;
        match terms_of(&worker, &seat, &context) {
            Ok(terms) => Ok((worker, terms)),
            Err(cause) => {
                panics::let_go(worker); // as in `construct`
                Err(cause)
            }
        }
    });
    let (mut worker, terms) = match built {
        Ok(built) => built,
        Err(cause) => return LifeEnd::Unborn(seat.error(0, cause)),
    };
    if by_worker {
        if seat.thread() >= terms.threads {
            panics::let_go(worker);
            return sleep_for_life(&seat);
        }
        seat.unit.state_threads(terms.threads);
    }
    let mut desk = Desk::new(&seat);
    let work = Loop::with_rule(&seat, terms.rule);
    crash_point!("life.born");
    if seat.unit.await_unit() {
        seat.entry().set_life(ringmill_shm::participant::Life::Ready);
        seat.segment.startup().ring();
    }
    let outcome = work.work(&mut worker, &mut desk);
    crash_point!("life.over");
    let why = *outcome.as_ref().unwrap_or(&Stop::Fatal);
    // Both before `cleanup` and `drop`, which are user code and may take long.
    match &outcome {
        Err(cause) => {
            seat.entry().leave(&crate::error::boot::write(&seat.error(0, cause.clone())));
            seat.unit.fail(&seat.segment);
        }
        Ok(_) => seat.entry().leave(&[]),
    }
    let tell = |what: &str, ended: Result<(), Panic>| {
        if let Err(panic) = ended {
            seat.unit.complain(&context.name(), &format!("{what} {panic}"));
        }
    };
    tell("cleanup", panics::caught(AssertUnwindSafe(|| worker.cleanup(&why))));
    tell("the worker's drop", panics::caught(AssertUnwindSafe(|| drop(worker))));
    match outcome {
        Ok(why) => LifeEnd::Stopped(why),
        Err(cause) => LifeEnd::Fatal(seat.error(0, cause)),
    }
}

/// The worker's terms, within what its servlet reserves.
fn terms_of<W: BatchWorker>(worker: &W, seat: &Seat, context: &Context) -> Result<Settled, RemoteCause> {
    let terms = panics::caught(AssertUnwindSafe(|| worker.terms(context)))?;
    terms.settle(&seat.node().info().facts)
}

/// The life of a thread that is not to work: ready until its unit leaves.
fn sleep_for_life(seat: &Seat) -> LifeEnd {
    if seat.unit.await_unit() {
        seat.entry().set_life(ringmill_shm::participant::Life::Ready);
        seat.segment.startup().ring();
    }
    let why = await_stop(seat);
    seat.entry().leave(&[]);
    LifeEnd::Stopped(why)
}

/// Builds the worker from its configuration: that in the segment, or the one that came in its place.
pub(super) fn construct<W: BatchWorker>(
    seat: &Seat,
    context: &Context,
    build: &Build<W>,
) -> Result<W, RemoteCause> {
    let unreadable =
        |e: String| RemoteCause::Payload { message: format!("its configuration cannot be read: {e}") };
    let bytes = match &seat.config {
        Some(config) => config.to_vec(),
        None => seat.segment.config(seat.node().info()),
    };
    let read =
        || crate::wire::payload::from_bytes::<W::Config>(&bytes).map_err(|e| unreadable(e.to_string()));
    let config = panics::caught(AssertUnwindSafe(read))??;
    let failed = |error: BoxError| {
        let cause = RemoteCause::failed(&error);
        panics::let_go(error);
        cause
    };
    let mut worker = panics::caught(AssertUnwindSafe(|| build(config, context)))?.map_err(failed)?;
    match panics::caught(AssertUnwindSafe(|| worker.warm_up(context)))
        .map(|warm| warm.map_err(failed))
        .map_err(RemoteCause::from)
    {
        Ok(Ok(())) => Ok(worker),
        Ok(Err(cause)) | Err(cause) => {
            panics::let_go(worker); // its panic is caught: the error above is what is reported
            Err(cause)
        }
    }
}
