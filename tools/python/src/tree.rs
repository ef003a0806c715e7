//! A servlet tree as the Python side states it, as one of the engine.

use crate::frame;
use crate::worker::{Gather, GatherAll, LISTED_AS, PyWorker};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use ringmill::payload::Bytes;
use ringmill::servlet::{BoxServlet, Pin};
use ringmill::{Cpus, Ensemble, ProcessServlet, Servlet, Switch, ThreadServlet};
use std::time::Duration;

pub(crate) type Tree = BoxServlet<Bytes, Bytes>;

fn wait_of(seconds: Option<f64>) -> PyResult<Option<Duration>> {
    let wait = seconds.map(Duration::try_from_secs_f64).transpose();
    wait.map_err(|error| PyValueError::new_err(format!("batch_wait_time is not a time in seconds: {error}")))
}

/// An index that no switch has, for a function that raised.
const NO_MEMBER: usize = usize::MAX;

/// The servlet that a tuple states, whose first item says of which kind it is.
pub(crate) fn build(stated: &Bound<'_, PyAny>) -> PyResult<Tree> {
    let kind: String = stated.get_item(0)?.extract()?;
    match kind.as_str() {
        "process" | "thread" => leaf(stated, kind == "process"),
        "sequence" => {
            let stages = members(stated)?;
            let mut stages = stages.into_iter();
            let first = stages.next().ok_or_else(|| PyValueError::new_err("a sequence has no servlet"))?;
            Ok(stages.fold(first, |before, next| before.then(next).boxed()))
        }
        "ensemble" => {
            let (members, fails_fast) = (members(stated)?, stated.get_item(2)?.extract::<bool>()?);
            Ok(if fails_fast {
                Ensemble::each(members).then(ThreadServlet::<Gather>::new(()).name("gather")).boxed()
            } else {
                let all = Ensemble::each(members).keep_errors();
                all.then(ThreadServlet::<GatherAll>::new(()).name("gather")).boxed()
            })
        }
        "switch" => {
            let (members, function) = (members(stated)?, stated.get_item(2)?.unbind());
            let choose = move |frame: &ringmill::payload::ArchivedBytes| {
                Python::attach(|py| {
                    let chosen =
                        frame::load(py, frame).and_then(|x| function.bind(py).call1((x,))?.extract());
                    chosen.unwrap_or_else(|error: PyErr| {
                        error.write_unraisable(py, Some(function.bind(py)));
                        NO_MEMBER
                    })
                })
            };
            Ok(Switch::new(choose, members).boxed())
        }
        other => Err(PyTypeError::new_err(format!("there is no kind of servlets {other:?}"))),
    }
}

fn members(stated: &Bound<'_, PyAny>) -> PyResult<Vec<Tree>> {
    stated.get_item(1)?.try_iter()?.map(|member| build(&member?)).collect()
}

/// Of a process or thread servlet: `(kind, name, config, cpus, batch_size, batch_wait_time, threads, program, arguments)`.
fn leaf(stated: &Bound<'_, PyAny>, is_process: bool) -> PyResult<Tree> {
    type Stated<'py> = (
        String,
        String,
        Bound<'py, PyBytes>,
        Vec<Option<Vec<usize>>>,
        usize,
        Option<f64>,
        usize,
        String,
        Vec<String>,
    );
    let (_, name, config, cpus, batch_size, wait, threads, program, arguments): Stated<'_> =
        stated.extract()?;
    let config = Bytes::from(config.as_bytes());
    let pins = cpus.into_iter().map(|cpus| cpus.map_or_else(Pin::any, Pin::to));
    let (cpus, wait) = (Cpus::list(pins), wait_of(wait)?);
    macro_rules! with_options {
        ($servlet:expr) => {{
            let servlet = $servlet.name(name).cpus(cpus).batch_size(batch_size).stream_threads(threads);
            match wait {
                Some(wait) => servlet.batch_wait_time(wait).boxed(),
                None => servlet.boxed(),
            }
        }};
    }
    Ok(if is_process {
        let servlet = ProcessServlet::<PyWorker>::new(config);
        with_options!(servlet.program(program).program_args(arguments).program_worker(LISTED_AS))
    } else {
        with_options!(ThreadServlet::<PyWorker>::new(config))
    })
}
