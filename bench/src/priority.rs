//! Real-time priority: on a machine that is busy with something else, a slice that the other work interrupts does not count,
//! and at a load of ten hardly one is left.
//!
//! The policy is round-robin (`SCHED_RR`), not `SCHED_FIFO`: where each thread has a CPU of its own they are the same, but
//! two threads of equal priority that wait for each other on one CPU, spinning, would stand still for ever under the
//! latter. The kernel's own limit on real-time threads (`/proc/sys/kernel/sched_rt_runtime_us`, mostly 95% of a second)
//! costs a slice now and then, and such a slice does not count.
#![expect(unsafe_code, reason = "a system call")]

use std::fmt;
use std::io;

use crate::Error;

/// When to ask for real-time priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Realtime {
    /// Where the system permits it
    #[default]
    Auto,
    /// Where it does not, nothing is measured
    Always,
    /// Not at all
    Never,
}

/// Above all ordinary threads and below those of the kernel that must not wait.
const LEVEL: i32 = 10;

/// With which priority a run measures.
#[derive(Debug)]
pub enum Priority {
    /// Real-time.
    Realtime,
    /// As any program.
    Ordinary,
    /// As any program, since the system refused another one.
    Refused(io::Error),
}

impl Priority {
    /// Gives the calling thread, and all threads and processes that it starts, the priority that is asked for.
    ///
    /// # Errors
    ///
    /// [`Error::Realtime`] if it must be real-time and the system refuses.
    pub fn take(when: Realtime) -> Result<Self, Error> {
        if when == Realtime::Never {
            return Ok(Self::Ordinary);
        }
        match raise() {
            Ok(()) => Ok(Self::Realtime),
            Err(source) if when == Realtime::Always => Err(Error::Realtime { source }),
            Err(source) => Ok(Self::Refused(source)),
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Realtime => write!(out, "real-time priority (SCHED_RR, {LEVEL})"),
            Self::Ordinary => write!(out, "ordinary priority"),
            Self::Refused(error) => {
                write!(out, "ordinary priority, since the system refuses another: {error}")
            }
        }
    }
}

fn raise() -> io::Result<()> {
    // SAFETY: all bytes of it are numbers.
    let mut parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    parameters.sched_priority = LEVEL;
    // SAFETY: 0 is the calling thread, and the call reads one struct.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn it_says_what_it_got() {
        assert_eq!(Priority::take(Realtime::Never).unwrap().to_string(), "ordinary priority");
        // Of a thread of its own: this program's others stay as they are.
        let of =
            |when| thread::spawn(move || Priority::take(when).map(|got| got.to_string())).join().unwrap();
        match (of(Realtime::Auto).unwrap(), of(Realtime::Always)) {
            (got, Ok(same)) => assert_eq!((&*got, &*got), ("real-time priority (SCHED_RR, 10)", &*same)),
            (got, Err(error)) => {
                assert!(got.starts_with("ordinary priority, since the system refuses another: "), "{got}");
                assert!(error.to_string().starts_with("the system refuses real-time priority"), "{error}");
            }
        }
    }
}
