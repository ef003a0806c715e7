//! What a server holds to start a worker's processes.

use ringmill_shm::sys::build_id::BuildId;
use ringmill_shm::sys::file::beyond_standard;
use ringmill_shm::sys::image::{Image, RootDirectory, open_directory};
use ringmill_shm::sys::process::user_id;
use ringmill_shm::sys::unshared::Unshared;
use std::ffi::OsString;
use std::fs::File;
use std::sync::{Arc, Mutex};

/// What a server holds from its start on, for the processes that it starts.
#[derive(Debug)]
pub(crate) struct Held {
    /// The standard input of these processes.
    pub(super) nothing: File,
    /// The root directory of the start.
    pub(crate) root: RootDirectory,
    /// That directory, if this process may return to it and no janitor holds it. Code that is confined to another root
    /// directory could leave by it.
    held_root: Mutex<Option<File>>,
}

impl Held {
    pub(crate) fn new() -> std::io::Result<Self> {
        let held_root = (user_id() == 0).then(|| open_directory("/")).transpose()?;
        let (nothing, root) = (beyond_standard(File::open("/dev/null")?)?, RootDirectory::present()?);
        Ok(Self { nothing, root, held_root: Mutex::new(held_root) })
    }

    /// Takes the root directory of the start, if this process holds it.
    pub(crate) fn take_root(&self) -> Option<File> {
        self.held_root.lock().unwrap_or_else(|e| e.into_inner()).take()
    }

    /// The root directory of the start, for a process that is about to be started, if this process now has another one
    /// and may return.
    pub(super) fn root_to_return_to(&self, of_janitor: impl FnOnce() -> Option<File>) -> Option<File> {
        if user_id() != 0 || !self.root.has_changed() {
            return None;
        }
        let held = self.held_root.lock().unwrap_or_else(|e| e.into_inner());
        match &*held {
            Some(root) => root.try_clone().ok(),
            None => of_janitor(),
        }
    }
}

/// The executable of a post's processes.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) image: Arc<Image>,
    /// Whether the image is the server's own executable.
    pub(crate) is_own: bool,
    /// The build of the processes, as the image says, or else the first process.
    pub(crate) build: Option<BuildId>,
    /// The hash by which the processes find the type of their workers, if it is not that of the plan.
    pub(crate) type_hash: Option<u64>,
}

/// When a process of a post becomes the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begins {
    /// Before `main`, by the program's `init!`.
    BeforeMain,
    /// When the program calls `become_worker`.
    ByCall,
}

/// What a post's processes are started from.
#[derive(Debug)]
pub(crate) struct Recipe {
    pub(crate) program: Program,
    /// Their arguments; `None`: those by which process lists name the worker.
    pub(crate) arguments: Option<Vec<OsString>>,
    pub(crate) begins: Begins,
    /// The configuration of their workers, if it is not that in the segment.
    pub(crate) config: Option<Arc<File>>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) held: Arc<Held>,
    /// An open file description of the lease by which the processes hold their bytes if no further one can be opened.
    pub(crate) spare: Unshared,
}
