//! Which worker types this program can be: what `init!` listed.
//!
//! # How one line makes a process a worker before `main`
//!
//! `init!` puts the address of a function into the program's `.init_array`: the C library calls what lies there, one after
//! the other, before `main`. The macro knows the address of that entry, its [`Slot`]. Constructors of numbered sections
//! come first, and ours has the first number that is free for all: before it run those that the C library, Rust's and C++'s
//! runtimes need (`std::env::args`), after it everything else: registries of plug-ins (`inventory`, `typetag`), C++
//! statics of libraries that are linked in, other `init!`s.
//!
//! In a process that was ordered to be a worker, the first slot takes the order out of the environment, then runs the
//! constructors that come after it, and only then becomes the worker, whose end is the end of the process
//! (`launch::begin`). So the worker sees what `main` would see, and neither `main` nor a test harness has begun. It ends by
//! `std::process::exit`, as a program that returns from `main` does: exit handlers and C++ destructors run, which may rely
//! on their constructors having run.
//!
//! There is one thread then, unless a constructor of a library, or of one of the numbers before ours, has started more: one
//! that reads the environment at the very moment that the order is taken out reads it as during any `unsetenv`.
//!
//! What a process that reaches `main` has beyond that is Rust's runtime itself. The engine does the same for a worker:
//! standard descriptors that are closed are opened, SIGPIPE is ignored, a stack overflow of the worker's threads is told
//! (`sys::stack`; not one of other threads, started by user code, which is a bare SIGSEGV). The name of its first thread is
//! set for process lists only: `std::thread::current().name()` there is none. musl calls constructors without arguments, so
//! there `std::env::args` is empty in a worker; what a worker needs comes by its configuration.
//!
//! Lost: the crate `ctor`, which does not tell where its entry lies; being the worker in the midst of the constructors,
//! where those that come later have not run; a hook in front of `__libc_start_main`, which every C library has in another
//! way; a call at the top of `main`, which a test harness does not have and before which anything can stand.
#![expect(
    unsafe_code,
    reason = "what runs before `main` is given arguments that the C library alone can vouch for"
)]

use crate::launch;
use crate::payload::type_hash;
use crate::plan::Live;
use crate::run;
use crate::worker::BatchWorker;
use ringmill_shm::sys::program::{Arguments, Constructor};
use std::ffi::{c_char, c_int};
use std::sync::{Arc, Mutex};

/// Where an `init!` put its function: an entry of `.init_array`.
#[derive(Debug)]
#[repr(transparent)]
pub struct Slot(Constructor);

impl Slot {
    /// One with that function.
    #[must_use]
    pub const fn new(function: Constructor) -> Self {
        Self(function)
    }
}

/// What `init!` calls in every process, before `main`.
///
/// # Safety
/// It is called by the function in `slot`, which lies in `.init_array`, with what the C library called that with.
pub unsafe fn begin(
    slot: &'static Slot,
    arguments: (c_int, *const *const c_char, *const *const c_char),
    entries: fn() -> Vec<Entry>,
) {
    list(entries());
    let (argc, argv, envp) = arguments;
    // SAFETY: as the caller says.
    unsafe { launch::begin(&raw const slot.0, Arguments { argc, argv, envp }) };
}

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

fn list(entries: Vec<Entry>) {
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
            extern "C" fn ringmill_init(
                argc: ::core::ffi::c_int,
                argv: *const *const ::core::ffi::c_char,
                envp: *const *const ::core::ffi::c_char,
            ) {
                // SAFETY: we are what lies in that slot of `.init_array`, and pass on what we are given.
                unsafe { $crate::__private::begin(&RINGMILL_SLOT, (argc, argv, envp), ringmill_types) }
            }
            fn ringmill_types() -> ::std::vec::Vec<$crate::__private::Entry> {
                ::std::vec![$($crate::__private::Entry::of::<$worker>()),+]
            }
            // The first number that neither compilers nor C libraries keep for themselves.
            #[used]
            #[unsafe(link_section = ".init_array.00101")]
            static RINGMILL_SLOT: $crate::__private::Slot = $crate::__private::Slot::new(ringmill_init);
        };
    };
}
