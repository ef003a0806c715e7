//! The janitor: a process that keeps the right to remove a server's files.
//!
//! A service that starts as root and drops its privileges may neither remove its own files in the end nor start a
//! worker that could. A service that goes to another root directory (`chroot`) must not hold a descriptor of a
//! directory outside, by which code inside could leave. So if a server starts as root, it also starts a janitor: a
//! process of the same program that is no worker, maps nothing and runs no user code. The janitor holds the directory
//! of the files and the root directory of the start; the service then holds neither.
//!
//! # Protocol
//!
//! | Server | Janitor |
//! |---|---|
//! | ends in order, and has removed its files | is ended by the server |
//! | ends in order, and may not or cannot remove its files ([`REMOVE`]) | removes them, ends; the server waits for that, with a limit |
//! | starts a worker from another root directory ([`ROOT`]) | sends the root directory of the start, if the server's process is root and may call `chroot`, since it could go there anyway. The server closes it when the worker is started |
//! | has seen that it acts as another user or has another root directory ([`NEEDED`]) and is gone | removes the files, if no other process has, and ends |
//! | is gone without such a change | ends: the workers may remove the files |
//!
//! The janitor learns by its end of a [tether](ringmill_shm::sys::tether) that the server is gone, so it outlives the
//! server by the removal at most. The janitor of an anonymous server, which has no files, keeps the root directory only.
//! It may remove two names in one directory, each only while it is the file that was
//! made under it, and only while the server's byte of the lease is held: by the server, or by itself.
//!
//! # Crash
//!
//! If the janitor is killed, the files of such a server stay until the next start of that name, or `shmtool clean`; and
//! the supervisor cannot restart a worker from a root directory that lacks what the program needs.

use super::order::{Descriptor, ORDER_VERSION, VARIABLE};
use super::recipe::Recipe;
use super::report::END_AT_ONCE;
use super::settle::{settle_in, tether};
use ringmill_shm::participant::try_lock_server;
use ringmill_shm::segment::{Location, Segment, remove_held};
use ringmill_shm::sys::birth::Birth;
use ringmill_shm::sys::child::Child;
use ringmill_shm::sys::file::beyond_standard;
use ringmill_shm::sys::image::open_directory;
use ringmill_shm::sys::process::{GROUP_SIGNALS, PidFd, exit_now, is_unwaited_child, user_id, wait_readable};
use ringmill_shm::sys::tether::{Received, Tether};
use ringmill_shm::sys::unshared::Unshared;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How a janitor's order begins.
pub(crate) const ORDER: &str = "janitor:";

const REMOVE: &[u8] = b"remove";
const ROOT: &[u8] = b"root";
const NEEDED: &[u8] = b"needed";

/// How long a server waits for its janitor, and a janitor for the lease of a dead server.
const REMOVAL_LIMIT: Duration = Duration::from_secs(2);
const REMOVAL_LOOK: Duration = Duration::from_millis(1);
/// How long a server waits for an answer of its janitor.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// A server's janitor.
#[derive(Debug)]
pub(crate) struct Janitor {
    process: Mutex<Option<(Child, PidFd)>>,
    tether: Tether,
    /// Whether the server has told it that it is needed.
    told: AtomicBool,
    /// The server's process: a forked child has no janitor.
    birth: Birth,
}

impl Drop for Janitor {
    fn drop(&mut self) {
        self.dismiss(|| Ok(())); // the server did not start
    }
}

impl Janitor {
    /// Starts a janitor.
    ///
    /// # Errors
    /// The system's error; the server then has no janitor.
    pub(crate) fn hire(recipe: &Recipe, segment: &Segment, server_name: &str) -> io::Result<Self> {
        if let Location::Anonymous(_) = segment.location() {
            return Self::start(recipe, segment, None, server_name);
        }
        let directory = segment.take_directory().ok_or(io::ErrorKind::NotFound)?;
        match Self::start(recipe, segment, Some(&directory), server_name) {
            Ok(janitor) => Ok(janitor),
            Err(error) => {
                segment.keep_directory(directory);
                Err(error)
            }
        }
    }

    fn start(
        recipe: &Recipe,
        segment: &Segment,
        directory: Option<&File>,
        server_name: &str,
    ) -> io::Result<Self> {
        let (ours, theirs) = Tether::pair()?;
        let (image, lease) =
            (&recipe.program.image, directory.map(|_| segment.lease().reopen()).transpose()?);
        let lease = lease.as_ref().map(Unshared::file).transpose()?;
        let (root, theirs) = (open_directory("/")?, theirs.file()?);
        let mut kept = vec![&root];
        if let (Some(directory), Some(lease)) = (directory, &lease) {
            kept.extend([directory, segment.file(), lease]);
        }
        kept.push(&theirs);
        let mut descriptors = Vec::with_capacity(kept.len());
        for file in &kept {
            descriptors.push(Descriptor::of(file)?);
        }
        let location = directory.map(|_| segment.location().to_text());
        let order = (ORDER_VERSION, std::process::id(), descriptors, location);
        let mut command = image.command();
        command
            .args(["janitor", server_name])
            .env(VARIABLE, format!("{ORDER}{}", serde_json::to_string(&order)?));
        let nothing = beyond_standard(File::open("/dev/null")?)?;
        let kept: Vec<i32> = kept.into_iter().map(AsRawFd::as_raw_fd).collect();
        let (mut child, _) =
            image.spawn(&command, "ringmill", nothing.as_raw_fd(), &kept, GROUP_SIGNALS, None)?;
        match PidFd::of_child(child.id()) {
            Ok(pidfd) => {
                drop(recipe.held.take_root()); // the janitor has it
                let process = Mutex::new(Some((child, pidfd)));
                Ok(Self { process, tether: ours, told: AtomicBool::new(false), birth: Birth::here() })
            }
            Err(error) => {
                if is_unwaited_child(child.id()) {
                    let _ = child.kill();
                    let _ = child.wait();
                }
                Err(error)
            }
        }
    }

    /// Tells the janitor, once, that it is needed, if this process now acts as another user than root, or has another
    /// root directory.
    pub(crate) fn tell_if_needed(&self, root_has_changed: impl FnOnce() -> bool) {
        // Relaxed, both: one thread calls this, and a second message does no harm.
        if !self.told.load(Ordering::Relaxed) && (user_id() != 0 || root_has_changed()) {
            self.told.store(true, Ordering::Relaxed);
            let _ = self.tether.send(NEEDED);
        }
    }

    /// The root directory of the server's start; `None` if the janitor does not send it.
    pub(crate) fn root(&self) -> Option<File> {
        while let Received::Message(_late) = self.tether.receive() {}
        self.tether.send(ROOT).ok()?;
        wait_readable(&[self.tether.as_raw_fd()], Some(ANSWER_LIMIT));
        self.tether.receive_file()
    }

    /// Called when the server has ended. The janitor removes the files if `remove`, which does so from this process,
    /// cannot. A second caller waits for the first: when either returns, the files are gone.
    pub(crate) fn dismiss(&self, remove: impl FnOnce() -> io::Result<()>) {
        if !self.birth.is_here() {
            return;
        }
        let mut process = self.process.lock().unwrap_or_else(|e| e.into_inner());
        let Some((mut child, pidfd)) = process.take() else { return };
        if remove().is_err() {
            let _ = self.tether.send(REMOVE); // if the janitor has gone, no process can do it
        } else if pidfd.send_signal(libc::SIGKILL).is_err() {
            let _ = self.tether.send(END_AT_ONCE);
        }
        if wait_readable(&[pidfd.as_raw_fd()], Some(REMOVAL_LIMIT))[0] {
            let _ = child.wait();
        }
    }
}

/// The files of a server, as its janitor holds them.
struct Files {
    location: Location,
    directory: File,
    segment: File,
    lease: File,
}

impl Files {
    fn remove(&self) -> Option<()> {
        remove_held(&self.location, &self.directory, &self.segment, &self.lease).ok().map(drop)
    }
}

/// The life of a process that was ordered to be a janitor.
pub(crate) fn live(order: &str) -> ! {
    let code = crate::panics::caught(|| watch(order)).ok().flatten().map_or(1, |()| 0);
    exit_now(code)
}

fn watch(order: &str) -> Option<()> {
    let (version, server, descriptors, location): (u32, u32, Vec<Descriptor>, Option<String>) =
        serde_json::from_str(order).ok()?;
    if version != ORDER_VERSION {
        return None;
    }
    settle_in(&descriptors, None, None, "");
    // The last one is the tether.
    let given = descriptors.split_last()?.1.iter().map(|descriptor| descriptor.take_over());
    let mut given = given.collect::<Option<Vec<File>>>()?.into_iter();
    let root = given.next()?;
    let files = match location {
        Some(location) => Some(Files {
            location: Location::parse(&location).ok()?,
            directory: given.next()?,
            segment: given.next()?,
            lease: given.next()?,
        }),
        None => None,
    };
    let tether = tether()?;
    let mut is_needed = false;
    loop {
        wait_readable(&[tether.as_raw_fd()], None);
        match tether.receive() {
            Received::Message(message) if message == NEEDED => is_needed = true,
            Received::Message(message) if message == ROOT => {
                let _ = match may_change_root(server) {
                    true => tether.send_file(ROOT, &root),
                    false => tether.send(ROOT),
                };
            }
            // The server holds the lease.
            Received::Message(message) if message == REMOVE => {
                return files.map_or(Some(()), |files| files.remove());
            }
            Received::Over if is_needed => {
                let Some(files) = files else { return Some(()) };
                // The kernel closes the dead server's descriptors one after the other, the lease's perhaps last.
                let begun = Instant::now();
                while try_lock_server(&files.lease).is_err() {
                    if begun.elapsed() >= REMOVAL_LIMIT {
                        return None;
                    }
                    std::thread::sleep(REMOVAL_LOOK); // no event reports the release of a lock
                }
                return files.remove();
            }
            Received::Nothing => {}
            Received::Message(_) | Received::Over => return Some(()),
        }
    }
}

/// Whether the server's process is root and may call `chroot`, so that no root directory confines it anyway. It cannot
/// have got that right in another root directory by a user namespace: the kernel makes none for a process in a
/// `chroot`.
fn may_change_root(server: u32) -> bool {
    const CAP_SYS_CHROOT: u64 = 1 << 18;
    if std::os::unix::process::parent_id() != server {
        return false; // the server is gone, and another process that has a copy of its tether asks
    }
    let status = std::fs::read_to_string(format!("/proc/{server}/status")).unwrap_or_default();
    let field = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.map(|line| line.split_whitespace().collect::<Vec<_>>()).unwrap_or_default()
    };
    let acts_as_root = field("Uid").get(1) == Some(&"0");
    let capabilities = field("CapEff").first().and_then(|text| u64::from_str_radix(text, 16).ok());
    acts_as_root && capabilities.is_some_and(|all| all & CAP_SYS_CHROOT != 0)
}
