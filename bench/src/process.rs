//! The other side of a contestant in a process of its own.
//!
//! The process is this program's executable, started again with a hidden first argument. So the first thing in `main` is to ask
//! for a [`task`]; a process that gets one does that, and nothing else.
//!
//! What both sides share is handed over as the partner's standard input and output: pipes, sockets, or a file
//! in memory to be mapped. So it has no name that could stay behind. Standard error is shared with the program.
//!
//! *A partner that spins* must not run while another contestant is measured. Signals stop and continue it, and
//! [`Process::pause`] returns once the system has reported that it has stopped. A partner that blocks needs neither.
//!
//! *No side waits for the dead.* Dropping a [`Process`] kills the partner and waits for it. The kernel kills it, also while it
//! is stopped, when the thread that started it ends. A client that spins for its answer calls [`Process::spin`] in between,
//! which checks now and then whether the partner still lives.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::{env, hint, process};

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, getppid, kill_process, set_parent_process_death_signal, waitid,
};

use crate::Error;
use crate::pin::pin_to;

/// The hidden first argument. After it: the CPU, the starter's process id, the task.
const PARTNER: &str = "--be-the-partner";

/// What a partner writes to its standard output when it is [`ready`].
const READY: u8 = b'!';

/// Vain looks for an answer between two looks after the partner: milliseconds.
const SPINS_PER_LOOK: u32 = 1 << 16;

/// A partner's process.
#[derive(Debug)]
pub struct Process {
    who: &'static str,
    child: Child,
    /// Set once it has been waited for: from then on its number may be another's.
    ended: Option<ExitStatus>,
    spins: u32,
    #[cfg(any(feature = "rivals", feature = "aeron"))]
    janitor: Option<crate::janitor::Janitor>,
}

impl Process {
    /// Starts the partner of `who` on `cpu`, with `task` to do. It runs at once.
    ///
    /// It lives no longer than the calling thread.
    ///
    /// # Errors
    ///
    /// [`Error::SpawnProcess`] if the system refuses.
    pub fn start(
        who: &'static str,
        cpu: usize,
        task: &str,
        input: impl Into<Stdio>,
        output: impl Into<Stdio>,
    ) -> Result<Self, Error> {
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0(format!("compare: partner of {who}"))
            .args([PARTNER, &cpu.to_string(), &process::id().to_string(), task])
            .stdin(input)
            .stdout(output);
        let child = command.spawn().map_err(|source| Error::SpawnProcess { who, source })?;
        Ok(Self {
            who,
            child,
            ended: None,
            spins: 0,
            #[cfg(any(feature = "rivals", feature = "aeron"))]
            janitor: None,
        })
    }

    /// Has `janitor` remove what the partner leaves, once it is dead.
    #[cfg(any(feature = "rivals", feature = "aeron"))]
    #[must_use]
    pub fn cleaned_up_by(mut self, janitor: crate::janitor::Janitor) -> Self {
        self.janitor = Some(janitor);
        self
    }

    /// Waits until the partner has said that it is [`ready`]; its output must be a pipe ([`Stdio::piped`]).
    ///
    /// # Errors
    ///
    /// [`Error::PartnerDied`] if it has ended instead.
    ///
    /// # Panics
    ///
    /// If its output is none.
    pub fn wait_until_ready(&mut self) -> Result<(), Error> {
        let output = self.child.stdout.as_mut().expect("the partner's output is a pipe");
        let mut byte = [0];
        match output.read_exact(&mut byte) {
            Ok(()) if byte == [READY] => Ok(()),
            _ => Err(self.death()),
        }
    }

    /// Lets a partner run that [`pause`](Self::pause) has stopped; does not wait until it does.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Stops the partner, and waits until it has stopped or is dead.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        if self.ended.is_some() {
            return;
        }
        // The next wait for an answer finds a dead partner.
        let stopped = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while matches!(waitid(WaitId::Pid(self.pid()), stopped), Err(Errno::INTR)) {}
    }

    /// To be called between two looks for an answer.
    ///
    /// # Errors
    ///
    /// [`Error::PartnerDied`] if there will never be one.
    #[inline]
    pub fn spin(&mut self) -> Result<(), Error> {
        hint::spin_loop();
        self.spins = self.spins.wrapping_add(1);
        if self.spins.is_multiple_of(SPINS_PER_LOOK) { self.look() } else { Ok(()) }
    }

    /// The error of a failed read or write: that the partner has died, if it has, otherwise the system's error.
    pub fn failed(&mut self, source: io::Error) -> Error {
        // Its end of a pipe or socket is closed just before its death can be seen.
        let closed = is_closed(&source);
        if closed { self.death() } else { Error::Transport { who: self.who, source } }
    }

    /// The partner's process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    #[cold]
    fn look(&mut self) -> Result<(), Error> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(self.death()),
            Err(source) => Err(Error::Transport { who: self.who, source }),
        }
    }

    fn death(&mut self) -> Error {
        // One that has closed its end and lives on is of no use.
        match self.end() {
            Ok(status) => Error::PartnerDied { who: self.who, status },
            Err(source) => Error::Transport { who: self.who, source },
        }
    }

    /// Kills it, stopped or not, and waits for it; nothing if that has been done.
    fn end(&mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::KILL);
        let status = self.child.wait()?;
        self.ended = Some(status);
        Ok(status)
    }

    fn signal(&self, signal: Signal) {
        if self.ended.is_none() {
            // It fails only for want of a process, and a child that has not been waited for is one.
            let _ = kill_process(self.pid(), signal);
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // No caller can get the error.
        let _ = self.end();
    }
}

/// This process's task, if it was started as a partner: pinned, and bound to its starter's life.
///
/// Ends the process, with a message, if that is not possible.
#[must_use]
pub fn task() -> Option<String> {
    let mut arguments = env::args().skip(1);
    if arguments.next()? != PARTNER {
        return None;
    }
    let task = (|| {
        let cpu = arguments.next()?.parse().ok()?;
        let starter = arguments.next()?.parse().ok()?;
        Some((cpu, starter, arguments.next()?))
    })();
    let Some((cpu, starter, task)) = task else {
        give_up(&format!("{PARTNER} is not meant to be given by hand"))
    };
    set_parent_process_death_signal(Some(Signal::KILL))
        .unwrap_or_else(|error| give_up(&format!("cannot be bound to its starter's life: {error}")));
    // The starter may have died before the kernel was asked to report its death.
    if getppid() != Pid::from_raw(starter) {
        give_up("its starter is gone");
    }
    pin_to(cpu).unwrap_or_else(|error| give_up(&error.to_string()));
    Some(task)
}

/// Says to [`Process::wait_until_ready`] that this partner is.
///
/// # Errors
///
/// Those of writing to standard output.
pub fn ready() -> io::Result<()> {
    let mut out = io::stdout();
    out.write_all(&[READY])?;
    out.flush()
}

/// The descriptor that the starter handed over as standard input.
///
/// # Errors
///
/// `EMFILE` and its like.
pub fn input() -> io::Result<OwnedFd> {
    io::stdin().as_fd().try_clone_to_owned()
}

/// The descriptor that the starter handed over as standard output.
///
/// # Errors
///
/// `EMFILE` and its like.
pub fn output() -> io::Result<OwnedFd> {
    io::stdout().as_fd().try_clone_to_owned()
}

/// Whether `error` says that the other side of a pipe or socket has been closed: its holder has gone.
pub fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

/// Ends a partner that cannot go on.
pub fn give_up(reason: &str) -> ! {
    eprintln!("{}: {reason}", env::args().next().unwrap_or_default());
    process::exit(1)
}
