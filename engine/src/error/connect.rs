//! Why a client process has no connection to a server.

use crate::text::OneLine;
use ringmill_shm::segment::{AttachError, NameError};
use std::io;

/// Why a [`Client`](crate::Client) could not connect. Nothing of it is left behind.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address can be no server's.
    #[error(transparent)]
    Address(#[from] NameError),
    /// There is no server at the address, or it is gone.
    #[error("there is no server {}: start it first, or correct the name", OneLine(address))]
    NoServer {
        /// The address.
        address: String,
    },
    /// Its segment cannot be attached: it is another user's, of another version or format, or no segment.
    #[error(transparent)]
    Segment(#[from] AttachError),
    /// The server takes other payloads.
    #[error(
        "server {} takes {} and answers with {}, this client sends {client_input} and expects {client_outcome}: give both programs the same types, from one crate",
        OneLine(address),
        OneLine(input),
        OneLine(outcome)
    )]
    Types {
        /// The server's address.
        address: String,
        /// What the server takes.
        input: String,
        /// What the server answers with.
        outcome: String,
        /// What this client sends.
        client_input: &'static str,
        /// What this client expects.
        client_outcome: &'static str,
    },
    /// The types have the server's names, and other fields, sizes or features.
    #[error(
        "server {} was built with another {input} or {outcome}: build both programs from the same version of their crate",
        OneLine(address)
    )]
    TypeLayout {
        /// The server's address.
        address: String,
        /// The input type.
        input: &'static str,
        /// The outcome type.
        outcome: &'static str,
    },
    /// The server takes no client processes.
    #[error("server {} takes no client processes: start it with ServerBuilder::clients", OneLine(address))]
    NoClients {
        /// The server's address.
        address: String,
    },
    /// As many client processes as the server takes are connected.
    #[error(
        "all {most} clients of server {} are connected: end one, or start the server with more ServerBuilder::clients",
        OneLine(address)
    )]
    Full {
        /// The server's address.
        address: String,
        /// How many it takes.
        most: u32,
    },
    /// The server is shutting down.
    #[error("server {} is shutting down", OneLine(address))]
    ShuttingDown {
        /// The server's address.
        address: String,
    },
    /// The operating system refused.
    #[error("cannot {what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What it said.
        error: io::Error,
    },
}
