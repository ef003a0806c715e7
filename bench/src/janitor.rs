//! A process that removes files that other processes leave, however they end.
//!
//! A rival that makes files of its own leaves them when it is killed. So a janitor, which no test kills, waits until all
//! processes that use these files have gone. It reads a pipe that they hold: this process by [`Janitor`] itself, a partner by
//! the descriptor of [`Janitor::hold`]. The system closes the descriptors of the dead.
//!
//! The process is this program's executable, started again with a hidden first argument, as in
//! [`process`](crate::process), and in a process group of its own, so that Ctrl-C does not reach it. It ignores signals that
//! ask it to end. One of these comes from the system itself: `SIGHUP`, if the janitor is stopped when its starter ends.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::{env, fs};

use nix::sys::signal::{SigSet, Signal};

/// The hidden first argument.
const JANITOR: &str = "--be-the-janitor";

/// After the path of the directory, which the process tells on its standard output. No path has it.
const END_OF_PATH: u8 = 0;

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
    /// Starts the process, which makes the directory, new and with a unique name.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub fn start() -> io::Result<Self> {
        let (waiting, held) = io::pipe()?;
        let mut child = Command::new("/proc/self/exe")
            .arg0("compare: janitor")
            .arg(JANITOR)
            .stdin(waiting)
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let mut told = BufReader::new(child.stdout.take().expect("its output is a pipe"));
        let mut path = Vec::new();
        let read = told.read_until(END_OF_PATH, &mut path);
        if path.pop() == Some(END_OF_PATH) {
            return Ok(Self { directory: OsString::from_vec(path).into(), held: Some(held), child });
        }
        // It ends, if it has not already.
        drop(held);
        child.wait()?;
        Err(read.err().unwrap_or_else(|| io::Error::other("the janitor has ended")))
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A unique path in shared memory, for a file or a directory.
    ///
    /// # Panics
    ///
    /// Never.
    pub fn shared_memory(&self) -> PathBuf {
        Path::new(SHARED_MEMORY).join(self.directory.file_name().expect("it was made with a name"))
    }

    /// A descriptor that keeps the directory as long as any process has it open.
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
    if env::args_os().nth(1).is_none_or(|first| first != JANITOR) {
        return;
    }
    let Err(error) = work() else { process::exit(0) };
    eprintln!("compare: the janitor: {error}");
    process::exit(1)
}

fn work() -> io::Result<()> {
    SigSet::from_iter([Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM]).thread_block()?;
    // Made here, not by the starter: it may end at any time, and then no process would know of the directory.
    let directory = tempfile::Builder::new().prefix("ringmill-rival-").tempdir()?.keep();
    // The next steps are needed even if no process reads this.
    let mut out = io::stdout();
    let path = [directory.as_os_str().as_bytes(), &[END_OF_PATH]].concat();
    let _ = out.write_all(&path).and_then(|()| out.flush());
    // Nothing is ever written: this ends when all holders have gone.
    let _ = io::stdin().read(&mut [0]);
    let kept = |error| {
        io::Error::other(format!("cannot remove all that belongs to {}: {error}", directory.display()))
    };
    remove(&directory).map_err(kept)
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
