//! Processes: identity, death, signals.
#![expect(unsafe_code, reason = "pidfd_open, waitid, kill, poll, prctl and their relatives")]

use super::limit::{Limit, soft_limit};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

/// The first descriptor after standard input, output and error.
pub(super) const FIRST_OTHER: i32 = 3;

/// A descriptor that becomes readable when its process has ended; immune to pid reuse.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Opens the process `pid`.
    ///
    /// # Errors
    /// `ESRCH` if there is none, `EMFILE` and its like.
    pub fn open(pid: u32) -> io::Result<Self> {
        // SAFETY: pidfd_open takes two integers; the flag 0 makes a close-on-exec descriptor.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has just returned this descriptor, so no other code owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Whether the process has ended. False also if the descriptor was closed behind our back.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let mut polled = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one live entry, and no wait.
        let found = unsafe { libc::poll(&raw mut polled, 1, 0) };
        found == 1 && polled.revents & libc::POLLIN != 0
    }

    /// Opens a child of this process that has just been started.
    ///
    /// # Errors
    /// As [`open`](Self::open); `ECHILD` if it has ended and other code, or the kernel because SIGCHLD is ignored, has
    /// waited for it: another process may have its pid by now.
    pub fn of_child(pid: u32) -> io::Result<Self> {
        let process = Self::open(pid)?;
        // Asked by the descriptor, not by the number.
        match look_at_child(libc::P_PIDFD, process.0.as_raw_fd().cast_unsigned()) {
            Ok(()) => Ok(process),
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Err(error),
            // Linux before 5.4, or a filter, refuses the question. So ask by number: if there is such a child after the
            // process was opened, it is the one that was opened.
            Err(_) => look_at_child(libc::P_PID, pid).map(|()| process),
        }
    }

    /// Sends a signal to exactly this process, never to a later one of the same number.
    ///
    /// # Errors
    /// `ESRCH` if the process has ended and been waited for.
    pub fn send_signal(&self, signal: i32) -> io::Result<()> {
        // SAFETY: plain integers and a null siginfo, which means "as kill would".
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal,
                core::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits until all threads of this child of this process are stopped by a signal; false if it has ended instead. Reaps
    /// nothing, and takes the news from no other waiter.
    ///
    /// # Errors
    /// `ECHILD` if it is no child of this process, or other code has waited for its end; `EINVAL` before Linux 5.4.
    pub fn await_stop(&self) -> io::Result<bool> {
        let events = libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT;
        loop {
            // SAFETY: an all-zero siginfo_t is valid to be overwritten.
            let mut info: libc::siginfo_t = unsafe { core::mem::zeroed() };
            let process = self.0.as_raw_fd().cast_unsigned();
            // SAFETY: integers, and a live siginfo_t to fill.
            if unsafe { libc::waitid(libc::P_PIDFD, process, &raw mut info, events) } == 0 {
                return Ok(info.si_code == libc::CLD_STOPPED);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// A counter that a poll can wait for: how one thread gets another out of [`wait_readable`].
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A new counter at zero, non-blocking and close-on-exec.
    ///
    /// # Errors
    /// `EMFILE` and its like.
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes two integers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has just returned this descriptor, so no other code owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Makes the descriptor readable. Safe to call from a signal handler.
    pub fn signal(&self) {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: eight readable bytes. A full counter (EAGAIN) is readable already.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Makes it unreadable again.
    pub fn clear(&self) {
        let mut count = [0_u8; 8];
        // SAFETY: eight writable bytes. An empty counter answers EAGAIN, which is what we want.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// Whether a process is ending, past its last signal and descriptor; `None` if that is unknown.
#[must_use]
pub fn is_ending(pid: u32) -> Option<bool> {
    /// One of the kernel's flags of a task, field 9 of the line.
    const PF_EXITING: u64 = 4;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let flags: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(6)?.parse().ok()?;
    Some(flags & PF_EXITING != 0)
}

/// Whether this is a child of this process that no code has waited for: until then its pid is its own.
///
/// True where the kernel refuses to say: for a child of our own there is no reason to think otherwise.
#[must_use]
pub fn is_unwaited_child(pid: u32) -> bool {
    look_at_child(libc::P_PID, pid).err().and_then(|error| error.raw_os_error()) != Some(libc::ECHILD)
}

/// Waits for nothing, and reaps nothing.
fn look_at_child(kind: libc::idtype_t, id: u32) -> io::Result<()> {
    // SAFETY: an all-zero siginfo_t is valid to be overwritten.
    let mut info: libc::siginfo_t = unsafe { core::mem::zeroed() };
    let only_look = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: integers, and a live siginfo_t to fill.
    match unsafe { libc::waitid(kind, id, &raw mut info, only_look) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sleeps until one of `fds` is readable, or `timeout` expires (`None`: never); says which are.
///
/// A signal ends the wait early with an empty answer.
pub fn wait_readable(fds: &[i32], timeout: Option<Duration>) -> Vec<bool> {
    let mut polled: Vec<libc::pollfd> =
        fds.iter().map(|&fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
    // Rounded up, so that a wait for a deadline does not end just before it.
    let timeout_ms = timeout.map_or(-1, |t| i32::try_from(t.as_micros().div_ceil(1000)).unwrap_or(i32::MAX));
    let count = polled.len() as libc::nfds_t;
    // SAFETY: `polled` is a live array of the length given.
    if unsafe { libc::poll(polled.as_mut_ptr(), count, timeout_ms) } == -1 && !is_interrupted() {
        // A filter may allow only the newer call.
        let time = timeout.map(|_| libc::timespec {
            tv_sec: (timeout_ms / 1000).into(),
            tv_nsec: (timeout_ms % 1000 * 1_000_000).into(),
        });
        let time = time.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
        // SAFETY: as above; the time is null or live, and there is no mask.
        if unsafe { libc::ppoll(polled.as_mut_ptr(), count, time, core::ptr::null()) } == -1
            && !is_interrupted()
        {
            polled.iter_mut().for_each(|fd| fd.revents = 0);
            std::thread::sleep(timeout.unwrap_or(BLIND_WAIT).min(BLIND_WAIT)); // not to spin in vain
        }
    }
    polled.iter().map(|p| p.revents != 0).collect()
}

/// How long [`wait_readable`] sleeps where the system refuses to wait for descriptors.
const BLIND_WAIT: Duration = Duration::from_millis(50);

fn is_interrupted() -> bool {
    io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
}

/// Descriptors that a thread waits for without keeping them open: a thread in `poll` holds each of them, also once
/// another thread has closed it, and then the other end sees no close.
#[derive(Debug)]
pub struct Watch(OwnedFd);

impl Watch {
    /// A set of these descriptors.
    ///
    /// # Errors
    /// `EMFILE` and its like.
    pub fn of(fds: &[i32]) -> io::Result<Self> {
        // SAFETY: epoll_create1 takes a flag.
        let watch = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if watch < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has just returned this descriptor, so no other code owns it.
        let watch = Self(unsafe { OwnedFd::from_raw_fd(watch) });
        for &fd in fds {
            let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
            // SAFETY: integers, and a live event, which is copied.
            if unsafe { libc::epoll_ctl(watch.0.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(watch)
    }

    /// Sleeps until one of them is readable, a signal has come, or `timeout` expires.
    pub fn wait(&self, limit: Duration) {
        let limit_ms = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: room for the one event that is asked for.
        let waited = unsafe { libc::epoll_wait(self.0.as_raw_fd(), &raw mut event, 1, limit_ms) };
        if waited < 0 && !is_interrupted() {
            std::thread::sleep(BLIND_WAIT); // refused: look again and again
        }
    }
}

/// The start time of a process in clock ticks since boot: with its pid, its identity.
#[must_use]
pub fn start_time(pid: u32) -> Option<u64> {
    field(&stat(pid)?, 22)
}

/// The calling thread, as the kernel numbers it.
#[must_use]
pub fn thread_id() -> u32 {
    // SAFETY: gettid takes no argument, and always succeeds.
    let id = unsafe { libc::syscall(libc::SYS_gettid) };
    u32::try_from(id).unwrap_or(0)
}

/// The CPUs that are online and on which a thread may run, ascending; `None` if no process of this number that began at this time, or no such
/// thread of it, can be seen from here.
#[must_use]
pub fn cpus_of_thread(pid: u32, start_time: u64, thread: u32) -> Option<Vec<usize>> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).ok()?;
    // Asked after the thread, so that the answer is of this process and no later one.
    if self::start_time(pid)? != start_time {
        return None;
    }
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mut cpus = super::topology::list(list.trim())?;
    // The list has CPUs that went offline.
    let online = super::topology::online(Path::new("/"));
    cpus.retain(|cpu| online.is_empty() || online.contains(cpu));
    Some(cpus)
}

/// Whether a process is stopped, by a signal or a debugger; `None` if no process of this number that began at this time
/// can be seen from here.
#[must_use]
pub fn is_stopped(pid: u32, start_time: u64) -> Option<bool> {
    let stat = stat(pid)?;
    (field(&stat, 22) == Some(start_time))
        .then(|| field(&stat, 3).is_some_and(|state: char| "tT".contains(state)))
}

/// The line of a process in `/proc`, from its third field on. The second, the command's name in parentheses, may hold
/// anything.
fn stat(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(')')?.1.into())
}

/// A field of that line, by its number in proc(5).
fn field<T: std::str::FromStr>(stat: &str, number: usize) -> Option<T> {
    stat.split_whitespace().nth(number - 3)?.parse().ok()
}

/// How much resident memory a process has for itself, in bytes: without pages of files and of shared memory.
#[must_use]
pub fn private_bytes(pid: u32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let mut pages = statm.split_whitespace().skip(1).map(|field| field.parse::<u64>().ok());
    let (resident, shared) = (pages.next()??, pages.next()??);
    // SAFETY: reads a constant of the system.
    let page_bytes = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
    Some(resident.saturating_sub(shared).saturating_mul(page_bytes))
}

/// Sends SIGKILL to the process of this number, which the caller knows to be the right one.
///
/// # Errors
/// What the system says.
pub fn kill_by_number(pid: u32) -> io::Result<()> {
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: integers; a positive number is one process and not a group.
    match unsafe { libc::kill(pid, libc::SIGKILL) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends this process at once, with no exit handlers.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes an integer and does not return.
    unsafe { libc::_exit(code) }
}

/// Writes a line to standard error and ends this process with code 1: with no lock, no allocation and no exit handlers,
/// any of which may belong to another process. A long line is cut.
pub fn end_with(line: std::fmt::Arguments<'_>) -> ! {
    let mut buffer = [0_u8; 512];
    let room = buffer.len();
    let mut rest = &mut buffer[..];
    let _ = io::Write::write_fmt(&mut rest, line); // as much as there is room for
    let bytes = room - rest.len();
    // SAFETY: initialised bytes of that length.
    unsafe { libc::write(libc::STDERR_FILENO, buffer.as_ptr().cast(), bytes) };
    exit_now(1)
}

/// Makes this process ignore a signal.
pub fn ignore_signal(signal: i32) {
    // SAFETY: SIG_IGN is a valid disposition; no handler code of ours runs.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Whether a signal still has its default effect in this process.
#[must_use]
pub fn signal_is_default(signal: i32) -> bool {
    effect_of(signal) == Some(libc::SIG_DFL)
}

/// Whether this process ignores a signal.
#[must_use]
pub fn signal_is_ignored(signal: i32) -> bool {
    effect_of(signal) == Some(libc::SIG_IGN)
}

/// What a signal does in this process: a handler, or one of two numbers that are none.
fn effect_of(signal: i32) -> Option<libc::sighandler_t> {
    // SAFETY: an all-zero sigaction is valid to be overwritten.
    let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
    // SAFETY: a null new action only asks; `action` is live for the call to fill.
    let asked = unsafe { libc::sigaction(signal, core::ptr::null(), &raw mut action) };
    (asked == 0).then_some(action.sa_sigaction)
}

/// A signal handler, called with the signal. It does only what a signal handler may, and leaves `errno` as it was.
pub(crate) type SignalHandler = extern "C" fn(libc::c_int);

/// Installs `handler` for a signal: on the alternate stack, if the thread has one, and with interrupted calls resumed,
/// as for the handlers of other libraries.
///
/// # Errors
/// If the signal cannot be caught.
pub fn catch_signal(signal: i32, handler: SignalHandler) -> io::Result<()> {
    // SAFETY: an all-zero sigaction is valid; its mask is the empty one.
    let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_ONSTACK | libc::SA_RESTART;
    // SAFETY: a live structure with a handler of the type that these flags want.
    match unsafe { libc::sigaction(signal, &raw const action, core::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether a signal goes to `handler`, and not to one installed later. May be called in a signal handler.
#[must_use]
pub fn is_caught_by(signal: i32, handler: SignalHandler) -> bool {
    // SAFETY: an all-zero sigaction is valid to be overwritten.
    let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
    // SAFETY: a null new action only asks; `action` is live for the call to fill.
    let asked = unsafe { libc::sigaction(signal, core::ptr::null(), &raw mut action) };
    asked == 0 && action.sa_sigaction == handler as libc::sighandler_t
}

/// Runs the body of a signal handler, and leaves `errno` as it was.
pub fn keeping_errno(work: impl FnOnce()) {
    // SAFETY: the address of this thread's own.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above; a plain integer.
    let before = unsafe { *errno };
    work();
    // SAFETY: as above.
    unsafe { *errno = before };
}

/// Ends this process by a signal's default effect. The first process of a pid namespace, which has no default effects,
/// exits with 128 and the signal's number, as a shell would. May be called in a signal handler.
pub fn die_by_signal(signal: i32) -> ! {
    // SAFETY: SIG_DFL is a valid disposition, the set is a live one; all of it may be done in a handler. The signal may
    // be blocked, as it is in its handler.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        let mut set: libc::sigset_t = core::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, core::ptr::null_mut());
        libc::raise(signal);
    }
    exit_now(128 + signal)
}

/// From now on a read of mapped bytes beyond the end of a file that was made shorter ends this process with a message
/// and an exit code, and not by the signal alone. A terminal that was changed is given back first
/// ([`Changed`](super::terminal::Changed)).
pub fn end_on_bus_error(message: &'static str, code: i32) {
    static ENDING: OnceLock<(&'static str, i32)> = OnceLock::new();
    extern "C" fn end(_: libc::c_int) {
        let (message, code) = ENDING.get().copied().unwrap_or(("", 1));
        super::terminal::give_back();
        // SAFETY: write and _exit may be called in a signal handler; the message is static. `get` of a value that was
        // set before the handler was installed is a load.
        unsafe {
            libc::write(libc::STDERR_FILENO, message.as_ptr().cast(), message.len());
            libc::_exit(code)
        }
    }
    if ENDING.set((message, code)).is_ok() {
        // SAFETY: the handler has a handler's signature, and calls only what may be called in one.
        unsafe { libc::signal(libc::SIGBUS, end as extern "C" fn(libc::c_int) as libc::sighandler_t) };
    }
}

/// The user this process acts as.
#[must_use]
pub fn user_id() -> u32 {
    // SAFETY: takes nothing, cannot fail.
    unsafe { libc::geteuid() }
}

/// Runs `body` with the rights of another user on files, and no more than those, in this thread only. What root does to
/// a user's files that way, the user could have done.
///
/// # Errors
/// `EPERM` if this process may not become that user; `body` has not run then.
pub(crate) fn on_files_as<T>(user: u32, group: u32, body: impl FnOnce() -> T) -> io::Result<T> {
    /// Gives the rights back, also if `body` panics.
    struct Former(u32, u32);
    impl Drop for Former {
        fn drop(&mut self) {
            // SAFETY: integers; both concern this thread only. The user first: it has the right to the group.
            unsafe {
                libc::setfsuid(self.0);
                libc::setfsgid(self.1);
            }
        }
    }
    // SAFETY: as above. Each returns the former value; a refusal is silent, so the second call checks.
    let (former, now) = unsafe {
        let group_before = libc::setfsgid(group).cast_unsigned();
        let former = Former(libc::setfsuid(user).cast_unsigned(), group_before);
        (former, (libc::setfsuid(user).cast_unsigned(), libc::setfsgid(group).cast_unsigned()))
    };
    let answer = (now == (user, group)).then(body).ok_or(io::Error::from_raw_os_error(libc::EPERM));
    drop(former);
    answer
}

/// Lets `command` start its process with our standard input, output and error, as the command says, and no other
/// descriptor of ours, close-on-exec or not. A process that inherits descriptors it does not know keeps their files,
/// sockets and locks alive.
pub fn inherit_only_standard_descriptors(command: &mut Command) {
    let close = || {
        close_others_on_exec();
        Ok(())
    };
    // SAFETY: runs between fork and exec, where only async-signal-safe calls are allowed: it makes system calls, and
    // allocates nothing.
    unsafe { command.pre_exec(close) };
}

/// Marks every descriptor but the standard ones close-on-exec, in a child between fork and exec.
pub(super) fn close_others_on_exec() {
    let first = FIRST_OTHER.cast_unsigned();
    // SAFETY: integers.
    let marked =
        unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) == 0 };
    if !marked {
        close_on_exec_one_by_one(); // a kernel before 5.11, or a filter that does not know the call
    }
}

/// Blocks signals for this thread.
pub(super) fn block_signals(signals: &[i32]) {
    // SAFETY: an all-zero set is valid to be overwritten; both sets are live for the calls.
    unsafe {
        let mut set: libc::sigset_t = core::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for &signal in signals {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, core::ptr::null_mut());
    }
}

/// The signals that a terminal or a service manager sends to a whole group of processes.
pub const GROUP_SIGNALS: &[i32] = &[libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// From now on the signals of a group have no effect on this process; it goes on to ignore signals that it ignores, and
/// blocks none.
///
/// They are caught and not ignored: an ignored signal stays so in every program that this process starts. In a child
/// that it forks and that starts no other program they have their default effect.
pub fn outlive_group_signals() {
    static OUTLIVES: AtomicI32 = AtomicI32::new(0);
    extern "C" fn outlive(signal: libc::c_int) {
        // SAFETY: getpid, sigaction by signal, and raise may be called in a signal handler. What is raised here
        // comes when the handler is left.
        unsafe {
            if libc::getpid() != OUTLIVES.load(Ordering::Relaxed) {
                libc::signal(signal, libc::SIG_DFL); // Relaxed: set before the handler is
                libc::raise(signal);
            }
        }
    }
    // SAFETY: takes nothing.
    OUTLIVES.store(unsafe { libc::getpid() }, Ordering::Relaxed);
    for &signal in GROUP_SIGNALS.iter().filter(|&&signal| signal_is_default(signal)) {
        // SAFETY: all-zero structures are valid; the handler only does what a handler may.
        unsafe {
            let mut action: libc::sigaction = core::mem::zeroed();
            action.sa_sigaction = outlive as extern "C" fn(libc::c_int) as libc::sighandler_t;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(signal, &raw const action, core::ptr::null_mut());
        }
    }
    // SAFETY: an all-zero set is valid to be overwritten, and live for both calls.
    unsafe {
        let mut none: libc::sigset_t = core::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, core::ptr::null_mut());
    }
}

/// The descriptors below the soft limit; one that was opened before the limit was lowered is missed.
fn close_on_exec_one_by_one() {
    let limit = soft_limit(Limit::Descriptors).and_then(|limit| i32::try_from(limit).ok());
    for fd in FIRST_OTHER..limit.unwrap_or(i32::MAX) {
        // SAFETY: integers. One that is not open answers EBADF.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// Opens `/dev/null` in the place of each standard descriptor that is closed: else the next file opened would get its
/// number, and printed text would go there.
pub fn open_standard_descriptors() {
    for fd in 0..FIRST_OTHER {
        // SAFETY: integers, and a C string. The lowest free number is given, so lower ones come first. What is opened as
        // a standard descriptor is not ours to close; another one is, where another thread has taken that number.
        unsafe {
            if libc::fcntl(fd, libc::F_GETFD) == -1 {
                let opened = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
                if opened >= FIRST_OTHER {
                    libc::close(opened);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_marked_one_by_one_too() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let fd = file.as_raw_fd();
        // SAFETY: integers, and a descriptor of ours.
        unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
        close_on_exec_one_by_one();
        // SAFETY: as above.
        assert_eq!(unsafe { libc::fcntl(fd, libc::F_GETFD) }, libc::FD_CLOEXEC);
    }

    #[test]
    fn acting_as_oneself_is_always_allowed() {
        // SAFETY: takes nothing.
        let group = unsafe { libc::getegid() };
        assert_eq!(on_files_as(user_id(), group, || 7).unwrap(), 7);
    }
}
