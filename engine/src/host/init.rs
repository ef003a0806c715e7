//! `init!`: the one line that makes a process a worker.
//!
//! # How one line makes a process a worker before `main`
//!
//! `init!` puts the address of a function into the program's `.init_array`: the C library calls the functions listed
//! there, one after the other, before `main`. The macro knows the address of that entry, its [`InitEntry`].
//! Constructors of numbered sections come first, and that of `init!` has the first number that is free for all. Before
//! it run those that the C library, Rust's and C++'s runtimes need (`std::env::args`), after it all others: registries
//! of plug-ins (`inventory`, `typetag`), C++ statics of linked libraries, other `init!`s.
//!
//! In a process that was ordered to be a worker, the first `init!` takes the order out of the environment, then runs
//! the constructors that come after it, and only then becomes the worker; the process ends with the worker
//! (`child::begin`). So the worker sees what `main` would see, and neither `main` nor a test harness has begun. The
//! process ends by `std::process::exit`, as a program that returns from `main` does: exit handlers and C++ destructors
//! run, which may rely on their constructors having run.
//!
//! There is one thread then, unless a constructor of a library, or one with a lower number, has started more: a thread
//! that reads the environment just while the order is taken out reads it as during any `unsetenv`.
//!
//! Beyond that, Rust's runtime prepares a process that reaches `main`. The engine does the same for a worker: it opens
//! standard descriptors that are closed, ignores SIGPIPE, and reports a stack overflow of the worker's threads
//! (`sys::stack`; an overflow of threads that user code starts is a bare SIGSEGV). The name of its first thread is set
//! for process lists only: `std::thread::current().name()` there is none. musl calls constructors without arguments, so
//! there `std::env::args` is empty in a worker; a worker gets what it needs by its configuration.
//!
//! What lost: the crate `ctor`, which does not tell the address of its entry; running the worker within the
//! constructors, when later ones have not run; a hook in front of `__libc_start_main`, which differs between C
//! libraries; a call at the top of `main`, which a test harness lacks and before which any code can stand.
#![expect(unsafe_code, reason = "code before `main`, with arguments for which the C library alone can vouch")]

use super::child;
use super::registry::{InitEntry, ListedType, SetUp, list};
use crate::error::BoxError;
use crate::worker::{Context, IntoOutcome};
use ringmill_shm::sys::build_id::BuildId;
use ringmill_shm::sys::program::{Arguments, object_of};
use std::ffi::{c_char, c_int};

/// `init!` calls this in every process, before `main`.
///
/// # Safety
/// The function in `entry`, which lies in `.init_array`, calls this with the arguments that the C library gave it.
pub unsafe fn begin(
    entry: &'static InitEntry,
    arguments: (c_int, *const *const c_char, *const *const c_char),
    entries: fn() -> Vec<ListedType>,
    set_up: Option<SetUp>,
) {
    let _ = BuildId::of_this_process(); // the linker is asked while there is one thread, see `sys::program`
    let object = object_of(&raw const entry.0 as usize);
    list(entries().into_iter().map(|entry| entry.in_object(object.clone())).collect(), set_up);
    let (argc, argv, envp) = arguments;
    // SAFETY: as the caller promises.
    unsafe { child::begin(&raw const entry.0, Arguments { argc, argv, envp }) };
}

/// What `init!` makes of a set-up, whatever that returns.
///
/// # Errors
/// That of the set-up.
pub fn set_up<O: IntoOutcome<()>>(set_up: impl Fn(&Context) -> O, context: &Context) -> Result<(), BoxError> {
    set_up(context).into_outcome()
}

/// Ends a process that was ordered to be a worker in a program without any `init!`, before its `main`.
#[used]
// SAFETY: it runs after the constructors of all `init!`s, which have the number before.
#[unsafe(link_section = ".init_array.00102")]
pub(super) static GUARD: InitEntry = InitEntry::new(guard);

extern "C" fn guard(_: c_int, _: *const *const c_char, _: *const *const c_char) {
    child::end_if_ordered(&raw const GUARD.0);
}

/// Lists the worker types that processes of this program can become. Write it once, anywhere in a program: at the top
/// of `main` or beside it, or in a test or bench module.
///
/// A worker's process runs this program's executable. This macro makes the process that worker before `main` begins, so
/// that neither `main` nor a test harness runs in it; in all other processes it only records the list. A type that a
/// [`ProcessServlet`](crate::ProcessServlet) uses and no `init!` lists is an error at start.
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
/// The `init!` must be in the executable: one in a library crate counts only in programs that use that crate.
///
/// # Set-up
///
/// After `; set_up =` may stand a function, or a closure without captures, which each worker's process calls once before
/// it builds its workers: to install a `tracing` subscriber or a panic hook, to tune the allocator, to choose a device.
/// It is given the [`Context`](crate::Context) of the process's first worker, and returns nothing or a `Result`. No
/// other process calls it: what `main` needs, and workers in its threads, `main` sets up itself.
///
/// ```no_run
/// use ringmill::{BoxError, Context};
///
/// fn one_gpu_each(context: &Context) -> Result<(), BoxError> {
///     if !std::path::Path::new(&format!("/dev/nvidia{}", context.worker_index())).exists() {
///         return Err(BoxError::msg(format!("no GPU for worker {}", context.name())));
///     }
///     Ok(())
/// }
///
/// ringmill::init!(ringmill::PassThrough<String>; set_up = one_gpu_each);
/// # fn main() {}
/// ```
///
/// It runs in the process's first thread, when the process is pinned to its CPUs and has done all that runs before
/// `main`; beside it there is one thread of the engine. If it returns an error or panics, the worker cannot start: at
/// the server's start that is a [`StartError::Worker`](crate::StartError::Worker) with its text, at a restart a failed
/// start. The [`start_timeout`](crate::ServerBuilder::start_timeout) covers it.
///
/// A panic hook that it installs sees the panics of workers too, before they become the errors of their items. Without
/// one they are not printed, since the items' errors tell of them.
///
/// If a program has several `init!`s, each process calls all their set-ups, in an order that the linker chooses.
/// `init!(set_up = …)` lists no types: for a program whose types are listed by a library.
#[macro_export]
macro_rules! init {
    ($($worker:ty),+ $(,)?) => {
        $crate::init! { @ [$($worker),+] ::core::option::Option::None }
    };
    (set_up = $set_up:expr $(,)?) => {
        $crate::init! { @ [] $crate::init!(@ set_up $set_up) }
    };
    ($($worker:ty),+; set_up = $set_up:expr $(,)?) => {
        $crate::init! { @ [$($worker),+] $crate::init!(@ set_up $set_up) }
    };
    (@ set_up $set_up:expr) => {{
        fn ringmill_set_up(context: &$crate::Context) -> ::core::result::Result<(), $crate::BoxError> {
            $crate::__private::set_up($set_up, context)
        }
        ::core::option::Option::Some(ringmill_set_up)
    }};
    (@ [$($worker:ty),*] $set_up:expr) => {
        $(
            const _: ::core::option::Option<$crate::__private::Travels<<$worker as $crate::BatchWorker>::In>> =
                ::core::option::Option::None;
            const _: ::core::option::Option<$crate::__private::Travels<<$worker as $crate::BatchWorker>::Out>> =
                ::core::option::Option::None;
        )*
        const _: () = {
            extern "C" fn ringmill_init(
                argc: ::core::ffi::c_int,
                argv: *const *const ::core::ffi::c_char,
                envp: *const *const ::core::ffi::c_char,
            ) {
                // SAFETY: this function is what lies in that entry of `.init_array`, and it passes its arguments on.
                unsafe { $crate::__private::begin(&RINGMILL_ENTRY, (argc, argv, envp), ringmill_types, RINGMILL_SET_UP) }
            }
            fn ringmill_types() -> ::std::vec::Vec<$crate::__private::ListedType> {
                ::std::vec![$($crate::__private::ListedType::of::<$worker>(&RINGMILL_ENTRY)),*]
            }
            const RINGMILL_SET_UP: ::core::option::Option<$crate::__private::SetUp> = $set_up;
            // The note by which servers see that this executable can be a worker's.
            #[used]
            #[unsafe(link_section = ".note.ringmill")]
            static RINGMILL_NOTE: $crate::__private::Note = $crate::__private::Note::THIS;
            // The first number that neither compilers nor C libraries reserve.
            #[used]
            #[unsafe(link_section = ".init_array.00101")]
            static RINGMILL_ENTRY: $crate::__private::InitEntry = $crate::__private::InitEntry::new(ringmill_init);
        };
    };
}
