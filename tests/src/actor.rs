//! A worker that does as its inputs say: answers, waits at a gate, or dies.
#![expect(unsafe_code, reason = "a worker that crashes the way native code does")]

use crate::process::dump_no_core;
use ringmill::worker::Stop;
use ringmill::{Batch, BatchWorker, BoxError, Context};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

/// What a worker does with an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum Act {
    /// Answer twice the number.
    Double(u64),
    /// Say so at the gate, wait there until let go, then answer twice the number.
    Hold(u64),
    /// `exit` in the middle of the batch.
    Exit(i32),
    /// `abort`.
    Abort,
    /// Write to a page that may not be written.
    Segfault,
    /// Recurse until the stack is used up.
    OverflowStack,
    /// Want more memory than there are addresses for.
    Hoard,
    /// Use this many bytes of memory.
    Devour(u64),
}

/// An answer, and which process gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Answer {
    /// Twice the number.
    pub value: u64,
    /// The process that answers.
    pub pid: u32,
}

/// What the constructor of a restarted worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum Rebirth {
    /// Nothing special.
    Lives,
    /// It aborts.
    Aborts,
    /// It returns an error.
    Fails,
    /// Worker 0 aborts, the others live.
    FirstAborts,
}

/// An actor's configuration.
#[derive(Debug, Clone, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Upbringing {
    /// The socket of the gate.
    pub gate: String,
    /// What the constructor does after a restart.
    pub rebirth: Rebirth,
    /// Whether the constructor waits at the gate.
    pub hold_in_constructor: bool,
    /// Whether it panics in the end.
    pub cleanup_panics: bool,
}

/// The worker.
#[derive(Debug)]
pub struct Actor {
    gate: String,
    cleanup_panics: bool,
}

impl Actor {
    fn visit(&self, kind: &str, number: u64) -> Result<UnixStream, BoxError> {
        let mut stream = UnixStream::connect(&self.gate)?;
        stream.write_all(format!("{kind} {number} {}\n", std::process::id()).as_bytes())?;
        Ok(stream)
    }

    fn hold(&self, kind: &str, number: u64) -> Result<(), BoxError> {
        let mut stream = self.visit(kind, number)?;
        Ok(stream.read_exact(&mut [0])?)
    }
}

impl BatchWorker for Actor {
    type Config = Upbringing;
    type In = Act;
    type Out = Answer;

    fn new(config: Upbringing, context: &Context) -> Result<Self, BoxError> {
        dump_no_core();
        let actor = Self { gate: config.gate, cleanup_panics: config.cleanup_panics };
        if config.hold_in_constructor {
            actor.hold("constructor", context.worker_index() as u64)?;
        }
        match config.rebirth {
            Rebirth::Aborts if context.restarts() > 0 => std::process::abort(),
            Rebirth::FirstAborts if context.restarts() > 0 && context.worker_index() == 0 => {
                std::process::abort()
            }
            Rebirth::Fails if context.restarts() > 0 => Err(BoxError::msg("born only once")),
            _ => Ok(actor),
        }
    }

    /// Acts for the whole batch come before its first answer.
    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        let mut values = Vec::with_capacity(batch.len());
        for act in batch.inputs() {
            match act {
                ArchivedAct::Double(n) => values.push(2 * n.to_native()),
                ArchivedAct::Hold(n) => {
                    self.hold("hold", n.to_native())?;
                    values.push(2 * n.to_native());
                }
                ArchivedAct::Exit(code) => std::process::exit(code.to_native()),
                ArchivedAct::Abort => std::process::abort(),
                ArchivedAct::Segfault => segfault(),
                ArchivedAct::OverflowStack => values.push(recurse(u64::MAX)),
                ArchivedAct::Hoard => values.push(hoard()),
                ArchivedAct::Devour(bytes) => values.push(devour(bytes.to_native())),
            }
        }
        let pid = std::process::id();
        batch.reply_all(values.into_iter().map(|value| Answer { value, pid }))
    }

    fn cleanup(&mut self, reason: &Stop) {
        let kind = match reason {
            Stop::Shutdown => "cleanup-shutdown",
            Stop::ServerGone => "cleanup-gone",
            _ => "cleanup-other",
        };
        let _ = self.visit(kind, 0); // the test may have closed the gate
        assert!(!self.cleanup_panics, "as its configuration says");
    }
}

/// Uses up the addresses that this process may have, no matter how much memory the machine has.
fn hoard() -> u64 {
    let few = libc::rlimit { rlim_cur: 1 << 30, rlim_max: 1 << 30 };
    // SAFETY: reads a live structure; only limits this process.
    unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const few) };
    std::hint::black_box(Vec::<u8>::with_capacity(1 << 31)).capacity() as u64
}

fn devour(bytes: u64) -> u64 {
    std::hint::black_box(vec![1_u8; bytes as usize]).iter().map(|&byte| u64::from(byte)).sum()
}

fn segfault() {
    // SAFETY: a new private mapping of a page that allows no access.
    let page = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        libc::mmap(core::ptr::null_mut(), 4096, libc::PROT_NONE, flags, -1, 0)
    };
    assert_ne!(page, libc::MAP_FAILED);
    // SAFETY: mapped, aligned, ours alone. The processor refuses the write, which is the point.
    unsafe { page.cast::<u64>().write_volatile(1) };
}

#[expect(unconditional_recursion, reason = "it is to use up the stack")]
fn recurse(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 512]);
    recurse(depth - 1) + std::hint::black_box(frame)[0]
}
