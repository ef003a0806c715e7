//! What users write: [`Worker`] for one item at a time, [`BatchWorker`] for batches.

use crate::error::BoxError;
use crate::items::Batch;
use crate::payload::Payload;
use rkyv::Archived;
use std::time::Duration;

/// User code that handles one item at a time.
///
/// A worker lives in its own process or thread and is never shared. Each `Worker` also is a
/// [`BatchWorker`] that handles the items of a batch one by one; an error or a panic touches only its
/// item.
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
    /// What it is built from; travels to each worker.
    type Config: Payload;
    /// What an item is.
    type In: Payload;
    /// What an item becomes.
    type Out: Payload;

    /// Tells versions of the payload types apart, between a server and a worker that
    /// [`program`](crate::ProcessServlet::program) starts from another executable. The two must agree in it.
    ///
    /// The engine itself finds types of other names or sizes, with other pointers or alignments; not that two fields of
    /// one size have changed places, or that a number has got another meaning. Where the two executables can be of
    /// different versions, change this number with each change of the types; or have it change by itself with the file
    /// that they are in: `ringmill::schema(include_str!("messages.rs"))`.
    const SCHEMA: u64 = 0;

    /// Builds the worker, in its own process or thread.
    ///
    /// # Errors
    /// Whatever makes it impossible to work: the server does not start, and says why.
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

    /// Called once, when the worker stops. Not after a crash, of course. A panic in it changes nothing.
    fn cleanup(&mut self, _reason: &Stop) {}
}

/// User code that handles a batch of items at once.
///
/// ```
/// use ringmill::{Batch, BatchWorker, BoxError, Context};
///
/// /// Says how far each number lies above the least of its batch.
/// struct AboveLeast;
///
/// impl BatchWorker for AboveLeast {
///     type Config = ();
///     type In = u32;
///     type Out = u32;
///
///     fn new((): (), _: &Context) -> Result<Self, BoxError> {
///         Ok(Self)
///     }
///
///     fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
///         let least = batch.inputs().map(|x| x.to_native()).min().unwrap_or(0);
///         let above: Vec<u32> = batch.inputs().map(|x| x.to_native() - least).collect();
///         batch.reply_all(above)
///     }
/// }
/// ```
pub trait BatchWorker: Sized + 'static {
    /// What it is built from; travels to each worker.
    type Config: Payload;
    /// What an item is.
    type In: Payload;
    /// What an item becomes.
    type Out: Payload;

    /// Tells versions of the payload types apart, between a server and a worker that
    /// [`program`](crate::ProcessServlet::program) starts from another executable. The two must agree in it.
    ///
    /// The engine itself finds types of other names or sizes, with other pointers or alignments; not that two fields of
    /// one size have changed places, or that a number has got another meaning. Where the two executables can be of
    /// different versions, change this number with each change of the types; or have it change by itself with the file
    /// that they are in: `ringmill::schema(include_str!("messages.rs"))`.
    const SCHEMA: u64 = 0;

    /// Builds the worker, in its own process or thread.
    ///
    /// # Errors
    /// Whatever makes it impossible to work: the server does not start, and says why.
    fn new(config: Self::Config, context: &Context) -> Result<Self, BoxError>;

    /// Handles a batch of 1 to `batch_size` items: answers each of them, all at once with
    /// [`Batch::reply_all`] or one by one.
    ///
    /// # Errors
    /// An error (or a panic) becomes the outcome of every item that has not been answered. An item that
    /// is left unanswered although `call` returns `Ok` gets an error too. After a
    /// [fatal](BoxError::fatal) error the worker stops.
    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError>;

    /// Called once between `new` and the first batch, before the worker counts as ready: to load what the
    /// first call would otherwise wait for.
    ///
    /// # Errors
    /// As those of `new`: the server does not start, and says why. `cleanup` is not called then.
    fn warm_up(&mut self, _context: &Context) -> Result<(), BoxError> {
        Ok(())
    }

    /// Called once, when the worker stops. Not after a crash, of course. A panic in it changes nothing.
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
        batch.answer_each(|input| Worker::call(self, input)); // what it leaves gets the error that stopped us
        Ok(())
    }

    fn warm_up(&mut self, context: &Context) -> Result<(), BoxError> {
        Worker::warm_up(self, context)
    }

    fn cleanup(&mut self, reason: &Stop) {
        Worker::cleanup(self, reason);
    }
}

/// What a worker's constructor and its `warm_up` are told about its place.
#[derive(Debug, Clone)]
pub struct Context {
    pub(crate) server_name: String,
    pub(crate) servlet_name: String,
    pub(crate) worker_index: u32,
    pub(crate) thread_index: u32,
    pub(crate) stream_threads: u32,
    pub(crate) batch_size: u32,
    pub(crate) batch_wait_time: Duration,
    pub(crate) cpus: Vec<usize>,
    pub(crate) restarts: u32,
}

impl Context {
    /// The server's name.
    #[must_use]
    pub fn server_name(&self) -> &str {
        &self.server_name
    }

    /// The servlet's name.
    #[must_use]
    pub fn servlet_name(&self) -> &str {
        &self.servlet_name
    }

    /// Which of the servlet's workers this is, from 0: to pick a GPU, say. The same for all threads of a
    /// worker.
    #[must_use]
    pub fn worker_index(&self) -> usize {
        self.worker_index as usize
    }

    /// Which of the worker's [`stream_threads`](crate::ProcessServlet::stream_threads) this is, from 0.
    #[must_use]
    pub fn thread_index(&self) -> usize {
        self.thread_index as usize
    }

    /// `server/servlet/index`, and `.thread` after it if the worker has several.
    #[must_use]
    pub fn name(&self) -> String {
        let worker = title(&self.servlet_name, self.worker_index, self.thread_index, self.stream_threads);
        format!("{}/{worker}", self.server_name)
    }

    /// 0: items one by one; 1: batches of one; n: batches of 1 to n.
    #[must_use]
    pub fn batch_size(&self) -> usize {
        self.batch_size as usize
    }

    /// How long the oldest item of a batch may have waited since it was enqueued.
    #[must_use]
    pub fn batch_wait_time(&self) -> Duration {
        self.batch_wait_time
    }

    /// The CPUs this worker is pinned to; none if it is not.
    #[must_use]
    pub fn cpus(&self) -> &[usize] {
        &self.cpus
    }

    /// The NUMA node of those CPUs, if the worker is pinned and the kernel tells.
    #[must_use]
    pub fn numa_node(&self) -> Option<usize> {
        ringmill_shm::sys::cpu::numa_node(*self.cpus.first()?)
    }

    /// How often this worker has been started anew after a death.
    #[must_use]
    pub fn restarts(&self) -> u32 {
        self.restarts
    }
}

/// `servlet/worker`, and `.thread` after it if the worker has several.
pub(crate) fn title(servlet: &str, worker: u32, thread: u32, threads: u32) -> String {
    if threads > 1 { format!("{servlet}/{worker}.{thread}") } else { format!("{servlet}/{worker}") }
}

/// A number for a text, another one for nearly every other: for [`Worker::SCHEMA`].
///
/// ```
/// const NOW: u64 = ringmill::schema("struct Point { x: f32, y: f32 }");
/// assert_ne!(NOW, ringmill::schema("struct Point { y: f32, x: f32 }"));
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

/// Why a worker stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stop {
    /// The server shuts down.
    Shutdown,
    /// The server's process is gone: there is a second left, and nobody to answer.
    ServerGone,
    /// A [fatal](BoxError::fatal) error, of this worker or of another thread of its process; or that other
    /// one could not be built anew after a death. All of the process is started again.
    Fatal,
}

/// A worker that answers each item with itself and copies nothing.
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

/// What a plain function of a worker may return: its value, or a result.
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
/// It is a macro, not a function, because a worker type needs a name that [`init!`](crate::init) can
/// list: the process that runs it knows nothing but that name.
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
                fn apply<O: $crate::IntoOutcome<$out>>(
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
