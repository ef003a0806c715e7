//! A process that was ordered to be a worker: it attaches, takes its seats, lives, leaves. The protocol is that of
//! [`host`](super).
#![expect(
    unsafe_code,
    reason = "before `main`: it takes the order out of the environment, runs constructors, and takes over the lease"
)]

use super::events::send::{self, Forwarder};
use super::janitor;
use super::order::{Descriptor, Order, Origin, VARIABLE};
use super::registry::{self, NOTE};
use super::report::{END_AT_ONCE, RETIRE, Report};
use super::settle::{report, settle_as, tether};
use crate::error::{JoinError, NOT_A_WORKER, RemoteCause, RemoteError, STOPPED_BY_ERROR, boot, while_built};
use crate::panics;
use crate::policy::cpus;
use crate::wire::payload;
use crate::worker::{LifeEnd, Live, Seat, Stop, Unit};
use ringmill_shm::participant::{Lease, Life, SERVER};
use ringmill_shm::segment::{Location, NodeInfo, Segment, remove_if_stale};
use ringmill_shm::sys::build_id::BuildId;
use ringmill_shm::sys::cpu;
use ringmill_shm::sys::process::{PidFd, Watch, exit_now, wait_readable};
use ringmill_shm::sys::program::{
    Arguments, Constructor, Object, note_of_executable, object_of, run_constructors_after,
};
use ringmill_shm::sys::stack::tell_of_overflow;
use ringmill_shm::sys::tether::{Received, Tether};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// The explanation for a user who set the variable by hand.
const NEVER_THE_PROGRAM: &str = " (a process that has RINGMILL_WORKER in its environment is never the program itself; unset it to run that)";
/// How long a worker may clean up after the server's process has gone.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How often a worker's watcher looks whether its process still has its tether.
const LOOK_AT_ITSELF: Duration = Duration::from_secs(1);

/// How long a worker whose tether is closed waits for the proof that the server has ended: the kernel closes one
/// descriptor after the other.
const CONFIRMATION_LIMIT: Duration = Duration::from_millis(200);
const CONFIRMATION_LOOK: Duration = Duration::from_millis(1);

/// How far this process has come to be a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Way {
    /// It has no order, as far as it knows.
    None,
    /// It has an order; constructors before `main` are running.
    Ordered,
    /// It is a worker.
    Worker,
}

/// A [`Way`]; it changes before `main` only.
static WAY: AtomicU8 = AtomicU8::new(Way::None as u8);

// Relaxed, both: one thread does this before there are others.
fn is_on_way(way: Way) -> bool {
    WAY.load(Ordering::Relaxed) == way as u8
}

fn set_way(way: Way) {
    WAY.store(way as u8, Ordering::Relaxed);
}

/// Ends this process, which was ordered to be a worker and cannot be one. It ends at once: no code of the program
/// itself has run, so none of its exit handlers may.
fn refuse(reason: &str) -> ! {
    if !report(&Report::Reason(reason.into())) {
        eprintln!("ringmill worker: {reason}");
    }
    exit_now(NOT_A_WORKER)
}

/// Ends a process that was started as a worker, has not become one, and is about to start a server. Otherwise it would
/// start workers that start workers.
pub(crate) fn exit_if_unfulfilled_worker() {
    if is_on_way(Way::Ordered) {
        refuse(
            "code that runs before `main` starts a server, and would do so again in each worker's process; start servers in `main`",
        );
    }
    if std::env::var_os(VARIABLE).is_some() {
        refuse("this program has no ringmill::init! that lists the worker's type");
    }
}

/// Ends a process that was ordered to be a worker, in a program without an `init!`: no code of the program may run.
pub(crate) fn end_if_ordered(entry: *const Constructor) {
    if is_on_way(Way::None) && std::env::var_os(VARIABLE).is_some() && !is_the_executables_turn(entry) {
        refuse(&format!("this program has no ringmill::init!, so it cannot be one{NEVER_THE_PROGRAM}"));
    }
}

/// Whether that constructor is a library's, and the executable has an `init!` that will follow the order. If the
/// executable has none, the library ends the process.
fn is_the_executables_turn(entry: *const Constructor) -> bool {
    if object_of(entry as usize) == Some(Object::Executable) {
        return false;
    }
    if note_of_executable(NOTE).is_none() {
        let why = "its ringmill::init! is in a library, not in the executable, so it cannot be one";
        refuse(&format!("{why}{NEVER_THE_PROGRAM}"));
    }
    true
}

/// What each `init!` does before `main`, once its types are listed. In a process that was ordered to be a worker, the
/// first `init!` does not return.
///
/// # Safety
/// The constructor in `entry` calls this, before `main`, with the arguments that it was given.
pub(crate) unsafe fn begin(entry: *const Constructor, arguments: Arguments) {
    if !is_on_way(Way::None) {
        return; // the first `init!` has run this one, and goes on when all have listed their types
    }
    let Some(text) = std::env::var_os(VARIABLE) else {
        let _ = cpus::allowed(); // before any thread is pinned; a worker is, and learns it from the segment
        return;
    };
    if is_the_executables_turn(entry) {
        return;
    }
    // First, so that no child of this process ever counts as a worker. SAFETY: no other thread exists yet, see the
    // header of `init`.
    unsafe { std::env::remove_var(VARIABLE) };
    set_way(Way::Ordered);
    if let Some(order) = text.to_str().and_then(|text| text.strip_prefix(janitor::ORDER)) {
        janitor::live(order);
    }
    let order = Order::parse(&text).unwrap_or_else(|error| refuse(&format!("{error}{NEVER_THE_PROGRAM}")));
    settle_as(&order);
    if let Err(error) = check_build(&order) {
        // No code of another build may run.
        if complain(&error, order.origin, order.lease().as_ref(), &order.segment) == Told::Not {
            eprintln!("ringmill worker: {error}");
        }
        exit_now(1);
    }
    // SAFETY: as the caller promises; this process ends below.
    if !unsafe { run_constructors_after(entry, arguments) } {
        eprintln!(
            "ringmill worker: cannot find the program's other constructors, which run before `main`, and goes on without them"
        );
    }
    set_way(Way::Worker);
    // No panic may unwind into the C runtime, which called this.
    let code = panics::caught(|| {
        let find = |node: &NodeInfo, type_hash| {
            registry::find(&node.worker_type, type_hash).map_err(|error| error.to_string())
        };
        match fulfil(order, find, registry::set_ups) {
            Ok(code) => code,
            Err(Unfulfilled::NoCode(reason)) => refuse(&reason),
            Err(Unfulfilled::NotJoined(NotJoined { error, told })) => {
                if told == Told::Not {
                    eprintln!("ringmill worker: {error}");
                }
                1
            }
        }
    });
    let code = code.unwrap_or_else(|panic| {
        eprintln!("ringmill worker: {panic}");
        1
    });
    std::process::exit(code);
}

/// Why a process did not become the worker that it was ordered to be. `E`: why it has no code for it.
pub(super) enum Unfulfilled<E> {
    NoCode(E),
    NotJoined(NotJoined),
}

/// Why a process could not attach its segment, and whether the server knows.
pub(super) struct NotJoined {
    pub(super) error: JoinError,
    pub(super) told: Told,
}

/// Whether a server has been told why a process is no worker of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Yes,
    Not,
    /// The server has ended meanwhile: nothing is to be told.
    Gone,
}

/// Becomes the worker, with the code that `find` has for it; returns the exit code.
pub(super) fn fulfil<E, S: Iterator<Item = registry::SetUp>>(
    order: Order,
    find: impl FnOnce(&NodeInfo, u64) -> Result<Live, E>,
    set_ups: impl Fn() -> S,
) -> Result<i32, Unfulfilled<E>> {
    let (origin, location, events) = (order.origin, order.segment.clone(), order.events);
    let type_hash = order.type_hash;
    let lease = order.lease();
    let not_joined = |error: JoinError, lease: Option<&File>| {
        let told = complain(&error, origin, lease, &location);
        Unfulfilled::NotJoined(NotJoined { error, told })
    };
    let seats = join(order).map_err(|error| not_joined(error, lease.as_ref()))?;
    drop(lease); // the segment has it
    let seat = seats.first().expect("an order has a row, see `Order::parse`");
    let not_joined = |error| not_joined(error, Some(seat.segment.lease().probe()));
    let info = seat.node().info();
    let live = find(info, type_hash.unwrap_or(info.facts.type_hash)).map_err(Unfulfilled::NoCode)?;
    watch_server(Arc::clone(seat), origin.pid).map_err(not_joined)?;
    crash_point!("child.watches");
    let _told = tell_of_overflow(overflow_message(seat, "ulimit -s"));
    let level = events.filter(|events| send::begin(events, seat)).map(|events| events.level);
    let done = match level {
        Some(level) => tracing::subscriber::with_default(Forwarder(level), || set_up(seat, set_ups())),
        None => set_up(seat, set_ups()),
    };
    if let Err(cause) = done {
        return Ok(leave(seat, LifeEnd::Unborn(seat.error(0, cause))));
    }
    if let Some(level) = level {
        let _ = tracing::subscriber::set_global_default(Forwarder(level)); // or the set-up has installed another
    }
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
            // The process ends, with all threads that it has started; the supervisor repairs what they have claimed.
            Err(error) => return Err(not_joined(JoinError::System { what: "start a thread", error })),
        }
    }
    let first = occupy(seat, &live);
    let codes = threads.into_iter().map(|thread| panics::joined(thread).unwrap_or(1));
    Ok(codes.fold(first, i32::max))
}

/// Does what each `init!` says is to be done once in this process; it is user code.
fn set_up(seat: &Seat, set_ups: impl Iterator<Item = registry::SetUp>) -> Result<(), RemoteCause> {
    let mut set_ups = set_ups.peekable();
    if set_ups.peek().is_none() {
        return Ok(());
    }
    panics::watch_this_thread();
    let context = seat.context();
    for set_up in set_ups {
        let failed = match while_built(|| panics::caught(|| set_up(&context))) {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => {
                let cause = RemoteCause::failed(&error);
                panics::let_go(error);
                cause
            }
            Err(panic) => panic.into(),
        };
        return Err(failed.while_it("set-up"));
    }
    panics::keep_watching();
    Ok(())
}

/// Reports why this process cannot attach. If the server was killed meanwhile, nothing is to be said.
pub(super) fn complain(error: &JoinError, origin: Origin, lease: Option<&File>, location: &Location) -> Told {
    let told = report(&Report::Reason(error.to_string()));
    if origin.has_ended(lease, location) {
        let _ = remove_if_stale(location, false); // perhaps no other process will
        return Told::Gone;
    }
    if told { Told::Yes } else { Told::Not }
}

/// The message of a worker's thread that overflows its stack; `size` names what sets the stack's size. The text lives
/// as long as the process.
fn overflow_message(seat: &Seat, size: &str) -> &'static str {
    let worker = seat.context().name();
    format!("ringmill worker {worker}: its thread has overflowed its stack, whose size is set by {size}\n")
        .leak()
}

/// Lives in a seat until the worker's life ends in any way; returns the exit code.
pub(crate) fn occupy(seat: &Arc<Seat>, live: &Live) -> i32 {
    seat.entry().occupy();
    let lived = panics::caught(std::panic::AssertUnwindSafe(|| live(Arc::clone(seat))));
    let left = lived.unwrap_or_else(|panic| LifeEnd::Fatal(seat.error(0, panic.into())));
    leave(seat, left)
}

/// Refuses another build of the program: a type's name does not say what its bytes mean.
pub(super) fn check_build(order: &Order) -> Result<(), JoinError> {
    let Some(ours) = BuildId::of_this_process() else { return Ok(()) };
    match &order.build {
        Some(wanted) if wanted.is_of_note() == ours.is_of_note() && *wanted != ours => {
            let program = std::env::current_exe().unwrap_or_default();
            Err(JoinError::Build { wanted: wanted.clone(), ours, program })
        }
        Some(_) => Ok(()),
        None => {
            report(&Report::Build(ours));
            Ok(())
        }
    }
}

/// Takes one seat for each of the order's rows.
fn join(order: Order) -> Result<Vec<Arc<Seat>>, JoinError> {
    let given = |index: usize| order.descriptors.and_then(|all| all[index].take_over());
    let (segment, hold, probe) = (given(0), given(1), given(2));
    let segment = match (segment, hold, probe) {
        (Some(segment), Some(hold), Some(probe)) => {
            // SAFETY: the server has opened both for this process, of its lease file. It locks nothing through either,
            // and unlocks what this process has locked only once this process has ended.
            let lease = unsafe { Lease::of_files(hold, probe, &order.segment.lease_path()) };
            Segment::adopt(order.segment, payload::PAYLOAD_FORMAT, segment, lease)?
        }
        // A program between the server and this process has closed the descriptors.
        _ => Segment::attach(order.segment, payload::PAYLOAD_FORMAT)?,
    };
    let origin = Origin::of(&segment)
        .map_err(|error| JoinError::System { what: "look at the server's lease", error })?;
    if origin != order.origin {
        return Err(JoinError::Row(order.row));
    }
    crash_point!("child.attached");
    let tokens = || (order.row..).zip(order.tokens.iter().copied());
    let mut entries = Vec::with_capacity(order.tokens.len());
    for (row, token) in tokens() {
        let entry = segment.participants().get(row as usize).filter(|_| row != SERVER);
        entries.push(entry.filter(|e| e.token() == Some(token)).ok_or(JoinError::Row(row))?);
    }
    cpus::learn(segment.participants()[SERVER as usize].cpus());
    let cpus = entries.first().map_or(Vec::new(), |entry| entry.cpus());
    if !cpus.is_empty() {
        // The plan checked the CPUs against the allowed set; it may have shrunk since.
        if let Err(error) = cpu::pin_thread(&cpus) {
            report(&Report::Warning(format!(
                "cannot be pinned to its CPUs {cpus:?} and runs on any: {error}"
            )));
        }
    }
    // Once it is pinned, so that what belongs to the process lies near its CPUs. Else the first uses of the pages do it.
    let _ = segment.prefault();
    for (_, token) in tokens() {
        // [lease before deeds].
        let held = segment.lease().hold(token);
        held.map_err(|error| JoinError::System { what: "take the worker's lease", error })?;
    }
    crash_point!("child.leased");
    entries.iter().for_each(|entry| entry.arrive());
    let config = order.config.map(read_config).transpose()?;
    let segment = Arc::new(segment);
    let rows = order.row..order.row + order.tokens.len() as u32;
    let complain = |_worker: &str, what: &str| {
        report(&Report::Complaint(what.into())); // if it is not sent, the server has gone, or does not read
    };
    let unit = Arc::new(Unit::new(rows, complain, order.max_requests));
    let seat = |(row, token)| {
        let (segment, unit) = (Arc::clone(&segment), Arc::clone(&unit));
        let seat = Seat::new(segment, row, token, order.wait, Arc::default(), unit, config.clone());
        seat.map(Arc::new).ok_or(JoinError::Row(row))
    };
    tokens().map(seat).collect()
}

/// Reads a configuration that came with the order.
fn read_config(from: Descriptor) -> Result<Arc<Vec<u8>>, JoinError> {
    let system = |error| JoinError::System { what: "read its configuration", error };
    let file = from.take_over().ok_or_else(|| system(std::io::ErrorKind::NotFound.into()))?;
    let mut bytes = vec![0; file.metadata().map_err(system)?.len() as usize];
    file.read_exact_at(&mut bytes, 0).map_err(system)?; // its position is shared with other workers
    Ok(Arc::new(bytes))
}

/// Starts the thread that ends this process when the server has gone, or orders it to end.
fn watch_server(seat: Arc<Seat>, server: u32) -> Result<(), JoinError> {
    let system = |what| move |error| JoinError::System { what, error };
    let server = match PidFd::open(server) {
        Ok(server) => Some(server),
        Err(_) if tether().is_some() => None, // the server is gone, or the call is refused: the tether shows which
        Err(error) => return Err(system("watch the server")(error)),
    };
    // If the server died before its pidfd was opened, the descriptor may be of another process; the lease shows that.
    if !seat.segment.lease().is_served().map_err(system("ask for the server's lease"))? {
        return Err(JoinError::System {
            what: "join a server that is gone",
            error: std::io::ErrorKind::NotFound.into(),
        });
    }
    let watch = move || {
        await_end_of_server(&seat, server.as_ref(), tether());
        crash_point!("child.orphaned");
        seat.unit.orphan(&seat.segment);
        seat.segment.startup().ring();
        // The worker's first thread exits the process when all threads are done; this is for a thread that is not.
        std::thread::sleep(LAST_WORDS); // a time limit
        remove_segment(&seat);
        exit_now(1);
    };
    std::thread::Builder::new()
        .name("ringmill-watch".into())
        .spawn(watch)
        .map_err(system("start a thread"))?;
    Ok(())
}

/// Returns when the server's process has ended, or runs another program. Ends this process if the server orders it, or
/// if user code has closed its tether, since then no order of the server could arrive.
fn await_end_of_server(seat: &Seat, server: Option<&PidFd>, tether: Option<&Tether>) {
    let fds = server.map(AsRawFd::as_raw_fd).into_iter().chain(tether.map(AsRawFd::as_raw_fd));
    let fds: Vec<i32> = fds.collect();
    let has_ended =
        || server.is_some_and(|server| wait_readable(&[server.as_raw_fd()], Some(Duration::ZERO))[0]);
    // Refused, by a filter say: then this thread does not see at once that the tether is closed.
    let watch = Watch::of(&fds);
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
            Some(Received::Message(message)) if message == RETIRE => seat.unit.retire(&seat.segment),
            Some(Received::Over) => break,
            _ => {}
        }
    }
    // Only the server had the other end.
    let begun = Instant::now();
    while begun.elapsed() < CONFIRMATION_LIMIT {
        if has_ended() || matches!(seat.segment.lease().is_served(), Ok(false)) {
            return;
        }
        std::thread::sleep(CONFIRMATION_LOOK); // no event reports the release of a lock
    }
    exit_now(1) // the server lives and serves, and has given this worker up
}

/// Reports how a worker's life ended; returns the exit code.
fn leave(seat: &Seat, left: LifeEnd) -> i32 {
    let fail = |error: &RemoteError, code| {
        seat.entry().fail(&boot::write(error));
        seat.segment.startup().ring();
        seat.unit.fail(&seat.segment);
        code
    };
    match left {
        LifeEnd::Stopped(Stop::ServerGone) => {
            seat.entry().set_life(Life::Leaving);
            remove_segment(seat);
            0
        }
        LifeEnd::Stopped(Stop::Shutdown | Stop::Fatal | Stop::Retired) => {
            seat.entry().set_life(Life::Leaving);
            0
        }
        LifeEnd::Unborn(error) => fail(&error, 1),
        // The worker may have written its message before it cleaned up; others may be reading that, so it is not
        // written again.
        LifeEnd::Fatal(_) if seat.entry().life() == Life::Leaving && !seat.entry().message().is_empty() => {
            seat.entry().set_life(Life::Failed);
            seat.segment.startup().ring();
            STOPPED_BY_ERROR
        }
        LifeEnd::Fatal(error) => fail(&error, STOPPED_BY_ERROR),
    }
}

/// Removes the server's files, since the server is gone: the last worker to leave finds the lease free.
fn remove_segment(seat: &Seat) {
    let _ = remove_if_stale(seat.segment.location(), false);
}
