//! How fast is ringmill, measured against the cache line and against its rivals.
//!
//! The limit of a request and its answer between two cores is one cache line that goes there and back. Its cost
//! depends on where the machine puts the two cores and may change within seconds, so nanoseconds
//! from two runs say little. `compare` therefore reads that limit (`raw`) right before and right after every
//! short slice of every contestant and reports *ratios*, by [regime](rounds::Regime).
//!
//! | Module | Holds |
//! |---|---|
//! | [`priority`] | real-time priority, where the system permits it |
//! | [`pin`] | which CPU the client runs on, and which its partner |
//! | [`payload`] | the words that every contestant writes, reads and checks on both sides |
//! | [`partner`] | the other side of a contestant in this process: a thread that sleeps between slices |
//! | [`process`] | the other side of a contestant in a process of its own, stopped between slices |
//! | `janitor` | with the features `rivals` and `aeron`: removes files that killed processes leave |
//! | [`device`], [`batching`] | the time of a batch, and contestants that make batches |
//! | [`bulk`] | large questions, with answers of one word |
//! | [`callers`] | the client's side of a contestant with several calling threads |
//! | [`contestant`] | the contestants, and the points at which they are measured |
//! | [`raw`] | the bare cache-line ping-pong |
//! | [`memcpy`] | writing and reading memory by one thread |
//! | [`peers`] | ringmill and its rivals |
//! | [`slice`](mod@slice) | one short measurement |
//! | [`rounds`] | which slices count, and what they add up to: pure |
//! | [`match_up`] | the contestants in turn, until enough slices count |
//! | [`open_loop`] | requests that arrive whether or not the earlier ones are answered |
//! | [`turns`] | contestants in turn, for figures that are not one number an item |
//! | [`percentiles`] | of times |
//! | [`nap`] | waiting for an instant without being late |
//! | [`cpu_time`], [`procfs`] | CPU time and memory of threads and processes |
//! | [`jobs`] | the jobs, a module each |
//! | [`report`] | the rows of results, as a table and as lines of JSON |
//! | [`plot`] | the report that people look at: pictures and a page |

pub mod batching;
pub mod bulk;
pub mod callers;
pub mod contestant;
pub mod cpu_time;
pub mod device;
pub mod error;
#[cfg(any(feature = "rivals", feature = "aeron"))]
pub mod janitor;
pub mod jobs;
pub mod match_up;
pub mod memcpy;
pub mod nap;
pub mod open_loop;
pub mod partner;
pub mod parts;
pub mod payload;
pub mod peers;
pub mod percentiles;
pub mod pin;
pub mod plot;
pub mod priority;
pub mod process;
pub mod procfs;
pub mod raw;
pub mod report;
pub mod rounds;
pub mod slice;
pub mod turns;

pub use error::Error;
