//! Starting a worker's process, and what it does first.
//!
//! # Protocol
//!
//! The server prepares the worker's places, one for each of its threads (STARTING, a new token), then starts
//! the executable with one environment variable that names the first place, all tokens, server and segment.
//! There, before `main`: `init!` takes the variable away and runs what else runs before `main`, pins the process, attaches the segment, takes its
//! bytes of the lease, and starts the threads. Each constructs its worker and says READY, when all of them
//! can, or FAILED (with an error record) in its place and on the start-up bell. All workers do so side by
//! side; the server sleeps on that one bell.
//!
//! The start-up bell is a futex in the segment, not a process-shared mutex with a condition variable: a
//! worker killed while it signals such an event leaves the mutex locked and the server waiting for ever.
//!
//! # Crash
//!
//! A worker that dies on the way is seen by the supervisor's pidfd. One thread that fails or panics has the
//! others leave, so that its process ends. A server that dies is seen by each
//! worker's watcher thread, which gives the worker a second to clean up; the last to leave removes the
//! segment.
#![expect(
    unsafe_code,
    reason = "what is done before `main`: taking the order out of the environment, running constructors"
)]

use crate::error::{JoinError, NOT_A_WORKER, RemoteError, STOPPED_BY_ERROR};
use crate::patience::Wait;
use crate::payload;
use crate::plan::Live;
use crate::registry;
use crate::run::{Left, Seat};
use crate::unit::Unit;
use crate::worker::Stop;
use ringmill_shm::doorbell::WORKER_LIMIT;
use ringmill_shm::participant::{Lease, Life, MESSAGE_BYTES, SERVER};
use ringmill_shm::segment::{Place, Segment, remove_if_stale};
use ringmill_shm::sys::cpu;
use ringmill_shm::sys::process::{
    PidFd, exit_now, ignore_signal, inherit_only_standard_descriptors, open_standard_descriptors,
    wait_readable,
};
use ringmill_shm::sys::program::{Arguments, Constructor, run_constructors_after};
use ringmill_shm::sys::stack::{name_thread, tell_of_overflow};
use ringmill_shm::token::Token;
use std::ffi::OsString;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Tells a process that it is a worker: `place:token,token:wait:origin:segment`. Nothing of it is secret: other
/// users may see it, where the system shows them the environment of processes that are not theirs.
const VARIABLE: &str = "RINGMILL_WORKER";
/// How long a worker may clean up after the server's process has gone.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a worker's process is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    /// The first of its places.
    pub(crate) place: u32,
    /// One for each of its places, which lie side by side.
    pub(crate) tokens: Vec<Token>,
    pub(crate) wait: Wait,
    /// One that starts later under the same name is not the one that wants us.
    pub(crate) origin: Origin,
    pub(crate) segment: Place,
}

/// Which server it is: of all that ever had its name, and its pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    pid: u32,
    /// When its process began.
    began: u64,
    /// The file number of its lease: the file found under its name may be its successor's.
    lease: u64,
}

impl Origin {
    pub(crate) fn of(segment: &Segment) -> std::io::Result<Self> {
        let server = &segment.participants()[SERVER as usize];
        Ok(Self { pid: server.pid(), began: server.start_time(), lease: segment.lease().file_number()? })
    }

    /// Whether it has ended, as far as can be told.
    fn has_ended(&self, place: &Place) -> bool {
        match Lease::open(&place.lease_path()) {
            Ok(lease) => {
                lease.file_number().ok() != Some(self.lease) || matches!(lease.is_served(), Ok(false))
            }
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        }
    }

    fn to_text(self) -> String {
        format!("{}.{}.{}", self.pid, self.began, self.lease)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '.');
        Some(Self {
            pid: parts.next()?.parse().ok()?,
            began: parts.next()?.parse().ok()?,
            lease: parts.next()?.parse().ok()?,
        })
    }
}

impl Order {
    fn to_text(&self) -> String {
        let wait = match self.wait {
            Wait::Adaptive => "adaptive".to_string(),
            Wait::Park => "park".to_string(),
            Wait::Spin(time) => time.as_nanos().to_string(),
        };
        let Self { place, tokens, wait: _, origin, segment } = self;
        let tokens: Vec<String> = tokens.iter().map(|token| token.raw().to_string()).collect();
        format!("{place}:{}:{wait}:{}:{}", tokens.join(","), origin.to_text(), segment.to_text())
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(5, ':');
        let token = |text: &str| Token::from_raw(text.parse().ok()?);
        let place = parts.next()?.parse().ok().filter(|place| *place < Token::INDEX_LIMIT)?;
        let tokens: Vec<Token> = parts.next()?.split(',').map(token).collect::<Option<_>>()?;
        if tokens.len() > WORKER_LIMIT {
            return None;
        }
        Some(Self {
            place,
            tokens,
            wait: match parts.next()? {
                "adaptive" => Wait::Adaptive,
                "park" => Wait::Park,
                nanos => Wait::Spin(Duration::from_nanos(nanos.parse().ok()?)),
            },
            origin: Origin::parse(parts.next()?)?,
            segment: Place::parse(parts.next()?).ok()?,
        })
    }
}

/// Whether a text is an order, and if so, comes back as it is.
pub(crate) fn understands(text: &str) -> bool {
    let order = Order::parse(text);
    order.is_some_and(|order| Order::parse(&order.to_text()) == Some(order))
}

/// This program's executable; through `/proc` if its file has been replaced or removed meanwhile.
pub(crate) fn own_executable() -> PathBuf {
    std::env::current_exe().ok().filter(|path| path.exists()).unwrap_or_else(|| "/proc/self/exe".into())
}

/// Starts a worker's process. `title` is what a process list shows; of variables with one name the last
/// counts.
pub(crate) fn spawn(
    program: &Path,
    title: &str,
    env: &[(OsString, OsString)],
    order: &Order,
) -> std::io::Result<Child> {
    let mut command = Command::new(program);
    command
        .arg0("ringmill")
        .args(["worker", title])
        .envs(env.iter().map(|(key, value)| (key, value)))
        .env(VARIABLE, order.to_text())
        .stdin(Stdio::null());
    inherit_only_standard_descriptors(&mut command);
    command.spawn()
}

/// How far this process is on its way to being a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// It was ordered to be one; what comes before `main` is under way.
    Ordered,
    /// It is one.
    Worker,
}

/// Set once it is known that this process was ordered to be a worker.
static WAY: Mutex<Option<Way>> = Mutex::new(None);

fn way() -> MutexGuard<'static, Option<Way>> {
    WAY.lock().unwrap_or_else(|e| e.into_inner())
}

/// Ends this process, which was ordered to be a worker and cannot be one. At once: nothing of the program that it would
/// otherwise be has begun, so nothing of it is to run at the end.
fn refuse(reason: &str) -> ! {
    eprintln!("ringmill worker: {reason}");
    exit_now(NOT_A_WORKER)
}

/// Ends a process that was started as a worker, has not become one, and is about to start a server. Were it to go on, it
/// would start workers that start workers.
pub(crate) fn exit_if_unfulfilled_worker() {
    if *way() == Some(Way::Ordered) {
        refuse(
            "something that runs before `main` starts a server; in a worker's process it would do so again",
        );
    }
    if std::env::var_os(VARIABLE).is_some() {
        refuse("this program has no ringmill::init! that lists the worker's type");
    }
}

/// What each `init!` does before `main`, once its types are listed. In a process that was ordered to be a worker, the first
/// one does not return.
///
/// # Safety
/// It is called by the constructor in `slot`, before `main`, with what that was called with.
pub(crate) unsafe fn begin(slot: *const Constructor, arguments: Arguments) {
    let _ = crate::cpus::allowed(); // before anything is pinned
    if way().is_some() {
        return; // the first one runs us, and goes on when all have listed their types
    }
    let Some(text) = std::env::var_os(VARIABLE) else { return };
    // First of all, so that no child of this process is ever taken for a worker.
    // SAFETY: no other thread exists yet, see the header of `registry`.
    unsafe { std::env::remove_var(VARIABLE) };
    *way() = Some(Way::Ordered);
    let order = text.to_str().and_then(Order::parse);
    let Some(order) = order else { refuse("it does not understand its order") };
    crash_point!("launch.ordered");
    // SAFETY: as the caller says; this process ends below.
    if !unsafe { run_constructors_after(slot, arguments) } {
        eprintln!(
            "ringmill worker: cannot find what else this program runs before `main`, and goes on without"
        );
    }
    *way() = Some(Way::Worker);
    // Nothing may unwind into the C runtime that called us.
    let code = crate::panics::caught(|| fulfil(order)).unwrap_or_else(|panic| {
        eprintln!("ringmill worker: {panic}");
        1
    });
    std::process::exit(code);
}

/// Becomes the worker; the code to exit with.
fn fulfil(order: Order) -> i32 {
    open_standard_descriptors(); // before anything else is opened
    // Ctrl-C and a service manager's SIGTERM reach the whole group; the server tells us when to go.
    ignore_signal(libc::SIGINT);
    ignore_signal(libc::SIGTERM);
    ignore_signal(libc::SIGPIPE); // as `main` would have it
    let (origin, place) = (order.origin, order.segment.clone());
    // Nobody wants to know that a worker could not join a server that was killed meanwhile.
    let complain = |error: JoinError| {
        if origin.has_ended(&place) {
            let _ = remove_if_stale(&place, false); // perhaps nobody else will
        } else {
            eprintln!("ringmill worker: {error}");
        }
        1
    };
    let seats = match join(order) {
        Ok(seats) => seats,
        Err(error) => return complain(error),
    };
    let Some(seat) = seats.first() else { refuse("its order has no place for it") };
    let info = seat.node().info();
    let Some(live) = registry::find(&info.worker_type, info.type_hash) else {
        refuse("this program has no ringmill::init! that lists the worker's type")
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
            Err(source) => return complain(JoinError::System { what: "start a thread", source }),
        }
    }
    name_thread(c"ringmill-worker");
    let _told = tell_of_overflow(overflow_message(seat, "ulimit -s"));
    let first = occupy(seat, &live);
    let codes = threads.into_iter().map(|thread| thread.join().unwrap_or(1));
    codes.fold(first, i32::max)
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

/// One seat for each of the order's places.
fn join(order: Order) -> Result<Vec<Arc<Seat>>, JoinError> {
    let segment = Segment::attach(order.segment, payload::PAYLOAD_FORMAT)?;
    let origin = Origin::of(&segment)
        .map_err(|source| JoinError::System { what: "look at the server's lease", source })?;
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
        cpu::pin_thread(&cpus)
            .map_err(|source| JoinError::System { what: "pin the worker to its CPUs", source })?;
    }
    for (place, _) in tokens() {
        // *lease before deeds*.
        let held = segment.lease().hold(place);
        held.map_err(|source| JoinError::System { what: "take the worker's lease", source })?;
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

/// Starts the thread that ends this process when the server's has gone.
fn watch_server(seat: Arc<Seat>, server: u32) -> Result<(), JoinError> {
    let system = |what| move |source| JoinError::System { what, source };
    let server = PidFd::open(server).map_err(system("watch the server"))?;
    // If it had died before we opened it, the descriptor may be another process's; the lease tells.
    if !seat.segment.lease().is_served().map_err(system("ask for the server's lease"))? {
        return Err(JoinError::System {
            what: "join a server that is gone",
            source: std::io::ErrorKind::NotFound.into(),
        });
    }
    let watch = move || {
        while !wait_readable(&[server.as_raw_fd()], None)[0] {}
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
        Left::Fatal(error) => fail(&error, STOPPED_BY_ERROR),
    }
}

/// The server's process is gone, so nobody else will: whoever comes last finds the lease free.
fn remove_segment(seat: &Seat) {
    let _ = remove_if_stale(seat.segment.place(), false);
}

/// What is left in the place of a worker that could not start, or gave up: a line for people, a zero byte, and the
/// error record.
fn boot_message(error: &RemoteError) -> Vec<u8> {
    let mut error = error.clone();
    loop {
        let mut message = error.cause.to_string().into_bytes();
        message.truncate(256);
        message.push(0);
        if let Ok(record) = payload::to_bytes(&error) {
            message.extend(record);
        }
        match error.cause.shortened() {
            Some(shorter) if message.len() > MESSAGE_BYTES => error.cause = shorter,
            _ => return message,
        }
    }
}

/// The error record of a boot message.
pub(crate) fn read_boot_message(message: &[u8]) -> Option<RemoteError> {
    let record = message.splitn(2, |&b| b == 0).nth(1)?;
    payload::copied(record).ok()
}

/// How a process ended, in words.
pub(crate) fn status_text(status: std::process::ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("killed by signal {signal}"),
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => "ended".into(),
    }
}

/// Sends SIGKILL to exactly this process.
pub(crate) fn kill(pidfd: &PidFd) {
    let _ = pidfd.send_signal(libc::SIGKILL); // it may have ended already
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::RemoteCause;

    #[test]
    fn orders_round_trip() {
        for wait in [Wait::Adaptive, Wait::Park, Wait::Spin(Duration::from_micros(7))] {
            for segment in [Place::named("a.b-c_d").unwrap(), Place::File("/tmp/x:y".into())] {
                let tokens = vec![Token::new(3, 9), Token::new(4, 2)];
                let origin = Origin { pid: 42, began: 7, lease: 1 << 40 };
                let order = Order { place: 3, tokens, wait, origin, segment };
                assert_eq!(Order::parse(&order.to_text()), Some(order));
            }
        }
        for bad in [
            "",
            "1",
            "1:2:park:4.5.6",
            "x:9:park:4.5.6:a",
            "1:0:park:4.5.6:a",
            "1:5000:never:4.5.6:a",
            "1:5000:park:4.5.6:",
            "1:9:park:4.a.6:a",
            "1:9:park:4:a",
            "1:5000,:park:4.5.6:a",
            "4294967295:5000,5001:park:4.5.6:a",
        ] {
            assert_eq!(Order::parse(bad), None, "{bad:?}");
        }
    }

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
