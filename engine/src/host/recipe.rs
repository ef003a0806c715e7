//! How a worker's processes are started: what the server has held for them since its own start.

use ringmill_shm::sys::build_id::BuildId;
use ringmill_shm::sys::file::beyond_standard;
use ringmill_shm::sys::image::{Image, RootDirectory, open_directory};
use ringmill_shm::sys::process::user_id;
use ringmill_shm::sys::unshared::Unshared;
use std::ffi::OsString;
use std::fs::File;
use std::sync::{Arc, Mutex};

/// What a server has held since its start, for the processes that it starts.
#[derive(Debug)]
pub(crate) struct Held {
    /// Their standard input.
    pub(super) nothing: File,
    /// The root directory of the start.
    pub(crate) root: RootDirectory,
    /// That directory, where this process may return to it and no janitor holds it. By it code that is to stay in another
    /// root directory could leave that.
    held_root: Mutex<Option<File>>,
}

impl Held {
    pub(crate) fn new() -> std::io::Result<Self> {
        let held_root = (user_id() == 0).then(|| open_directory("/")).transpose()?;
        let (nothing, root) = (beyond_standard(File::open("/dev/null")?)?, RootDirectory::present()?);
        Ok(Self { nothing, root, held_root: Mutex::new(held_root) })
    }

    /// The root directory of the start, if it is held. This lets go of it.
    pub(crate) fn take_root(&self) -> Option<File> {
        self.held_root.lock().unwrap_or_else(|e| e.into_inner()).take()
    }

    /// For a process that is started now: the root directory of the start, if this process has another one by now and may
    /// return to it.
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

/// How a post's processes are started.
#[derive(Debug)]
pub(crate) struct Recipe {
    pub(crate) image: Arc<Image>,
    /// Whether that is the server's own executable.
    pub(crate) is_own: bool,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) held: Arc<Held>,
    /// Which build they are, as the image says or else the first of them.
    pub(crate) build: Option<BuildId>,
    /// An open file description of the lease for them to hold their bytes by, once no other can be opened.
    pub(crate) spare: Unshared,
}
