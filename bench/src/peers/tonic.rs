//! tonic: gRPC over a pair of Unix sockets, with a server in a process of its own.
//!
//! The service has two methods, written by hand as tonic's code generator would write them. [`Unary`] makes a call
//! of each item, as most programs do, and has as many under way at once as the window allows. [`Bidi`] sends all
//! items through one call that streams in both directions: HTTP/2's share is then a few frames for many items.
//!
//! Both sides have a runtime of one thread. Each has one CPU, so more threads would only wake one another: with
//! tokio's other runtime everything takes as long or longer.

use std::convert::Infallible;
use std::error::Error as _;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as Socket;
use std::process::Stdio;

use futures_util::{FutureExt, StreamExt, stream};
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::UnixStream;
use tokio::runtime::{self, Runtime};
use tokio::sync::mpsc::{self, UnboundedSender};
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::transport::{self, Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::Task;
use crate::Error;
use crate::contestant::Contestant;
use crate::payload::Payload;
use crate::pin::CpuPair;
use crate::process::{self, Process};

const UNARY: PathAndQuery = PathAndQuery::from_static("/ringmill.Echo/Unary");
const BIDI: PathAndQuery = PathAndQuery::from_static("/ringmill.Echo/Bidi");

/// A payload as protobuf has it: packed words.
#[derive(Clone, PartialEq, Message)]
struct Packed {
    #[prost(fixed64, repeated, tag = "1")]
    words: Vec<u64>,
}

impl<const WORDS: usize> From<Payload<WORDS>> for Packed {
    fn from(payload: Payload<WORDS>) -> Self {
        Self { words: payload.words().to_vec() }
    }
}

impl Packed {
    /// The payload, if it has the right length.
    fn unpack<const WORDS: usize>(self) -> Option<Payload<WORDS>> {
        self.words.try_into().ok().map(Payload::from_words)
    }
}

fn codec() -> ProstCodec<Packed, Packed> {
    ProstCodec::default()
}

/// A runtime that runs on the calling thread only, and only while that waits for something.
fn runtime() -> io::Result<Runtime> {
    runtime::Builder::new_current_thread().enable_all().build()
}

/// The client's end of a connection, and the process at the other.
#[derive(Debug)]
struct Client {
    who: &'static str,
    runtime: Runtime,
    grpc: Grpc<Channel>,
    process: Process,
}

impl Client {
    fn start<const WORDS: usize>(who: &'static str, cpus: CpuPair) -> Result<Self, Error> {
        let failed = |source| Error::Transport { who, source };
        let (near, far) = Socket::pair().map_err(failed)?;
        let task = Task::Tonic.to_argument::<WORDS>();
        let process = Process::start(who, cpus.partner, &task, OwnedFd::from(far), Stdio::null())?;
        let runtime = runtime().map_err(failed)?;
        let channel = runtime.block_on(connect(near)).map_err(failed)?;
        Ok(Self { who, runtime, grpc: Grpc::new(channel), process })
    }

    /// What `outcome` is for the caller of a contestant.
    fn finish(&mut self, outcome: Result<(), Failure>) -> Result<(), Error> {
        outcome.map_err(|failure| match failure {
            Failure::WrongAnswer { item } => Error::WrongAnswer { who: self.who, item },
            Failure::Status(status) => self.process.failed(to_io_error(status)),
        })
    }
}

/// Why items could not be done.
enum Failure {
    WrongAnswer { item: u64 },
    Status(Box<Status>),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

fn check<const WORDS: usize>(answer: Packed, item: u64) -> Result<(), Failure> {
    let right = answer.unpack::<WORDS>().is_some_and(|answer| answer.answers(item));
    if right { Ok(()) } else { Err(Failure::WrongAnswer { item }) }
}

/// Tells a broken connection from an error that the other side has sent.
fn to_io_error(status: Box<Status>) -> io::Error {
    match status.source() {
        Some(source) if source.is::<transport::Error>() => io::Error::new(io::ErrorKind::BrokenPipe, status),
        _ => io::Error::other(status),
    }
}

fn unready(error: transport::Error) -> Status {
    Status::from_error(error.into())
}

async fn connect(near: Socket) -> io::Result<Channel> {
    near.set_nonblocking(true)?;
    let mut near = Some(UnixStream::from_std(near)?);
    // Called once; a broken connection cannot be made again.
    let connector = service_fn(move |_| {
        let near = near.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        async { near.map(TokioIo::new) }
    });
    // The address is not looked at.
    let endpoint = Endpoint::from_static("http://partner");
    endpoint.connect_with_connector(connector).await.map_err(io::Error::other)
}

/// A call for each item.
#[derive(Debug)]
pub struct Unary<const WORDS: usize> {
    client: Client,
}

impl<const WORDS: usize> Unary<WORDS> {
    /// Starts the server and connects to it.
    ///
    /// # Errors
    ///
    /// [`Error::Transport`], or those of [`Process::start`].
    pub fn start(who: &'static str, cpus: CpuPair) -> Result<Self, Error> {
        Ok(Self { client: Client::start::<WORDS>(who, cpus)? })
    }
}

async fn call<const WORDS: usize>(mut grpc: Grpc<Channel>, item: u64) -> Result<Packed, Status> {
    grpc.ready().await.map_err(unready)?;
    let question = Packed::from(Payload::<WORDS>::question(item));
    Ok(grpc.unary(Request::new(question), UNARY, codec()).await?.into_inner())
}

impl<const WORDS: usize> Contestant for Unary<WORDS> {
    fn name(&self) -> &'static str {
        self.client.who
    }

    fn call(&mut self, items: u64) -> Result<(), Error> {
        let Client { runtime, grpc, .. } = &self.client;
        let outcome = runtime.block_on(async {
            for item in 0..items {
                check::<WORDS>(call::<WORDS>(grpc.clone(), item).await?, item)?;
            }
            Ok(())
        });
        self.client.finish(outcome)
    }

    fn stream(&mut self, items: u64, window: u32) -> Result<(), Error> {
        let Client { runtime, grpc, .. } = &self.client;
        let outcome = runtime.block_on(async {
            let calls = stream::iter(0..items).map(|item| call::<WORDS>(grpc.clone(), item));
            let mut answers = calls.buffered(window as usize);
            for item in 0..items {
                let answer = answers.next().await.ok_or(Failure::WrongAnswer { item })?;
                check::<WORDS>(answer?, item)?;
            }
            Ok(())
        });
        self.client.finish(outcome)
    }
}

/// One call that streams in both directions.
#[derive(Debug)]
pub struct Bidi<const WORDS: usize> {
    client: Client,
    questions: UnboundedSender<Packed>,
    answers: Streaming<Packed>,
}

impl<const WORDS: usize> Bidi<WORDS> {
    /// Starts the server, connects to it, and begins the call.
    ///
    /// # Errors
    ///
    /// [`Error::Transport`], or those of [`Process::start`].
    pub fn start(who: &'static str, cpus: CpuPair) -> Result<Self, Error> {
        let mut client = Client::start::<WORDS>(who, cpus)?;
        // The window bounds what lies in it.
        let (questions, mut asked) = mpsc::unbounded_channel();
        let asked = stream::poll_fn(move |context| asked.poll_recv(context));
        let Client { runtime, grpc, .. } = &mut client;
        let begun = runtime.block_on(async {
            grpc.ready().await.map_err(unready)?;
            grpc.streaming(Request::new(asked), BIDI, codec()).await
        });
        match begun {
            Ok(answers) => Ok(Self { client, questions, answers: answers.into_inner() }),
            Err(status) => Err(client.process.failed(to_io_error(Box::new(status)))),
        }
    }
}

impl<const WORDS: usize> Contestant for Bidi<WORDS> {
    fn name(&self) -> &'static str {
        self.client.who
    }

    fn call(&mut self, items: u64) -> Result<(), Error> {
        self.stream(items, 1)
    }

    fn stream(&mut self, items: u64, window: u32) -> Result<(), Error> {
        let Self { client, questions, answers } = self;
        let outcome = client.runtime.block_on(async {
            let (mut sent, mut checked) = (0, 0);
            while checked < items {
                while sent < items.min(checked + u64::from(window)) {
                    let question = Payload::<WORDS>::question(sent).into();
                    questions.send(question).map_err(|_| Status::cancelled("the call has ended"))?;
                    sent += 1;
                }
                // Waits for one answer, then takes those that are there.
                let mut answer = Some(answers.message().await);
                while let Some(arrived) = answer {
                    let arrived = arrived?.ok_or_else(|| Status::cancelled("the call has ended"))?;
                    check::<WORDS>(arrived, checked)?;
                    checked += 1;
                    answer = if checked < sent { answers.message().now_or_never() } else { None };
                }
            }
            Ok(())
        });
        client.finish(outcome)
    }
}

/// The partner's side.
///
/// # Errors
///
/// What the system says to the socket, or tonic to the connection.
pub fn answer<const WORDS: usize>() -> io::Result<Infallible> {
    let socket = Socket::from(process::input()?);
    socket.set_nonblocking(true)?;
    runtime()?.block_on(async {
        let connection = UnixStream::from_std(socket)?;
        serve::<WORDS>(connection).await.map_err(io::Error::other)
    })?;
    Err(io::ErrorKind::UnexpectedEof.into())
}

async fn serve<const WORDS: usize>(connection: UnixStream) -> Result<(), transport::Error> {
    let unary =
        |question: Request<Packed>| async { reply::<WORDS>(question.into_inner()).map(Response::new) };
    let bidi = |questions: Request<Streaming<Packed>>| async {
        let questions = questions.into_inner();
        Ok(Response::new(questions.map(|question| question.and_then(reply::<WORDS>))))
    };
    let service = service_fn(move |request: http::Request<Body>| async move {
        let mut grpc = tonic::server::Grpc::new(codec());
        let response = match request.uri().path_and_query() {
            Some(path) if *path == UNARY => grpc.unary(service_fn(unary), request).await,
            Some(path) if *path == BIDI => grpc.streaming(service_fn(bidi), request).await,
            _ => Status::unimplemented("no such method").into_http(),
        };
        Ok::<_, Infallible>(response)
    });
    // One connection, and no end of the server when it has been accepted: that would end the connection too.
    let incoming = stream::iter([Ok::<_, io::Error>(connection)]).chain(stream::pending());
    // As many calls at once as the client's window allows.
    Server::builder().max_concurrent_streams(None).serve_with_incoming(service, incoming).await
}

/// The answer to a question, or that it has the wrong length.
fn reply<const WORDS: usize>(question: Packed) -> Result<Packed, Status> {
    let question =
        question.unpack::<WORDS>().ok_or_else(|| Status::invalid_argument("a payload's length"))?;
    Ok(question.answer().into())
}
