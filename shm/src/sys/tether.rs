//! What ties a worker's process to its server: a socket each, of one pair.
//!
//! # Protocol
//!
//! | End of | Says | Means |
//! |---|---|---|
//! | the server | a message | see the users |
//! | | that it is closed | the server has ended, has run another program in its place, or has given the worker up |
//! | the worker | a message | see the users |
//! | | that it is closed | the process has ended, has run another program in its place, or has closed its descriptors |
//!
//! A process descriptor says nothing of an exec, and a signal needs rights that the server may lose. Messages are
//! kept apart (`SOCK_SEQPACKET`), and nothing here ever waits.
//!
//! # Crash
//!
//! A child forked from either process does not keep that one's end ([`unshared`](super::unshared)). One of a bare `clone`
//! does, and while it lives the other side is not told. So it also watches the process descriptor, and the lease.
#![expect(unsafe_code, reason = "socketpair, send and recv")]

use super::birth::without_forks;
use super::unshared::Unshared;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// The longest message.
pub const MESSAGE_LIMIT: usize = 4096;

/// One end of a pair.
#[derive(Debug)]
pub struct Tether(Unshared);

/// What has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// What the other end has sent, whole.
    Message(Vec<u8>),
    /// Nothing so far.
    Nothing,
    /// The other end is closed.
    Over,
}

impl Tether {
    /// Two ends, close-on-exec: our own, and one to be given to a process that is started.
    ///
    /// # Errors
    /// `EMFILE` and its like.
    pub fn pair() -> io::Result<(Self, File)> {
        without_forks(|| {
            let [ours, theirs] = Self::ends()?;
            Ok((Self::of(ours), theirs))
        })
    }

    fn ends() -> io::Result<[File; 2]> {
        let mut ends = [-1; 2];
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        // SAFETY: an array of two integers to fill.
        if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has just returned these descriptors, so nobody else owns them.
        let [one, other] = ends.map(|fd| File::from(unsafe { OwnedFd::from_raw_fd(fd) }));
        Ok([super::file::beyond_standard(one)?, super::file::beyond_standard(other)?])
    }

    /// The end that a process was given at its start.
    #[must_use]
    pub fn of(file: File) -> Self {
        Self(Unshared::adopt(file.into()))
    }

    /// Sends a message; what is longer than [`MESSAGE_LIMIT`] is cut. Allowed after a fork.
    ///
    /// # Errors
    /// `EPIPE` if the other end is closed, `EAGAIN` if it does not fetch what it is sent.
    pub fn send(&self, message: &[u8]) -> io::Result<()> {
        let message = &message[..message.len().min(MESSAGE_LIMIT)];
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: a live slice of that length, which is read.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), message.as_ptr().cast(), message.len(), flags) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The next message, if there is one.
    pub fn receive(&self) -> Received {
        let mut message = vec![0; MESSAGE_LIMIT];
        // SAFETY: a live slice of that length, to be written.
        let bytes = unsafe {
            libc::recv(self.0.as_raw_fd(), message.as_mut_ptr().cast(), message.len(), libc::MSG_DONTWAIT)
        };
        match usize::try_from(bytes) {
            Ok(0) => Received::Over,
            Ok(bytes) => {
                message.truncate(bytes);
                Received::Message(message)
            }
            Err(_) => match io::Error::last_os_error().kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Received::Nothing,
                _ => Received::Over,
            },
        }
    }
}

impl AsRawFd for Tether {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_whole_and_then_the_end() {
        let (one, other) = Tether::pair().unwrap();
        let other = Tether::of(other);
        assert_eq!(other.receive(), Received::Nothing);
        one.send(b"first").unwrap();
        one.send(&[7; MESSAGE_LIMIT + 1]).unwrap();
        drop(one);
        assert_eq!(other.receive(), Received::Message(b"first".to_vec()));
        assert_eq!(other.receive(), Received::Message(vec![7; MESSAGE_LIMIT]));
        assert_eq!(other.receive(), Received::Over);
        assert_eq!(other.send(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
