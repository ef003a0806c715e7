//! Why a server, or a worker, did not start.

use super::{MemoryError, RemoteError};
use crate::text::OneLine;
use ringmill_shm::segment::{AttachError, CreateError};
use ringmill_shm::sys::build_id::BuildId;
use ringmill_shm::text::{exact_size, shown_path};
use std::path::PathBuf;
use std::time::Duration;

fn not_listed_text(worker_type: &str, listed: &[String]) -> String {
    if listed.is_empty() {
        return format!(
            "this program has no ringmill::init!, so no process can become worker type {worker_type}; begin main with \
             ringmill::init!({worker_type}), in tests put it into the tests' module, or use a ThreadServlet"
        );
    }
    let listed = listed.join(", ");
    format!("worker type {worker_type} is not listed in ringmill::init!({listed}); add it there")
}

/// Why a server did not start. Nothing of it is left behind.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The segment could not be created.
    #[error(transparent)]
    Segment(#[from] CreateError),
    /// All names that [`name_or_suffix`](crate::ServerBuilder::name_or_suffix) may take are in use.
    #[error(
        "{name} and {name}-2 to {name}-{tried} are in use by live servers, or by another user: stop some, or take another name"
    )]
    NamesInUse {
        /// The first name.
        name: String,
        /// How many names were tried.
        tried: u32,
    },
    /// A batch window, but a batch size of at most 1.
    #[error(
        "servlet {servlet}: batch_size {batch_size} with batch_wait_time {batch_wait_time:?}: a wait needs a batch_size above 1"
    )]
    BatchRule {
        /// The servlet's name.
        servlet: String,
        /// Items a batch.
        batch_size: usize,
        /// The wait.
        batch_wait_time: Duration,
    },
    /// A back-off that would shrink.
    #[error(
        "servlet {servlet}: the first back-off ({first:?}) is longer than the longest ({longest:?}): swap them"
    )]
    Backoff {
        /// The servlet's name.
        servlet: String,
        /// Before the first restart.
        first: Duration,
        /// The longest.
        longest: Duration,
    },
    /// An option has a value out of range.
    #[error("{}{what} is {value}, must be in {least}..={most}", servlet_prefix(.servlet))]
    Range {
        /// The servlet's name; none for options of the server.
        servlet: Option<String>,
        /// Which option.
        what: &'static str,
        /// Its value.
        value: u64,
        /// The least allowed.
        least: u64,
        /// The most allowed.
        most: u64,
    },
    /// The system does not let this process [lock](crate::ServerBuilder::lock_memory) so much memory.
    #[error(
        "cannot lock the {} of the segment in memory{}: {error}; raise the limit (ulimit -l, LimitMEMLOCK), give the process CAP_IPC_LOCK, or lower capacity or max_payload",
        exact_size(*needed_bytes),
        limit_bytes.map_or(String::new(), |limit| format!(" (the limit on locked memory is {})", exact_size(limit)))
    )]
    LockMemory {
        /// What the segment needs.
        needed_bytes: u64,
        /// The limit for processes without privilege, if there is one.
        limit_bytes: Option<u64>,
        /// What the system said.
        error: std::io::Error,
    },
    /// A servlet's name that is not one line of plain text.
    #[error(
        "a servlet cannot be named {name:?}: 1 to {longest} bytes of letters, digits, spaces within and ASCII punctuation but '/' are allowed"
    )]
    Name {
        /// The name, or its beginning.
        name: String,
        /// The longest possible, in bytes.
        longest: usize,
    },
    /// An environment variable that no process can have.
    #[error("servlet {servlet}: no process can have the environment variable {variable:?}: {reason}")]
    Variable {
        /// The servlet's name.
        servlet: String,
        /// The variable's name.
        variable: String,
        /// Why not.
        reason: &'static str,
    },
    /// An [argument](crate::ProcessServlet::program_args) that no process can have.
    #[error("servlet {servlet}: no process can have argument {index} of its program: {reason}")]
    Argument {
        /// The servlet's name.
        servlet: String,
        /// Which argument, counted from 0.
        index: usize,
        /// Why not.
        reason: &'static str,
    },
    /// A [name of a worker in its program](crate::ProcessServlet::program_worker) that is not one line of plain text.
    #[error(
        "servlet {servlet}: a program cannot list a worker as {worker:?}: 1 to {longest} bytes on one line are allowed, without spaces at the ends"
    )]
    WorkerName {
        /// The servlet's name.
        servlet: String,
        /// The name, or its beginning.
        worker: String,
        /// The longest possible, in bytes.
        longest: usize,
    },
    /// A [schema](crate::payload::Schema) whose name is not one line of plain text.
    #[error(
        "servlet {servlet}: a schema cannot be named {schema:?}: 1 to {longest} bytes on one line are allowed"
    )]
    SchemaName {
        /// The servlet's name.
        servlet: String,
        /// The name, or its beginning.
        schema: String,
        /// The longest possible, in bytes.
        longest: usize,
    },
    /// A servlet gives other bytes than the next one takes.
    #[error(
        "servlet {servlet} gives bytes of schema {}, and servlet {next} after it takes those of schema {}",
        OneLine(gives),
        OneLine(takes)
    )]
    Schemas {
        /// The servlet's name.
        servlet: String,
        /// Its outcomes' schema.
        gives: String,
        /// The name of the servlet after it.
        next: String,
        /// The schema of that one's inputs.
        takes: String,
    },
    /// This process was started by a ringmill server to be a worker, and starts a server before it has called
    /// [`become_worker`](crate::program::become_worker): it would do so in each worker's process. Nothing was started.
    #[error(
        "this process was started to be a worker of the server at {}, and starts a server before it has called become_worker: call that first",
        OneLine(server)
    )]
    WorkerToBe {
        /// Where the other server's segment is.
        server: String,
    },
    /// A CPU that this process may not use.
    #[error("{}CPU {cpu} is not among the CPUs this process may use ({})", whose(.servlet), list_text(.allowed))]
    Cpu {
        /// The servlet's name; none for [`callers_on`](crate::ServerBuilder::callers_on).
        servlet: Option<String>,
        /// The CPU.
        cpu: usize,
        /// Those it may use.
        allowed: Vec<usize>,
    },
    /// A CPU that one worker's list, or the callers', has twice.
    #[error("{}CPU {cpu} is listed twice in one list: list it once", whose(.servlet))]
    CpuTwice {
        /// The servlet's name; none for [`callers_on`](crate::ServerBuilder::callers_on).
        servlet: Option<String>,
        /// The CPU.
        cpu: usize,
    },
    /// A part of the segment's memory does not lie on the NUMA node where it is to lie, and the server is
    /// [strict](crate::ServerBuilder::strict_memory) about that; or the node is not there.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A NUMA node that is not there, or has no CPU that this process may use.
    #[error(
        "servlet {servlet}: there is no NUMA node {node} with CPUs that this process may use (nodes with such CPUs: {})",
        if nodes.is_empty() { "none".into() } else { list_text(.nodes) }
    )]
    Node {
        /// The servlet's name.
        servlet: String,
        /// The node.
        node: usize,
        /// Those with such CPUs.
        nodes: Vec<usize>,
    },
    /// A worker type that `init!` does not list.
    #[error("servlet {servlet}: {}", not_listed_text(worker_type, listed))]
    NotListed {
        /// The servlet's name.
        servlet: String,
        /// The type.
        worker_type: String,
        /// The types listed; none if the program has no `init!`.
        listed: Vec<String>,
    },
    /// The `init!` that lists the worker type is not in the executable that would be started as its workers, but in a
    /// library that another program has loaded: an interpreter, say. Nothing was started.
    #[error(
        "servlet {servlet}: the ringmill::init! that lists worker type {worker_type} is in {}, not in {}, which would be started as its workers; name an executable that lists it with program(..), or use a ThreadServlet",
        shown_path(library),
        shown_path(executable)
    )]
    NotInExecutable {
        /// The servlet's name.
        servlet: String,
        /// The type.
        worker_type: String,
        /// Where the `init!` is.
        library: PathBuf,
        /// Where it would have to be.
        executable: PathBuf,
    },
    /// The executable named with [`program`](crate::ProcessServlet::program) cannot run workers. It was not run.
    #[error("servlet {servlet}: {} cannot run workers: {}", shown_path(path), OneLine(reason))]
    Program {
        /// The servlet's name.
        servlet: String,
        /// The executable.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The workers' executable could not be started.
    #[error("servlet {servlet}: cannot start {}: {error}", shown_path(path))]
    Executable {
        /// The servlet's name.
        servlet: String,
        /// The executable.
        path: PathBuf,
        /// What the operating system said.
        error: std::io::Error,
    },
    /// A configuration could not be serialised.
    #[error("servlet {servlet}: its configuration cannot be serialised: {}", OneLine(message))]
    Config {
        /// The servlet's name.
        servlet: String,
        /// Why.
        message: String,
    },
    /// A worker's constructor, or its `warm_up`, failed or panicked.
    #[error("worker {} failed to start: {}", name_of(.0), .0.cause)]
    Worker(Box<RemoteError>),
    /// A worker's process ended before it was ready.
    #[error("worker {servlet}/{worker} ended before it was ready: {status}{}", why_it_ended(*.code, .program))]
    Died {
        /// The servlet's name.
        servlet: String,
        /// Which of its workers.
        worker: u32,
        /// How it ended.
        status: String,
        /// The code it exited with, if it did.
        code: Option<i32>,
        /// Its executable, if that is a program which becomes a worker by a
        /// [call](crate::program::become_worker).
        program: Option<PathBuf>,
    },
    /// A worker's process was started, but could not attach the segment.
    #[error("worker {servlet}/{worker} could not join: {}", OneLine(reason))]
    Join {
        /// The servlet's name.
        servlet: String,
        /// Which of its workers.
        worker: u32,
        /// Why, as the worker's process says.
        reason: String,
    },
    /// A worker was not ready in time.
    #[error("worker {servlet}/{worker} was not ready within {:.3} s: {}its set-up, new and warm_up take longer, or hang; start_timeout sets the limit", limit.as_secs_f64(), not_called(.program))]
    Timeout {
        /// The servlet's name.
        servlet: String,
        /// Which of its workers.
        worker: u32,
        /// The limit.
        limit: Duration,
        /// Its executable, if that is a program which becomes a worker by a
        /// [call](crate::program::become_worker).
        program: Option<PathBuf>,
    },
    /// The operating system refused.
    #[error("cannot {what}: {error}")]
    System {
        /// What the server tried.
        what: &'static str,
        /// What the operating system said.
        error: std::io::Error,
    },
}

/// The exit code of a process that was started as a worker and has no such worker.
pub(crate) const NOT_A_WORKER: i32 = 97;
/// The exit code of a worker that a fatal error stopped.
pub(crate) const STOPPED_BY_ERROR: i32 = 98;

fn why_it_ended(code: Option<i32>, program: &Option<PathBuf>) -> String {
    match program {
        Some(program) => format!("; {} has to call become_worker", shown_path(program)),
        None if code == Some(NOT_A_WORKER) => {
            "; its program has no ringmill::init! that lists the type".into()
        }
        None => String::new(),
    }
}

fn not_called(program: &Option<PathBuf>) -> String {
    program
        .as_ref()
        .map_or(String::new(), |program| format!("{} does not call become_worker, or ", shown_path(program)))
}

fn servlet_prefix(servlet: &Option<String>) -> String {
    servlet.as_ref().map_or(String::new(), |name| format!("servlet {name}: "))
}

fn whose(servlet: &Option<String>) -> String {
    servlet.as_ref().map_or("callers_on: ".into(), |name| format!("servlet {name}: "))
}

fn list_text(numbers: &[usize]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn name_of(error: &RemoteError) -> String {
    format!("{}/{}", OneLine(&error.servlet), error.worker)
}

/// Why a worker's process could not attach its segment.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinError {
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error("cannot {what}: {error}")]
    System { what: &'static str, error: std::io::Error },
    #[error(
        "row {0} of the segment is not for this worker: the server has given it to another one, or is gone"
    )]
    Row(u32),
    #[error(
        "this worker is build {ours} of {}, its server wants build {wanted}: the program was replaced while the server runs; restart the service",
        shown_path(program)
    )]
    Build { wanted: BuildId, ours: BuildId, program: PathBuf },
}
