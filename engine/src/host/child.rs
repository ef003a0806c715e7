//! What a process does that was ordered to be a worker: attach, take its seats, live, leave. The protocol is that of
//! [`host`](super).
#![expect(
    unsafe_code,
    reason = "what is done before `main`: taking the order out of the environment, running constructors"
)]

use super::janitor;
use super::order::{Order, Origin, VARIABLE};
use super::registry::{self, NOTE};
use super::settle::{say, settle_in, tether};
use super::word::{END_AT_ONCE, Word};
use crate::error::{JoinError, NOT_A_WORKER, RemoteError, STOPPED_BY_ERROR, boot};
use crate::wire::payload;
use crate::worker::{LifeEnd, Live, Seat, Stop, Unit};
use ringmill_shm::participant::{Lease, Life, SERVER};
use ringmill_shm::segment::{Place, Segment, remove_if_stale};
use ringmill_shm::sys::build_id::BuildId;
use ringmill_shm::sys::cpu;
use ringmill_shm::sys::process::{PidFd, Watch, exit_now, wait_readable};
use ringmill_shm::sys::program::{
    Arguments, Constructor, Object, note_of_executable, object_of, run_constructors_after,
};
use ringmill_shm::sys::stack::tell_of_overflow;
use ringmill_shm::sys::tether::{Received, Tether};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

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
    let _ = crate::policy::cpus::allowed(); // before anything is pinned
    if !is_on_way(Way::None) {
        return; // the first one runs us, and goes on when all have listed their types
    }
    let Some(text) = std::env::var_os(VARIABLE) else { return };
    if is_the_executables_turn(slot) {
        return;
    }
    // First of all, so that no child of this process is ever taken for a worker.
    // SAFETY: no other thread exists yet, see the header of `init`.
    unsafe { std::env::remove_var(VARIABLE) };
    set_way(Way::Ordered);
    if let Some(order) = text.to_str().and_then(|text| text.strip_prefix(janitor::ORDER)) {
        janitor::live(order);
    }
    let order = Order::parse(&text).unwrap_or_else(|error| refuse(&format!("{error}{NEVER_THE_PROGRAM}")));
    settle_in(order.descriptors.as_ref().map_or(&[], |all| &all[..]), &order.name);
    crash_point!("child.ordered");
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
    let live = match registry::find(&info.worker_type, info.facts.type_hash) {
        Ok(live) => live,
        Err(error) => refuse(&error.to_string()),
    };
    if let Err(error) = watch_server(Arc::clone(seat), origin.pid) {
        return complain(error);
    }
    crash_point!("child.watches");
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
    let left = lived.unwrap_or_else(|panic| LifeEnd::Fatal(seat.error(0, panic.into())));
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
    let origin = Origin::of(&segment)
        .map_err(|error| JoinError::System { what: "look at the server's lease", error })?;
    if origin != order.origin {
        return Err(JoinError::Row(order.place));
    }
    crash_point!("child.attached");
    let tokens = || (order.place..).zip(order.tokens.iter().copied());
    let mut entries = Vec::with_capacity(order.tokens.len());
    for (place, token) in tokens() {
        let entry = segment.participants().get(place as usize).filter(|_| place != SERVER);
        entries.push(entry.filter(|e| e.token() == Some(token)).ok_or(JoinError::Row(place))?);
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
    crash_point!("child.leased");
    entries.iter().for_each(|entry| entry.arrive());
    let segment = Arc::new(segment);
    let unit = Arc::new(Unit::new(order.place..order.place + order.tokens.len() as u32));
    let seat = |(place, token)| {
        let (segment, unit) = (Arc::clone(&segment), Arc::clone(&unit));
        let seat = Seat::new(segment, place, token, order.wait, Arc::default(), unit);
        seat.map(Arc::new).ok_or(JoinError::Row(place))
    };
    tokens().map(seat).collect()
}

/// Starts the thread that ends this process when the server's has gone, or says so.
fn watch_server(seat: Arc<Seat>, server: u32) -> Result<(), JoinError> {
    let system = |what| move |error| JoinError::System { what, error };
    let server = match PidFd::open(server) {
        Ok(server) => Some(server),
        Err(_) if tether().is_some() => None, // it is gone, or this system call is refused: the tether tells
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
        await_end_of_server(&seat, server.as_ref(), tether());
        crash_point!("child.orphaned");
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
        LifeEnd::Stopped(Stop::Shutdown | Stop::Fatal) => {
            seat.entry().set_life(Life::Leaving);
            0
        }
        LifeEnd::Unborn(error) => fail(&error, 1),
        // It may have said why before it cleaned up; what may be read is not written again.
        LifeEnd::Fatal(_) if seat.entry().life() == Life::Leaving && !seat.entry().message().is_empty() => {
            seat.entry().set_life(Life::Failed);
            seat.segment.startup().ring();
            STOPPED_BY_ERROR
        }
        LifeEnd::Fatal(error) => fail(&error, STOPPED_BY_ERROR),
    }
}

/// The server's process is gone, so nobody else will: whoever comes last finds the lease free.
fn remove_segment(seat: &Seat) {
    let _ = remove_if_stale(seat.segment.place(), false);
}
