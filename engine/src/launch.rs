//! Starting a worker's process, and what it does first.
//!
//! # Protocol
//!
//! The server prepares the worker's places, one for each of its threads (STARTING, a new token), then starts
//! the executable that it holds open with one environment variable that names the first place, all tokens, server and
//! segment. With it come descriptors: the segment's file, the lease's, and one end of a
//! [tether](ringmill_shm::sys::tether); names are looked up only where a program in between has closed them.
//! There, before `main`: `init!` takes the variable away, ends the process if it is of another build than the server wants,
//! runs what else runs before `main` (see `registry`), pins the process, attaches the segment, takes its bytes of the
//! lease, and starts the threads. A process that has the variable
//! and cannot follow the order ends there, with exit code 97 and the reason; it is never the program. Each constructs its worker and says READY, when all of them
//! can, or FAILED (with an error record) in its place and on the start-up bell. All workers do so side by
//! side; the server sleeps on that one bell.
//!
//! The start-up bell is a futex in the segment, not a process-shared mutex with a condition variable: a
//! worker killed while it signals such an event leaves the mutex locked and the server waiting for ever.
//!
//! Over the tether the worker says why it cannot join ([`Word::Reason`]), what an operator should know
//! ([`Word::Warning`]) and which build it is ([`Word::Build`]); the server says that it is to end at once
//! ([`END_AT_ONCE`]), which its watcher thread does: the way out where the server may send no signals.
//!
//! # Crash
//!
//! A worker that dies on the way is seen by the supervisor's pidfd. One that runs another program in its place, or closes
//! its descriptors, is seen by its tether. One thread that fails or panics has the
//! others leave, so that its process ends. A server that dies, or runs another program in its place, is seen by each
//! worker's watcher thread, by pidfd and tether; it gives the worker a second to clean up; the last to leave removes the
//! segment.
#![expect(
    unsafe_code,
    reason = "what is done before `main`: taking the order out of the environment, running constructors"
)]

use crate::clock::deadline;
use crate::error::{JoinError, NOT_A_WORKER, RemoteError, STOPPED_BY_ERROR};
use crate::janitor::{self, Janitor};
use crate::order::{Descriptor, Order, Origin};
use crate::payload;
use crate::plan::Live;
use crate::registry::{self, NOTE};
use crate::run::{Left, Seat};
use crate::supervisor::KILL_LIMIT;
use crate::unit::Unit;
use crate::worker::Stop;
use ringmill_shm::participant::{Lease, Life, MESSAGE_BYTES, SERVER};
use ringmill_shm::segment::{Place, Segment, remove_if_stale};
use ringmill_shm::sys::build_id::BuildId;
use ringmill_shm::sys::child::Child;
use ringmill_shm::sys::cpu;
use ringmill_shm::sys::file::{beyond_standard, set_close_on_exec};
use ringmill_shm::sys::image::{Image, RootDirectory, open_directory};
use ringmill_shm::sys::process::{
    GROUP_SIGNALS, PidFd, Watch, exit_now, ignore_signal, is_unwaited_child, kill_by_number,
    open_standard_descriptors, outlive_group_signals, user_id, wait_readable,
};
use ringmill_shm::sys::program::{
    Arguments, Constructor, Object, note_of_executable, object_of, run_constructors_after,
};
use ringmill_shm::sys::stack::{name_thread, tell_of_overflow};
use ringmill_shm::sys::tether::{Received, Tether};
use ringmill_shm::sys::unshared::Unshared;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// Tells a process that it is a worker: an [`Order`]. Nothing of it is secret: other users may see it, where the system
/// shows them the environment of processes that are not theirs.
pub(crate) const VARIABLE: &str = "RINGMILL_WORKER";
/// How often to look at a child of which nothing tells when it ends.
const LOOK_AT_CHILD: Duration = Duration::from_millis(5);
/// What else is to be known where it comes without a server.
const NEVER_THE_PROGRAM: &str = " (a process that has RINGMILL_WORKER in its environment is never the program itself; unset it to run that)";
/// How long a worker may clean up after the server's process has gone.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How often a worker's watcher looks whether it still has what it is told by.
const LOOK_AT_ITSELF: Duration = Duration::from_secs(1);

/// How long a worker waits until the end of a server is confirmed whose tether is closed: the kernel closes one
/// descriptor after the other.
const CONFIRMATION_LIMIT: Duration = Duration::from_millis(200);
const CONFIRMATION_LOOK: Duration = Duration::from_millis(1);

/// The message by which a server ends a worker that it may not kill.
pub(crate) const END_AT_ONCE: &[u8] = b"end";

/// What a worker says over its tether.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Word {
    /// It cannot join, and why.
    Reason(String),
    /// It has joined, but an operator should know this.
    Warning(String),
    /// Which build it is.
    Build(BuildId),
}

impl Word {
    fn to_message(&self) -> Vec<u8> {
        let (kind, text) = match self {
            Self::Reason(text) => ('r', text.clone()),
            Self::Warning(text) => ('w', text.clone()),
            Self::Build(build) => ('b', build.to_string()),
        };
        format!("{kind}{text}").into_bytes()
    }

    fn parse(message: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(message.get(1..)?).into_owned();
        match message[0] {
            b'r' => Some(Self::Reason(text)),
            b'w' => Some(Self::Warning(text)),
            b'b' => BuildId::parse(&text).map(Self::Build),
            _ => None,
        }
    }
}

/// What a server has held since its start, for the processes that it starts.
#[derive(Debug)]
pub(crate) struct Held {
    /// Their standard input.
    nothing: File,
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
    fn root_to_return_to(&self, janitor: Option<&Janitor>) -> Option<File> {
        if user_id() != 0 || !self.root.has_changed() {
            return None;
        }
        let held = self.held_root.lock().unwrap_or_else(|e| e.into_inner());
        match &*held {
            Some(root) => root.try_clone().ok(),
            None => janitor?.root(),
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

/// A worker's process, as its supervisor has it.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) pidfd: PidFd,
    /// None once the other end is closed.
    pub(crate) tether: Option<Tether>,
    /// Why it cannot join, as it says.
    pub(crate) reason: Option<String>,
    /// Alive without its tether: it has run another program in its place, or closed its descriptors.
    pub(crate) strayed: bool,
}

/// Starts a worker's process. `title` is what a process list shows; of variables with one name the last
/// counts. The order's descriptors, build and name are filled in.
pub(crate) fn spawn(
    recipe: &Recipe,
    title: &str,
    mut order: Order,
    segment: &Segment,
    janitor: Option<&Janitor>,
) -> Result<(Process, Option<String>), SpawnError> {
    let (ours, theirs) = Tether::pair()?;
    let lease = segment.lease();
    // A child that another thread forks now keeps neither: it would hold the worker's byte of the lease, and its tether.
    let own = lease.open_again();
    let (hold, theirs) = (own.as_ref().unwrap_or(&recipe.spare).file()?, theirs.file()?);
    let kept = [segment.file(), &hold, lease.probe(), &theirs];
    let mut descriptors = Vec::with_capacity(kept.len());
    for file in kept {
        descriptors.push(Descriptor::of(file)?);
    }
    order.descriptors = descriptors.try_into().ok();
    order.build = recipe.build.clone();
    order.name = recipe.image.name().to_str().unwrap_or_default().into();
    let mut command = recipe.image.command();
    command
        .args(["worker", title])
        .envs(recipe.env.iter().map(|(key, value)| (key, value)))
        .env(VARIABLE, order.to_text());
    let (input, kept) = (recipe.held.nothing.as_raw_fd(), kept.map(AsRawFd::as_raw_fd));
    let root = recipe.held.root_to_return_to(janitor);
    let (mut child, fallback) =
        recipe.image.spawn(&command, "ringmill", input, &kept, GROUP_SIGNALS, root.as_ref())?;
    crash_point!("supervisor.started");
    let warning = fallback.map(|fallback| fallback.to_string()).or_else(|| {
        let error = own.err()?;
        Some(format!("its lease could not be opened again ({error}); it shares the server's description"))
    });
    match PidFd::of_child(child.id()) {
        Ok(pidfd) => {
            let process = Process { child, pidfd, tether: Some(ours), reason: None, strayed: false };
            Ok((process, warning))
        }
        Err(error) => {
            // Without a descriptor its death could not be noticed. If it has gone already, its pid
            // may be another's.
            drop(ours); // it ends when it sees that, should it get no signal
            let pid = child.id();
            let mut ended = !is_unwaited_child(pid);
            if !ended {
                let _ = child.kill(); // what counts is whether it ends
                let until = deadline(KILL_LIMIT);
                while !ended && Instant::now() < until {
                    std::thread::sleep(LOOK_AT_CHILD); // nothing tells of its end: that is what failed
                    ended = !matches!(child.try_wait(), Ok(None));
                }
            }
            Err(SpawnError { error, survivor: (!ended).then_some(pid) })
        }
    }
}

/// Why there is no process.
#[derive(Debug)]
pub(crate) struct SpawnError {
    pub(crate) error: std::io::Error,
    /// There is one all the same, which could not be ended.
    pub(crate) survivor: Option<u32>,
}

impl From<std::io::Error> for SpawnError {
    fn from(error: std::io::Error) -> Self {
        Self { error, survivor: None }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ended {
    /// As the kernel says.
    As(ExitStatus),
    /// That is not known: the program ignores SIGCHLD, waits for every child that it has, or may not wait for any.
    Somehow,
}

impl Ended {
    pub(crate) fn signal(self) -> Option<i32> {
        match self {
            Self::As(status) => status.signal(),
            Self::Somehow => None,
        }
    }

    pub(crate) fn code(self) -> Option<i32> {
        match self {
            Self::As(status) => status.code(),
            Self::Somehow => None,
        }
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.signal(), self.code()) {
            (Some(signal), _) => write!(f, "killed by signal {signal}"),
            (None, Some(code)) => write!(f, "exit code {code}"),
            (None, None) => f.write_str("how is not known, because something else in this program waited for it (a wait for any child, or SIGCHLD is ignored)"),
        }
    }
}

impl Process {
    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<Ended> {
        match self.child.try_wait() {
            Ok(Some(status)) => Some(Ended::As(status)),
            Ok(None) => None,
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Some(Ended::Somehow),
            // We may not wait; whether it is over we can see.
            Err(_) => {
                wait_readable(&[self.pidfd.as_raw_fd()], Some(Duration::ZERO))[0].then_some(Ended::Somehow)
            }
        }
    }

    /// Waits until it has ended, for so long.
    pub(crate) fn await_end(&mut self, limit: Duration) -> Option<Ended> {
        let until = deadline(limit);
        loop {
            let ended = self.ended();
            let left = until.saturating_duration_since(Instant::now());
            if ended.is_some() || left.is_zero() {
                return ended;
            }
            wait_readable(&[self.pidfd.as_raw_fd()], Some(left.min(Duration::from_millis(100))));
        }
    }

    /// What it has said since the last look. Its tether is gone after that if the other end is closed.
    pub(crate) fn words(&mut self) -> Vec<Word> {
        let mut words = Vec::new();
        while let Some(tether) = &self.tether {
            match tether.receive() {
                Received::Message(message) => words.extend(Word::parse(&message)),
                Received::Nothing => break,
                Received::Over => self.tether = None,
            }
        }
        words
    }
}

/// Ends exactly this process, in whatever way this one may: by signal; or by its watcher thread, which is told so. Does
/// not wait, and does not say whether it worked: a process that is stopped obeys signals only.
pub(crate) fn kill(process: &Process) {
    let Err(_refused) = process.pidfd.send_signal(libc::SIGKILL) else { return };
    // A filter may know the one call and not the other; the pid of a child that nobody has waited for is its own.
    let pid = process.child.id();
    if is_unwaited_child(pid) && kill_by_number(pid).is_ok() {
        return;
    }
    if let Some(tether) = &process.tether {
        let _ = tether.send(END_AT_ONCE); // it may have ended already
    }
}

/// How far this process is on its way to being a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Way {
    /// It was not ordered to be one, as far as is known.
    None,
    /// It was ordered to be one; what comes before `main` is under way.
    Ordered,
    /// It is one.
    Worker,
}

/// A [`Way`]; changed before `main` only.
static WAY: AtomicU8 = AtomicU8::new(Way::None as u8);

// Relaxed, both: one thread has gone this way before there are others.
fn is_on_way(way: Way) -> bool {
    WAY.load(Ordering::Relaxed) == way as u8
}

fn set_way(way: Way) {
    WAY.store(way as u8, Ordering::Relaxed);
}

/// Ends this process, which was ordered to be a worker and cannot be one. At once: nothing of the program that it would
/// otherwise be has begun, so nothing of it is to run at the end.
fn refuse(reason: &str) -> ! {
    if !say(&Word::Reason(reason.into())) {
        eprintln!("ringmill worker: {reason}");
    }
    exit_now(NOT_A_WORKER)
}

/// What ties this process to its server, if it is a worker.
static TETHER: OnceLock<Tether> = OnceLock::new();

pub(crate) fn tether() -> Option<&'static Tether> {
    TETHER.get()
}

/// Tells the server; false if it is not told.
fn say(word: &Word) -> bool {
    TETHER.get().is_some_and(|tether| tether.send(&word.to_message()).is_ok())
}

/// Ends a process that was started as a worker, has not become one, and is about to start a server. Were it to go on, it
/// would start workers that start workers.
pub(crate) fn exit_if_unfulfilled_worker() {
    if is_on_way(Way::Ordered) {
        refuse(
            "something that runs before `main` starts a server; in a worker's process it would do so again",
        );
    }
    if std::env::var_os(VARIABLE).is_some() {
        refuse("this program has no ringmill::init! that lists the worker's type");
    }
}

/// Ends a process that was ordered to be a worker, in a program without an `init!`: nothing of it is to run.
pub(crate) fn end_if_ordered(slot: *const Constructor) {
    if is_on_way(Way::None) && std::env::var_os(VARIABLE).is_some() && !is_the_executables_turn(slot) {
        refuse(&format!("this program has no ringmill::init!, so it cannot be one{NEVER_THE_PROGRAM}"));
    }
}

/// Whether that constructor is a library's, and the executable has an `init!` that will follow the order. One that has
/// none will not: then the library ends the process.
fn is_the_executables_turn(slot: *const Constructor) -> bool {
    if object_of(slot as usize) == Some(Object::Executable) {
        return false;
    }
    if note_of_executable(NOTE).is_none() {
        let why = "its ringmill::init! is in a library, not in the executable, so it cannot be one";
        refuse(&format!("{why}{NEVER_THE_PROGRAM}"));
    }
    true
}

/// What each `init!` does before `main`, once its types are listed. In a process that was ordered to be a worker, the first
/// one does not return.
///
/// # Safety
/// It is called by the constructor in `slot`, before `main`, with what that was called with.
pub(crate) unsafe fn begin(slot: *const Constructor, arguments: Arguments) {
    let _ = crate::cpus::allowed(); // before anything is pinned
    if !is_on_way(Way::None) {
        return; // the first one runs us, and goes on when all have listed their types
    }
    let Some(text) = std::env::var_os(VARIABLE) else { return };
    if is_the_executables_turn(slot) {
        return;
    }
    // First of all, so that no child of this process is ever taken for a worker.
    // SAFETY: no other thread exists yet, see the header of `registry`.
    unsafe { std::env::remove_var(VARIABLE) };
    set_way(Way::Ordered);
    if let Some(order) = text.to_str().and_then(|text| text.strip_prefix(janitor::ORDER)) {
        janitor::live(order);
    }
    let order = Order::parse(&text).unwrap_or_else(|error| refuse(&format!("{error}{NEVER_THE_PROGRAM}")));
    settle_in(order.descriptors.as_ref().map_or(&[], |all| &all[..]), &order.name);
    crash_point!("launch.ordered");
    if let Err(error) = check_build(&order) {
        exit_now(complain(&error, order.origin, &order.segment)); // nothing of another build is to run
    }
    // SAFETY: as the caller says; this process ends below.
    if !unsafe { run_constructors_after(slot, arguments) } {
        eprintln!(
            "ringmill worker: cannot find what else this program runs before `main`, and goes on without"
        );
    }
    set_way(Way::Worker);
    // Nothing may unwind into the C runtime that called us.
    let code = crate::panics::caught(|| fulfil(order)).unwrap_or_else(|panic| {
        eprintln!("ringmill worker: {panic}");
        1
    });
    std::process::exit(code);
}

/// What a worker's process does before it, or anybody in it, can start another: signals that are sent to the whole
/// group have no effect on it, since the server tells it when to go; and nobody inherits what it has from the server.
/// The last descriptor is the tether.
pub(crate) fn settle_in(descriptors: &[Descriptor], name: &str) {
    for descriptor in descriptors {
        set_close_on_exec(descriptor.number);
    }
    if let Some(tether) = descriptors.last().and_then(|tether| tether.take_over()) {
        let _ = TETHER.set(Tether::of(tether)); // nobody has set it before
    }
    open_standard_descriptors(); // before anything else is opened
    outlive_group_signals();
    ignore_signal(libc::SIGPIPE); // as `main` would have it
    if !name.is_empty()
        && let Ok(name) = CString::new(name)
    {
        name_thread(&name); // it was started by a descriptor, and is called as that
    }
}

/// Becomes the worker; the code to exit with.
fn fulfil(order: Order) -> i32 {
    let (origin, place) = (order.origin, order.segment.clone());
    let complain = |error| complain(&error, origin, &place);
    let seats = match join(order) {
        Ok(seats) => seats,
        Err(error) => return complain(error),
    };
    let Some(seat) = seats.first() else { refuse("its order has no place for it") };
    let info = seat.node().info();
    let live = match registry::find(&info.worker_type, info.type_hash) {
        Ok(live) => live,
        Err(error) => refuse(&error.to_string()),
    };
    if let Err(error) = watch_server(Arc::clone(seat), origin.pid) {
        return complain(error);
    }
    crash_point!("launch.watches");
    let mut threads = Vec::new();
    for seat in &seats[1..] {
        let (seat, live) = (Arc::clone(seat), Arc::clone(&live));
        let name = format!("ringmill-stream-{}", seat.thread());
        let body = move || {
            let _told = tell_of_overflow(overflow_message(&seat, "RUST_MIN_STACK"));
            occupy(&seat, &live)
        };
        match std::thread::Builder::new().name(name).spawn(body) {
            Ok(thread) => threads.push(thread),
            // The process ends with all that it has begun; nothing was claimed yet that will not be repaired.
            Err(error) => return complain(JoinError::System { what: "start a thread", error }),
        }
    }
    let _told = tell_of_overflow(overflow_message(seat, "ulimit -s"));
    let first = occupy(seat, &live);
    let codes = threads.into_iter().map(|thread| crate::panics::joined(thread).unwrap_or(1));
    codes.fold(first, i32::max)
}

/// Says why this process cannot join; the code to exit with. That a worker could not join a server which was killed
/// meanwhile is not worth a line.
fn complain(error: &JoinError, origin: Origin, place: &Place) -> i32 {
    let told = say(&Word::Reason(error.to_string()));
    if origin.has_ended(place) {
        let _ = remove_if_stale(place, false); // perhaps nobody else will
    } else if !told {
        eprintln!("ringmill worker: {error}");
    }
    1
}

/// What a worker's thread that overflows its stack says; `size` is what sets how large that is. The text stays for as long as
/// the process.
fn overflow_message(seat: &Seat, size: &str) -> &'static str {
    let worker = seat.context().name();
    format!("ringmill worker {worker}: its thread has overflowed its stack, whose size is set by {size}\n")
        .leak()
}

/// Lives in a seat until it is left, in whatever way; the code to exit with.
pub(crate) fn occupy(seat: &Arc<Seat>, live: &Live) -> i32 {
    let lived = crate::panics::caught(std::panic::AssertUnwindSafe(|| live(Arc::clone(seat))));
    let left = lived.unwrap_or_else(|panic| Left::Fatal(seat.error(0, panic)));
    leave(seat, left)
}

/// Two builds of a program do not work together: a type's name says nothing of what its bytes mean.
fn check_build(order: &Order) -> Result<(), JoinError> {
    let Some(ours) = BuildId::of_this_process() else { return Ok(()) };
    match &order.build {
        Some(wanted) if wanted.is_of_note() == ours.is_of_note() && *wanted != ours => {
            let program = std::env::current_exe().unwrap_or_default();
            Err(JoinError::Build { wanted: wanted.clone(), ours, program })
        }
        Some(_) => Ok(()),
        None => {
            say(&Word::Build(ours));
            Ok(())
        }
    }
}

/// The right to have tasks of a segment in hand.
pub(crate) fn take_part(segment: Segment) -> Segment {
    // SAFETY: the engine's side of the contract: an id is in one hand at a time, from the free ids (`slots`) to a `Filled`,
    // a `Pending`, a stream's list or a `Reply`, and back; workers claim under the reader lock, and each item's `Parked`
    // lies on one desk, of which one guard is made at a time (`run`); the supervisor alone repairs, and what is proven dead.
    unsafe { segment.take_part() }
}

/// One seat for each of the order's places.
fn join(order: Order) -> Result<Vec<Arc<Seat>>, JoinError> {
    let given = |index: usize| order.descriptors.and_then(|all| all[index].take_over());
    let (segment, hold, probe) = (given(0), given(1), given(2));
    let segment = match (segment, hold, probe) {
        (Some(segment), Some(hold), Some(probe)) => {
            let lease = Lease::of_files(hold, probe, &order.segment.lease_path());
            Segment::adopt(order.segment, payload::PAYLOAD_FORMAT, segment, lease)?
        }
        // A program between the server and us has closed them.
        _ => Segment::attach(order.segment, payload::PAYLOAD_FORMAT)?,
    };
    let segment = take_part(segment);
    let origin = Origin::of(&segment)
        .map_err(|error| JoinError::System { what: "look at the server's lease", error })?;
    if origin != order.origin {
        return Err(JoinError::Place(order.place));
    }
    crash_point!("launch.attached");
    let tokens = || (order.place..).zip(order.tokens.iter().copied());
    let mut entries = Vec::with_capacity(order.tokens.len());
    for (place, token) in tokens() {
        let entry = segment.participants().get(place as usize).filter(|_| place != SERVER);
        entries.push(entry.filter(|e| e.token() == Some(token)).ok_or(JoinError::Place(place))?);
    }
    let cpus = entries.first().map_or(Vec::new(), |entry| entry.cpus());
    if !cpus.is_empty() {
        // Checked against the allowed set when planned; it may have shrunk since.
        if let Err(error) = cpu::pin_thread(&cpus) {
            say(&Word::Warning(format!("cannot be pinned to its CPUs {cpus:?} and runs on any: {error}")));
        }
    }
    for (_, token) in tokens() {
        // *lease before deeds*.
        let held = segment.lease().hold(token);
        held.map_err(|error| JoinError::System { what: "take the worker's lease", error })?;
    }
    crash_point!("launch.leased");
    entries.iter().for_each(|entry| entry.arrive());
    let segment = Arc::new(segment);
    let unit = Arc::new(Unit::new(order.place..order.place + order.tokens.len() as u32));
    let seat = |(place, token)| {
        let (segment, unit) = (Arc::clone(&segment), Arc::clone(&unit));
        let seat = Seat::new(segment, place, token, order.wait, Arc::default(), unit);
        seat.map(Arc::new).ok_or(JoinError::Place(place))
    };
    tokens().map(seat).collect()
}

/// Starts the thread that ends this process when the server's has gone, or says so.
fn watch_server(seat: Arc<Seat>, server: u32) -> Result<(), JoinError> {
    let system = |what| move |error| JoinError::System { what, error };
    let server = match PidFd::open(server) {
        Ok(server) => Some(server),
        Err(_) if TETHER.get().is_some() => None, // it is gone, or this system call is refused: the tether tells
        Err(error) => return Err(system("watch the server")(error)),
    };
    // If it had died before we opened it, the descriptor may be another process's; the lease tells.
    if !seat.segment.lease().is_served().map_err(system("ask for the server's lease"))? {
        return Err(JoinError::System {
            what: "join a server that is gone",
            error: std::io::ErrorKind::NotFound.into(),
        });
    }
    let watch = move || {
        await_end_of_server(&seat, server.as_ref(), TETHER.get());
        crash_point!("launch.orphaned");
        seat.unit.orphan(&seat.segment);
        seat.segment.startup().ring();
        // The worker's first thread exits the process when all are done; this is for one that is not.
        std::thread::sleep(LAST_WORDS); // the wait itself is the point: a time limit
        remove_segment(&seat);
        exit_now(1);
    };
    std::thread::Builder::new()
        .name("ringmill-watch".into())
        .spawn(watch)
        .map_err(system("start a thread"))?;
    Ok(())
}

/// Returns when the server's process has ended, or runs another program. Ends this process where the server says so, and
/// where user code has closed its tether: no word of the server would come any more.
fn await_end_of_server(seat: &Seat, server: Option<&PidFd>, tether: Option<&Tether>) {
    let fds = server.map(AsRawFd::as_raw_fd).into_iter().chain(tether.map(AsRawFd::as_raw_fd));
    let fds: Vec<i32> = fds.collect();
    let has_ended =
        || server.is_some_and(|server| wait_readable(&[server.as_raw_fd()], Some(Duration::ZERO))[0]);
    let watch = Watch::of(&fds); // refused, by a filter say: then the server is not told at once that a tether is closed
    let own = tether.and_then(Tether::identity);
    loop {
        match &watch {
            Ok(watch) => watch.wait(LOOK_AT_ITSELF),
            Err(_refused) => drop(wait_readable(&fds, Some(LOOK_AT_ITSELF))),
        }
        if tether.and_then(Tether::identity) != own {
            exit_now(1);
        }
        if has_ended() {
            return;
        }
        match tether.map(Tether::receive) {
            Some(Received::Message(message)) if message == END_AT_ONCE => exit_now(1),
            Some(Received::Over) => break,
            _ => {}
        }
    }
    // Nobody but the server had the other end.
    let begun = Instant::now();
    while begun.elapsed() < CONFIRMATION_LIMIT {
        if has_ended() || matches!(seat.segment.lease().is_served(), Ok(false)) {
            return;
        }
        std::thread::sleep(CONFIRMATION_LOOK); // of a lock's release nobody is told
    }
    exit_now(1) // it lives and serves, and has given this worker up
}

/// Says how it went; the code to exit with.
fn leave(seat: &Seat, left: Left) -> i32 {
    let fail = |error: &RemoteError, code| {
        seat.entry().fail(&boot_message(error));
        seat.segment.startup().ring();
        seat.unit.fail(&seat.segment);
        code
    };
    match left {
        Left::Stopped(Stop::ServerGone) => {
            seat.entry().set_life(Life::Leaving);
            remove_segment(seat);
            0
        }
        Left::Stopped(Stop::Shutdown | Stop::Fatal) => {
            seat.entry().set_life(Life::Leaving);
            0
        }
        Left::Unborn(error) => fail(&error, 1),
        // It may have said why before it cleaned up; what may be read is not written again.
        Left::Fatal(_) if seat.entry().life() == Life::Leaving && !seat.entry().message().is_empty() => {
            seat.entry().set_life(Life::Failed);
            seat.segment.startup().ring();
            STOPPED_BY_ERROR
        }
        Left::Fatal(error) => fail(&error, STOPPED_BY_ERROR),
    }
}

/// The server's process is gone, so nobody else will: whoever comes last finds the lease free.
fn remove_segment(seat: &Seat) {
    let _ = remove_if_stale(seat.segment.place(), false);
}

/// What is left in the place of a worker that could not start, or gave up: a line for people, a zero byte, and the
/// error record.
pub(crate) fn boot_message(error: &RemoteError) -> Vec<u8> {
    let mut error = error.clone();
    loop {
        let mut message = error.cause.to_string().into_bytes();
        message.truncate(256);
        message.push(0);
        if let Ok(record) = payload::to_bytes(&error) {
            message.extend(record);
        }
        if message.len() <= MESSAGE_BYTES || !error.shorten() {
            return message;
        }
    }
}

/// The error record of a boot message.
pub(crate) fn read_boot_message(message: &[u8]) -> Option<RemoteError> {
    let record = message.splitn(2, |&b| b == 0).nth(1)?;
    payload::copied(record).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::RemoteCause;

    #[test]
    fn a_boot_message_fits_and_comes_back() {
        let long = "w".repeat(5_000);
        let messages = vec!["no model".to_string(), long.clone()];
        let cause = RemoteCause::Failed { type_name: "app::E".into(), messages, backtrace: Some(long) };
        let error = RemoteError { servlet: "s".into(), worker: 2, pid: 1, attempt: 0, cause };
        let message = boot_message(&error);
        assert!(message.len() <= MESSAGE_BYTES);
        let back = read_boot_message(&message).unwrap();
        assert_eq!((back.worker, back.servlet.as_str()), (2, "s"));
        assert!(back.to_string().contains("no model"), "{back}");
        assert_eq!(read_boot_message(b"no zero byte"), None);
        assert_eq!(read_boot_message(b"x\0garbage"), None);
    }
}
