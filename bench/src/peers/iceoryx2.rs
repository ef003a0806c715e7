//! iceoryx2 between two processes that both poll, in both ways that it has: request–response, and two services
//! of publish–subscribe, one each way.
//!
//! Payloads are written into memory lent by iceoryx2, and read where they lie.
//!
//! *Request–response* allows a client [`DEFAULT_ACTIVE`] active requests unless told otherwise, and gets slower
//! with each that is allowed. So it comes twice: as it is, and with as many as the window.
//!
//! *Files.* It keeps files in a directory and named shared memory, and both stay when a process is killed. Here all of them have
//! names of their own, which a [`Janitor`] removes.
#![expect(
    unsafe_code,
    reason = "that a type may be sent as it lies in memory is promised by an unsafe trait"
)]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::path::Path;
use std::process::Stdio;

use ::iceoryx2::active_request::ActiveRequest;
use ::iceoryx2::pending_response::PendingResponse;
use ::iceoryx2::port::client::Client;
use ::iceoryx2::port::publisher::Publisher;
use ::iceoryx2::port::server::Server;
use ::iceoryx2::port::subscriber::Subscriber;
use ::iceoryx2::prelude::{
    Config, FileName, LogLevel, Node, NodeBuilder, SemanticString, ServiceName, SignalHandlingMode,
    ZeroCopySend, ipc, set_log_level,
};
use ::iceoryx2::service::port_factory::{publish_subscribe, request_response};
use serde::{Deserialize, Serialize};

use super::Task;
use super::processes::{Link, Processes, serve};
use crate::Error;
use crate::contestant::Point;
use crate::janitor::Janitor;
use crate::payload::Payload;
use crate::pin::CpuPair;
use crate::process::{self, Process};

/// Active requests that a client may have, as iceoryx2 has it.
pub const DEFAULT_ACTIVE: u32 = 4;

// SAFETY: it is laid out as an array of words, refers to nothing, and any bytes are valid.
unsafe impl<const WORDS: usize> ZeroCopySend for Payload<WORDS> {}

/// The order for a partner.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    directory: String,
    pattern: Pattern,
}

/// How messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Pattern {
    /// With this many active requests.
    RequestResponse { active: u32 },
    /// With room for this many samples each way.
    PublishSubscribe { room: u32 },
}

/// Starts request–response with `active` active requests.
///
/// # Errors
///
/// [`Error::Transport`] with what iceoryx2 or the system says, or those of [`Process::start`].
pub fn start_rr<const WORDS: usize>(
    who: &'static str,
    active: u32,
    cpus: CpuPair,
) -> Result<Processes<Requests<WORDS>, WORDS>, Error> {
    start(who, Pattern::RequestResponse { active }, active, cpus, |node| {
        let service = request_response(node, active)?;
        let client = service.client_builder().create().map_err(io::Error::other)?;
        Ok(Requests { pending: VecDeque::new(), client, _service: service })
    })
}

/// Starts the pair of publish–subscribe, each with room for as many samples as `point` asks for.
///
/// # Errors
///
/// As [`start_rr`].
pub fn start_ps<const WORDS: usize>(
    who: &'static str,
    point: Point,
    cpus: CpuPair,
) -> Result<Processes<Samples<WORDS>, WORDS>, Error> {
    let room = point.room();
    start(who, Pattern::PublishSubscribe { room }, room, cpus, |node| {
        Samples::open(node, [QUESTIONS, ANSWERS], room)
    })
}

/// The client's side first: the partner opens what it finds.
fn start<L: Link<WORDS>, const WORDS: usize>(
    who: &'static str,
    pattern: Pattern,
    room: u32,
    cpus: CpuPair,
    link: impl FnOnce(&Node<ipc::Service>) -> io::Result<L>,
) -> Result<Processes<L, WORDS>, Error> {
    let made = || {
        let janitor = Janitor::start()?;
        let link = link(&node(janitor.directory())?)?;
        let directory = janitor.directory().to_str().ok_or(io::ErrorKind::InvalidFilename)?.to_owned();
        Ok((link, janitor.hold()?, directory, janitor))
    };
    let (link, hold, directory, janitor) = made().map_err(|source| Error::Transport { who, source })?;
    let task = Task::Iceoryx2(Order { directory, pattern }).to_argument::<WORDS>();
    let mut process = Process::start(who, cpus.partner, &task, hold, Stdio::piped())?.cleaned_up_by(janitor);
    process.wait_until_ready()?;
    Ok(Processes::new(who, link, process, room))
}

/// The partner's side.
///
/// # Errors
///
/// What iceoryx2 says.
pub fn answer<const WORDS: usize>(order: &Order) -> io::Result<Infallible> {
    let node = node(Path::new(&order.directory))?;
    match order.pattern {
        Pattern::RequestResponse { active } => {
            let service = request_response(&node, active)?;
            let server = service.server_builder().create().map_err(io::Error::other)?;
            process::ready()?;
            serve(&mut Responses::<WORDS> { active: None, server })
        }
        Pattern::PublishSubscribe { room } => {
            let mut samples = Samples::<WORDS>::open(&node, [ANSWERS, QUESTIONS], room)?;
            process::ready()?;
            serve(&mut samples)
        }
    }
}

/// A node whose files and shared memory all have names that a [`Janitor`] of `directory` knows.
fn node(directory: &Path) -> io::Result<Node<ipc::Service>> {
    // It tells of everything that could be cleaned up, and a partner that was killed always can.
    set_log_level(LogLevel::Fatal);
    let name = directory.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    let mut config = Config::default();
    config.global.prefix = FileName::new(name.as_encoded_bytes()).map_err(io::Error::other)?;
    let path = ::iceoryx2::prelude::Path::new(directory.as_os_str().as_encoded_bytes());
    config.global.set_root_path(&path.map_err(io::Error::other)?);
    NodeBuilder::new()
        .config(&config)
        .signal_handling_mode(SignalHandlingMode::Disabled)
        .create()
        .map_err(io::Error::other)
}

type RequestsOf<const WORDS: usize> =
    request_response::PortFactory<ipc::Service, Payload<WORDS>, (), Payload<WORDS>, ()>;
type SamplesOf<const WORDS: usize> = publish_subscribe::PortFactory<ipc::Service, Payload<WORDS>, ()>;

fn request_response<const WORDS: usize>(
    node: &Node<ipc::Service>,
    active: u32,
) -> io::Result<RequestsOf<WORDS>> {
    let name = ServiceName::new("compare").map_err(io::Error::other)?;
    let service = node.service_builder(&name).request_response::<Payload<WORDS>, Payload<WORDS>>();
    service.max_active_requests_per_client(active as usize).open_or_create().map_err(io::Error::other)
}

/// The client of request–response.
pub struct Requests<const WORDS: usize> {
    /// Oldest first, as they will be answered.
    pending: VecDeque<PendingResponse<ipc::Service, Payload<WORDS>, (), Payload<WORDS>, ()>>,
    client: Client<ipc::Service, Payload<WORDS>, (), Payload<WORDS>, ()>,
    _service: RequestsOf<WORDS>,
}

impl<const WORDS: usize> Link<WORDS> for Requests<WORDS> {
    fn send(&mut self, payload: impl FnOnce() -> Payload<WORDS>) -> io::Result<bool> {
        let request = self.client.loan_uninit().map_err(io::Error::other)?;
        self.pending.push_back(request.write_payload(payload()).send().map_err(io::Error::other)?);
        Ok(true)
    }

    fn receive<R>(&mut self, read: impl FnOnce(&Payload<WORDS>) -> R) -> io::Result<Option<R>> {
        let Some(oldest) = self.pending.front() else { return Ok(None) };
        let Some(response) = oldest.receive().map_err(io::Error::other)? else { return Ok(None) };
        let result = read(response.payload());
        drop(response);
        self.pending.pop_front();
        Ok(Some(result))
    }
}

/// The server of request–response.
struct Responses<const WORDS: usize> {
    /// The last request received, until it is answered.
    active: Option<ActiveRequest<ipc::Service, Payload<WORDS>, (), Payload<WORDS>, ()>>,
    server: Server<ipc::Service, Payload<WORDS>, (), Payload<WORDS>, ()>,
}

impl<const WORDS: usize> Link<WORDS> for Responses<WORDS> {
    fn send(&mut self, payload: impl FnOnce() -> Payload<WORDS>) -> io::Result<bool> {
        let request = self.active.take().ok_or_else(|| io::Error::other("nothing to respond to"))?;
        let response = request.loan_uninit().map_err(io::Error::other)?;
        response.write_payload(payload()).send().map_err(io::Error::other)?;
        Ok(true)
    }

    fn receive<R>(&mut self, read: impl FnOnce(&Payload<WORDS>) -> R) -> io::Result<Option<R>> {
        self.active = self.server.receive().map_err(io::Error::other)?;
        Ok(self.active.as_ref().map(|request| read(request.payload())))
    }
}

/// Names of the two services of publish–subscribe.
const QUESTIONS: &str = "questions";
const ANSWERS: &str = "answers";

/// One side of a pair of publish–subscribe.
pub struct Samples<const WORDS: usize> {
    out: Publisher<ipc::Service, Payload<WORDS>, ()>,
    back: Subscriber<ipc::Service, Payload<WORDS>, ()>,
    _services: [SamplesOf<WORDS>; 2],
}

impl<const WORDS: usize> Samples<WORDS> {
    /// A side that publishes to the first service and subscribes to the second.
    fn open(node: &Node<ipc::Service>, names: [&str; 2], room: u32) -> io::Result<Self> {
        let service = |name| {
            let name = ServiceName::new(name).map_err(io::Error::other)?;
            let service = node.service_builder(&name).publish_subscribe::<Payload<WORDS>>();
            // By default a subscriber has room for two and loses the oldest of more.
            let service = service.subscriber_max_buffer_size(room as usize).enable_safe_overflow(false);
            service.open_or_create().map_err(io::Error::other)
        };
        let [out, back] = [service(names[0])?, service(names[1])?];
        Ok(Self {
            out: out.publisher_builder().create().map_err(io::Error::other)?,
            back: back.subscriber_builder().create().map_err(io::Error::other)?,
            _services: [out, back],
        })
    }
}

impl<const WORDS: usize> Link<WORDS> for Samples<WORDS> {
    fn send(&mut self, payload: impl FnOnce() -> Payload<WORDS>) -> io::Result<bool> {
        let sample = self.out.loan_uninit().map_err(io::Error::other)?;
        sample.write_payload(payload()).send().map_err(io::Error::other)?;
        Ok(true)
    }

    fn receive<R>(&mut self, read: impl FnOnce(&Payload<WORDS>) -> R) -> io::Result<Option<R>> {
        let sample = self.back.receive().map_err(io::Error::other)?;
        Ok(sample.map(|sample| read(sample.payload())))
    }
}

impl<const WORDS: usize> fmt::Debug for Requests<WORDS> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Requests").field("pending", &self.pending.len()).finish_non_exhaustive()
    }
}

impl<const WORDS: usize> fmt::Debug for Responses<WORDS> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Responses").finish_non_exhaustive()
    }
}

impl<const WORDS: usize> fmt::Debug for Samples<WORDS> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Samples").finish_non_exhaustive()
    }
}
