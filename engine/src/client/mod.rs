//! What runs in a caller: free request ids, sending, waiting, reading outcomes; futures and streams; the shutdown.

mod connection;
mod core;
mod counts;
mod end;
pub(crate) mod free_ids;
mod hand;
mod held_up;
mod hold;
mod options;
pub(crate) mod pending;
pub(crate) mod reactor;
pub(crate) mod reply;
#[cfg(feature = "tower")]
pub(crate) mod service;
mod shutdown;
pub(crate) mod stream;
pub(crate) mod streaming;
mod taking_part;
mod told;
mod watch;

pub(crate) use connection::Connection;
pub(crate) use core::{Clock, Core, FIRST_SLEEP, Filled, Host, SLEEP_LIMIT, Service, waited};
pub(crate) use counts::Rows;
pub(crate) use end::End;
pub(crate) use hold::{Hold, Keeper};
pub use options::{CallOptions, DEFAULT_TIMEOUT, WhenFull};
