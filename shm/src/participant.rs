//! The participants of a segment, and how a death is proven.
//!
//! # Layout
//!
//! ```text
//! entry:  identity line │ bell line │ CPU mask line │ counters line │ what the supervisor notes │ boot message
//! row 0 is the server; then the workers, node by node, each worker's threads side by side; then the clients
//! ```
//!
//! So the worker of a row follows from the plan ([`Segment::worker_of`](crate::segment::Segment::worker_of)) and does
//! not lie in the entry.
//!
//! The server writes the identity when it prepares an incarnation, and the participant when it arrives; a waker the
//! bell; the server the CPUs, with their node and the reason, and what it notes of calls and ends; the participant counters and message.
//!
//! # Protocol
//!
//! | State | Means | Left by, to |
//! |---|---|---|
//! | VACANT | no incarnation yet, or none any more: its worker was scaled away | server → STARTING, with a new token |
//! | STARTING | being launched, attaching, constructing | participant → READY or FAILED; server → DEAD |
//! | READY | takes part | participant → LEAVING or FAILED; server → DEAD |
//! | FAILED | its construction failed, or it gave up; the message says why | server → STARTING or DEAD |
//! | LEAVING | has stopped working, and ends; the message says why, if by a fatal error | participant → FAILED; server → DEAD |
//! | DEAD | its process is gone | server → STARTING, FAILED if it is given up, or VACANT |
//!
//! A client takes its row itself, and the server offers it again: see `segment/client.rs`.
//!
//! # Invariants
//!
//! * `[lease before deeds]`: a participant holds the lock on its token's byte of the lease file before its token
//!   appears in any word but its own entry. So a token in an owner field whose byte is free is dead.
//! * Death is a fact of the kernel (a lock that it released, a descriptor that it made readable), never a timeout: a
//!   stopped or slow participant is alive.
//!
//! # Ordering
//!
//! * `[told]`: the store of the state (Release) → the Acquire load of the state. The message travels.
//!
//! # Crash
//!
//! The kernel releases the lock of a process that ends in any way. A server that dies leaves a segment
//! whose byte 0 is free: stale, to be removed by the next start or by `shmtool clean`.
#![expect(
    unsafe_code,
    reason = "the contracts of rows and leases: a participant that is called dead acts no more"
)]

use crate::doorbell::Bell;
use crate::fields::in_segment;
use crate::placed::{Placed, Why};
use crate::stats::Counters;
use crate::sync::{self, Ordering};
use crate::sys;
use crate::sys::unshared::Unshared;
use crate::token::Token;
use crate::watch::{Began, Ended, Exit, Watch};
use core::sync::atomic::{AtomicU32, AtomicU64};
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The longest boot message.
pub const MESSAGE_BYTES: usize = 2048 - 128;

/// The row of the server in the table.
pub const SERVER: u32 = 0;

/// Takes the byte of a lease that the server holds while it lives.
///
/// # Errors
/// `EAGAIN` if the server lives, or another process removes a dead server's files.
pub fn try_lock_server(lease: &File) -> io::Result<()> {
    sys::file::try_lock_byte(lease, SERVER)
}

/// Whether the server of an open lease lives.
///
/// # Errors
/// What the kernel says; nothing is known then.
pub fn is_served(lease: &File) -> io::Result<bool> {
    sys::file::byte_is_locked(lease, SERVES)
}

/// The byte of a token. The server's is that of its row: it has one incarnation a file.
fn byte_of(token: Token) -> u32 {
    if token.index() == SERVER { SERVER } else { token.raw() }
}

/// The byte that a server holds besides its own. A process that only removes a dead server's files holds the server's
/// byte alone, and for a moment.
const SERVES: u32 = u32::MAX;
/// How long a starting server waits for such a process, and how often it looks. One that takes longer has been stopped.
const REMOVAL_LIMIT: Duration = Duration::from_secs(2);
const REMOVAL_LOOK: Duration = Duration::from_millis(1);

/// What a participant is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u32)]
pub enum Life {
    /// No incarnation yet, or none any more.
    Vacant = 0,
    /// Being launched, attaching, constructing.
    Starting = 1,
    /// Takes part.
    Ready = 2,
    /// Its construction failed, or it gave up.
    Failed = 3,
    /// Has stopped working, and ends.
    Leaving = 4,
    /// Its process is gone.
    Dead = 5,
}

impl Life {
    fn from_raw(raw: u32) -> Self {
        match raw {
            0 => Self::Vacant,
            1 => Self::Starting,
            2 => Self::Ready,
            3 => Self::Failed,
            4 => Self::Leaving,
            _ => Self::Dead,
        }
    }
}

/// What kind of participant has a row, by the plan: see [`Segment::role_of`](crate::segment::Segment::role_of).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The server, and the client in its process.
    Server,
    /// A worker in a process of its own.
    ProcessWorker,
    /// A worker in a thread of the server's process.
    ThreadWorker,
    /// A process that sends requests of its own: see [`segment::client`](crate::segment::Segment::join_as_client).
    Client,
}

in_segment! {
    /// A row of the participant table.
    #[repr(align(128))]
    #[derive(Debug)]
    pub struct Entry {
        token: sync::AtomicU32,
        state: sync::AtomicU32,
        pid: AtomicU32,
        start_time: AtomicU64,
        restarts: AtomicU32,
        /// When `state` was last set, in nanoseconds of the monotonic clock.
        since_ns: AtomicU64,
        /// Its thread, as the kernel numbers it; 0: not known.
        thread_id: AtomicU32,
        /// The NUMA node of its CPUs, plus one; 0: none.
        numa_node: AtomicU32,
        /// A [`Why`].
        why: AtomicU32,
        bell: Bell,
        cpus: CpuMask,
        counters: Counters,
        /// Which call the supervisor sees; 0: none.
        watch: Watch,
        ended: Ended,
        message_bytes: AtomicU32,
        message: [AtomicU64; MESSAGE_BYTES / 8],
    }
}

in_segment! {
    #[repr(align(128))]
    #[derive(Debug)]
    struct CpuMask([AtomicU64; sys::cpu::CPU_LIMIT / 64]);
}

#[cfg(loom)]
impl Entry {
    /// An entry without an incarnation; in a segment all are zero.
    pub(crate) fn new() -> Self {
        Self {
            token: sync::AtomicU32::new(0),
            state: sync::AtomicU32::new(Life::Vacant as u32),
            pid: AtomicU32::new(0),
            start_time: AtomicU64::new(0),
            restarts: AtomicU32::new(0),
            since_ns: AtomicU64::new(0),
            thread_id: AtomicU32::new(0),
            numa_node: AtomicU32::new(0),
            why: AtomicU32::new(0),
            bell: Bell::new(),
            cpus: CpuMask(core::array::from_fn(|_| AtomicU64::new(0))),
            counters: Counters::default(),
            watch: Watch::default(),
            ended: Ended::default(),
            message_bytes: AtomicU32::new(0),
            message: core::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl Entry {
    /// The token of the incarnation that has, or last had, this row.
    #[must_use]
    pub fn token(&self) -> Option<Token> {
        Token::from_raw(self.token.load(Ordering::Acquire))
    }

    /// What it is doing.
    #[must_use]
    pub fn life(&self) -> Life {
        Life::from_raw(self.state.load(Ordering::Acquire))
    }

    /// When its [`life`](Self::life) last changed, in nanoseconds of the monotonic clock.
    #[must_use]
    pub fn since_ns(&self) -> u64 {
        self.since_ns.load(Ordering::Relaxed) // Relaxed: for reports
    }

    /// The last instant from which the segment has news of it: its [`life`](Self::life) changed, or the supervisor, which
    /// does so every second, looked at it. In nanoseconds of the monotonic clock.
    #[must_use]
    pub fn last_news_ns(&self) -> u64 {
        self.since_ns().max(self.watch.looked_ns())
    }

    /// Its process; 0 before it has arrived.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed) // Relaxed: for reports
    }

    /// When its process began, in clock ticks since boot.
    #[must_use]
    pub fn start_time(&self) -> u64 {
        self.start_time.load(Ordering::Relaxed) // Relaxed: for reports
    }

    /// How often the server has restarted this row.
    #[must_use]
    pub fn restarts(&self) -> u32 {
        self.restarts.load(Ordering::Relaxed) // Relaxed: for reports
    }

    /// Its futex word.
    #[must_use]
    pub fn bell(&self) -> &Bell {
        &self.bell
    }

    /// Its statistics.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// When the present call of user code began, as far as it can be known: worker and supervisor note it each in their way.
    /// `None`: none runs.
    #[must_use]
    pub fn call_began(&self) -> Option<Began> {
        let call = self.counters.call()?;
        let is_ready = self.life() == Life::Ready;
        let ready = Began { after_ns: if is_ready { self.since_ns() } else { 0 }, by_ns: None };
        Some(self.watch.began(call).and(self.counters.timed(call)).and(ready))
    }

    /// The supervisor looks at its call.
    pub fn see_call(&self, now_ns: u64) {
        self.watch.see(self.counters.call().unwrap_or(0), now_ns);
    }

    /// How it last ended, if not in order; `None`: it never did, or that is being written.
    #[must_use]
    pub fn last_exit(&self) -> Option<Exit> {
        self.ended.exit()
    }

    /// The supervisor notes how it ended.
    pub fn note_exit(&self, exit: &Exit) {
        self.ended.note(exit);
    }

    /// Whether its process is stopped, by a signal or a debugger; `None`: it cannot be seen from here.
    #[must_use]
    pub fn is_stopped(&self) -> Option<bool> {
        sys::process::is_stopped(self.pid(), self.start_time())
    }

    /// The CPUs it is pinned to, as its server planned; empty if it is not.
    #[must_use]
    pub fn cpus(&self) -> Vec<usize> {
        let words = self.cpus.0.iter().map(|w| w.load(Ordering::Relaxed)); // Relaxed: set before the first incarnation
        words
            .enumerate()
            .flat_map(|(i, word)| {
                (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| i * 64 + bit)
            })
            .collect()
    }

    /// Where it runs as its server planned; for the server's row, where it may run.
    #[must_use]
    pub fn placed(&self) -> Placed {
        // Relaxed, both: set before the first incarnation.
        let node = (self.numa_node.load(Ordering::Relaxed) as usize).checked_sub(1);
        let why = Why::from_raw(self.why.load(Ordering::Relaxed));
        Placed { cpus: self.cpus(), node: node.filter(|&node| node < sys::cpu::CPU_LIMIT), why }
    }

    /// Records, once, where its incarnations run.
    pub(crate) fn assign(&self, placed: &Placed) {
        // Relaxed, both: before the segment is published.
        let node = placed.node.filter(|&node| node < sys::cpu::CPU_LIMIT).map_or(0, |node| node as u32 + 1);
        self.numa_node.store(node, Ordering::Relaxed);
        self.why.store(placed.why as u32, Ordering::Relaxed);
        for &cpu in placed.cpus.iter().filter(|&&cpu| cpu < sys::cpu::CPU_LIMIT) {
            // Relaxed: before the segment is published.
            self.cpus.0[cpu / 64].fetch_or(1 << (cpu % 64), Ordering::Relaxed);
        }
    }

    /// The server prepares a new incarnation; returns its token.
    ///
    /// # Safety
    /// `index` is this row's. The former incarnation, if any, acts no more: its process or thread has ended, or was
    /// never started. A participant that cannot ask the kernel takes the former one for dead from here on.
    pub unsafe fn prepare(&self, index: u32) -> Token {
        // The index is ours; only the epoch comes from the entry.
        let token = Token::new(index, self.token().map_or(0, Token::epoch) + 1);
        if self.life() != Life::Vacant {
            self.restarts.fetch_add(1, Ordering::Relaxed); // Relaxed: for reports
        }
        self.pid.store(0, Ordering::Relaxed);
        self.thread_id.store(0, Ordering::Relaxed);
        self.message_bytes.store(0, Ordering::Relaxed);
        self.counters.end_call(); // the former incarnation may have died in one
        self.since_ns.store(sys::time::now_ns(), Ordering::Relaxed); // Relaxed: for reports
        self.state.store(Life::Starting as u32, Ordering::Relaxed); // Relaxed: travels with the token
        crash_point!("participant.starting");
        self.token.store(token.raw(), Ordering::Release);
        crash_point!("participant.prepared");
        token
    }

    /// The server offers a client's row to the next incarnation.
    ///
    /// # Safety
    /// As for [`prepare`](Self::prepare).
    pub unsafe fn offer(&self, index: u32) {
        let token = Token::new(index, self.token().map_or(0, Token::epoch) + 1);
        self.pid.store(0, Ordering::Relaxed); // Relaxed, all: for reports
        self.thread_id.store(0, Ordering::Relaxed);
        self.start_time.store(0, Ordering::Relaxed);
        self.message_bytes.store(0, Ordering::Relaxed);
        crash_point!("participant.offering");
        self.token.store(token.raw(), Ordering::Release); // before VACANT: [byte before row] of `segment::client`
        crash_point!("participant.offered");
        self.record(Life::Vacant);
    }

    /// A client takes a row that is VACANT: → STARTING. `hold` locks a token's byte, and says whether no other process has
    /// it; `release` unlocks it. `None`: the row is not to be had.
    ///
    /// # Errors
    /// That of `hold`.
    pub(crate) fn claim<E>(
        &self,
        hold: impl FnOnce(Token) -> Result<bool, E>,
        release: impl FnOnce(Token),
    ) -> Result<Option<Token>, E> {
        let is_vacant = || self.state.load(Ordering::Acquire) == Life::Vacant as u32;
        let Some(token) = self.token().filter(|_| is_vacant()) else { return Ok(None) };
        if !hold(token)? {
            return Ok(None);
        }
        crash_point!("client.held");
        // [byte before row]: since we hold the byte, a row that is VACANT with this token stays so. AcqRel: [told].
        let claimed = is_vacant()
            && self.token() == Some(token)
            && self
                .state
                .compare_exchange(
                    Life::Vacant as u32,
                    Life::Starting as u32,
                    Ordering::AcqRel,
                    Ordering::Relaxed,
                )
                .is_ok();
        if claimed {
            return Ok(Some(token));
        }
        release(token);
        Ok(None)
    }

    /// Records that the participant has arrived: it runs in this process.
    pub fn arrive(&self) {
        let pid = std::process::id();
        self.start_time.store(sys::process::start_time(pid).unwrap_or(0), Ordering::Relaxed);
        self.occupy();
        crash_point!("participant.arriving");
        self.pid.store(pid, Ordering::Release);
    }

    /// Records that it runs in the calling thread; [`arrive`](Self::arrive) does so too.
    pub fn occupy(&self) {
        self.thread_id.store(sys::process::thread_id(), Ordering::Relaxed); // Relaxed: for reports
    }

    /// Its thread, as the kernel numbers it; 0: not known.
    #[must_use]
    pub fn thread_id(&self) -> u32 {
        self.thread_id.load(Ordering::Relaxed) // Relaxed: for reports
    }

    /// The CPUs on which the kernel lets its thread run, ascending; `None`: it has none, or cannot be seen from here.
    #[must_use]
    pub fn kernel_cpus(&self) -> Option<Vec<usize>> {
        sys::process::cpus_of_thread(self.pid(), self.start_time(), self.thread_id())
    }

    /// The server records that the incarnation is dead.
    ///
    /// # Safety
    /// It acts no more: its process or thread has ended, or was never started. A participant that cannot ask the kernel
    /// takes it for dead from here on.
    pub unsafe fn bury(&self) {
        self.record(Life::Dead);
    }

    /// The server records that the row has no incarnation, and waits for none.
    ///
    /// # Safety
    /// As for [`bury`](Self::bury).
    pub unsafe fn vacate(&self) {
        self.record(Life::Vacant);
    }

    /// Records what it is doing now.
    ///
    /// # Panics
    /// If that is [`Vacant`](Life::Vacant), [`Starting`](Life::Starting) or [`Dead`](Life::Dead): the server alone
    /// records those, by [`prepare`](Self::prepare), [`bury`](Self::bury) and [`vacate`](Self::vacate).
    pub fn set_life(&self, life: Life) {
        let own = !matches!(life, Life::Vacant | Life::Starting | Life::Dead);
        assert!(own, "no participant says of itself that it is {life:?}");
        self.record(life);
    }

    fn record(&self, life: Life) {
        self.since_ns.store(sys::time::now_ns(), Ordering::Relaxed); // Relaxed: for reports
        self.state.store(life as u32, Ordering::Release); // [told]
        crash_point!("participant.life");
    }

    /// Its construction has failed, or it gives up; or it is dead, and the supervisor gives it up. A message longer
    /// than [`MESSAGE_BYTES`] is cut.
    pub fn fail(&self, message: &[u8]) {
        self.write_message(message);
        self.set_life(Life::Failed);
    }

    /// It has stopped working, and is about to end: by a fatal error, if there is a message. A message longer than
    /// [`MESSAGE_BYTES`] is cut.
    pub fn leave(&self, message: &[u8]) {
        self.write_message(message);
        self.set_life(Life::Leaving);
    }

    fn write_message(&self, message: &[u8]) {
        let message = &message[..message.len().min(MESSAGE_BYTES)];
        for (to, from) in self.message.iter().zip(message.chunks(8)) {
            let mut eight = [0; 8];
            eight[..from.len()].copy_from_slice(from);
            to.store(u64::from_le_bytes(eight), Ordering::Relaxed); // Relaxed: travels with [told]
        }
        self.message_bytes.store(message.len() as u32, Ordering::Relaxed); // Relaxed: travels with [told]
        crash_point!("participant.failing");
    }

    /// The message of [`fail`](Self::fail) or [`leave`](Self::leave); empty in every other state.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        if !matches!(self.life(), Life::Failed | Life::Leaving) {
            return Vec::new();
        }
        let bytes = (self.message_bytes.load(Ordering::Relaxed) as usize).min(MESSAGE_BYTES);
        // Relaxed: [told] brought them. Words that a broken peer still changes are no worse than any other bytes.
        let words = self.message.iter().map(|word| word.load(Ordering::Relaxed));
        words.flat_map(u64::to_le_bytes).take(bytes).collect()
    }
}

/// The lease file: a byte an incarnation, locked while it lives.
///
/// Two descriptions of one file: a process takes locks through one and looks them up through the other, because a
/// description does not see its own locks. Both are close-on-exec.
///
/// A child that a participant forks closes the first one, so it holds nothing. A child made by `_Fork` or a bare
/// `clone` keeps it, and while that child lives the locks of a dead participant stay. So each byte belongs to an
/// incarnation, its token, not to a row: a successor has another byte. The supervisor learns the death from the kernel
/// by other means, and records it in the entry.
#[derive(Debug)]
pub struct Lease {
    hold: Unshared,
    probe: File,
    path: PathBuf,
}

/// The result of a try to take the server's byte.
enum Had {
    Lease(Lease),
    /// A living process has it.
    Taken,
    /// The file has lost its name meanwhile.
    NoName,
}

/// The rights of a lease file: its user's alone.
const MODE: u32 = 0o600;

/// Why a lease could not be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// The file is another user's. A user who may make files in the directory may take any name there first.
    #[error("its file belongs to user {owner}: only that user may use it")]
    Owner {
        /// The file's user.
        owner: u32,
    },
    /// It is a link, a directory, a pipe.
    #[error("its file is a link, a directory or a pipe, and no plain file")]
    Irregular,
    /// The operating system refused.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Why the lease of an anonymous segment could not be made.
#[derive(Debug)]
pub(crate) enum MemoryLeaseError {
    /// It cannot be opened a second time: `NotFound` if there is no `/proc`.
    NoSecond(io::Error),
    /// The operating system refused.
    System(io::Error),
}

/// Whether another process has the lock that we wanted.
pub(crate) fn is_taken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES))
}

impl Lease {
    /// Opening follows no link and waits for no pipe, and creates only a new file: so `fs.protected_regular` and its
    /// like have nothing to decide.
    fn options() -> OpenOptions {
        let mut options = OpenOptions::new();
        let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK;
        options.read(true).write(true).custom_flags(flags);
        options
    }

    /// Opens an existing lease file of this user; of any, for root.
    ///
    /// # Errors
    /// What opening it says; `PermissionDenied` for another user's.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::of_opened(Self::open_to_hold(path)?, Self::options().open(path)?, path.into())
    }

    fn open_to_hold(path: &Path) -> io::Result<Unshared> {
        Unshared::open(|| Self::options().open(path).map(Into::into))
    }

    /// Opens an existing lease file, if it is `user`'s; `None` if there is none.
    fn open_existing(path: &Path, user: u32) -> Result<Option<Unshared>, LeaseError> {
        let judge = |meta: &std::fs::Metadata| match meta.uid() {
            owner if owner != user => Err(LeaseError::Owner { owner }),
            _ if !meta.is_file() => Err(LeaseError::Irregular),
            _ => Ok(()),
        };
        match Self::open_to_hold(path) {
            Ok(hold) => {
                judge(&hold.file()?.metadata()?)?;
                Ok(Some(hold))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => {
                // Refused, or a link: the file's user says more than the error.
                std::fs::symlink_metadata(path).map_or(Ok(()), |meta| judge(&meta))?;
                Err(e.into())
            }
        }
    }

    /// Makes a lease file, whatever the umask; `None` if a file of that name exists.
    fn create(path: &Path) -> io::Result<Option<File>> {
        let file = match Self::options().create_new(true).mode(MODE).open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            Err(e) => return Err(e),
        };
        match file.set_permissions(std::fs::Permissions::from_mode(MODE)) {
            Ok(()) => Ok(Some(file)),
            Err(e) => {
                sys::file::remove_made(path, &file);
                Err(e)
            }
        }
    }

    /// Makes the lease of an anonymous segment, which is memory of this name, and takes the server's bytes. It has no
    /// path; messages call it by this one.
    ///
    /// # Errors
    /// What the system says; [`NoSecond`](MemoryLeaseError::NoSecond) without `/proc`.
    pub(crate) fn serve_in_memory(name: &str, path: PathBuf) -> Result<Self, MemoryLeaseError> {
        let hold = Unshared::open(|| sys::memfd::create(name).map(Into::into));
        let hold = hold.map_err(MemoryLeaseError::System)?;
        crash_point!("lease.memory");
        let again = |file: &File| sys::file::reopen(file, &path);
        let probe = hold.file().and_then(|file| again(&file)).map_err(MemoryLeaseError::NoSecond)?;
        let lease = Self { hold, probe, path };
        for byte in [SERVER, SERVES] {
            lease.hold_byte(byte).map_err(MemoryLeaseError::System)?;
        }
        Ok(lease)
    }

    /// The lease whose file `open` opens, each time with an open file description of its own; of this user, or of any,
    /// for root.
    ///
    /// # Errors
    /// What opening it says; `PermissionDenied` for another user's.
    pub(crate) fn of_description(open: impl Fn() -> io::Result<File>, path: PathBuf) -> io::Result<Self> {
        let (hold, probe) = (Unshared::open(|| open().map(Into::into))?, open()?);
        Self::of_opened(hold, probe, path)
    }

    fn of_opened(hold: Unshared, probe: File, path: PathBuf) -> io::Result<Self> {
        let (owner, user) = (hold.file()?.metadata()?.uid(), sys::process::user_id());
        if owner != user && user != 0 {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, LeaseError::Owner { owner }));
        }
        Ok(Self { hold, probe, path })
    }

    /// Makes a lease file and takes the server's bytes; `None` if a living server has the name.
    ///
    /// The server does not reuse a dead server's file: workers of the dead server may still be ending, and hold their
    /// bytes of it.
    ///
    /// # Errors
    /// See [`LeaseError`]; nothing is left behind.
    pub fn acquire_to_serve(path: &Path) -> Result<Option<Self>, LeaseError> {
        let begun = Instant::now();
        let user = sys::process::user_id();
        loop {
            let made = Self::create(path)?;
            crash_point!("lease.created");
            // Opened once more, as a descriptor that forked children do not keep.
            let made = match made {
                Some(file) => {
                    Self::open_existing(path, user).inspect_err(|_| sys::file::remove_made(path, &file))?
                }
                None => None,
            };
            match made {
                Some(hold) => match sys::file::try_lock_byte(&hold, SERVER) {
                    Ok(()) => {
                        let serving = Self::with_name(hold, path).and_then(|lease| {
                            crash_point!("lease.half");
                            lease.as_ref().map_or(Ok(()), |lease| lease.hold_byte(SERVES))?;
                            Ok(lease)
                        });
                        match serving {
                            Ok(Some(lease)) => return Ok(Some(lease)),
                            Ok(None) => {}
                            Err(e) => {
                                let _ = std::fs::remove_file(path); // which we have just made
                                return Err(e.into());
                            }
                        }
                    }
                    Err(e) if is_taken(&e) => {} // another process was faster, to remove it
                    Err(e) => {
                        if let Ok(file) = hold.file() {
                            sys::file::remove_made(path, &file);
                        }
                        return Err(e.into());
                    }
                },
                None => {
                    if let Some(_left) = Self::acquire_existing(path, user)? {
                        std::fs::remove_file(path)?; // while we hold it
                        crash_point!("lease.removed");
                        continue;
                    }
                }
            }
            let serves = match Self::open(path) {
                Ok(other) => other.is_served()?,
                Err(e) if e.kind() == io::ErrorKind::NotFound => false, // it has just been removed
                Err(e) => return Err(e.into()),
            };
            if serves {
                return Ok(None);
            }
            if begun.elapsed() >= REMOVAL_LIMIT {
                let why = "another process is removing a dead server's files and has not finished; it may be stopped: continue or kill it";
                return Err(io::Error::new(io::ErrorKind::TimedOut, why).into());
            }
            // The last worker of a dead server, or a user's command, removes its files.
            std::thread::sleep(REMOVAL_LOOK);
        }
    }

    /// Opens or creates `user`'s lease file and takes the server's byte; `None` if a living process has it. For the
    /// removal of a dead server's files.
    ///
    /// # Errors
    /// See [`LeaseError`].
    pub fn acquire(path: &Path, user: u32) -> Result<Option<Self>, LeaseError> {
        loop {
            let Some(hold) = Self::open_existing(path, user)? else {
                Self::create(path)?; // or another process has just made one
                continue;
            };
            match Self::lock_to_remove(hold, path)? {
                Had::Lease(lease) => return Ok(Some(lease)),
                Had::Taken => return Ok(None),
                Had::NoName => {}
            }
        }
    }

    /// [`acquire`](Self::acquire) of a file that exists; `None` also if it has just been removed.
    fn acquire_existing(path: &Path, user: u32) -> Result<Option<Self>, LeaseError> {
        let Some(hold) = Self::open_existing(path, user)? else { return Ok(None) };
        match Self::lock_to_remove(hold, path)? {
            Had::Lease(lease) => Ok(Some(lease)),
            Had::Taken | Had::NoName => Ok(None),
        }
    }

    fn lock_to_remove(hold: Unshared, path: &Path) -> io::Result<Had> {
        match sys::file::try_lock_byte(&hold, SERVER) {
            Ok(()) => Ok(Self::with_name(hold, path)?.map_or(Had::NoName, Had::Lease)),
            Err(e) if is_taken(&e) => Ok(Had::Taken),
            Err(e) => Err(e),
        }
    }

    /// The lease of a file whose server's byte we have just taken, if the file still has its name.
    fn with_name(hold: Unshared, path: &Path) -> io::Result<Option<Self>> {
        // A process removes a lease file only while it holds this lock; so if the file we have locked still has its
        // name, the name is ours until we unlock it.
        let probe = match Self::options().open(path) {
            Ok(probe) => probe,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let (ours, named) = (hold.file()?.metadata()?, probe.metadata()?);
        let same = (named.dev(), named.ino()) == (ours.dev(), ours.ino());
        Ok(same.then(|| Self { hold, probe, path: path.into() }))
    }

    /// The lease file by descriptors that are open: `hold` is an open file description that no other process locks by,
    /// `probe` one that no process locks by.
    ///
    /// # Safety
    /// Both are open file descriptions of the lease file at `path`. All bytes that are locked through `hold` are of
    /// participants of this process: dropping the lease unlocks them. No byte is locked through `probe`: it would look
    /// free through it, and its participant dead.
    #[must_use]
    pub unsafe fn of_files(hold: File, probe: File, path: &Path) -> Self {
        Self { hold: Unshared::adopt(hold.into()), probe, path: path.into() }
    }

    /// An open file description of its own, for another process to lock by. Locks belong to descriptions, and so end
    /// with the last process that has one.
    ///
    /// # Errors
    /// If this process may no longer open its file.
    pub fn reopen(&self) -> io::Result<Unshared> {
        Unshared::open(|| sys::file::reopen(&self.probe, &self.path).map(Into::into))
    }

    /// The description that no process locks by: any number of processes may look locks up through it.
    #[must_use]
    pub fn probe(&self) -> &File {
        &self.probe
    }

    /// The file's number in its file system: another file may have the name later.
    ///
    /// # Errors
    /// What the system says.
    pub fn file_number(&self) -> io::Result<u64> {
        Ok(self.probe.metadata()?.ino())
    }

    /// The facts of both descriptions' files.
    pub(crate) fn metadata(&self) -> io::Result<[Metadata; 2]> {
        Ok([self.hold.file()?.metadata()?, self.probe.metadata()?])
    }

    /// Takes the byte of an incarnation, which runs in this process: before it does anything in the segment
    /// (`[lease before deeds]`).
    ///
    /// # Errors
    /// `EAGAIN` if another process has it; `EBADF` in a forked child of the process that opened the lease.
    pub fn hold(&self, token: Token) -> io::Result<()> {
        self.hold_byte(byte_of(token))
    }

    fn hold_byte(&self, byte: u32) -> io::Result<()> {
        sys::file::try_lock_byte(&self.hold, byte)
    }

    /// Unlocks the byte of an incarnation. A forked child has none to unlock.
    ///
    /// # Safety
    /// Nothing acts under the token any more: to all others it is dead from here on.
    pub unsafe fn release(&self, token: Token) {
        if self.hold.is_ours() {
            sys::file::unlock_byte(&self.hold, byte_of(token));
        }
    }

    /// Unlocks all bytes that are locked through `spare`, a description that the server has [opened](Self::reopen) for a
    /// worker's process and shares with it. A forked child has none to unlock.
    ///
    /// # Safety
    /// Nothing acts any more under a token whose byte was locked through `spare`: to all others it is dead from here on.
    pub unsafe fn release_all(spare: &Unshared) {
        if spare.is_ours() {
            sys::file::unlock_all(spare);
        }
    }

    /// Whether a process holds the byte of an incarnation: the participant lives, or a child of it that shares its
    /// locks.
    ///
    /// # Errors
    /// What the kernel says; nothing is known then.
    pub fn is_held(&self, token: Token) -> io::Result<bool> {
        self.is_byte_held(byte_of(token))
    }

    fn is_byte_held(&self, byte: u32) -> io::Result<bool> {
        sys::file::byte_is_locked(&self.probe, byte)
    }

    /// Whether its server lives, not only a process that removes a dead server's files.
    ///
    /// # Errors
    /// What the kernel says; nothing is known then.
    pub fn is_served(&self) -> io::Result<bool> {
        self.is_byte_held(SERVES)
    }

    /// Whether the server's own byte is held: by the server, or by a process that removes a dead server's files.
    ///
    /// # Errors
    /// What the kernel says; nothing is known then.
    pub fn is_taken(&self) -> io::Result<bool> {
        self.is_byte_held(SERVER)
    }

    /// The lease file's path; of an anonymous segment, the path by which messages call it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Closing is not enough: a child that keeps a copy shares the description, and with it the locks. Such a child
        // must not unlock its parent's.
        if self.hold.is_ours() {
            sys::file::unlock_all(&self.hold);
        }
    }
}

/// Whether the incarnation `token` is proven dead. The kernel is asked first: an incarnation whose byte of the lease is
/// held is alive, whatever lies in the table. (Or a child that it made by `_Fork` holds the byte: then the server,
/// which learns the death by other means, frees and answers the dead participant's tasks.) Only if the kernel cannot be
/// asked is the table believed: that the row has another incarnation, or that the server found this one dead.
#[must_use]
pub(crate) fn is_dead(
    entries: &[Entry],
    is_held: impl FnOnce(Token) -> io::Result<bool>,
    token: Token,
) -> bool {
    let Some(entry) = entries.get(token.index() as usize) else {
        return true; // no such row: no living participant can have written it
    };
    match is_held(token) {
        Ok(held) => !held,
        Err(_) => entry.token() != Some(token) || matches!(entry.life(), Life::Dead | Life::Vacant),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acquire(path: &Path) -> Result<Option<Lease>, LeaseError> {
        Lease::acquire(path, sys::process::user_id())
    }

    #[test]
    fn a_lease_is_seen_from_its_own_process_and_ends_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lease");
        let lease = acquire(&path).unwrap().expect("no process has it");
        assert!(lease.is_taken().unwrap());
        let token = Token::new(1, 1);
        assert!(!lease.is_held(token).unwrap());
        lease.hold(token).unwrap();
        assert!(
            lease.is_held(token).unwrap() && !lease.is_held(token.next()).unwrap(),
            "its successor's is another"
        );
        // SAFETY: nothing acts under it.
        unsafe { lease.release(token) };
        assert!(!lease.is_held(token).unwrap());
        assert!(acquire(&path).unwrap().is_none(), "in use");
        let other = Lease::open(&path).unwrap();
        assert!(other.is_taken().unwrap());
        drop(lease);
        assert!(!other.is_taken().unwrap());
        assert!(acquire(&path).unwrap().is_some());
    }

    #[test]
    fn a_start_waits_for_a_remover_and_not_for_a_server() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lease");
        let remover = acquire(&path).unwrap().expect("no process has it");
        let starting = std::thread::spawn({
            let path = path.clone();
            move || Lease::acquire_to_serve(&path)
        });
        std::fs::remove_file(&path).unwrap();
        drop(remover);
        let server = starting.join().unwrap().unwrap().expect("its remover has gone");
        assert!(server.is_taken().unwrap());
        assert!(Lease::acquire_to_serve(&path).unwrap().is_none(), "in use");
        assert!(acquire(&path).unwrap().is_none(), "nothing to remove");
        drop(server);
        assert!(Lease::acquire_to_serve(&path).unwrap().is_some());
    }

    /// A remover that has been stopped, say: the server waits for it, and then gives up.
    #[test]
    fn a_remover_that_does_not_end_is_no_server() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lease");
        let remover = acquire(&path).unwrap().expect("no process has it");
        assert!(!remover.is_served().unwrap());
        match Lease::acquire_to_serve(&path) {
            Err(LeaseError::System(error)) => assert_eq!(error.kind(), io::ErrorKind::TimedOut),
            other => panic!("{other:?}"),
        }
        assert!(remover.is_taken().unwrap() && path.exists(), "it was left alone");
    }

    #[test]
    fn a_server_does_not_share_a_file_with_the_workers_of_a_dead_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lease");
        let server = Lease::acquire_to_serve(&path).unwrap().unwrap();
        let worker = Lease::open(&path).unwrap();
        worker.hold(Token::new(1, 1)).unwrap();
        drop(server);
        let server = Lease::acquire_to_serve(&path).unwrap().expect("it is dead");
        assert!(!server.is_held(Token::new(1, 1)).unwrap(), "that worker is not ours");
        assert!(!worker.is_taken().unwrap(), "its server is still dead");
    }

    #[test]
    fn a_lease_through_a_symlink_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        std::fs::write(&target, "precious").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(matches!(acquire(&link), Err(LeaseError::Irregular)));
        assert!(matches!(Lease::acquire_to_serve(&link), Err(LeaseError::Irregular)));
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious");
    }
}
