//! Tests of user code: workers without a server, servers that leave nothing, and faults.
//!
//! | You want to test | Use |
//! |---|---|
//! | that a worker is built, or why not | [`build`] |
//! | what a worker makes of a batch | [`batch`] |
//! | servlets together, with real processes | [`server`] |
//! | what happens when a worker dies, or hangs, at any moment | [`kill`], [`stall`] |
//! | what happens when a worker dies, panics or fails at its second item | [`Faulty`] |
//!
//! Nothing here is an imitation: [`batch`] runs the engine's own code over a segment of its own, so a payload that a server
//! refuses is refused, and a panic is the error that a caller would get. None of it needs a feature, and a program that does
//! not use it pays nothing for it.
//!
//! ```
//! use ringmill::rkyv::Archived;
//! use ringmill::{BoxError, Context, Worker, testing};
//!
//! struct Root {
//!     digits: i32,
//! }
//!
//! impl Worker for Root {
//!     type Config = i32;
//!     type In = f64;
//!     type Out = f64;
//!
//!     fn new(digits: i32, _: &Context) -> Result<Self, BoxError> {
//!         if digits < 0 { Err(BoxError::msg("digits below zero")) } else { Ok(Self { digits }) }
//!     }
//!
//!     fn call(&mut self, x: &Archived<f64>) -> Result<f64, BoxError> {
//!         let (x, scale) = (x.to_native(), 10_f64.powi(self.digits));
//!         if x < 0.0 { Err(BoxError::msg("below zero")) } else { Ok((x.sqrt() * scale).round() / scale) }
//!     }
//! }
//!
//! # fn main() -> Result<(), BoxError> {
//! assert!(testing::build::<Root>(-1).is_err());
//! let mut worker = testing::build::<Root>(2)?;
//! let handled = testing::batch(&mut worker, [2.0, -1.0, 9.0]);
//! assert_eq!(*handled.outcomes[0].as_ref().unwrap(), 1.41);
//! assert!(handled.outcomes[1].as_ref().unwrap_err().to_string().contains("below zero"));
//! assert_eq!(*handled.outcomes[2].as_ref().unwrap(), 3.0);
//! # Ok(())
//! # }
//! ```

mod batch;
mod faulty;
mod signal;

pub use batch::{Handled, batch, batch_with, build, build_with};
pub use faulty::{Fault, FaultAt, Faulty};
pub use signal::{SignalError, Stalled, kill, stall};

use crate::error::StartError;
use crate::server::{Server, ServerBuilder};
use crate::servlet::Servlet;
use std::time::Duration;

/// How long a test's server waits for workers that do not leave.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest label of a server.
const LABEL_LIMIT: usize = 55;

/// Starts a server for one test: that of [`builder`], with no other option.
///
/// ```
/// # use ringmill::{BoxError, PassThrough, ThreadServlet, testing};
/// # fn main() -> Result<(), BoxError> {
/// let server = testing::server(ThreadServlet::<PassThrough<u64>>::new(()))?;
/// assert_eq!(*server.call(&7)?, 7);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// See [`StartError`]; no process and no segment is left behind.
pub fn server<S: Servlet>(servlet: S) -> Result<Server<S::In, S::Out>, StartError> {
    builder().start(servlet)
}

/// Options for the server of one test: an [anonymous](Server::anonymous) one, so that tests run side by side and none
/// leaves a file, however it ends. Its label, which stands in logs and errors, is the name of this thread: under `cargo
/// test` that of the test. Its shutdown, and so its drop, waits for workers at most five seconds before it kills them; as
/// with any server, requests in progress end first.
#[must_use]
pub fn builder() -> ServerBuilder {
    Server::anonymous(label(std::thread::current().name().unwrap_or_default()))
        .shutdown_timeout(SHUTDOWN_TIMEOUT)
}

/// The end of a thread's name, by the rules of servers' names.
fn label(thread: &str) -> String {
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let name: String = thread.replace("::", ".").chars().map(|c| if fine(c) { c } else { '-' }).collect();
    let end = name[name.len().saturating_sub(LABEL_LIMIT)..].trim_start_matches('.');
    if end.is_empty() { "testing".into() } else { end.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_names() {
        assert_eq!(label("parser::tests::reads_an_empty_file"), "parser.tests.reads_an_empty_file");
        assert_eq!(label(""), "testing");
        assert_eq!(label("::"), "testing");
        assert_eq!(label("größe/a b"), "gr--e-a-b");
        let long = label(&format!("{}::{}", "x".repeat(60), "y".repeat(54)));
        assert_eq!(long, "y".repeat(54), "no dot first");
    }
}
