//! Errors of the engine as exceptions, and exceptions as errors of the engine.

use crate::frame;
use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use ringmill::error::{Member, MemberOutcome, RemoteCause, RemoteError};
use ringmill::payload::Bytes;
use ringmill::{BoxError, CallError, StartError};

fn module(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    py.import(intern!(py, "ringmill._errors"))
}

/// The exception of a class of `ringmill._errors`.
fn of_class<'py>(
    py: Python<'py>,
    class: &str,
    arguments: impl pyo3::call::PyCallArgs<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    module(py)?.getattr(class)?.call1(arguments)
}

fn raised(exception: PyResult<Bound<'_, PyAny>>) -> PyErr {
    exception.map_or_else(|error| error, PyErr::from_value)
}

/// Why a call has no outcome.
pub(crate) fn of_call(py: Python<'_>, error: CallError) -> PyErr {
    let text = error.to_string();
    raised(match error {
        CallError::ServerBacklogFull { capacity, waited } => {
            let waited = (!waited.is_zero()).then_some(waited.as_secs_f64());
            of_class(py, "ServerBacklogFull", (capacity, waited))
        }
        CallError::Timeout { enqueueing, total } => {
            let (enqueueing, total) = (enqueueing.as_secs_f64(), total.as_secs_f64());
            of_class(
                py,
                "TimeoutError",
                (format!("{enqueueing:.3} seconds enqueue, {total:.3} seconds total"),),
            )
        }
        CallError::Remote(error) => of_remote(py, &error),
        CallError::Ensemble(error) => of_ensemble(py, &error.members),
        CallError::WorkerDied(_) => of_class(py, "WorkerDied", (text,)),
        CallError::ServletDown { .. } => of_class(py, "ServletDown", (text,)),
        CallError::ShuttingDown | CallError::Forked { .. } => of_class(py, "ServerClosed", (text,)),
        CallError::PayloadTooLarge { .. } => return PyValueError::new_err(text),
        CallError::PoolExhausted { .. } | CallError::NoMemory { .. } => return PyMemoryError::new_err(text),
        _ => return PyRuntimeError::new_err(text),
    })
}

/// The exception that was raised where the error happened, if it could be pickled.
fn of_remote<'py>(py: Python<'py>, error: &RemoteError) -> PyResult<Bound<'py, PyAny>> {
    match &error.cause {
        RemoteCause::Ensemble { members } => of_ensemble(py, members),
        RemoteCause::Died { .. }
        | RemoteCause::Overran { .. }
        | RemoteCause::KilledByShutdown { .. }
        | RemoteCause::Poisonous { .. } => of_class(py, "WorkerDied", (error.to_string(),)),
        _ => {
            let attachment = error.attachment().map(|bytes| PyBytes::new(py, bytes));
            module(py)?.getattr("rebuilt")?.call1((attachment, error.to_string()))
        }
    }
}

fn of_ensemble<'py>(py: Python<'py>, members: &[Member]) -> PyResult<Bound<'py, PyAny>> {
    let outcomes = PyList::empty(py);
    let mut finished = 0;
    for member in members {
        finished += usize::from(!matches!(member.outcome, MemberOutcome::Unfinished));
        outcomes.append(match &member.outcome {
            MemberOutcome::Failed { error } => of_remote(py, error)?,
            value @ MemberOutcome::Value { .. } => match value.value::<Bytes>() {
                Some(frame) => frame::load(py, &frame).unwrap_or_else(|_| py.None().into_bound(py)),
                None => py.None().into_bound(py),
            },
            _ => py.None().into_bound(py),
        })?;
    }
    of_class(py, "ensemble_error", (outcomes, finished))
}

/// Why a server did not start.
pub(crate) fn of_start(py: Python<'_>, error: &StartError) -> PyErr {
    let text = error.to_string();
    raised(match error {
        StartError::Worker(error) => of_remote(py, error),
        StartError::Cpu { .. } | StartError::CpuTwice { .. } | StartError::Range { .. } => {
            return PyValueError::new_err(text);
        }
        _ => of_class(py, "StartError", (text,)),
    })
}

/// An exception as an outcome of an ensemble that keeps its errors: a frame.
pub(crate) fn framed(error: &RemoteError, ticket: u64) -> Result<Vec<u8>, BoxError> {
    Python::attach(|py| {
        let exception =
            of_remote(py, error).unwrap_or_else(|error| error.into_value(py).into_bound(py).into_any());
        let pickled = packed(py, &exception, usize::MAX)?.1.unwrap_or_default();
        Ok(frame::error(&pickled, ticket))
    })
}

/// The text of an exception, and its pickle with the traceback as text, if that takes at most `most` bytes.
fn packed(py: Python<'_>, exception: &Bound<'_, PyAny>, most: usize) -> PyResult<(String, Option<Vec<u8>>)> {
    module(py)?.getattr("packed")?.call1((exception, most))?.extract()
}

/// An exception as the error of an item, or of a worker that cannot be built: those have less room.
pub(crate) fn boxed(py: Python<'_>, error: &PyErr, is_of_start: bool) -> BoxError {
    const AT_START: usize = 1000;
    let most = if is_of_start { AT_START } else { BoxError::ATTACHMENT_LIMIT };
    let exception = error.clone_ref(py).into_value(py).into_bound(py); // with its traceback
    match packed(py, exception.as_any(), most) {
        Ok((text, None)) => BoxError::msg(text),
        Ok((text, Some(pickled))) => BoxError::msg(text).with_attachment(pickled),
        Err(packing) => BoxError::msg(format!("{error} (and it cannot be passed on: {packing})")),
    }
}
