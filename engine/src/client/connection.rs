//! A client's connection to its server, as a value: see [`taking_part`](super::taking_part).

use ringmill_shm::sys::process::PidFd;

/// A client's connection to its server.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) server_pid: u32,
    /// The server's process; `None` if it could not be opened, and only its lease tells.
    pub(crate) server: Option<PidFd>,
}
