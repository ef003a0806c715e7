//! Workers that see one item at a time, and macros for small ones.

use super::batch::{Batch, BatchWorker};
use super::context::{Context, Stop};
use super::terms::Terms;
use crate::error::BoxError;
use crate::wire::payload::Payload;
use rkyv::Archived;

/// User code that handles one item at a time.
///
/// A worker lives in its own process or thread and is never shared. Each `Worker` is also a [`BatchWorker`] that
/// handles the items of a batch one by one; an error or a panic ends only its own item.
///
/// ```
/// use ringmill::{BoxError, Context, Worker};
/// use ringmill::rkyv::Archived;
///
/// struct Doubler;
///
/// impl Worker for Doubler {
///     type Config = ();
///     type In = u32;
///     type Out = u64;
///
///     fn new((): (), _: &Context) -> Result<Self, BoxError> {
///         Ok(Self)
///     }
///
///     fn call(&mut self, input: &Archived<u32>) -> Result<u64, BoxError> {
///         Ok(u64::from(input.to_native()) * 2)
///     }
/// }
/// ```
pub trait Worker: Sized + 'static {
    /// The configuration from which each worker is built; it travels to each worker's process.
    type Config: Payload;
    /// The input of an item.
    type In: Payload;
    /// The outcome of an item.
    type Out: Payload;

    /// The version of the payload types, in which a server and a worker that
    /// [`program`](crate::ProcessServlet::program) starts from another executable must agree.
    ///
    /// The engine itself finds types of other names or sizes, with other pointers or alignments. It cannot find that
    /// two fields of one size were swapped, or that a number has a new meaning. If the two executables can be of
    /// different versions, change this number with each change of the types; or have it change with the file in which
    /// they are: `ringmill::worker::schema(include_str!("messages.rs"))`.
    const SCHEMA: u64 = 0;

    /// Builds the worker, in its own process or thread.
    ///
    /// # Errors
    /// Any error means that the worker cannot work: the server does not start, and says why.
    fn new(config: Self::Config, context: &Context) -> Result<Self, BoxError>;

    /// Handles one item, which is read where it lies in the segment.
    ///
    /// # Errors
    /// Any error becomes the item's outcome; after a [fatal](BoxError::fatal) one the worker stops.
    fn call(&mut self, input: &Archived<Self::In>) -> Result<Self::Out, BoxError>;

    /// Called once between `new` and the first item, before the worker counts as ready: to load what the
    /// first call would otherwise wait for.
    ///
    /// # Errors
    /// As those of `new`: the server does not start, and says why. `cleanup` is not called then.
    fn warm_up(&mut self, _context: &Context) -> Result<(), BoxError> {
        Ok(())
    }

    /// How this worker wants its batches, and how many of its threads work: if its servlet leaves that to its workers
    /// ([`terms_by_worker`](crate::ProcessServlet::terms_by_worker)), and otherwise nothing. Called once after `warm_up`,
    /// before the worker counts as ready. Terms beyond what the servlet reserves are an error as one of `new`:
    /// [`RemoteCause::Terms`](crate::error::RemoteCause::Terms).
    fn terms(&self, _context: &Context) -> Terms {
        Terms::new()
    }

    /// Called once when the worker stops, but not after a crash. A panic in it is logged and changes nothing.
    fn cleanup(&mut self, _reason: &Stop) {}
}

impl<W: Worker> BatchWorker for W {
    type Config = W::Config;
    type In = W::In;
    type Out = W::Out;
    const SCHEMA: u64 = W::SCHEMA;

    fn new(config: Self::Config, context: &Context) -> Result<Self, BoxError> {
        Worker::new(config, context)
    }

    #[inline]
    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        batch.answer_each(|input| Worker::call(self, input)); // items left unanswered get the fatal error
        Ok(())
    }

    fn warm_up(&mut self, context: &Context) -> Result<(), BoxError> {
        Worker::warm_up(self, context)
    }

    fn terms(&self, context: &Context) -> Terms {
        Worker::terms(self, context)
    }

    fn cleanup(&mut self, reason: &Stop) {
        Worker::cleanup(self, reason);
    }
}

/// A number for a text, which differs for nearly every other text: for [`Worker::SCHEMA`].
///
/// ```
/// const NOW: u64 = ringmill::worker::schema("struct Point { x: f32, y: f32 }");
/// assert_ne!(NOW, ringmill::worker::schema("struct Point { y: f32, x: f32 }"));
/// ```
#[must_use]
pub const fn schema(text: &str) -> u64 {
    // As `ringmill_shm::layout::hash`, which takes an iterator and so cannot be const.
    let (bytes, mut hash, mut at) = (text.as_bytes(), 0xCBF2_9CE4_8422_2325_u64, 0);
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01B3);
        at += 1;
    }
    hash
}

/// A worker that answers each item with its input, which it does not copy.
///
/// ```no_run
/// # fn main() -> Result<(), ringmill::BoxError> {
/// use ringmill::{PassThrough, Server, ThreadServlet};
/// let server = Server::builder("echo").start(ThreadServlet::<PassThrough<u32>>::new(()))?;
/// assert_eq!(*server.call(&7)?, 7);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct PassThrough<T>(std::marker::PhantomData<fn(T) -> T>);

impl<T: Payload> BatchWorker for PassThrough<T> {
    type Config = ();
    type In = T;
    type Out = T;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self(std::marker::PhantomData))
    }

    #[inline]
    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        for item in batch {
            item.pass();
        }
        Ok(())
    }
}

/// The return type of a plain function as a worker: a value, or a result.
pub trait IntoOutcome<T> {
    /// The result.
    ///
    /// # Errors
    /// The error that the function returned.
    fn into_outcome(self) -> Result<T, BoxError>;
}

impl<T> IntoOutcome<T> for T {
    fn into_outcome(self) -> Result<T, BoxError> {
        Ok(self)
    }
}

impl<T, E: Into<BoxError>> IntoOutcome<T> for Result<T, E> {
    fn into_outcome(self) -> Result<T, BoxError> {
        self.map_err(Into::into)
    }
}

/// Makes a [`Worker`] type from a plain function or a closure without captures, which is given the
/// archived input and returns the outcome, or a `Result` of it.
///
/// It is a macro, not a function, because a worker type needs a name that [`init!`](crate::init) can list: the process
/// that runs it knows only that name.
///
/// ```
/// use ringmill::rkyv::Archived;
///
/// fn half(x: &Archived<u32>) -> Result<u32, ringmill::BoxError> {
///     let x = x.to_native();
///     if x % 2 == 0 { Ok(x / 2) } else { Err(ringmill::BoxError::msg(format!("{x} is odd"))) }
/// }
///
/// ringmill::make_worker!(Half: u32 => u32, half);
/// ringmill::make_worker!(
///     /// Says how long a string is.
///     pub Length: String => u64, |text| text.len() as u64
/// );
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! make_worker {
    ($(#[$meta:meta])* $vis:vis $name:ident : $in:ty => $out:ty, $function:expr) => {
        $(#[$meta])*
        #[derive(Debug)]
        $vis struct $name;

        const _: ::core::option::Option<$crate::__private::Travels<$in>> = ::core::option::Option::None;
        const _: ::core::option::Option<$crate::__private::Travels<$out>> = ::core::option::Option::None;

        impl $crate::Worker for $name {
            type Config = ();
            type In = $in;
            type Out = $out;

            fn new(
                (): (),
                _: &$crate::Context,
            ) -> ::core::result::Result<Self, $crate::BoxError> {
                Ok(Self)
            }

            #[inline]
            fn call(
                &mut self,
                input: &$crate::rkyv::Archived<$in>,
            ) -> ::core::result::Result<$out, $crate::BoxError> {
                fn apply<O: $crate::worker::IntoOutcome<$out>>(
                    function: impl Fn(&$crate::rkyv::Archived<$in>) -> O,
                    input: &$crate::rkyv::Archived<$in>,
                ) -> ::core::result::Result<$out, $crate::BoxError> {
                    function(input).into_outcome()
                }
                apply($function, input)
            }
        }
    };
}
