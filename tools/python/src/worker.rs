//! Workers: Python objects behind the engine's loop, in processes and in threads of the server.

use crate::{error, frame, objects};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use ringmill::error::RemoteError;
use ringmill::payload::{ArchivedBytes, Bytes};
use ringmill::program::{NamedWorker, Workers, become_worker};
use ringmill::rkyv::Archived;
use ringmill::worker::Stop;
use ringmill::{Batch, BatchWorker, BoxError, Context, Worker};

/// The name under which a worker's process lists its one worker.
pub(crate) const LISTED_AS: &str = "ringmill.Worker";

/// A worker whose code is a Python object.
#[derive(Debug)]
pub(crate) struct PyWorker {
    worker: Py<PyAny>,
    call: Py<PyAny>,
    preprocess: Option<Py<PyAny>>,
    /// Whether `call` takes lists.
    is_batched: bool,
    /// Whether the outcomes stay in this process.
    passes_objects: bool,
}

impl PyWorker {
    fn built(py: Python<'_>, config: &[u8], context: &Context) -> PyResult<Self> {
        let (index, cpus) = (context.worker_index(), context.cpus().to_vec());
        let arguments = (PyBytes::new(py, config), index, cpus, context.name());
        let built = py.import("ringmill._build")?.getattr("build")?.call1(arguments)?;
        let (worker, passes_objects): (Bound<'_, PyAny>, bool) = built.extract()?;
        let preprocess = worker.getattr_opt(intern!(py, "preprocess"))?.map(Bound::unbind);
        Ok(Self {
            call: worker.getattr(intern!(py, "call"))?.unbind(),
            preprocess,
            is_batched: context.batch_size() > 0,
            passes_objects,
            worker: worker.unbind(),
        })
    }

    fn input<'py>(&self, py: Python<'py>, frame: &[u8]) -> PyResult<Bound<'py, PyAny>> {
        let input = frame::load(py, frame)?;
        match &self.preprocess {
            Some(preprocess) => preprocess.bind(py).call1((input,)),
            None => Ok(input),
        }
    }

    fn outcome(&self, outcome: &Bound<'_, PyAny>, ticket: u64) -> PyResult<Vec<u8>> {
        if self.passes_objects && ticket != frame::NO_TICKET {
            return Ok(frame::object(ticket, objects::add(ticket, outcome.clone().unbind())));
        }
        frame::value(outcome, ticket)
    }

    fn outcomes<'a>(
        &self,
        py: Python<'_>,
        frames: impl Iterator<Item = &'a ArchivedBytes>,
    ) -> Vec<PyResult<Vec<u8>>> {
        let call = self.call.bind(py);
        if !self.is_batched {
            let one =
                |frame: &[u8]| self.outcome(&call.call1((self.input(py, frame)?,))?, frame::ticket(frame));
            return frames.map(|frame| one(frame)).collect();
        }
        let inputs = PyList::empty(py);
        let mut tickets = Vec::new();
        let mut outcomes: Vec<PyResult<Vec<u8>>> = Vec::new();
        for frame in frames {
            match self.input(py, frame).and_then(|input| inputs.append(input)) {
                Ok(()) => {
                    tickets.push((outcomes.len(), frame::ticket(frame)));
                    outcomes.push(Ok(Vec::new()));
                }
                Err(error) => outcomes.push(Err(error)),
            }
        }
        if tickets.is_empty() {
            return outcomes;
        }
        match call.call1((inputs,)).and_then(|results| listed(&results, tickets.len())) {
            Ok(results) => {
                for (result, (index, ticket)) in results.iter().zip(tickets) {
                    outcomes[index] = self.outcome(result, ticket);
                }
            }
            Err(error) => {
                for (index, _) in tickets {
                    outcomes[index] = Err(error.clone_ref(py));
                }
            }
        }
        outcomes
    }
}

/// What `call` has returned for a batch: as many results as items.
fn listed<'py>(results: &Bound<'py, PyAny>, items: usize) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let Ok(iterator) = results.try_iter() else {
        let kind = results.get_type().name()?;
        return Err(PyTypeError::new_err(format!(
            "call returned a {kind} for a batch of {items}: return a list with a result for each item"
        )));
    };
    let results: Vec<_> = iterator.take(items + 1).collect::<PyResult<_>>()?;
    if results.len() != items {
        let count = if results.len() > items { "more".into() } else { format!("only {}", results.len()) };
        return Err(PyValueError::new_err(format!(
            "call returned {count} results for a batch of {items}: return a list with a result for each item"
        )));
    }
    Ok(results)
}

impl BatchWorker for PyWorker {
    type Config = Bytes;
    type In = Bytes;
    type Out = Bytes;

    fn new(config: Bytes, context: &Context) -> Result<Self, BoxError> {
        Python::attach(|py| Self::built(py, &config, context).map_err(|error| error::boxed(py, &error, true)))
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        let outcomes: Vec<Result<Vec<u8>, BoxError>> = Python::attach(|py| {
            let outcomes = self.outcomes(py, batch.inputs());
            outcomes.into_iter().map(|o| o.map_err(|error| error::boxed(py, &error, false))).collect()
        });
        for (item, outcome) in batch.into_iter().zip(outcomes) {
            match outcome {
                Ok(frame) => item.reply_ref(&frame[..]),
                Err(error) => item.fail(error),
            }
        }
        Ok(())
    }

    fn cleanup(&mut self, reason: &Stop) {
        let reason = match reason {
            Stop::Shutdown | Stop::Retired => None,
            other => Some(format!("{other:?}")),
        };
        Python::attach(|py| {
            let cleaned = py
                .import("ringmill._build")
                .and_then(|module| module.getattr("clean_up")?.call1((&self.worker, reason)));
            if let Err(error) = cleaned {
                error.print(py);
            }
        });
    }
}

/// Puts the outcomes of an ensemble's members into one frame.
#[derive(Debug)]
pub(crate) struct Gather;

impl Worker for Gather {
    type Config = ();
    type In = Vec<Box<Bytes>>;
    type Out = Bytes;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, members: &Archived<Vec<Box<Bytes>>>) -> Result<Bytes, BoxError> {
        let frames: Vec<&[u8]> = members.iter().map(|member| &member[..]).collect();
        Ok(frame::list(&frames).into())
    }
}

/// The same for an ensemble that keeps its errors.
#[derive(Debug)]
pub(crate) struct GatherAll;

impl BatchWorker for GatherAll {
    type Config = ();
    type In = Vec<Result<Box<Bytes>, Box<RemoteError>>>;
    type Out = Bytes;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        for item in batch {
            let members = item.input_owned()?;
            let ticket = members.iter().flatten().map(|frame| frame::ticket(frame)).max();
            let frames = members.iter().map(|member| match member {
                Ok(frame) => Ok(frame.to_vec()),
                Err(error) => error::framed(error, ticket.unwrap_or(frame::NO_TICKET)),
            });
            let frames = frames.collect::<Result<Vec<_>, BoxError>>()?;
            let frames: Vec<&[u8]> = frames.iter().map(|frame| &frame[..]).collect();
            item.reply_ref(&frame::list(&frames)[..]);
        }
        Ok(())
    }
}

/// Makes this process the worker that a server has started it to be, until the worker ends; says the exit code.
#[pyfunction]
pub(crate) fn serve(py: Python<'_>) -> PyResult<u8> {
    let served = py.detach(|| become_worker(&Workers::new().with(NamedWorker::<PyWorker>::new(LISTED_AS))));
    served.map_err(|error| PyRuntimeError::new_err(error.to_string()))
}
