//! Gates: a worker that reaches a gate stops until the test lets it go on. Both are events across processes, so that a test
//! can hold a worker busy for exactly as long as it needs.
//!
//! A gate is a listening socket of the abstract namespace: it needs no file, and it opens when the test ends in any way.

use crate::{GUARD, fresh_name};
use ringmill_shm::sys::process::wait_readable;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::{Duration, Instant};

/// The test's side of a gate.
#[derive(Debug)]
pub struct Gate {
    name: String,
    listener: UnixListener,
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    /// A closed gate.
    ///
    /// # Panics
    /// If the system has no socket for it.
    #[must_use]
    pub fn new() -> Self {
        let name = fresh_name("gate");
        let address = SocketAddr::from_abstract_name(&name).expect("a short name");
        let listener = UnixListener::bind_addr(&address).expect("the name is fresh");
        Self { name, listener }
    }

    /// The argument of [`stop_at`] and [`report`], for configurations and items.
    #[must_use]
    pub fn name(&self) -> String {
        self.name.clone()
    }

    /// Waits for the next worker that stops at the gate, or reports to it.
    ///
    /// # Panics
    /// If no worker comes within [`GUARD`].
    #[track_caller]
    #[must_use]
    pub fn arrival(&self) -> Arrival {
        let begun = Instant::now();
        // A signal ends a wait early, and a worker may be killed on its way; hence the loop.
        loop {
            if wait_readable(&[self.listener.as_raw_fd()], Some(GUARD))[0]
                && let Some(arrival) = self.admit()
            {
                return arrival;
            }
            assert!(begun.elapsed() < GUARD, "no worker came to the gate");
        }
    }

    /// A worker that is at the gate, if there is one.
    #[must_use]
    pub fn arrival_if_any(&self) -> Option<Arrival> {
        while wait_readable(&[self.listener.as_raw_fd()], Some(Duration::ZERO))[0] {
            if let Some(arrival) = self.admit() {
                return Some(arrival);
            }
        }
        None
    }

    /// The next worker; `None` if it was killed before it had said its label.
    fn admit(&self) -> Option<Arrival> {
        let (mut stream, _) = self.listener.accept().expect("a worker is there");
        stream.set_read_timeout(Some(GUARD)).expect("a time above zero");
        let mut length = [0; 4];
        read(&mut stream, &mut length)?;
        let mut label = vec![0; u32::from_le_bytes(length) as usize];
        read(&mut stream, &mut label)?;
        Some(Arrival { label: String::from_utf8(label).expect("labels are text"), _stream: stream })
    }

    /// Waits for `count` workers, all at the gate at once.
    #[track_caller]
    #[must_use]
    pub fn arrivals(&self, count: usize) -> Vec<Arrival> {
        (0..count).map(|_| self.arrival()).collect()
    }
}

/// A worker at the gate. Dropping it lets the worker go on.
#[derive(Debug)]
pub struct Arrival {
    label: String,
    _stream: UnixStream,
}

impl Arrival {
    /// The worker's message.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Lets them go on.
    pub fn release(self) {}
}

/// Fills the buffer with what a worker says; `None` if the worker ends before that.
fn read(stream: &mut UnixStream, buffer: &mut [u8]) -> Option<()> {
    match stream.read_exact(buffer) {
        Ok(()) => Some(()),
        Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => None,
        Err(error) => panic!("a worker at the gate says its label: {error}"),
    }
}

/// The worker's side: stops until the test lets it go on. A gate that is no more is open.
pub fn stop_at(gate: &str, label: &str) {
    if let Some(mut stream) = send(gate, label) {
        let _ = stream.read(&mut [0]); // ends when the other side does, in whatever way
    }
}

/// The worker's side: sends a message, and goes on.
pub fn report(gate: &str, text: &str) {
    drop(send(gate, text));
}

fn send(gate: &str, label: &str) -> Option<UnixStream> {
    let address = SocketAddr::from_abstract_name(gate).expect("a gate's name");
    let mut stream = UnixStream::connect_addr(&address).ok()?;
    let mut message = (label.len() as u32).to_le_bytes().to_vec();
    message.extend(label.as_bytes());
    stream.write_all(&message).ok()?;
    Some(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Symptom: a test that kills workers at any moment failed now and then. Cause: a worker that was killed between its connection
    /// and its label was an error of the gate. Fix: it is no arrival.
    #[test]
    fn a_worker_that_is_killed_on_its_way_is_no_arrival() {
        let gate = Gate::new();
        let address = SocketAddr::from_abstract_name(gate.name()).expect("a gate's name");
        for said in [&b""[..], &[3, 0], &[3, 0, 0, 0, b'h', b'i']] {
            let mut killed = UnixStream::connect_addr(&address).expect("the gate is there");
            killed.write_all(said).expect("it takes this");
        }
        assert!(gate.arrival_if_any().is_none());
        drop(UnixStream::connect_addr(&address));
        report(&gate.name(), "alive");
        assert_eq!(gate.arrival().label(), "alive");
    }
}
