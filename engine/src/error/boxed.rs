//! The error of user code.

use crate::text::{Lines, OneLine};
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::Cell;
use std::error::Error as StdError;
use std::fmt::{self, Write as _};
use std::panic::AssertUnwindSafe;
use std::sync::OnceLock;

/// Any error of user code, with its type's name and, if the environment asks for it, the stack on which it became a
/// `BoxError`.
///
/// The environment variable `RUST_LIB_BACKTRACE=1` asks for the stacks of all errors; for those of a worker that cannot
/// be built, `RUST_BACKTRACE=1` is enough, as it is for panics. Many images set `RUST_BACKTRACE`, and the stack of an
/// item's error delays the items behind it in the ring: the first in a process by some 70 ms, in which symbols are
/// read, each later one by some 80 µs.
///
/// `?` turns any `std::error::Error + Send + Sync` into one; [`BoxError::msg`] makes one from text. Like other boxed
/// errors of its kind it is not itself a `std::error::Error`.
pub struct BoxError(Box<Inner>);

struct Inner {
    type_name: &'static str,
    fatal: bool,
    invalid: bool,
    attachment: Option<Vec<u8>>,
    error: Box<dyn StdError + Send + Sync>,
    backtrace: Backtrace,
}

#[derive(Debug)]
struct Message(String);

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Message {}

impl BoxError {
    /// An error that is only a message.
    ///
    /// ```
    /// assert_eq!(ringmill::BoxError::msg("no such model").to_string(), "no such model");
    /// ```
    #[must_use]
    pub fn msg(message: impl fmt::Display) -> Self {
        let error = Box::new(Message(message.to_string()));
        Self(Box::new(Inner {
            type_name: "message",
            fatal: false,
            invalid: false,
            attachment: None,
            error,
            backtrace: stack(),
        }))
    }

    /// Marks the error as one after which the worker cannot go on: a device is lost, a library is in a bad state.
    ///
    /// If `call` returns it, or fails an item with it, all items of the batch that are unanswered get this error. Then
    /// the worker stops: its [`cleanup`](crate::Worker::cleanup) gets [`Stop::Fatal`](crate::worker::Stop::Fatal), and it is
    /// restarted as after a death, with the same back-off and the same limit. Callers see an error like any other. In a
    /// constructor or in `warm_up` the mark changes nothing: every error there ends the worker.
    ///
    /// ```
    /// use ringmill::BoxError;
    ///
    /// fn infer(device_is_lost: bool) -> Result<u32, BoxError> {
    ///     if device_is_lost { Err(BoxError::msg("the device is lost").fatal()) } else { Ok(1) }
    /// }
    /// assert!(infer(true).is_err_and(|error| error.is_fatal()));
    /// ```
    #[must_use]
    pub fn fatal(mut self) -> Self {
        self.0.fatal = true;
        self
    }

    /// Whether it was marked by [`fatal`](Self::fatal).
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        self.0.fatal
    }

    /// Marks the error as one of the input, which can never succeed as it is: the worker is well, and the caller has to send
    /// something else.
    ///
    /// The mark travels with the error, through stages and ensembles: [`CallError::kind`](crate::CallError::kind) is
    /// [`Invalid`](crate::error::ErrorKind::Invalid), for which HTTP has 400, and not `Worker`, for which it has 500. Where
    /// `call` returns the error, or `preprocess`, it says so of each item that gets it. It changes nothing else. In a
    /// constructor or in `warm_up` it has no effect.
    ///
    /// ```
    /// use ringmill::error::ErrorKind;
    /// use ringmill::{BoxError, CallError, Context, Server, ThreadServlet, Worker};
    ///
    /// struct Root;
    ///
    /// impl Worker for Root {
    ///     type Config = ();
    ///     type In = f64;
    ///     type Out = f64;
    ///     fn new((): (), _: &Context) -> Result<Self, BoxError> {
    ///         Ok(Self)
    ///     }
    ///     fn call(&mut self, x: &ringmill::rkyv::Archived<f64>) -> Result<f64, BoxError> {
    ///         match x.to_native() {
    ///             x if x < 0.0 => Err(BoxError::msg("a root of a negative number").invalid()),
    ///             x => Ok(x.sqrt()),
    ///         }
    ///     }
    /// }
    ///
    /// # fn main() -> Result<(), BoxError> {
    /// let server = Server::anonymous("root").start(ThreadServlet::<Root>::new(()))?;
    /// let error: CallError = server.call(&-1.0).expect_err("it is refused");
    /// assert_eq!(error.kind(), ErrorKind::Invalid);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn invalid(mut self) -> Self {
        self.0.invalid = true;
        self
    }

    /// Whether it was marked by [`invalid`](Self::invalid).
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        self.0.invalid
    }

    /// Attaches bytes that travel with the error, of up to [`ATTACHMENT_LIMIT`](Self::ATTACHMENT_LIMIT) bytes: the exception
    /// of another language, serialised, say. Where the error arrives they are
    /// [`RemoteError::attachment`](crate::error::RemoteError::attachment). They are left out if they are more, or if neither the
    /// server's payload blocks nor, of an error before the worker is ready, its row in the segment have room for the whole
    /// record; the error's text always arrives, so it must be enough to understand the error.
    ///
    /// ```
    /// use ringmill::BoxError;
    ///
    /// let error = BoxError::msg("KeyError: 'colour'").with_attachment(vec![0x80, 5, b'.']);
    /// assert_eq!(error.attachment(), Some(&[0x80, 5, b'.'][..]));
    /// ```
    #[must_use]
    pub fn with_attachment(mut self, bytes: Vec<u8>) -> Self {
        self.0.attachment = (bytes.len() <= Self::ATTACHMENT_LIMIT).then_some(bytes);
        self
    }

    /// The longest attachment, in bytes: 64 KiB.
    pub const ATTACHMENT_LIMIT: usize = 64 << 10;

    /// What was attached to it.
    #[must_use]
    pub fn attachment(&self) -> Option<&[u8]> {
        self.0.attachment.as_deref()
    }

    /// The name of the error's type; `message` if it was made from text.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        self.0.type_name
    }

    /// The error.
    #[must_use]
    pub fn error(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &*self.0.error
    }

    /// Its message, its source's message, and so on; no more than 64. If `Display` panics, the message says so.
    #[must_use]
    pub fn chain(&self) -> Vec<String> {
        let mut messages = vec![message_of(&*self.0.error)];
        let mut source = source_of(&*self.0.error);
        for _ in 1..CHAIN_LIMIT {
            let Some(error) = source else { break };
            let message = message_of(error);
            // Some errors tell their source's message themselves, and give the source too.
            if !messages.last().is_some_and(|before| before.ends_with(&message)) {
                messages.push(message);
            }
            source = source_of(error);
        }
        messages
    }

    /// Where it became a `BoxError`, if that was recorded.
    #[must_use]
    pub fn backtrace(&self) -> Option<String> {
        (self.0.backtrace.status() == BacktraceStatus::Captured).then(|| self.0.backtrace.to_string())
    }
}

thread_local! {
    /// This thread is building a worker.
    static BUILDS: Cell<bool> = const { Cell::new(false) };
}

/// Runs code that builds a worker: its errors are few, and come while no item waits.
pub(crate) fn while_built<T>(build: impl FnOnce() -> T) -> T {
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            BUILDS.set(self.0);
        }
    }
    let _before = Before(BUILDS.replace(true));
    build()
}

/// The stack, if the environment asks for it.
fn stack() -> Backtrace {
    static ALWAYS: OnceLock<bool> = OnceLock::new();
    let is_asked_for = || std::env::var_os("RUST_LIB_BACKTRACE").is_some_and(|value| value != "0");
    if BUILDS.get() || *ALWAYS.get_or_init(is_asked_for) {
        Backtrace::capture()
    } else {
        Backtrace::disabled()
    }
}

/// The most messages of a chain: an error may be its own source.
const CHAIN_LIMIT: usize = 64;

/// The message of an error. Its `Display` is user code.
fn message_of(error: &dyn StdError) -> String {
    text_of(|text| write!(text, "{error}"))
}

fn text_of(say: impl FnOnce(&mut String) -> fmt::Result) -> String {
    let mut text = String::new();
    // What `Display` wrote before it failed stays.
    let say = AssertUnwindSafe(|| say(&mut text));
    if let Err(panic) = crate::panics::caught(say) {
        let _ = write!(
            text,
            "{}a message that cannot be told: it {panic}",
            if text.is_empty() { "" } else { " … " }
        );
    }
    text
}

fn source_of(error: &dyn StdError) -> Option<&(dyn StdError + 'static)> {
    crate::panics::caught(AssertUnwindSafe(|| error.source())).ok().flatten()
}

impl<E: StdError + Send + Sync + 'static> From<E> for BoxError {
    fn from(error: E) -> Self {
        Self(Box::new(Inner {
            type_name: std::any::type_name::<E>(),
            fatal: false,
            invalid: false,
            attachment: None,
            error: Box::new(error),
            backtrace: stack(),
        }))
    }
}

/// Prints as one line. `{:#}` prints `{:#}` of the error itself, which for a [`CallError`](crate::CallError) has the
/// worker's stack; then its sources and its own stack, each on lines of their own. Both forms escape what a terminal
/// obeys.
impl fmt::Display for BoxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chain = self.chain();
        if !f.alternate() {
            return OneLine(&chain.join(": ")).fmt(f);
        }
        write!(f, "{}", Lines(&text_of(|text| write!(text, "{:#}", self.0.error))))?;
        chain[1..].iter().try_for_each(|source| write!(f, "\nbecause of: {}", OneLine(source)))?;
        self.backtrace().map_or(Ok(()), |stack| write!(f, "\n{}", Lines(&stack)))
    }
}

impl fmt::Debug for BoxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:#}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_error_knows_its_type_and_chain() {
        let error = BoxError::from(std::io::Error::new(std::io::ErrorKind::NotFound, "no model"));
        assert_eq!(error.type_name(), "std::io::error::Error");
        assert_eq!(error.chain(), ["no model"]);
        let system =
            crate::StartError::System { what: "start a thread", error: std::io::Error::other("no more") };
        assert_eq!(BoxError::from(system).to_string(), "cannot start a thread: no more", "told once");
        assert!(
            BoxError::from(crate::CallError::ShuttingDown)
                .to_string()
                .starts_with("the server is shutting down")
        );
        let error = BoxError::msg("plain");
        assert_eq!((error.type_name(), error.to_string().as_str()), ("message", "plain"));
    }

    /// Symptom: `{:#}` of a call's error, and of a `BoxError` made of it, had no stack, though the guide said so.
    #[test]
    fn the_alternate_form_has_the_stack_of_the_worker() {
        let stack = Some("at main".to_string());
        let cause = crate::error::RemoteCause::Panicked { message: "no".into(), backtrace: stack };
        let remote = || crate::error::RemoteError {
            servlet: "s".into(),
            worker: 0,
            pid: 1,
            attempt: 0,
            cause: cause.clone(),
        };
        let error = crate::CallError::Remote(Box::new(remote()));
        assert_eq!(format!("{error:#}"), format!("{error}\nat main"));
        let error = BoxError::from(error);
        assert_eq!(
            (format!("{error:#}"), format!("{error:?}")),
            (format!("{error}\nat main"), format!("{error:#}"))
        );
    }

    /// Symptom: `{:#}`, and so `Debug`, passed escape codes of a message on to the terminal.
    #[test]
    fn the_alternate_form_keeps_lines_and_escapes_the_rest() {
        let error = BoxError::msg("first\n\x1b[2Jsecond");
        let text = format!("{error:#}");
        assert!(text.starts_with("first\n\\u{1b}[2Jsecond"), "{text:?}");
        assert_eq!(format!("{error:?}"), text);
    }
}
