//! Frames: the bytes of a payload, as this package writes them.
//!
//! # Layout
//!
//! All numbers are little-endian. A frame begins at a multiple of 64 of the address, and so does each part.
//!
//! ```text
//!  0  u32  kind    0 value: the parts are the buffers of the pickle (protocol 5)
//!                  1 list: the parts are frames, of an ensemble's members
//!                  2 object: `length` is the index of an object of the ticket, in the server's process
//!                  3 error: the pickle is an exception, as one outcome among those of an ensemble
//!  4  u32  parts
//!  8  u64  ticket  the request, if an object of it may be in the server's process; else 0
//! 16  u64  length  bytes of the pickle
//! 24  u64, u64     offset and length of each part
//!          the pickle
//!          the parts
//! ```

use crate::objects;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString};

const VALUE: u32 = 0;
const LIST: u32 = 1;
const OBJECT: u32 = 2;
const ERROR: u32 = 3;

const HEAD: usize = 24;
const ALIGN: usize = 64;

/// The requests whose frames need no ticket have this one.
pub(crate) const NO_TICKET: u64 = 0;

struct Pickle {
    dumps: Py<PyAny>,
    loads: Py<PyAny>,
}

fn pickle(py: Python<'_>) -> PyResult<&'static Pickle> {
    static PICKLE: PyOnceLock<Pickle> = PyOnceLock::new();
    PICKLE.get_or_try_init(py, || {
        let module = py.import("pickle")?;
        Ok(Pickle { dumps: module.getattr("dumps")?.unbind(), loads: module.getattr("loads")?.unbind() })
    })
}

fn head(kind: u32, ticket: u64, length: u64, parts: impl ExactSizeIterator<Item = usize>) -> Vec<u8> {
    let count = parts.len();
    let mut end = HEAD + 16 * count + if kind == OBJECT { 0 } else { length as usize };
    let table: Vec<(usize, usize)> = parts
        .map(|bytes| {
            let begin = end.next_multiple_of(ALIGN);
            end = begin + bytes;
            (begin, bytes)
        })
        .collect();
    let mut frame = Vec::with_capacity(end);
    frame.extend(kind.to_le_bytes());
    frame.extend((count as u32).to_le_bytes());
    frame.extend(ticket.to_le_bytes());
    frame.extend(length.to_le_bytes());
    for (begin, bytes) in table {
        frame.extend((begin as u64).to_le_bytes());
        frame.extend((bytes as u64).to_le_bytes());
    }
    frame
}

fn pad(frame: &mut Vec<u8>) {
    frame.resize(frame.len().next_multiple_of(ALIGN), 0);
}

/// A frame with a value, pickled.
pub(crate) fn value(value: &Bound<'_, PyAny>, ticket: u64) -> PyResult<Vec<u8>> {
    let py = value.py();
    let dumps = pickle(py)?.dumps.bind(py);
    // These never have buffers.
    let is_plain = value.is_none()
        || value.is_exact_instance_of::<PyInt>()
        || value.is_exact_instance_of::<PyFloat>()
        || value.is_exact_instance_of::<PyString>()
        || value.is_exact_instance_of::<PyBytes>()
        || value.is_exact_instance_of::<PyBool>();
    if is_plain {
        let pickled = dumps.call1((value, 5))?;
        let pickled = pickled.cast::<PyBytes>()?.as_bytes();
        let mut frame = head(VALUE, ticket, pickled.len() as u64, std::iter::empty());
        frame.extend_from_slice(pickled);
        return Ok(frame);
    }
    let views = PyList::empty(py);
    let options = PyDict::new(py);
    options.set_item(intern!(py, "buffer_callback"), views.getattr(intern!(py, "append"))?)?;
    let pickled = dumps.call((value, 5), Some(&options))?;
    let pickled = pickled.cast::<PyBytes>()?.as_bytes();
    let mut buffers = Vec::with_capacity(views.len());
    for view in &views {
        buffers.push(PyBuffer::<u8>::get(&view.call_method0(intern!(py, "raw"))?)?);
    }
    let sizes: Vec<usize> = buffers.iter().map(|buffer| buffer.len_bytes()).collect();
    let mut frame = head(VALUE, ticket, pickled.len() as u64, sizes.into_iter());
    frame.extend_from_slice(pickled);
    for buffer in buffers {
        pad(&mut frame);
        let begin = frame.len();
        frame.resize(begin + buffer.len_bytes(), 0);
        buffer.copy_to_slice(py, &mut frame[begin..])?;
    }
    Ok(frame)
}

/// A frame with an exception that is one outcome among several, pickled already.
pub(crate) fn error(pickled: &[u8], ticket: u64) -> Vec<u8> {
    let mut frame = head(ERROR, ticket, pickled.len() as u64, std::iter::empty());
    frame.extend_from_slice(pickled);
    frame
}

/// A frame that stands for an object of this process.
pub(crate) fn object(ticket: u64, index: usize) -> Vec<u8> {
    head(OBJECT, ticket, index as u64, std::iter::empty())
}

/// A frame with those of an ensemble's members.
pub(crate) fn list(members: &[&[u8]]) -> Vec<u8> {
    let ticket = members.iter().map(|member| ticket(member)).max().unwrap_or(NO_TICKET);
    let mut frame = head(LIST, ticket, 0, members.iter().map(|member| member.len()));
    for member in members {
        pad(&mut frame);
        frame.extend_from_slice(member);
    }
    frame
}

fn number(frame: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(frame.get(at..at + 8)?.try_into().ok()?))
}

/// The ticket of a frame; none if it is not one.
pub(crate) fn ticket(frame: &[u8]) -> u64 {
    number(frame, 8).unwrap_or(NO_TICKET)
}

/// The value of a frame. Its buffers are copied, and can be written.
pub(crate) fn load<'py>(py: Python<'py>, frame: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let bad = || PyRuntimeError::new_err("a payload is not one that ringmill's Python package wrote");
    let words = number(frame, 0).ok_or_else(bad)?;
    let (kind, count) = (words as u32, (words >> 32) as usize);
    let length = number(frame, 16).ok_or_else(bad)?;
    if kind == OBJECT {
        return objects::get(py, ticket(frame), length as usize);
    }
    let part = |index: usize| {
        let at = HEAD + 16 * index;
        let (begin, bytes) = (number(frame, at)? as usize, number(frame, at + 8)? as usize);
        frame.get(begin..begin.checked_add(bytes)?)
    };
    if kind == LIST {
        let members = PyList::empty(py);
        for index in 0..count {
            members.append(load(py, part(index).ok_or_else(bad)?)?)?;
        }
        return Ok(members.into_any());
    }
    let begin = HEAD + 16 * count;
    let pickled = begin.checked_add(length as usize).and_then(|end| frame.get(begin..end)).ok_or_else(bad)?;
    let pickled = PyBytes::new(py, pickled);
    let loads = pickle(py)?.loads.bind(py);
    if count == 0 {
        return loads.call1((pickled,));
    }
    let buffers = PyList::empty(py);
    for index in 0..count {
        buffers.append(PyByteArray::new(py, part(index).ok_or_else(bad)?))?;
    }
    let options = PyDict::new(py);
    options.set_item(intern!(py, "buffers"), buffers)?;
    loads.call((pickled,), Some(&options))
}
