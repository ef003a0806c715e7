//! A started server: calls and streams.

use crate::objects::{self, Ticket};
use crate::{error, frame, tree};
use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyIterator, PyList};
use ringmill::call::{Pending, Reply};
use ringmill::payload::Bytes;
use ringmill::{CallError, CallOptions, Handle, Server, WhenFull};
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How often a thread that waits looks whether Python has a signal to handle.
const LOOK: Duration = Duration::from_millis(50);

/// A time in seconds as Python's programs state it; one that is too long is for ever.
pub(crate) fn time_of(seconds: f64) -> PyResult<Duration> {
    if seconds.is_nan() || seconds < 0.0 {
        return Err(PyValueError::new_err(format!("a timeout of {seconds} s: it must be at least 0")));
    }
    const LONGEST: f64 = 1e9;
    Ok(Duration::from_secs_f64(seconds.min(LONGEST)))
}

fn when_full(backpressure: bool) -> WhenFull {
    if backpressure { WhenFull::Fail } else { WhenFull::Wait }
}

/// A request in progress, with its objects.
pub(crate) struct Sent {
    pending: Pending<'static, Bytes>,
    ticket: Option<Ticket>,
}

impl std::fmt::Debug for Sent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Sent").field(&self.pending).finish()
    }
}

fn value(py: Python<'_>, outcome: Result<Reply<'static, Bytes>, CallError>) -> PyResult<Py<PyAny>> {
    match outcome {
        Ok(reply) => Ok(frame::load(py, &reply)?.unbind()),
        Err(error) => Err(error::of_call(py, error)),
    }
}

/// How a server's inputs are made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inputs {
    /// Whether some objects stay in this process.
    has_tickets: bool,
    /// Whether the inputs do.
    passes_objects: bool,
}

impl Inputs {
    pub(crate) fn frame(self, x: &Bound<'_, PyAny>) -> PyResult<(Vec<u8>, Option<Ticket>)> {
        let ticket = self.has_tickets.then(Ticket::new);
        let number = ticket.as_ref().map_or(frame::NO_TICKET, Ticket::number);
        let frame = if self.passes_objects {
            frame::object(number, objects::add(number, x.clone().unbind()))
        } else {
            frame::value(x, number)?
        };
        Ok((frame, ticket))
    }
}

/// A server that runs, until it is shut down.
#[pyclass(frozen, module = "ringmill._ringmill")]
pub(crate) struct Engine {
    server: Mutex<Option<Server<Bytes, Bytes>>>,
    pub(crate) handle: Handle<Bytes, Bytes>,
    pub(crate) inputs: Inputs,
    capacity: usize,
}

impl Drop for Engine {
    /// Without the lock of the interpreter: workers that are threads want it before they end.
    fn drop(&mut self) {
        let mut server = self.server.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        Python::try_attach(|py| py.detach(|| drop(server.take())));
    }
}

#[pymethods]
impl Engine {
    /// Starts a server. Raises what a worker's constructor raises.
    #[new]
    #[pyo3(signature = (tree, *, capacity, max_payload, has_tickets, passes_objects, start_timeout, shutdown_timeout))]
    #[expect(clippy::too_many_arguments, reason = "each is an option with a name")]
    fn new(
        py: Python<'_>,
        tree: &Bound<'_, PyAny>,
        capacity: usize,
        max_payload: usize,
        has_tickets: bool,
        passes_objects: bool,
        start_timeout: f64,
        shutdown_timeout: f64,
    ) -> PyResult<Self> {
        let servlet = tree::build(tree)?;
        let builder = Server::anonymous("python")
            .capacity(capacity)
            .max_payload(max_payload)
            .start_timeout(time_of(start_timeout)?)
            .shutdown_timeout(time_of(shutdown_timeout)?);
        let server = py.detach(|| builder.start(servlet)).map_err(|e| error::of_start(py, &e))?;
        let handle = server.handle();
        let inputs = Inputs { has_tickets, passes_objects };
        Ok(Self { capacity: server.capacity(), server: Mutex::new(Some(server)), handle, inputs })
    }

    /// Shuts the server down, and waits for its workers. Does nothing the second time.
    fn shutdown(&self, py: Python<'_>) {
        py.detach(|| {
            let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).take();
            drop(server);
        });
    }

    #[pyo3(signature = (x, /, *, timeout, backpressure))]
    fn call(&self, x: &Bound<'_, PyAny>, timeout: f64, backpressure: bool) -> PyResult<Py<PyAny>> {
        let py = x.py();
        let options = CallOptions::new().timeout(time_of(timeout)?).when_full(when_full(backpressure));
        let (frame, _ticket) = self.inputs.frame(x)?;
        type First = Result<Result<Reply<'static, Bytes>, CallError>, Pending<'static, Bytes>>;
        let first = py.detach(|| -> Result<First, CallError> {
            let mut pending = self.handle.submit_ref_with(&frame[..], options)?;
            Ok(match pending.wait_timeout(LOOK) {
                Some(outcome) => Ok(outcome),
                None => Err(pending),
            })
        });
        let mut pending = match first.map_err(|error| error::of_call(py, error))? {
            Ok(outcome) => return value(py, outcome),
            Err(pending) => pending,
        };
        loop {
            py.check_signals()?;
            if let Some(outcome) = py.detach(|| pending.wait_timeout(LOOK)) {
                return value(py, outcome);
            }
        }
    }

    /// The outcomes of many inputs, in their order.
    #[pyo3(signature = (inputs, /, *, return_x, return_exceptions, timeout, preprocessor))]
    fn stream(
        slf: &Bound<'_, Self>,
        inputs: &Bound<'_, PyAny>,
        return_x: bool,
        return_exceptions: bool,
        timeout: f64,
        preprocessor: Option<Py<PyAny>>,
    ) -> PyResult<Stream> {
        Ok(Stream {
            engine: slf.clone().unbind(),
            options: CallOptions::new().timeout(time_of(timeout)?),
            source: Some(inputs.try_iter()?.unbind()),
            entries: VecDeque::new(),
            unsent: None,
            failed: None,
            return_x,
            return_exceptions,
            preprocessor,
        })
    }

    #[getter]
    fn backlog(&self) -> usize {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        server.as_ref().map_or(0, Server::backlog)
    }

    /// Requests in progress and workers, as dictionaries.
    fn debug_info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let facts = PyDict::new(py);
        // The lock is let go before Python makes an object, which may run any code.
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        let told = server.as_ref().map(|server| (server.debug_info(), server.address()));
        drop(server);
        let Some((info, address)) = told else { return Ok(facts) };
        let requests = PyList::empty(py);
        for request in &info.requests {
            let row = PyDict::new(py);
            row.set_item("id", request.id)?;
            row.set_item("age", request.age_seconds)?;
            row.set_item("phase", request.phase)?;
            row.set_item("stage", &request.stage)?;
            row.set_item("worker", request.worker.as_ref().map(|worker| format!("{worker:?}")))?;
            row.set_item("is_cancelled", request.caller_gone)?;
            requests.append(row)?;
        }
        facts.set_item("backlog", requests)?;
        facts.set_item("name", &info.name)?;
        facts.set_item("segment", address)?;
        facts.set_item("servlets", info.servlets.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>())?;
        Ok(facts)
    }
}

/// An input that waits for a permit: what is returned beside its outcome, its bytes, and the ticket of its objects.
type Unsent = (Option<Py<PyAny>>, Vec<u8>, Option<Ticket>);

/// One item of a stream.
enum Entry {
    Sent(Sent),
    /// Its input could not be made, or sent.
    Failed(PyErr),
}

/// Outcomes in the order of their inputs: an iterator.
#[pyclass(module = "ringmill._ringmill")]
pub(crate) struct Stream {
    engine: Py<Engine>,
    options: CallOptions,
    /// `None` at its end.
    source: Option<Py<PyIterator>>,
    entries: VecDeque<(Option<Py<PyAny>>, Entry)>,
    /// An input for which there was no permit.
    unsent: Option<Unsent>,
    /// What the source has raised, once all before it is out.
    failed: Option<PyErr>,
    return_x: bool,
    return_exceptions: bool,
    preprocessor: Option<Py<PyAny>>,
}

impl Stream {
    /// Takes one more input from the source.
    fn pull(&mut self, py: Python<'_>) -> bool {
        let Some(source) = &self.source else { return false };
        let x = match source.bind(py).clone().next() {
            Some(Ok(x)) => x,
            end => {
                self.source = None;
                self.failed = end.and_then(Result::err);
                return false;
            }
        };
        let made = match &self.preprocessor {
            Some(preprocessor) => preprocessor.bind(py).call1((&x,)),
            None => Ok(x.clone()),
        };
        let kept = self.return_x.then(|| x.unbind());
        match made.and_then(|made| self.engine.get().inputs.frame(&made)) {
            Ok((frame, ticket)) => self.unsent = Some((kept, frame, ticket)),
            Err(error) => self.entries.push_back((kept, Entry::Failed(error))),
        }
        true
    }

    /// Sends the input that was pulled. False if there is no permit for it, and others of this stream have some.
    fn send(&mut self, py: Python<'_>) -> bool {
        let Some((kept, frame, ticket)) = self.unsent.take() else { return true };
        let (handle, waits) = (&self.engine.get().handle, self.entries.is_empty());
        let options = self.options.when_full(when_full(!waits));
        match py.detach(|| handle.submit_ref_with(&frame[..], options)) {
            Ok(pending) => self.entries.push_back((kept, Entry::Sent(Sent { pending, ticket }))),
            Err(CallError::ServerBacklogFull { .. } | CallError::PoolExhausted { .. }) if !waits => {
                self.unsent = Some((kept, frame, ticket));
                return false;
            }
            Err(error) => self.entries.push_back((kept, Entry::Failed(error::of_call(py, error)))),
        }
        true
    }

    fn first_is_ready(&self) -> bool {
        match self.entries.front() {
            Some((_, Entry::Sent(sent))) => sent.pending.is_ready(),
            Some((_, Entry::Failed(_))) => true,
            None => false,
        }
    }

    /// Sends inputs: at least two if there are permits, so that more are in progress with each outcome, and all for which
    /// there are permits while the first outcome is not there yet.
    fn feed(&mut self, py: Python<'_>) {
        let capacity = self.engine.get().capacity;
        for count in 0.. {
            if self.entries.len() >= capacity || (count >= 2 && self.first_is_ready()) {
                return;
            }
            if (self.unsent.is_none() && !self.pull(py)) || !self.send(py) {
                return;
            }
        }
    }
}

#[pymethods]
impl Stream {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(&mut self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.feed(py);
        let Some((kept, entry)) = self.entries.pop_front() else {
            return self.failed.take().map_or(Ok(None), Err);
        };
        let outcome = match entry {
            Entry::Failed(error) => Err(error),
            Entry::Sent(mut sent) => {
                let outcome = loop {
                    if let Some(outcome) = sent.pending.try_take() {
                        break outcome;
                    }
                    if let Some(outcome) = py.detach(|| sent.pending.wait_timeout(LOOK)) {
                        break outcome;
                    }
                    if let Err(raised) = py.check_signals() {
                        self.entries.push_front((kept, Entry::Sent(sent))); // the next call waits for it again
                        return Err(raised);
                    }
                };
                let value = value(py, outcome);
                drop(sent.ticket);
                value
            }
        };
        let outcome = match outcome {
            Err(error) if self.return_exceptions && error.is_instance_of::<PyException>(py) => {
                error.into_value(py).into_any()
            }
            other => other?,
        };
        match kept {
            Some(x) => Ok(Some((x, outcome).into_pyobject(py)?.unbind().into_any())),
            None => Ok(Some(outcome)),
        }
    }

    /// Gives up what is in progress.
    fn close(&mut self) {
        self.source = None;
        self.unsent = None;
        self.entries.clear();
    }
}
