//! `become_worker`: a program's own call that makes its process a worker.
//!
//! `init!` makes a process a worker before `main`, in a Rust program that lists its worker types (`init`). An interpreter
//! with a script, or a program in C, can become one only later: when it has loaded the code, and at a line of its own. And
//! when the worker ends, such a program has something to do, so the call returns.
//!
//! # Protocol
//!
//! The order comes in a variable of another name, so that no `init!` follows it, and a program that never makes the call is
//! the program itself. The process keeps the variable, since other threads may be reading the environment. A child of it is
//! told apart by the descriptors: they are not the child's. Until the call has been made, a process that has both is refused
//! to start a server: it would do so in each worker's process.
//!
//! A process that cannot follow its order says why over the tether, and to its program by the error. If the order is of
//! another version, the tether is looked for where all versions so far have it.

use super::child::{self, NotJoined, Told, Unfulfilled};
use super::order::{Descriptor, Order, VARIABLE_OF_CALL, tether_in};
use super::report::Report;
use super::settle::{report, settle_as};
use super::workers::Workers;
use crate::error::{BecomeError, StartError};
use crate::panics;
use crate::policy::cpus;
use ringmill_shm::segment::NodeInfo;
use ringmill_shm::sys::tether::Tether;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether this process, or one that forked it, has called `become_worker` with an order.
static CALLED: AtomicBool = AtomicBool::new(false);

fn was_called() -> bool {
    // Relaxed: nothing else travels with it.
    CALLED.load(Ordering::Relaxed)
}

/// Tells the server at the other end of a tether that was not taken over why this process is no worker.
fn tell(tether: Descriptor, reason: &str) {
    if let Some(tether) = tether.copy() {
        let _ = Tether::of(tether).send(&Report::Reason(reason.into()).to_message()); // it may have gone
    }
}

/// Refuses a start in a process that is to become a worker by a call and has not made that call.
///
/// # Errors
/// [`StartError::WorkerToBe`].
pub(crate) fn check_not_worker_to_be() -> Result<(), StartError> {
    let Some(text) = std::env::var_os(VARIABLE_OF_CALL).filter(|_| !was_called()) else {
        return Ok(());
    };
    let Some(tether) = tether_in(&text) else { return Ok(()) };
    let server = Order::parse(&text).map_or_else(|error| error.to_string(), |order| order.segment.to_text());
    let error = StartError::WorkerToBe { server };
    tell(tether, &error.to_string());
    Err(error)
}

/// Makes this process a worker of the ringmill server that has started it, until the worker ends, and returns the code with
/// which the process should exit: 0 after a worker that left in order, another one after a failure, which the server
/// knows of. For programs that a servlet names with [`program`](crate::ProcessServlet::program) and
/// [`program_worker`](crate::ProcessServlet::program_worker); it need not be a Rust program that calls this.
///
/// The servlet's worker name says which of `workers` the process is. The worker is built, handles its batches and cleans up
/// in the calling thread, and with several [`stream_threads`](crate::ProcessServlet::stream_threads) in further threads. The
/// process ends soon after this returns: the server takes the worker for gone when its process is, and kills it if a shutdown
/// takes longer than the [`shutdown_timeout`](crate::ServerBuilder::shutdown_timeout). If the server's process is gone, this
/// one is ended a second later.
///
/// From the call on, the process has what each worker has: SIGINT, SIGTERM, SIGHUP and SIGQUIT have no effect, if the program
/// has not stated what they do; SIGPIPE is ignored; the calling thread is pinned if the servlet pins its workers. A thread of
/// the engine watches the server. An `init!` in the program has no part in it, nor have its set-ups.
///
/// ```no_run
/// use ringmill::PassThrough;
/// use ringmill::program::{BecomeError, NamedWorker, Workers, become_worker};
/// use std::process::ExitCode;
///
/// fn main() -> Result<ExitCode, BecomeError> {
///     let workers = Workers::new().with(NamedWorker::<PassThrough<String>>::new("echo"));
///     Ok(ExitCode::from(become_worker(&workers)?))
/// }
/// ```
///
/// # Errors
/// [`BecomeError`]; the server, if there is one, has been told, and the process should end.
pub fn become_worker(workers: &Workers) -> Result<u8, BecomeError> {
    let text = std::env::var_os(VARIABLE_OF_CALL).ok_or(BecomeError::NotOrdered)?;
    if was_called() {
        return Err(BecomeError::Again);
    }
    let tether = tether_in(&text).ok_or(BecomeError::NoDescriptors)?;
    if CALLED.swap(true, Ordering::Relaxed) {
        return Err(BecomeError::Again); // by another thread
    }
    let order = match Order::parse(&text) {
        Ok(order) => order,
        Err(error) => {
            let reason = error.to_string();
            tell(tether, &reason);
            return Err(BecomeError::Order { reason });
        }
    };
    settle_as(&order);
    if let Err(error) = child::check_build(&order) {
        let told = child::complain(&error, order.origin, order.lease().as_ref(), &order.segment);
        return Err(left(NotJoined { error, told }));
    }
    let _ = cpus::allowed(); // before any thread is pinned
    let find = |node: &NodeInfo, layout| workers.find(node, layout);
    let fulfilled = panics::caught(AssertUnwindSafe(|| child::fulfil(order, find, std::iter::empty)));
    match fulfilled {
        Ok(Ok(code)) => Ok(u8::try_from(code).unwrap_or(1)),
        Ok(Err(Unfulfilled::NoCode(error))) => {
            report(&Report::Reason(error.to_string()));
            Err(error)
        }
        Ok(Err(Unfulfilled::NotJoined(error))) => Err(left(error)),
        Err(panic) => {
            let reason = panic.to_string();
            report(&Report::Reason(reason.clone()));
            Err(BecomeError::Join { reason })
        }
    }
}

fn left(NotJoined { error, told }: NotJoined) -> BecomeError {
    match told {
        Told::Gone => BecomeError::ServerGone,
        Told::Yes | Told::Not => BecomeError::Join { reason: error.to_string() },
    }
}
