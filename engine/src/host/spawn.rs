//! Starts a worker's process, and keeps what the supervisor has of it. The protocol is that of [`host`](super).

use super::janitor::Janitor;
use super::order::{Descriptor, EventLine, Order, VARIABLE, VARIABLE_OF_CALL};
use super::recipe::{Begins, Recipe};
use super::report::{END_AT_ONCE, Report};
use crate::clock::deadline;
use ringmill_shm::segment::Segment;
use ringmill_shm::sys::child::Child;
use ringmill_shm::sys::process::{
    GROUP_SIGNALS, PidFd, is_unwaited_child, kill_by_number, open_standard_descriptors, wait_readable,
};
use ringmill_shm::sys::tether::{Received, Tether};
use std::ffi::OsStr;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};
use tracing::level_filters::LevelFilter;

/// How often to look at a child whose end no event reports.
const LOOK_AT_CHILD: Duration = Duration::from_millis(5);
/// How long the supervisor waits for a killed process to end.
pub(crate) const KILL_LIMIT: Duration = Duration::from_secs(5);

/// A worker's process, as the supervisor has it.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) pidfd: PidFd,
    /// `None` once the other end is closed.
    pub(crate) tether: Option<Tether>,
    /// Why it cannot attach, as it says.
    pub(crate) reason: Option<String>,
    /// It lives without its tether: it has run another program in its place, or closed its descriptors.
    pub(crate) strayed: bool,
}

/// A process that was started, and what is to be done with it.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) process: Process,
    /// The server's end of its event line, if it has one.
    pub(crate) events: Option<Tether>,
    /// What an operator should know.
    pub(crate) warning: Option<String>,
}

/// Starts a worker's process. `title` is its name in process lists; of variables with one name the last counts. Fills
/// in the order's descriptors, type, build and name, and with `level` its event line.
pub(crate) fn spawn(
    recipe: &Recipe,
    title: &str,
    mut order: Order,
    segment: &Segment,
    janitor: Option<&Janitor>,
    level: Option<LevelFilter>,
) -> Result<Spawned, SpawnError> {
    open_standard_descriptors(); // the service may have closed them since its start
    let (ours, theirs) = Tether::pair()?;
    let lease = segment.lease();
    // A child that another thread forks now must keep neither: it would hold the worker's byte of the lease, and its
    // tether.
    let own = lease.reopen();
    let (hold, theirs) = (own.as_ref().unwrap_or(&recipe.spare).file()?, theirs.file()?);
    let kept = [segment.file(), &hold, lease.probe(), &theirs];
    let mut descriptors = Vec::with_capacity(kept.len());
    for file in kept {
        descriptors.push(Descriptor::of(file)?);
    }
    order.descriptors = descriptors.try_into().ok();
    let line = level.map(|level| Ok::<_, std::io::Error>((level, Tether::pair()?))).transpose()?;
    let line_file = line.as_ref().map(|(_, (_, theirs))| theirs.file()).transpose()?;
    if let (Some((level, _)), Some(file)) = (&line, &line_file) {
        order.events = Some(EventLine { descriptor: Descriptor::of(file)?, level: *level });
    }
    if let Some(config) = &recipe.config {
        order.config = Some(Descriptor::of(config)?);
    }
    let program = &recipe.program;
    order.type_hash = program.type_hash;
    order.build = program.build.clone();
    order.name = program.image.name().to_str().unwrap_or_default().into();
    let mut command = program.image.command();
    match &recipe.arguments {
        Some(arguments) => command.args(arguments),
        None => command.args(["worker", title]),
    };
    // A program that becomes a worker by a call may be an interpreter, which finds its files by its name.
    let (variable, other, name) = match recipe.begins {
        Begins::BeforeMain => (VARIABLE, VARIABLE_OF_CALL, OsStr::new("ringmill")),
        Begins::ByCall => (VARIABLE_OF_CALL, VARIABLE, program.image.path().as_os_str()),
    };
    command
        .envs(recipe.env.iter().map(|(key, value)| (key, value)))
        .env_remove(other)
        .env(variable, order.to_text());
    let input = recipe.held.nothing.as_raw_fd();
    let kept =
        kept.into_iter().chain(line_file.as_deref()).chain(recipe.config.as_deref()).map(AsRawFd::as_raw_fd);
    let kept: Vec<i32> = kept.collect();
    let root = recipe.held.root_to_return_to(|| janitor?.root());
    let (child, fallback) =
        program.image.spawn(&command, name, input, &kept, GROUP_SIGNALS, root.as_ref())?;
    crash_point!("spawn.started");
    let warning = fallback.map(|fallback| fallback.to_string()).or_else(|| {
        let error = own.err()?;
        Some(format!("its lease could not be opened again ({error}); it shares the server's description"))
    });
    match PidFd::of_child(child.id()) {
        Ok(pidfd) => {
            let process = Process { child, pidfd, tether: Some(ours), reason: None, strayed: false };
            Ok(Spawned { process, events: line.map(|(_, (ours, _theirs))| ours), warning })
        }
        Err(error) => {
            // Without a pidfd the supervisor could not notice its death. If it has gone already, its pid may be of
            // another process.
            drop(ours); // closes the tether: the child ends when it sees that, if the signal does not reach it
            let mut left = Unwatched(child);
            let mut ended = !is_unwaited_child(left.pid());
            if !ended {
                let _ = left.0.kill(); // its end is what counts
                let until = deadline(KILL_LIMIT);
                while !ended && Instant::now() < until {
                    std::thread::sleep(LOOK_AT_CHILD); // no event reports its end: the pidfd is what failed
                    ended = left.has_ended();
                }
            }
            Err(SpawnError { error, survivor: (!ended).then_some(left) })
        }
    }
}

/// A process that was started, has no pidfd, and could not be ended: the signal was refused, or the process does not
/// obey one yet. It may still attach and act under its tokens, until it sees that its tether is closed.
#[derive(Debug)]
pub(crate) struct Unwatched(Child);

impl Unwatched {
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Whether it has ended; false also where this process may not wait for it, since then nothing shows its end.
    pub(crate) fn has_ended(&mut self) -> bool {
        match self.0.try_wait() {
            Ok(status) => status.is_some(),
            Err(error) => error.raw_os_error() == Some(libc::ECHILD), // other code has waited for it
        }
    }
}

/// Why a process was not started.
#[derive(Debug)]
pub(crate) struct SpawnError {
    pub(crate) error: std::io::Error,
    /// A process that was started all the same, and has not ended.
    pub(crate) survivor: Option<Unwatched>,
}

impl From<std::io::Error> for SpawnError {
    fn from(error: std::io::Error) -> Self {
        Self { error, survivor: None }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ended {
    /// With the status that the kernel reports.
    As(ExitStatus),
    /// With a status that is lost: the program ignores SIGCHLD, waits for all its children elsewhere, or may not wait
    /// for any.
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
    /// How the process ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<Ended> {
        match self.child.try_wait() {
            Ok(Some(status)) => Some(Ended::As(status)),
            Ok(None) => None,
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Some(Ended::Somehow),
            // This process may not wait for it, but can see whether it has ended.
            Err(_) => {
                wait_readable(&[self.pidfd.as_raw_fd()], Some(Duration::ZERO))[0].then_some(Ended::Somehow)
            }
        }
    }

    /// Waits until it has ended, up to this limit.
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

    /// The reports that it has sent since the last look. Drops the tether if the other end is closed.
    pub(crate) fn reports(&mut self) -> Vec<Report> {
        let mut reports = Vec::new();
        while let Some(tether) = &self.tether {
            match tether.receive() {
                Received::Message(message) => reports.extend(Report::parse(&message)),
                Received::Nothing => break,
                Received::Over => self.tether = None,
            }
        }
        reports
    }
}

/// Ends exactly this process: by a signal, or, if that is refused, by an order to its watcher thread. Does not wait,
/// and does not say whether it worked: a stopped process obeys signals only.
pub(crate) fn kill(process: &Process) {
    let Err(_refused) = process.pidfd.send_signal(libc::SIGKILL) else { return };
    // A filter may allow only one of the two calls. The pid is still that of the child, since it has not been waited
    // for.
    let pid = process.child.id();
    if is_unwaited_child(pid) && kill_by_number(pid).is_ok() {
        return;
    }
    if let Some(tether) = &process.tether {
        let _ = tether.send(END_AT_ONCE); // the process may have ended already
    }
}
