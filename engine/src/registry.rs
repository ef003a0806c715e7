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
//! # Who is who
//!
//! Within one executable a worker type is known by its `TypeId`: names are shared by types of two versions of one crate,
//! and by those that a macro makes in one function. Between executables there is no such thing. There a type is known by
//! its name and the [layout](crate::payload::layout_hash) of its payloads, and where two types that are listed have both
//! in common, the worker refuses to choose. The server writes one number into the segment, of the one kind or the other
//! ([`Identity`]); which kind it is, the worker need not be told.
//!
//! # Which file holds an `init!`
//!
//! A worker's process is the executable, started anew; so an `init!` in a library that an interpreter has loaded is never
//! seen there, and the interpreter would run whatever it takes its arguments for. `check` looks before anything is
//! started: the slot must lie in the executable, and the executable's file must have the note that `init!` leaves (a
//! program that was started by way of the dynamic loader has the loader for its file). A file that is named by
//! `program(..)` must have that note too, with the version of orders that it understands. A script cannot be looked
//! into: it is trusted to lead to such a file.
//!
//! Lost: the crate `ctor`, which does not tell where its entry lies; being the worker in the midst of the constructors,
//! where those that come later have not run; a hook in front of `__libc_start_main`, which every C library has in another
//! way; a call at the top of `main`, which a test harness does not have and before which anything can stand.
#![expect(
    unsafe_code,
    reason = "what runs before `main`, given arguments that the C library alone can vouch for"
)]

use crate::error::StartError;
use crate::launch;
use crate::order::ORDER_VERSION;
use crate::payload::layout_hash;
use crate::plan::{Launch, Live, PlanNode};
use crate::run;
use crate::worker::BatchWorker;
use ringmill_shm::sys::build_id::BuildId;
use ringmill_shm::sys::image::Image;
use ringmill_shm::sys::program::{
    Arguments, Constructor, FileKind, NoteName, Object, examine, file_of, object_of,
};
use ringmill_shm::sys::settled::Settled;
use std::any::TypeId;
use std::ffi::{c_char, c_int};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::Arc;

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
    let _ = BuildId::of_this_process(); // the linker is asked before there are threads, see `sys::program`
    let object = object_of(&raw const slot.0 as usize);
    list(entries().into_iter().map(|entry| Entry { object: object.clone(), ..entry }).collect());
    let (argc, argv, envp) = arguments;
    // SAFETY: as the caller says.
    unsafe { launch::begin(&raw const slot.0, Arguments { argc, argv, envp }) };
}

/// What a worker type is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    /// In the executable that this is.
    pub(crate) here: u64,
    /// In any other.
    pub(crate) elsewhere: u64,
}

impl Identity {
    pub(crate) fn of<W: BatchWorker>() -> Self {
        let elsewhere = layout_hash::<W::In, W::Out, W::Config>(W::SCHEMA);
        let mut hasher = DefaultHasher::new(); // in one executable it has the same keys in all processes
        (TypeId::of::<W>(), elsewhere).hash(&mut hasher);
        Self { here: hasher.finish(), elsewhere }
    }
}

/// A worker type that this program's processes can become.
#[derive(Clone)]
pub struct Entry {
    worker_type: &'static str,
    identity: Identity,
    live: Live,
    /// Where the `init!` is that lists it.
    slot: usize,
    /// In which object that lies.
    object: Option<Object>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("worker_type", &self.worker_type).finish_non_exhaustive()
    }
}

impl Entry {
    /// The entry of `W`, listed at `slot`.
    #[must_use]
    pub fn of<W: BatchWorker>(slot: &'static Slot) -> Self {
        Self {
            worker_type: std::any::type_name::<W>(),
            identity: Identity::of::<W>(),
            live: Arc::new(|seat| run::live::<W>(seat)),
            slot: std::ptr::from_ref(slot) as usize,
            object: None,
        }
    }
}

/// What `init!` leaves in its executable: a note with the version of orders that it understands.
#[derive(Debug)]
#[repr(C, align(4))]
pub struct Note {
    name_bytes: u32,
    version_bytes: u32,
    kind: u32,
    name: [u8; NOTE_OWNER.len() + 1],
    padding: [u8; 3],
    version: u32,
}

const NOTE_OWNER: &str = "ringmill";
/// Its name.
pub(crate) const NOTE: NoteName = NoteName { owner: NOTE_OWNER, kind: 1 };

impl Note {
    /// The note.
    pub const THIS: Self = Self {
        name_bytes: NOTE_OWNER.len() as u32 + 1,
        version_bytes: size_of::<u32>() as u32,
        kind: NOTE.kind,
        name: *b"ringmill\0",
        padding: [0; 3],
        version: ORDER_VERSION,
    };

    /// The version in the bytes of such a note.
    fn version(bytes: &[u8]) -> Option<u32> {
        bytes.try_into().ok().map(u32::from_ne_bytes)
    }
}

const _: () =
    assert!(size_of::<Note>() == 28, "the parts of a note are 4-aligned, with nothing between them");

/// What one `init!` lists, and the next one's.
struct List {
    entries: Vec<Entry>,
    next: Settled<List>,
}

/// A chain without a lock: a child may be forked while another thread starts a server.
static LISTED: Settled<List> = Settled::new();

fn list(entries: Vec<Entry>) {
    let (mut list, mut end) = (List { entries, next: Settled::new() }, &LISTED);
    while let Err(ours) = end.set(list) {
        list = ours;
        end = &end.get().expect("it is settled").next;
    }
}

fn listed() -> impl Iterator<Item = &'static Entry> {
    std::iter::successors(LISTED.get(), |list| list.next.get()).flat_map(|list| &list.entries)
}

fn names() -> Vec<String> {
    let mut names: Vec<String> = listed().map(|entry| entry.worker_type.to_string()).collect();
    names.dedup();
    names
}

/// Why a process that was ordered to be a worker has no code for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FindError {
    #[error("this program has no ringmill::init! that lists worker type {worker_type} ({} are listed); add it there", if listed.is_empty() { "none".into() } else { listed.join(", ") })]
    NotListed { worker_type: String, listed: Vec<String> },
    #[error(
        "this program's payloads of worker type {worker_type} are other ones than the server's, in layout or SCHEMA; build both from the same source"
    )]
    OtherPayloads { worker_type: String },
    #[error(
        "this program's ringmill::init! lists {count} worker types of the name {worker_type} with the same payloads; give them different names, or a different SCHEMA"
    )]
    Ambiguous { worker_type: String, count: usize },
}

/// What runs the worker type that is meant.
pub(crate) fn find(worker_type: &str, type_hash: u64) -> Result<Live, FindError> {
    let named = || listed().filter(|entry| entry.worker_type == worker_type);
    if let Some(entry) = named().find(|entry| entry.identity.here == type_hash) {
        return Ok(Arc::clone(&entry.live));
    }
    let mut found: Vec<&Entry> = named().filter(|entry| entry.identity.elsewhere == type_hash).collect();
    found.sort_by_key(|entry| entry.identity.here);
    found.dedup_by_key(|entry| entry.identity.here); // one type may be listed twice
    let worker_type = worker_type.to_string();
    match found[..] {
        [entry] => Ok(Arc::clone(&entry.live)),
        [] if named().next().is_some() => Err(FindError::OtherPayloads { worker_type }),
        [] => Err(FindError::NotListed { worker_type, listed: names() }),
        _ => Err(FindError::Ambiguous { worker_type, count: found.len() }),
    }
}

/// Whether the `init!` that lists a node's type is where its workers will be looked for: in the executable, if it is this
/// program that is started.
pub(crate) fn check(node: &PlanNode) -> Result<(), StartError> {
    let Launch::Process { program: None, .. } = &node.launch else { return Ok(()) };
    let of_type = || listed().filter(|entry| entry.identity.here == node.type_hash);
    let (servlet, worker_type) = (node.name.clone(), node.worker_type.to_string());
    let Some(first) = of_type().next() else {
        return Err(StartError::NotListed { servlet, worker_type, listed: names() });
    };
    if of_type().any(|entry| entry.object == Some(Object::Executable)) {
        return Ok(());
    }
    Err(not_in_executable(node, first))
}

fn not_in_executable(node: &PlanNode, entry: &Entry) -> StartError {
    let library = match &entry.object {
        Some(Object::Library(path)) => path.clone(),
        _ => file_of(entry.slot).unwrap_or_else(|| "a file that is not known".into()),
    };
    let executable = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
    let (servlet, worker_type) = (node.name.clone(), node.worker_type.into());
    StartError::NotInExecutable { servlet, worker_type, library, executable }
}

/// Whether the executable that is to be started for a node has an `init!`, as far as its file tells. Nothing of it is run.
pub(crate) fn check_image(node: &PlanNode, image: &Image) -> Result<(), StartError> {
    let Launch::Process { program, .. } = &node.launch else { return Ok(()) };
    let kind = image.read().and_then(|file| examine(&file, NOTE));
    let Some(path) = program else {
        return match (kind, listed().find(|entry| entry.identity.here == node.type_hash)) {
            // This program was started by way of the dynamic loader, or of an emulator.
            (Ok(FileKind::Elf(None) | FileKind::Script | FileKind::Unknown), Some(entry)) => {
                Err(not_in_executable(node, entry))
            }
            // One that may be run and not read has to be judged by what lies in memory, as `check` has.
            _ => Ok(()),
        };
    };
    let (servlet, path) = (node.name.clone(), path.clone());
    let reason = match kind {
        Ok(FileKind::Script) => return Ok(()),
        Ok(FileKind::Elf(Some(note))) => match Note::version(&note) {
            Some(ORDER_VERSION) => return Ok(()),
            theirs => format!(
                "it understands orders of version {}, and this program gives those of version {ORDER_VERSION}; build both with the same version of ringmill",
                theirs.map_or("unknown".into(), |version| version.to_string())
            ),
        },
        Ok(FileKind::Elf(None)) => format!(
            "it has no ringmill::init!, so nothing of it was run; list {} there, or name a script (#!) that leads to a program that does",
            node.worker_type
        ),
        Ok(FileKind::Unknown) => {
            let error = io::Error::from_raw_os_error(libc::ENOEXEC);
            return Err(StartError::Executable { servlet, path, error });
        }
        Err(error) => format!(
            "it cannot be read ({error}), so whether it has a ringmill::init! cannot be seen; make it readable"
        ),
    };
    Err(StartError::Program { servlet, path, reason })
}

/// Ends a process that was ordered to be a worker in a program without any `init!`, before its `main`.
#[used]
// SAFETY: after those of all `init!`s, which have the number before.
#[unsafe(link_section = ".init_array.00102")]
static GUARD: Slot = Slot::new(guard);

extern "C" fn guard(_: c_int, _: *const *const c_char, _: *const *const c_char) {
    launch::end_if_ordered(&raw const GUARD.0);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::PassThrough;

    /// The entry of a type under another one's name, with other identities.
    fn entry(worker_type: &'static str, here: u64, elsewhere: u64) -> Entry {
        let entry = Entry::of::<PassThrough<u8>>(&GUARD);
        Entry { worker_type, identity: Identity { here, elsewhere }, ..entry }
    }

    #[test]
    fn types_are_found_by_identity_and_else_refused() {
        list(vec![
            entry("app::Twin", 1, 10),
            entry("app::Twin", 2, 10),
            entry("app::Alone", 3, 10),
            entry("app::Alone", 3, 10),
        ]);
        assert!(find("app::Twin", 1).is_ok() && find("app::Twin", 2).is_ok());
        assert!(find("app::Alone", 3).is_ok() && find("app::Alone", 10).is_ok());
        let why = |name, hash| find(name, hash).map(drop).unwrap_err();
        assert!(matches!(why("app::Twin", 10), FindError::Ambiguous { count: 2, .. }));
        assert!(matches!(why("app::Alone", 1), FindError::OtherPayloads { .. }), "another type's identity");
        assert!(why("app::Alone", 11).to_string().contains("in layout or SCHEMA"));
        let other = why("app::Other", 1).to_string();
        assert!(other.contains("app::Other") && other.contains("app::Alone"), "{other}");
    }

    #[test]
    fn one_type_is_one_and_two_are_two() {
        let of = Identity::of::<PassThrough<u8>>();
        assert_eq!(of, Identity::of::<PassThrough<u8>>());
        let other = Identity::of::<PassThrough<i8>>();
        assert!(of.here != other.here && of.elsewhere != other.elsewhere);
        let version = ORDER_VERSION.to_ne_bytes();
        assert_eq!(Note::version(&version), Some(ORDER_VERSION));
        assert_eq!(Note::version(&version[1..]), None);
    }
}
