//! Which worker types this program can be: what `init!` listed.

use crate::payload::type_hash;
use crate::plan::Live;
use crate::run;
use crate::worker::BatchWorker;
use std::sync::{Arc, Mutex};

/// A worker type that this program's processes can become.
#[derive(Clone)]
pub struct Entry {
    worker_type: &'static str,
    type_hash: u64,
    live: Live,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("worker_type", &self.worker_type).finish_non_exhaustive()
    }
}

impl Entry {
    /// The entry of `W`.
    #[must_use]
    pub fn of<W: BatchWorker>() -> Self {
        Self {
            worker_type: std::any::type_name::<W>(),
            type_hash: type_hash::<W::In, W::Out, W::Config>(),
            live: Arc::new(|seat| run::live::<W>(seat)),
        }
    }
}

static LISTED: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

pub(crate) fn list(entries: Vec<Entry>) {
    LISTED.lock().unwrap_or_else(|e| e.into_inner()).extend(entries);
}

/// What runs a worker of this type, if it is listed and its payloads are the same.
pub(crate) fn find(worker_type: &str, type_hash: u64) -> Option<Live> {
    let listed = LISTED.lock().unwrap_or_else(|e| e.into_inner());
    listed
        .iter()
        .find(|entry| entry.worker_type == worker_type && entry.type_hash == type_hash)
        .map(|entry| Arc::clone(&entry.live))
}

/// The names of all listed types.
pub(crate) fn listed() -> Vec<String> {
    let listed = LISTED.lock().unwrap_or_else(|e| e.into_inner());
    listed.iter().map(|entry| entry.worker_type.to_string()).collect()
}

/// Lists the worker types that this program's processes can become. Once, anywhere in a program: at the
/// top of `main` or beside it, or in a test or bench module.
///
/// A worker's process is this program's executable, started anew. This macro makes it that worker before
/// `main` begins, so that neither `main` nor a test harness runs in it; in all other processes it only
/// takes the list down. A type that a [`ProcessServlet`](crate::ProcessServlet) uses and no `init!` lists
/// is an error at start.
///
/// ```no_run
/// # struct Classify;
/// # impl ringmill::Worker for Classify {
/// #     type Config = (); type In = u32; type Out = u32;
/// #     fn new(_: (), _: &ringmill::Context) -> Result<Self, ringmill::BoxError> { Ok(Self) }
/// #     fn call(&mut self, x: &ringmill::rkyv::Archived<u32>) -> Result<u32, ringmill::BoxError> { Ok(x.to_native()) }
/// # }
/// fn main() -> Result<(), ringmill::BoxError> {
///     ringmill::init!(Classify, ringmill::PassThrough<String>);
///     let server = ringmill::Server::builder("app").start(ringmill::ProcessServlet::<Classify>::new(()))?;
///     println!("{}", *server.call(&1)?);
///     Ok(())
/// }
/// ```
///
/// The executable must be the one that holds the `init!`: in a library crate it is only seen by programs
/// that use that crate.
#[macro_export]
macro_rules! init {
    ($($worker:ty),+ $(,)?) => {
        const _: () = {
            $crate::__private::ctor! {
                #[ctor(unsafe)]
                fn ringmill_init() {
                    $crate::__private::begin(::std::vec![$($crate::__private::Entry::of::<$worker>()),+]);
                }
            }
        };
    };
}
