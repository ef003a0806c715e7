//! Streams: bodies of lines or events, in and out.

use crate::api::{Input, Outcome};
use crate::body::{Limits, too_slow};
use crate::metrics::Counted;
use crate::problem::Problem;
use crate::servlet::{Call, LINES, from_json};
use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::{Response, StatusCode};
use futures_core::Stream;
use ringmill::call::AsyncStreamingCall;
use ringmill::{CallError, Handle, StreamOptions};
use serde::Serialize;
use std::convert::Infallible;
use std::future::Future;
use std::marker::PhantomData;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

/// One line or event: its name, and its JSON.
#[derive(Debug)]
pub(crate) struct Frame {
    name: &'static str,
    json: String,
}

impl Frame {
    fn of<T: Serialize>(name: &'static str, servlet: &str, value: Result<T, CallError>) -> Self {
        let json = match value {
            Ok(value) => serde_json::to_string(&value).map_err(|error| error.to_string()),
            Err(error) => return Self::error(&Problem::of(servlet, &error)),
        };
        json.map_or_else(
            |error| {
                tracing::error!(servlet, %error, "an outcome cannot be written as JSON");
                let internal = StatusCode::INTERNAL_SERVER_ERROR;
                Self::error(&Problem::new(internal, "internal", "the service failed"))
            },
            |json| Self { name, json },
        )
    }

    fn error(problem: &Problem) -> Self {
        Self { name: "error", json: problem.to_json().to_string() }
    }

    /// As bytes of the body. JSON of one value has no line break in it.
    fn encoded(&self, as_event: bool) -> Bytes {
        let Self { name, json } = self;
        match as_event {
            true => format!("event: {name}\ndata: {json}\n\n").into(),
            false => format!("{{\"{name}\":{json}}}\n").into(),
        }
    }
}

/// A response's body, made of frames; counts the request when it ends.
pub(crate) struct Lines {
    frames: Pin<Box<dyn Stream<Item = Frame> + Send>>,
    as_events: bool,
    counted: Option<Counted>,
}

impl Lines {
    pub(crate) fn new(
        frames: impl Stream<Item = Frame> + Send + 'static,
        as_events: bool,
        counted: Counted,
    ) -> Self {
        Self { frames: Box::pin(frames), as_events, counted: Some(counted) }
    }
}

impl Stream for Lines {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let frame = std::task::ready!(self.frames.as_mut().poll_next(context));
        if frame.is_none()
            && let Some(counted) = self.counted.take()
        {
            counted.end(StatusCode::OK);
        }
        Poll::Ready(frame.map(|frame| Ok(frame.encoded(self.as_events))))
    }
}

/// The partials of a call, then its outcome.
pub(crate) fn of_partials<P: Outcome, Out: Outcome>(
    servlet: String,
    call: AsyncStreamingCall<'static, P, Out>,
) -> impl Stream<Item = Frame> + Send {
    enum Stage<P: Outcome, Out: Outcome> {
        Partials(AsyncStreamingCall<'static, P, Out>),
        Outcome(Pin<Box<dyn Future<Output = Result<Out, CallError>> + Send>>),
        Over,
    }
    struct Frames<P: Outcome, Out: Outcome>(String, Stage<P, Out>);
    impl<P: Outcome, Out: Outcome> Unpin for Frames<P, Out> {}

    impl<P: Outcome, Out: Outcome> Stream for Frames<P, Out> {
        type Item = Frame;

        fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Frame>> {
            let Self(servlet, stage) = &mut *self;
            loop {
                match stage {
                    Stage::Partials(call) => match std::task::ready!(pin!(&mut *call).poll_next(context)) {
                        Some(Ok(partial)) => {
                            return Poll::Ready(Some(Frame::of("partial", servlet, Ok(partial))));
                        }
                        // A partial of another type is skipped; any other error is the call's.
                        Some(Err(error @ CallError::WrongPartial { .. })) => {
                            return Poll::Ready(Some(Frame::of::<P>("partial", servlet, Err(error))));
                        }
                        Some(Err(error)) => {
                            let frame = Frame::of::<Out>("value", servlet, Err(error));
                            *stage = Stage::Over;
                            return Poll::Ready(Some(frame));
                        }
                        None => {
                            let Stage::Partials(call) = std::mem::replace(stage, Stage::Over) else {
                                continue;
                            };
                            let outcome = async move { call.outcome().await?.into_owned() };
                            *stage = Stage::Outcome(Box::pin(outcome));
                        }
                    },
                    Stage::Outcome(outcome) => {
                        let outcome = std::task::ready!(outcome.as_mut().poll(context));
                        *stage = Stage::Over;
                        return Poll::Ready(Some(Frame::of("value", servlet, outcome)));
                    }
                    Stage::Over => return Poll::Ready(None),
                }
            }
        }
    }
    Frames(servlet, Stage::Partials(call))
}

/// Why the inputs of a stream have ended before the body has.
type Broken = Arc<Mutex<Option<Problem>>>;

/// Answers a body of lines, an outcome for each input, in order, as they come.
pub(crate) fn answer<In: Input, Out: Outcome>(
    call: Call,
    handle: Handle<In, Out>,
    body: Body,
) -> Response<Body> {
    let timeout = match call.timeout() {
        Ok(timeout) => timeout,
        Err(problem) => return call.end(Err(problem)),
    };
    let broken = Broken::default();
    let inputs = Inputs::<In>::new(body, call.shared.limits, Arc::clone(&broken));
    let options = StreamOptions::new().timeout(timeout).window(crate::window(handle.capacity()));
    let outcomes = handle.stream_async_with(inputs, options);
    let frames = Outcomes { servlet: call.shared.name.clone(), outcomes: Some(Box::pin(outcomes)), broken };
    call.stream(LINES, frames)
}

type Results<Out> = dyn Stream<Item = Result<Out, CallError>> + Send;

/// The outcomes of a stream, and at its end what broke it.
struct Outcomes<Out: Outcome> {
    servlet: String,
    /// `None` after their end.
    outcomes: Option<Pin<Box<Results<Out>>>>,
    broken: Broken,
}

impl<Out: Outcome> Stream for Outcomes<Out> {
    type Item = Frame;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Frame>> {
        let Some(outcomes) = &mut self.outcomes else { return Poll::Ready(None) };
        match std::task::ready!(outcomes.as_mut().poll_next(context)) {
            Some(outcome) => Poll::Ready(Some(Frame::of("value", &self.servlet, outcome))),
            None => {
                self.outcomes = None;
                let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner).take();
                Poll::Ready(broken.map(|problem| Frame::error(&problem)))
            }
        }
    }
}

/// The inputs of a body of lines.
struct Inputs<In> {
    body: BodyDataStream,
    limits: Limits,
    /// Bytes of lines, the next one from `start` on.
    buffer: Vec<u8>,
    start: usize,
    /// Up to where no line break is between `start` and here.
    searched: usize,
    /// The number of the next line, from 1.
    line: u64,
    /// When the next line is late.
    late: Pin<Box<tokio::time::Sleep>>,
    /// No more bytes will come.
    is_over: bool,
    broken: Broken,
    input: PhantomData<fn() -> In>,
}

impl<In: Input> Inputs<In> {
    fn new(body: Body, limits: Limits, broken: Broken) -> Self {
        Self {
            body: body.into_data_stream(),
            limits,
            buffer: Vec::new(),
            start: 0,
            searched: 0,
            line: 1,
            late: Box::pin(tokio::time::sleep(limits.body_timeout)),
            is_over: false,
            broken,
            input: PhantomData,
        }
    }

    /// The next line that is whole and not empty, without its break; `None` if more bytes must come first.
    fn next_line(&mut self) -> Option<Range<usize>> {
        while self.start < self.buffer.len() {
            let found = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
            let end = match found {
                Some(at) => self.searched + at,
                None if self.is_over => self.buffer.len(), // the last line needs no break
                None => {
                    self.searched = self.buffer.len();
                    return None;
                }
            };
            let line = self.start..end;
            (self.start, self.searched) =
                ((end + 1).min(self.buffer.len()), (end + 1).min(self.buffer.len()));
            if !self.buffer[line.clone()].trim_ascii().is_empty() {
                return Some(line);
            }
            self.line += 1;
        }
        None
    }

    /// Adds bytes, in place of the lines that have been taken.
    fn add(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        (self.searched, self.start) = (self.searched - self.start, 0);
        self.buffer.extend_from_slice(bytes);
    }

    /// The value of a line.
    fn read(&mut self, line: Range<usize>) -> Result<In, Problem> {
        let number = self.line;
        self.line += 1;
        if line.len() > self.limits.max_body {
            return Err(self.too_long(number));
        }
        from_json(&self.buffer[line])
            .map_err(|problem| Problem::invalid(format!("line {number}: {}", problem.detail)))
    }

    fn too_long(&self, number: u64) -> Problem {
        let detail =
            format!("line {number} has more than {} bytes, the most that is taken", self.limits.max_body);
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
    }

    fn breaks(&mut self, problem: Problem) -> Poll<Option<In>> {
        *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(problem);
        (self.buffer, self.start, self.searched, self.is_over) = (Vec::new(), 0, 0, true);
        Poll::Ready(None)
    }
}

impl<In: Input> Stream for Inputs<In> {
    type Item = In;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<In>> {
        loop {
            if let Some(line) = self.next_line() {
                let limit = self.limits.body_timeout;
                self.late.as_mut().reset(tokio::time::Instant::now() + limit);
                return match self.read(line) {
                    Ok(input) => Poll::Ready(Some(input)),
                    Err(problem) => self.breaks(problem),
                };
            }
            if self.is_over {
                return Poll::Ready(None);
            }
            if self.buffer.len() - self.start > self.limits.max_body {
                let problem = self.too_long(self.line);
                return self.breaks(problem);
            }
            match pin!(&mut self.body).poll_next(context) {
                Poll::Ready(Some(Ok(bytes))) => self.add(&bytes),
                Poll::Ready(Some(Err(error))) => {
                    return self.breaks(Problem::invalid(format!("the body cannot be read: {error}")));
                }
                Poll::Ready(None) => self.is_over = true,
                Poll::Pending => {
                    std::task::ready!(self.late.as_mut().poll(context));
                    let limit = self.limits.body_timeout;
                    return self.breaks(too_slow(limit));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::time::Duration;

    /// The inputs of a body that comes in these pieces, and what broke it.
    fn inputs(pieces: &[&str], max_body: usize) -> (Vec<u64>, Option<String>) {
        let limits =
            Limits { max_body, body_timeout: Duration::from_secs(60), timeout: Duration::from_secs(60) };
        let pieces: Vec<_> =
            pieces.iter().map(|piece| Ok::<_, Infallible>(Bytes::from(piece.to_string()))).collect();
        let broken = Broken::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let values = runtime.block_on(async {
            let body = Body::from_stream(futures_util::stream::iter(pieces));
            let mut inputs = pin!(Inputs::<u64>::new(body, limits, Arc::clone(&broken)));
            let mut values = Vec::new();
            while let Some(value) = poll_fn(|context| inputs.as_mut().poll_next(context)).await {
                values.push(value);
            }
            values
        });
        let broken = broken.lock().expect("no panic").take();
        (values, broken.map(|problem| problem.detail))
    }

    #[test]
    fn lines_are_values_however_the_body_is_cut() {
        let whole = "1\n\n 23\r\n456\n7";
        for at in 0..=whole.len() {
            let (head, tail) = whole.split_at(at);
            assert_eq!(inputs(&[head, "", tail], 64), (vec![1, 23, 456, 7], None), "cut at {at}");
        }
        let bytes: Vec<&str> = whole.split_inclusive(|_| true).collect();
        assert_eq!(inputs(&bytes, 4), (vec![1, 23, 456, 7], None));
        assert_eq!(inputs(&["5\n\n\n"], 64), (vec![5], None));
        assert_eq!(inputs(&[], 64), (vec![], None));
    }

    #[test]
    fn a_line_that_is_no_value_breaks_the_stream_and_is_named() {
        let (values, broken) = inputs(&["1\n\n2\nthree\n4\n"], 64);
        assert_eq!(values, [1, 2]);
        assert!(
            broken.expect("it broke").starts_with("line 4: the body is no such JSON"),
            "of the four before it"
        );
        let long = |pieces: &[&str]| {
            let (values, broken) = inputs(pieces, 3);
            assert_eq!(values, [1]);
            assert!(broken.expect("it broke").starts_with("line 2 has more than 3 bytes"));
        };
        long(&["1\n2222\n"]);
        long(&["1\n22", "22", "22"]);
        let many = "123\n".repeat(100);
        assert_eq!(inputs(&[&many], 3).0.len(), 100, "the limit is of a line, not of what comes at once");
    }
}
