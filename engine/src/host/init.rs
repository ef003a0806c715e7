//! `init!`: the one line that makes a process a worker.
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
//! (`child::begin`). So the worker sees what `main` would see, and neither `main` nor a test harness has begun. It ends by
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
    reason = "what runs before `main`, given arguments that the C library alone can vouch for"
)]

use super::child;
use super::registry::{Entry, Slot, list};
use ringmill_shm::sys::build_id::BuildId;
use ringmill_shm::sys::program::{Arguments, object_of};
use std::ffi::{c_char, c_int};

/// What `init!` calls in every process, before `main`.
///
/// # Safety
/// It is called by the function in `slot`, which lies in `.init_array`, with what the C library called that with.
pub unsafe fn begin(
    slot: &'static Slot,
    arguments: (c_int, *const *const c_char, *const *const c_char),
    entries: fn() -> Vec<Entry>,
) {
    let _ = BuildId::of_this_process(); // the linker is asked before there are threads, see `sys::program`
    let object = object_of(&raw const slot.0 as usize);
    list(entries().into_iter().map(|entry| entry.in_object(object.clone())).collect());
    let (argc, argv, envp) = arguments;
    // SAFETY: as the caller says.
    unsafe { child::begin(&raw const slot.0, Arguments { argc, argv, envp }) };
}

/// Ends a process that was ordered to be a worker in a program without any `init!`, before its `main`.
#[used]
// SAFETY: after those of all `init!`s, which have the number before.
#[unsafe(link_section = ".init_array.00102")]
pub(super) static GUARD: Slot = Slot::new(guard);

extern "C" fn guard(_: c_int, _: *const *const c_char, _: *const *const c_char) {
    child::end_if_ordered(&raw const GUARD.0);
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
                ::std::vec![$($crate::__private::Entry::of::<$worker>(&RINGMILL_SLOT)),+]
            }
            // What tells others that this executable can be a worker's.
            #[used]
            #[unsafe(link_section = ".note.ringmill")]
            static RINGMILL_NOTE: $crate::__private::Note = $crate::__private::Note::THIS;
            // The first number that neither compilers nor C libraries keep for themselves.
            #[used]
            #[unsafe(link_section = ".init_array.00101")]
            static RINGMILL_SLOT: $crate::__private::Slot = $crate::__private::Slot::new(ringmill_init);
        };
    };
}
