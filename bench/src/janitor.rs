//! A process that removes what others leave in the file system, however they end.
//!
//! A rival that makes files of its own leaves them when it is killed. So a process that nobody kills waits until
//! all who use these files are gone. It sees that by a pipe, which it reads and they hold: this process by
//! [`Janitor`] itself, a partner by what [`Janitor::hold`] hands to it. The system closes what the dead held.
//!
//! The process is this program's executable, started anew with a hidden first argument, as in
//! [`process`](crate::process), and in a process group of its own, so that Ctrl-C does not reach it.

use std::ffi::OsStr;
use std::io::{self, PipeWriter, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::{env, fs};

/// The hidden first argument. After it: the directory.
const JANITOR: &str = "--be-the-janitor";

/// Where named shared memory lies.
const SHARED_MEMORY: &str = "/dev/shm";

/// A directory that is removed once this has been dropped and all are gone that [hold](Self::hold) it; with it,
/// all named shared memory whose name begins with the directory's.
#[derive(Debug)]
pub struct Janitor {
    directory: PathBuf,
    /// Never written to. None while it is dropped.
    held: Option<PipeWriter>,
    child: Child,
}

impl Janitor {
    /// Makes the directory, new and with a name that nobody else uses, and starts the process.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub fn start() -> io::Result<Self> {
        let (waiting, held) = io::pipe()?;
        let directory = tempfile::Builder::new().prefix("ringmill-rival-").tempdir()?;
        let child = Command::new("/proc/self/exe")
            .arg0("compare: janitor")
            .arg(JANITOR)
            .arg(directory.path())
            .stdin(waiting)
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self { directory: directory.keep(), held: Some(held), child })
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A path in shared memory that nobody else uses, for a file or a directory.
    ///
    /// # Panics
    ///
    /// Never.
    pub fn shared_memory(&self) -> PathBuf {
        Path::new(SHARED_MEMORY).join(self.directory.file_name().expect("it was made with a name"))
    }

    /// What keeps the directory as long as it is open somewhere.
    ///
    /// # Errors
    ///
    /// `EMFILE` and its like.
    ///
    /// # Panics
    ///
    /// Never.
    pub fn hold(&self) -> io::Result<OwnedFd> {
        Ok(self.held.as_ref().expect("it is taken when this is dropped").try_clone()?.into())
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        drop(self.held.take());
        // It has said so itself if something could not be removed.
        let _ = self.child.wait();
    }
}

/// If this process was started as a janitor, waits and removes, and ends the process.
pub fn begin() {
    let mut arguments = env::args_os().skip(1);
    if arguments.next().is_none_or(|first| first != JANITOR) {
        return;
    }
    let Some(directory) = arguments.next().map(PathBuf::from) else { process::exit(2) };
    // Nothing is ever written: this ends when nobody can any more.
    let _ = io::stdin().read(&mut [0]);
    match remove(&directory) {
        Ok(()) => process::exit(0),
        Err(error) => {
            eprintln!("compare: cannot remove all that belongs to {}: {error}", directory.display());
            process::exit(1)
        }
    }
}

fn remove(directory: &Path) -> io::Result<()> {
    let name = directory.file_name().unwrap_or_else(|| OsStr::new("")).as_bytes();
    // Never all there is: the names are made by `start`.
    if name.is_empty() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for entry in fs::read_dir(SHARED_MEMORY)? {
        let entry = entry?;
        if entry.file_name().as_bytes().starts_with(name) {
            let remove = if entry.file_type()?.is_dir() { fs::remove_dir_all } else { fs::remove_file };
            remove(entry.path())?;
        }
    }
    fs::remove_dir_all(directory)
}
