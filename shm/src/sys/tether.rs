//! What ties a worker's process to its server: a socket each, of one pair.
//!
//! # Protocol
//!
//! | End of | Event | Means |
//! |---|---|---|
//! | the server | a message | see the users of this module |
//! | | closed | the server has ended, has run another program in its place, or has given the worker up |
//! | the worker | a message | see the users of this module |
//! | | closed | the process has ended, has run another program in its place, or has closed its descriptors |
//!
//! A process descriptor says nothing of an exec, and a signal needs rights that the server may lose. The socket keeps
//! messages apart (`SOCK_SEQPACKET`), and no call here blocks.
//!
//! # Crash
//!
//! A child forked from either process does not keep that process's end ([`unshared`](super::unshared)). A child of a
//! bare `clone` keeps it, and while it lives the other side sees no end. So that side also watches the process
//! descriptor, and the lease.
#![expect(unsafe_code, reason = "socketpair, send and recv")]

use super::birth::without_forks;
use super::unshared::Unshared;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

/// The longest message.
pub const MESSAGE_LIMIT: usize = 4096;

/// One end of a pair.
#[derive(Debug)]
pub struct Tether(Unshared);

/// Room for one control message with one descriptor.
#[derive(Default)]
#[repr(C, align(8))]
struct Control([u8; 32]);

const _: () = assert!(
    size_of::<libc::cmsghdr>() + 2 * size_of::<i32>() <= 32,
    "a header, a descriptor and its padding"
);

impl Control {
    /// What `sendmsg` and `recvmsg` take; it points to both.
    fn header(&mut self, part: &mut libc::iovec) -> libc::msghdr {
        // SAFETY: an all-zero header is valid.
        let mut header: libc::msghdr = unsafe { core::mem::zeroed() };
        header.msg_iov = part;
        header.msg_iovlen = 1;
        header.msg_control = self.0.as_mut_ptr().cast();
        // SAFETY: arithmetic.
        header.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<i32>() as u32) } as _;
        header
    }
}

/// What a read found.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// A whole message of the other end.
    Message(Vec<u8>),
    /// No message so far.
    Nothing,
    /// The other end is closed.
    Over,
}

impl Tether {
    /// Two ends, close-on-exec: our own, and one for a process that we start.
    ///
    /// # Errors
    /// `EMFILE` and its like.
    pub fn pair() -> io::Result<(Self, Unshared)> {
        without_forks(|| {
            let [ours, theirs] = Self::ends()?;
            Ok((Self::of(ours), Unshared::adopt(theirs.into())))
        })
    }

    fn ends() -> io::Result<[File; 2]> {
        let mut ends = [-1; 2];
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        // SAFETY: an array of two integers to fill.
        if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has just returned these descriptors, so no other code owns them.
        let [one, other] = ends.map(|fd| File::from(unsafe { OwnedFd::from_raw_fd(fd) }));
        Ok([super::file::beyond_standard(one)?, super::file::beyond_standard(other)?])
    }

    /// The end that a process got at its start.
    #[must_use]
    pub fn of(file: File) -> Self {
        Self(Unshared::adopt(file.into()))
    }

    /// Device and number of the socket; `None` once this process has closed it.
    #[must_use]
    pub fn identity(&self) -> Option<(u64, u64)> {
        let meta = self.0.file().ok()?.metadata().ok()?;
        Some((meta.dev(), meta.ino()))
    }

    /// Sends a message; cuts what is longer than [`MESSAGE_LIMIT`]. Allowed after a fork.
    ///
    /// # Errors
    /// `EPIPE` if the other end is closed, `EAGAIN` if it does not read its messages.
    pub fn send(&self, message: &[u8]) -> io::Result<()> {
        let message = &message[..message.len().min(MESSAGE_LIMIT)];
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: a live slice of that length, which is read.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), message.as_ptr().cast(), message.len(), flags) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Sends a message and with it a copy of a descriptor.
    ///
    /// # Errors
    /// As of [`send`](Self::send).
    pub fn send_file(&self, message: &[u8], file: &File) -> io::Result<()> {
        let mut control = Control::default();
        let mut part = libc::iovec { iov_base: message.as_ptr().cast_mut().cast(), iov_len: message.len() };
        let header = control.header(&mut part);
        // SAFETY: the header has room for one control message with one descriptor, and names only what outlives the call;
        // the message is only read.
        let sent = unsafe {
            let first = libc::CMSG_FIRSTHDR(&raw const header);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = libc::CMSG_LEN(size_of::<i32>() as u32) as usize;
            libc::CMSG_DATA(first).cast::<i32>().write_unaligned(file.as_raw_fd());
            libc::sendmsg(self.0.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The next message's descriptor, close-on-exec; `None` if there is no message, or none with it.
    #[must_use]
    pub fn receive_file(&self) -> Option<File> {
        let (mut message, mut control) = ([0_u8; 16], Control::default());
        let mut part = libc::iovec { iov_base: message.as_mut_ptr().cast(), iov_len: message.len() };
        let mut header = control.header(&mut part);
        let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
        // SAFETY: the header names live memory to be written, which has room for one control message with one descriptor;
        // the kernel says whether it has written one, and only then is it read. The descriptor is new, and ours alone.
        unsafe {
            if libc::recvmsg(self.0.as_raw_fd(), &raw mut header, flags) < 0 {
                return None;
            }
            let first = libc::CMSG_FIRSTHDR(&raw const header).as_ref()?;
            let is_one = first.cmsg_level == libc::SOL_SOCKET
                && first.cmsg_type == libc::SCM_RIGHTS
                && first.cmsg_len as usize == libc::CMSG_LEN(size_of::<i32>() as u32) as usize;
            is_one.then(|| {
                File::from(OwnedFd::from_raw_fd(libc::CMSG_DATA(first).cast::<i32>().read_unaligned()))
            })
        }
    }

    /// The next message, if there is one. A descriptor that comes with it is closed.
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
    fn a_descriptor_comes_with_its_message_or_not_at_all() {
        use std::io::{Read, Seek, Write};
        let (one, other) = Tether::pair().unwrap();
        let other = Tether(other);
        assert!(other.receive_file().is_none());
        let mut file = tempfile::tempfile().unwrap();
        one.send_file(b"here", &file).unwrap();
        let mut copy = other.receive_file().unwrap();
        file.write_all(b"text").unwrap();
        copy.rewind().unwrap();
        let mut text = String::new();
        copy.read_to_string(&mut text).unwrap();
        assert_eq!(text, "text");
        one.send(b"nothing").unwrap();
        assert!(other.receive_file().is_none());
        one.send_file(b"message", &file).unwrap();
        assert_eq!(other.receive(), Received::Message(b"message".to_vec()));
        drop(one);
        assert!(other.receive_file().is_none());
    }

    #[test]
    fn messages_come_whole_and_then_the_end() {
        let (one, other) = Tether::pair().unwrap();
        let other = Tether(other);
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
