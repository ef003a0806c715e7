//! Pipes and Unix sockets: one payload a system call, each way.
//!
//! Both come twice. As they are mostly used, a side sleeps in the system until something comes; then waking it
//! is most of what a round trip costs. *Polled*, neither side ever sleeps, and what is left are system calls.
//!
//! *No side waits for room.* A client that waits until its question fits, and a partner that waits until its
//! answer fits, would wait for each other. So the window is no larger than the room in one direction.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::io::ioctl_fionbio;
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::pipe::{PIPE_BUF, fcntl_getpipe_size, fcntl_setpipe_size};

use super::Task;
use super::processes::{Link, Processes, serve};
use crate::Error;
use crate::contestant::Point;
use crate::payload::Payload;
use crate::pin::CpuPair;
use crate::process::{self, Process};

/// Where one side writes and reads. With `WAITS` it does both until they are done, otherwise it never waits.
#[derive(Debug)]
pub struct Bytes<const WORDS: usize, const WAITS: bool> {
    out: File,
    back: File,
    message: [[u8; size_of::<u64>()]; WORDS],
}

/// Starts a pipe each way, with room for as many payloads as `point` asks for, if the system grants it.
///
/// # Errors
///
/// [`Error::Transport`], or those of [`Process::start`].
pub fn start_pipes<const WORDS: usize, const WAITS: bool>(
    who: &'static str,
    point: Point,
    cpus: CpuPair,
) -> Result<Processes<Bytes<WORDS, WAITS>, WORDS>, Error> {
    const { assert!(Payload::<WORDS>::BYTES <= PIPE_BUF, "more than a pipe takes whole") };
    let pipes = || {
        let bytes = point.room() as usize * Payload::<WORDS>::BYTES;
        Ok((pipe(bytes)?, pipe(bytes)?))
    };
    let ((asked, out), (back, answered)) = pipes().map_err(|source| Error::Transport { who, source })?;
    start(who, point.room(), cpus, [out, back], [asked, answered])
}

/// Starts a pair of connected stream sockets, with room for as many payloads as `point` asks for, if the system
/// grants it.
///
/// # Errors
///
/// As [`start_pipes`].
pub fn start_sockets<const WORDS: usize, const WAITS: bool>(
    who: &'static str,
    point: Point,
    cpus: CpuPair,
) -> Result<Processes<Bytes<WORDS, WAITS>, WORDS>, Error> {
    let sockets = || {
        let (near, far) = UnixStream::pair()?;
        for end in [&near, &far] {
            // Beside each payload lies what the system keeps of a message.
            let bytes = point.room() as usize * (Payload::<WORDS>::BYTES + 1024);
            set_socket_send_buffer_size(end, bytes)?;
        }
        let near_too = near.try_clone()?;
        let far_too = far.try_clone()?;
        Ok([[near.into(), near_too.into()], [far.into(), far_too.into()]])
    };
    let [near, far] = sockets().map_err(|source| Error::Transport { who, source })?;
    start(who, point.room(), cpus, near, far)
}

/// `near` is where the client writes and reads, `far` where the partner reads and writes.
fn start<const WORDS: usize, const WAITS: bool>(
    who: &'static str,
    room: u32,
    cpus: CpuPair,
    near: [OwnedFd; 2],
    far: [OwnedFd; 2],
) -> Result<Processes<Bytes<WORDS, WAITS>, WORDS>, Error> {
    let prepared = || {
        let room = room.min(fits::<WORDS>(&near[0], &far[0])?).min(fits::<WORDS>(&far[1], &near[1])?);
        for end in near.iter().chain(&far) {
            ioctl_fionbio(end, !WAITS)?;
        }
        Ok(room)
    };
    let room = prepared().map_err(|source| Error::Transport { who, source })?;
    let [input, output] = far;
    let task = Task::Bytes { waits: WAITS }.to_argument::<WORDS>();
    let process = Process::start(who, cpus.partner, &task, input, output)?;
    let [out, back] = near.map(File::from);
    Ok(Processes::new(who, Bytes { out, back, message: [[0; size_of::<u64>()]; WORDS] }, process, room))
}

/// How many payloads fit between `from` and `to`: as many as can be written. Takes them out again.
fn fits<const WORDS: usize>(from: &OwnedFd, to: &OwnedFd) -> io::Result<u32> {
    ioctl_fionbio(from, true)?;
    ioctl_fionbio(to, true)?;
    let mut link = Bytes::<WORDS, false> {
        out: from.try_clone()?.into(),
        back: to.try_clone()?.into(),
        message: [[0; size_of::<u64>()]; WORDS],
    };
    let mut count = 0;
    while link.send(|| Payload::question(0))? {
        count += 1;
    }
    while link.receive(|_| ())?.is_some() {}
    Ok(count)
}

/// The partner's side.
///
/// # Errors
///
/// Those of reading and writing.
pub fn answer<const WORDS: usize>(waits: bool) -> io::Result<Infallible> {
    let (out, back) = (process::output()?.into(), process::input()?.into());
    let message = [[0; size_of::<u64>()]; WORDS];
    match waits {
        true => serve(&mut Bytes::<WORDS, true> { out, back, message }),
        false => serve(&mut Bytes::<WORDS, false> { out, back, message }),
    }
}

impl<const WORDS: usize, const WAITS: bool> Link<WORDS> for Bytes<WORDS, WAITS> {
    const WAITS: bool = WAITS;

    fn send(&mut self, payload: impl FnOnce() -> Payload<WORDS>) -> io::Result<bool> {
        // Made before it is known whether there is room, since only writing tells.
        self.message = payload().words().map(u64::to_ne_bytes);
        // Whole or not at all: a pipe promises that for so few bytes, and a socket makes one buffer of them.
        match self.out.write(self.message.as_flattened()) {
            Ok(written) if written == Payload::<WORDS>::BYTES => Ok(true),
            Ok(_) => Err(io::Error::other("a payload was written in parts")),
            Err(error) if is_vain(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn receive<R>(&mut self, read: impl FnOnce(&Payload<WORDS>) -> R) -> io::Result<Option<R>> {
        match self.back.read(self.message.as_flattened_mut()) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) if length == Payload::<WORDS>::BYTES => {
                Ok(Some(read(&Payload::from_words(self.message.map(u64::from_ne_bytes)))))
            }
            Ok(_) => Err(io::Error::other("a payload was read in parts")),
            Err(error) if is_vain(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Whether to retry: nothing there, no room, or a signal came first.
fn is_vain(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// A pipe that holds `bytes`, or as many as the system allows: where to read, and where to write.
fn pipe(bytes: usize) -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    let granted = fcntl_getpipe_size(&writer)?;
    let mut wanted = bytes;
    while wanted > granted && fcntl_setpipe_size(&writer, wanted).is_err() {
        // More than this user may have. The window will be smaller.
        wanted /= 2;
    }
    Ok((reader.into(), writer.into()))
}
