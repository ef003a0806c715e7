//! The worker types that processes of this program can become, as `init!` listed them.
//!
//! # Identity of types
//!
//! Within one executable the engine knows a worker type by its `TypeId`: types of two versions of one crate share a
//! name, and so do types that a macro makes in one function. Between executables there is no `TypeId`. There it knows a
//! type by its name and the [layout](crate::wire::payload::layout_hash) of its payloads, and if two listed types agree
//! in both, the worker refuses to choose. The server writes one number of either kind into the segment ([`Identity`]);
//! the worker need not know which kind.
//!
//! # Which file has the `init!`
//!
//! A worker's process runs the executable; an `init!` in a library that an interpreter has loaded does not run there,
//! and the interpreter would run its arguments as a script. `check` looks before any process is started: that entry
//! must lie in the executable, and the executable's file must have the note that `init!` leaves (a program that was
//! started by way of the dynamic loader has the loader for its file). A file that is named by `program(..)` must have
//! that note too, with the version of orders that it understands. A script cannot be inspected: the server trusts that
//! it execs such a file.

use super::order::ORDER_VERSION;
use super::recipe::Begins;
use crate::error::{BoxError, StartError};
use crate::plan::{Launch, PlanNode, Program};
use crate::worker::{self, BatchWorker, Context, Identity, Live};
use ringmill_shm::sys::image::Image;
use ringmill_shm::sys::program::{Constructor, FileKind, NoteName, Object, examine, file_of};
use ringmill_shm::sys::settled::Settled;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The entry of `.init_array` in which an `init!` put its function.
#[derive(Debug)]
#[repr(transparent)]
pub struct InitEntry(pub(super) Constructor);

impl InitEntry {
    /// An entry with this function.
    #[must_use]
    pub const fn new(function: Constructor) -> Self {
        Self(function)
    }
}

/// A worker type that processes of this program can become.
#[derive(Clone)]
pub struct ListedType {
    worker_type: &'static str,
    identity: Identity,
    live: Live,
    /// The address of the [`InitEntry`] of the `init!` that lists it.
    init: usize,
    /// The object in which that lies.
    object: Option<Object>,
}

impl std::fmt::Debug for ListedType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ListedType").field("worker_type", &self.worker_type).finish_non_exhaustive()
    }
}

impl ListedType {
    /// This type, with the object in which its `init!` lies.
    pub(super) fn in_object(self, object: Option<Object>) -> Self {
        Self { object, ..self }
    }

    /// The entry of `W`, listed by the `init!` with this entry.
    #[must_use]
    pub fn of<W: BatchWorker>(init: &'static InitEntry) -> Self {
        Self {
            worker_type: std::any::type_name::<W>(),
            identity: Identity::of::<W>(),
            live: Arc::new(|seat| worker::live::<W>(seat)),
            init: std::ptr::from_ref(init) as usize,
            object: None,
        }
    }
}

/// The note that `init!` leaves in its executable: the version of orders that it understands.
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
/// The note's name.
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

    /// The version in a note's bytes.
    fn version(bytes: &[u8]) -> Option<u32> {
        bytes.try_into().ok().map(u32::from_ne_bytes)
    }
}

const _: () =
    assert!(size_of::<Note>() == 28, "the parts of a note are 4-aligned, with nothing between them");

/// What an `init!` has each worker's process do before it builds its workers.
pub type SetUp = fn(&Context) -> Result<(), BoxError>;

/// What one `init!` says, and what the next one does.
struct List {
    entries: Vec<ListedType>,
    set_up: Option<SetUp>,
    next: Settled<List>,
}

/// A chain without a lock, since a child may be forked while another thread starts a server.
static LISTED: Settled<List> = Settled::new();

/// Notes what an `init!` says.
pub(super) fn list(entries: Vec<ListedType>, set_up: Option<SetUp>) {
    let (mut list, mut end) = (List { entries, set_up, next: Settled::new() }, &LISTED);
    while let Err(ours) = end.set(list) {
        list = ours;
        end = &end.get().expect("it is settled").next;
    }
}

fn lists() -> impl Iterator<Item = &'static List> {
    std::iter::successors(LISTED.get(), |list| list.next.get())
}

fn listed() -> impl Iterator<Item = &'static ListedType> {
    lists().flat_map(|list| &list.entries)
}

/// The set-ups of all `init!`s.
pub(super) fn set_ups() -> impl Iterator<Item = SetUp> {
    lists().filter_map(|list| list.set_up)
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
        "this program's payloads of worker type {worker_type} differ from the server's, in layout or SCHEMA; build both from the same source"
    )]
    OtherPayloads { worker_type: String },
    #[error(
        "this program's ringmill::init! lists {count} worker types of the name {worker_type} with the same payloads; give them different names, or a different SCHEMA"
    )]
    Ambiguous { worker_type: String, count: usize },
}

/// The code that runs this worker type.
pub(crate) fn find(worker_type: &str, type_hash: u64) -> Result<Live, FindError> {
    let named = || listed().filter(|entry| entry.worker_type == worker_type);
    if let Some(entry) = named().find(|entry| entry.identity.here == type_hash) {
        return Ok(Arc::clone(&entry.live));
    }
    let mut found: Vec<&ListedType> = named().filter(|entry| entry.identity.elsewhere == type_hash).collect();
    found.sort_by_key(|entry| entry.identity.here);
    found.dedup_by_key(|entry| entry.identity.here); // a program may list one type twice
    let worker_type = worker_type.to_string();
    match found[..] {
        [entry] => Ok(Arc::clone(&entry.live)),
        [] if named().next().is_some() => Err(FindError::OtherPayloads { worker_type }),
        [] => Err(FindError::NotListed { worker_type, listed: names() }),
        _ => Err(FindError::Ambiguous { worker_type, count: found.len() }),
    }
}

/// Checks that the `init!` which lists a node's type is in the executable, if the node's workers run this program.
pub(crate) fn check(node: &PlanNode) -> Result<(), StartError> {
    let Launch::Process { program: Program { path: None, lists_as: None, .. }, .. } = &node.launch else {
        return Ok(());
    };
    let of_type = || listed().filter(|entry| entry.identity.here == node.spec.facts.type_hash);
    let (servlet, worker_type) = (node.spec.name.clone(), node.spec.worker_type.clone());
    let Some(first) = of_type().next() else {
        return Err(StartError::NotListed { servlet, worker_type, listed: names() });
    };
    if of_type().any(|entry| entry.object == Some(Object::Executable)) {
        return Ok(());
    }
    Err(not_in_executable(node, first))
}

fn not_in_executable(node: &PlanNode, entry: &ListedType) -> StartError {
    let library = match &entry.object {
        Some(Object::Library(path)) => path.clone(),
        _ => file_of(entry.init).unwrap_or_else(|| "a file that is not known".into()),
    };
    let executable = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
    let (servlet, worker_type) = (node.spec.name.clone(), node.spec.worker_type.clone());
    StartError::NotInExecutable { servlet, worker_type, library, executable }
}

/// Checks, by its file, that the executable for a node's workers has an `init!`. Does not run it.
pub(crate) fn check_image(node: &PlanNode, image: &Image) -> Result<(), StartError> {
    let Launch::Process { program, .. } = &node.launch else { return Ok(()) };
    let kind = image.read().and_then(|file| examine(&file, NOTE));
    if program.lists_as.is_some() {
        return judge_called(&node.spec.name, image.path(), kind);
    }
    let Some(path) = &program.path else {
        return match (kind, listed().find(|entry| entry.identity.here == node.spec.facts.type_hash)) {
            // This program was started by the dynamic loader, or by an emulator.
            (Ok(FileKind::Elf(None) | FileKind::Script | FileKind::Unknown), Some(entry)) => {
                Err(not_in_executable(node, entry))
            }
            // `check` has judged an executable that may be run but not read, by what lies in memory.
            _ => Ok(()),
        };
    };
    judge(&node.spec.name, &node.spec.worker_type, path, kind)
}

/// Checks, by its file, that an executable that is named for a servlet's workers has an `init!`, if that makes them workers.
/// Does not run it.
pub(crate) fn check_program(
    servlet: &str,
    worker_type: &str,
    path: &Path,
    image: &Image,
    begins: Begins,
) -> Result<(), StartError> {
    let kind = image.read().and_then(|file| examine(&file, NOTE));
    match begins {
        Begins::BeforeMain => judge(servlet, worker_type, path, kind),
        Begins::ByCall => judge_called(servlet, path, kind),
    }
}

/// Whether the file may call `become_worker`: any program or script may.
fn judge_called(servlet: &str, path: &Path, kind: io::Result<FileKind>) -> Result<(), StartError> {
    match kind {
        Ok(FileKind::Unknown) => {
            let error = io::Error::from_raw_os_error(libc::ENOEXEC);
            Err(StartError::Executable { servlet: servlet.into(), path: path.into(), error })
        }
        // What may be run and not read is seen when it runs.
        Ok(FileKind::Script | FileKind::Elf(_)) | Err(_) => Ok(()),
    }
}

fn judge(
    servlet: &str,
    worker_type: &str,
    path: &Path,
    kind: io::Result<FileKind>,
) -> Result<(), StartError> {
    let (servlet, path) = (servlet.to_string(), path.to_path_buf());
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
            "it has no ringmill::init!, so it was not run; list {worker_type} there, or name a script (#!) that execs a program with such an init!"
        ),
        Ok(FileKind::Unknown) => {
            let error = io::Error::from_raw_os_error(libc::ENOEXEC);
            return Err(StartError::Executable { servlet, path, error });
        }
        Err(error) => format!(
            "it cannot be read ({error}), so the server cannot check that it has a ringmill::init!; make it readable"
        ),
    };
    Err(StartError::Program { servlet, path, reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::one_item::PassThrough;

    /// A listed type under another name, with other identities.
    fn entry(worker_type: &'static str, here: u64, elsewhere: u64) -> ListedType {
        let entry = ListedType::of::<PassThrough<u8>>(&crate::host::init::GUARD);
        ListedType { worker_type, identity: Identity { here, elsewhere }, ..entry }
    }

    #[test]
    fn types_are_found_by_identity_or_refused() {
        let twins = vec![entry("app::Twin", 1, 10), entry("app::Twin", 2, 10)];
        list(twins, None);
        list(vec![entry("app::Alone", 3, 10), entry("app::Alone", 3, 10)], None);
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
