//! Every system call that a service makes, refused in turn: at its start, in service, at a restart, at its shutdown.
//!
//! Whichever call the system refuses, the program ends in time, with values or with errors that say why, without a panic, and
//! leaves no process and no file. [`CALLS`] lists the calls of a service from start to end (`strace -f -c` of `live`), and the
//! calls that are not refused, with the reason.

use crate::refuse::{Refusal, from_now_on};
use libc::c_long;
use ringmill::{BoxError, Context, PassThrough, ThreadServlet, Worker};
use ringmill::{CallError, CallOptions, OnDeath, ProcessServlet, Restarts, Server, Servlet, StreamOptions};
use rkyv::Archived;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a service may take; it takes a second or two without a refusal.
const LIMIT: Duration = Duration::from_secs(40);
/// How long a process may take to go that was killed, or whose server has gone.
const LEAVING: Duration = Duration::from_secs(10);

/// When calls begin to be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Before the server starts.
    Start,
    /// When it is ready.
    Service,
    /// Before a worker dies.
    Restart,
    /// Before it is shut down.
    ShutDown,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Start, Self::Service, Self::Restart, Self::ShutDown];

    /// In a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Service => "service",
            Self::Restart => "restart",
            Self::ShutDown => "shutdown",
        }
    }
}

/// A system call that a service makes.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// Its name, with the command if there is one.
    pub name: &'static str,
    number: c_long,
    argument: Option<(u8, u32)>,
    /// Another call that is refused with it.
    and: Option<c_long>,
    /// Besides `EPERM` and `ENOSYS`.
    also: &'static [i32],
    /// Files that cannot be removed stay.
    may_leave_files: bool,
}

const fn call(name: &'static str, number: c_long) -> Call {
    Call { name, number, argument: None, and: None, also: &[], may_leave_files: false }
}

impl Call {
    const fn with(self, index: u8, value: i32) -> Self {
        Self { argument: Some((index, value.cast_unsigned())), ..self }
    }

    const fn and(self, number: c_long) -> Self {
        Self { and: Some(number), ..self }
    }

    const fn also(self, errors: &'static [i32]) -> Self {
        Self { also: errors, ..self }
    }

    const fn may_leave_files(self) -> Self {
        Self { may_leave_files: true, ..self }
    }

    /// The errors that it may return.
    pub fn errors(self) -> impl Iterator<Item = i32> {
        [libc::EPERM, libc::ENOSYS].into_iter().chain(self.also.iter().copied())
    }
}

/// The calls that are refused.
///
/// Not refused, because no program lives without: `mmap`, `munmap`, `mprotect`, `brk`, `mremap`, `futex`, `exit`,
/// `exit_group`, `rt_sigreturn`, `rt_sigprocmask`, `arch_prctl`, `set_tid_address`, `set_robust_list`, `rseq`,
/// `restart_syscall`; `execve`, `read`, `openat`, `fstat`, `pread64` and `close` at the start, where the dynamic linker of
/// each worker needs them first (it ends with 127, which the error has). Nor `close` and `recvfrom`: where they are refused,
/// the standard library's `Command::spawn` waits for the child's end, and then panics.
pub const CALLS: &[Call] = &[
    // Files: segment, lease, executable, directory.
    call("openat", libc::SYS_openat).also(&[libc::EMFILE, libc::ENFILE, libc::EACCES]),
    call("read", libc::SYS_read),
    call("pread64", libc::SYS_pread64),
    call("write", libc::SYS_write),
    call("newfstatat", libc::SYS_newfstatat),
    call("statx", libc::SYS_statx),
    call("statfs", libc::SYS_statfs),
    call("lseek", libc::SYS_lseek),
    #[cfg(target_arch = "x86_64")]
    call("readlink", libc::SYS_readlink),
    #[cfg(target_arch = "x86_64")]
    call("access", libc::SYS_access),
    call("ftruncate", libc::SYS_ftruncate).also(&[libc::ENOSPC]),
    call("fallocate", libc::SYS_fallocate).also(&[libc::ENOSPC, libc::EOPNOTSUPP]),
    call("fchmod", libc::SYS_fchmod),
    call("unlinkat", libc::SYS_unlinkat).may_leave_files(),
    call("fcntl(F_OFD_SETLK)", libc::SYS_fcntl)
        .with(1, libc::F_OFD_SETLK)
        .also(&[libc::EINVAL, libc::ENOLCK]),
    call("fcntl(F_OFD_GETLK)", libc::SYS_fcntl).with(1, libc::F_OFD_GETLK).also(&[libc::EINVAL]),
    call("fcntl(F_DUPFD_CLOEXEC)", libc::SYS_fcntl).with(1, libc::F_DUPFD_CLOEXEC).also(&[libc::EMFILE]),
    call("fcntl(F_GETFD)", libc::SYS_fcntl).with(1, libc::F_GETFD),
    call("fcntl(F_SETFD)", libc::SYS_fcntl).with(1, libc::F_SETFD),
    call("madvise", libc::SYS_madvise).also(&[libc::EINVAL]),
    // Processes.
    call("clone", libc::SYS_clone).also(&[libc::EAGAIN]),
    call("clone3", libc::SYS_clone3).also(&[libc::EAGAIN]),
    call("execve", libc::SYS_execve).also(&[libc::EACCES]),
    call("execveat", libc::SYS_execveat).also(&[libc::EACCES]),
    call("wait4", libc::SYS_wait4),
    call("waitid", libc::SYS_waitid),
    call("waitid(P_PIDFD)", libc::SYS_waitid).with(0, 3).also(&[libc::EINVAL]),
    call("pidfd_open", libc::SYS_pidfd_open).also(&[libc::EMFILE]),
    call("pidfd_send_signal", libc::SYS_pidfd_send_signal),
    call("kill", libc::SYS_kill),
    call("pidfd_send_signal and kill", libc::SYS_pidfd_send_signal).and(libc::SYS_kill),
    call("dup2", libc::SYS_dup2),
    call("pipe2", libc::SYS_pipe2).also(&[libc::EMFILE]),
    call("getpid", libc::SYS_getpid),
    call("geteuid", libc::SYS_geteuid),
    call("close_range", libc::SYS_close_range),
    call("prlimit64", libc::SYS_prlimit64),
    call("prctl", libc::SYS_prctl),
    call("getrandom", libc::SYS_getrandom),
    // Signals, descriptors that report.
    call("rt_sigaction", libc::SYS_rt_sigaction),
    call("sigaltstack", libc::SYS_sigaltstack),
    call("eventfd2", libc::SYS_eventfd2).also(&[libc::EMFILE]),
    call("socketpair", libc::SYS_socketpair).also(&[libc::EMFILE]),
    call("sendto", libc::SYS_sendto).also(&[libc::EAGAIN]),
    #[cfg(target_arch = "x86_64")]
    call("poll", libc::SYS_poll),
    call("ppoll", libc::SYS_ppoll),
    #[cfg(target_arch = "x86_64")]
    call("poll and ppoll", libc::SYS_poll).and(libc::SYS_ppoll),
    // CPUs, memory policy, time.
    call("sched_getaffinity", libc::SYS_sched_getaffinity),
    call("sched_setaffinity", libc::SYS_sched_setaffinity).also(&[libc::EINVAL]),
    call("sched_yield", libc::SYS_sched_yield),
    call("clock_nanosleep", libc::SYS_clock_nanosleep),
];

/// One refusal in one phase.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// The call.
    pub call: Call,
    /// The error that it returns.
    pub errno: i32,
    /// From when on.
    pub phase: Phase,
}

impl Case {
    /// All there are: calls, errors, phases.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let errors = CALLS.iter().flat_map(|&call| call.errors().map(move |errno| (call, errno)));
        errors.flat_map(|(call, errno)| Phase::ALL.map(|phase| Self { call, errno, phase })).collect()
    }

    /// In words.
    #[must_use]
    pub fn name(&self) -> String {
        let error = std::io::Error::from_raw_os_error(self.errno);
        format!("{} at {}: {error}", self.call.name, self.phase.name())
    }

    fn refusals(&self) -> Vec<Refusal> {
        let refusal = Refusal::of(self.call.number, self.errno);
        let refusal = match self.call.argument {
            Some((index, value)) => refusal.where_argument(index, value),
            None => refusal,
        };
        let and = self.call.and.map(|number| Refusal::of(number, self.errno));
        [refusal].into_iter().chain(and).collect()
    }
}

/// How a life went.
#[derive(Debug)]
pub struct Report {
    /// Its output: values, errors.
    pub said: Vec<String>,
    /// What was wrong.
    pub problems: Vec<String>,
    /// For how long it lived.
    pub time: Duration,
}

/// Where the life's orders are.
const VARIABLE: &str = "RINGMILL_TESTS_LIFE";

/// Runs a service in a process of its own, a program that calls [`live_if_told`] first, and checks what it leaves.
///
/// # Panics
/// If it cannot be started.
#[must_use]
pub fn run(program: &mut Command, index: Option<usize>) -> Report {
    let name = crate::fresh_name("refused");
    let (ours, theirs) = UnixStream::pair().expect("a socket");
    let order = index.map_or("none".into(), |index| index.to_string());
    program.env(VARIABLE, format!("{order} {name}")).env("RUST_BACKTRACE", "0");
    program.stdin(Stdio::null()).stdout(OwnedFd::from(theirs)).stderr(Stdio::piped());
    lead_a_session(program);
    let begun = Instant::now();
    let mut child = program.spawn().expect("the program");
    program.stdout(Stdio::null()); // our copy of its end
    let pid = child.id();
    let stderr = child.stderr.take().expect("piped");
    let (said, errors) = std::thread::scope(|scope| {
        let listen = |mut stream: Box<dyn Read + Send>| {
            let mut text = Vec::new();
            let _ = stream.read_to_end(&mut text); // reads until the limit
            String::from_utf8_lossy(&text).into_owned()
        };
        let said = scope.spawn(move || listen(Box::new(ours)));
        let errors = scope.spawn(move || listen(Box::new(stderr)));
        let mut overdue = false;
        while child.try_wait().expect("it is ours").is_none() && !overdue {
            std::thread::sleep(Duration::from_millis(5)); // how often to look
            overdue = begun.elapsed() > LIMIT;
        }
        let time = begun.elapsed();
        // Processes that are left hold our sockets open, so they go first.
        let left = members_after(pid, LEAVING);
        kill_all(pid);
        let status = child.wait().expect("it is ours");
        let mut problems = Vec::new();
        if overdue {
            problems.push(format!("it did not end in {LIMIT:?}"));
        } else if status.code() != Some(0) {
            problems.push(format!("it ended with {:?}, signal {:?}", status.code(), status.signal()));
        }
        if !left.is_empty() && !overdue {
            problems.push(format!("processes are left: {left:?}"));
        }
        ((said.join(), time), (errors.join(), problems))
    });
    let ((said, time), (errors, mut problems)) = (said, errors);
    let (said, errors) = (said.unwrap_or_default(), errors.unwrap_or_default());
    if let Some(panic) = said.lines().chain(errors.lines()).find(|line| line.contains("panicked at")) {
        problems.push(panic.to_owned());
    }
    let said: Vec<String> = said.lines().map(str::to_owned).collect();
    if said.last().is_none_or(|line| line != "over") {
        let last = errors.lines().last().unwrap_or("").to_owned();
        problems.push(format!("it did not come to its end; it said {:?}, {last:?}", said.last()));
    }
    let may_leave = index.is_some_and(|index| Case::all()[index].call.may_leave_files);
    for suffix in ["", ".lease"] {
        let path = format!("/dev/shm/ringmill-{name}{suffix}");
        if std::fs::remove_file(&path).is_ok() && !may_leave {
            problems.push(format!("{path} is left"));
        }
    }
    Report { said, problems, time }
}

#[expect(unsafe_code, reason = "setsid between fork and exec")]
fn lead_a_session(program: &mut Command) {
    let lead = || {
        // SAFETY: takes nothing.
        unsafe { libc::setsid() };
        Ok(())
    };
    // SAFETY: `lead` makes one system call.
    unsafe { program.pre_exec(lead) };
}

/// The processes of a session, but its leader; zombies are none.
fn members(session: u32) -> Vec<String> {
    let of = |pid: u32| -> Option<String> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let state = fields.next()?;
        let is_member = fields.nth(2)?.parse() == Ok(session) && pid != session && state != "Z";
        is_member.then(|| format!("{pid} ({state})"))
    };
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| of(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// Those that are still there after so long.
fn members_after(session: u32, limit: Duration) -> Vec<String> {
    let begun = Instant::now();
    loop {
        let left = members(session);
        if left.is_empty() || begun.elapsed() > limit {
            return left;
        }
        std::thread::sleep(Duration::from_millis(20)); // how often to look
    }
}

#[expect(unsafe_code, reason = "kill of a process group")]
fn kill_all(session: u32) {
    if let Ok(group) = i32::try_from(session) {
        // SAFETY: integers. The group is that of the session's leader, which has not been waited for.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
}

/// Dies, hangs or answers, as it is asked to.
#[derive(Debug)]
pub struct Subject;

const DIE: u64 = 1 << 40;
const HANG: u64 = 1 << 41;

impl Worker for Subject {
    type Config = ();
    type In = u64;
    type Out = u64;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, x: &Archived<u64>) -> Result<u64, BoxError> {
        match x.to_native() {
            DIE => std::process::exit(7),
            HANG => loop {
                std::thread::park();
            },
            x => Ok(x + 1),
        }
    }
}

/// Says a line, by whatever call is left to say it.
#[expect(unsafe_code, reason = "write or send")]
fn say(line: &str) {
    let line = format!("{line}\n");
    // SAFETY: a live slice of that length, which is read.
    unsafe {
        if libc::write(libc::STDOUT_FILENO, line.as_ptr().cast(), line.len()) < 0 {
            libc::send(libc::STDOUT_FILENO, line.as_ptr().cast(), line.len(), libc::MSG_NOSIGNAL);
        }
    }
}

/// In a process that [`run`] has started: lives the life, and ends. To be called first in `main`.
pub fn live_if_told() {
    let Ok(order) = std::env::var(VARIABLE) else { return };
    let (index, name) = order.split_once(' ').expect("two words");
    let case = index.parse().ok().map(|index: usize| Case::all()[index]);
    live(case, name);
    say("over");
    let _ = std::io::stdout().flush();
    std::process::exit(0);
}

/// A service from start to end; from one phase on a call is refused.
fn live(case: Option<Case>, name: &str) {
    let refuse_at = |phase: Phase| {
        if let Some(case) = case.filter(|case| case.phase == phase) {
            from_now_on(&case.refusals()).expect("the kernel has seccomp");
        }
    };
    refuse_at(Phase::Start);
    let soon = Duration::from_millis(10);
    let processes = ProcessServlet::<Subject>::new(())
        .name("subject")
        .cpus(2)
        .exec_timeout(Duration::from_millis(300))
        .on_death(OnDeath::Fail)
        .restarts(Restarts::default().limit(3).backoff(soon, soon));
    let servlet = processes.then(ThreadServlet::<PassThrough<u64>>::new(()));
    let builder = Server::builder(name).capacity(16).start_timeout(Duration::from_secs(5));
    let server = match builder.shutdown_timeout(Duration::from_secs(2)).start(servlet) {
        Ok(server) => server,
        Err(error) => return say(&format!("start: {error}")),
    };
    refuse_at(Phase::Service);
    use_it(&server, "service");
    refuse_at(Phase::Restart);
    outcome("a death", server.call_with(&DIE, options()).map(|reply| reply.to_native()));
    outcome("a timeout", server.call_with(&HANG, options()).map(|reply| reply.to_native()));
    use_it(&server, "restart");
    refuse_at(Phase::ShutDown);
    server.shutdown();
}

fn options() -> CallOptions {
    CallOptions::new().timeout(Duration::from_secs(1))
}

fn outcome(what: &str, outcome: Result<u64, CallError>) {
    match outcome {
        Ok(value) => say(&format!("{what}: {value}")),
        Err(error) => say(&format!("{what}: {error}")),
    }
}

/// Calls of each kind.
fn use_it(server: &Server<u64, u64>, when: &str) {
    outcome(&format!("call in {when}"), server.call_with(&1, options()).map(|reply| reply.to_native()));
    let future = server.call_async_with(&2, options());
    outcome(&format!("future in {when}"), pollster::block_on(future).map(|reply| reply.to_native()));
    let options = StreamOptions::new().timeout(Duration::from_millis(300));
    let (mut values, mut error) = (0, None);
    for item in server.stream_with(0..5, options) {
        match item {
            Ok(_) => values += 1,
            Err(why) => error = Some(why),
        }
    }
    say(&format!("stream in {when}: {values} values{}", error.map_or(String::new(), |e| format!("; {e}"))));
}
