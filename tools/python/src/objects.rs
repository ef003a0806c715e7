//! Objects that pass between threads of the server's process as they are, neither pickled nor copied.
//!
//! A payload names such an object by its request's ticket and an index. The caller of the request ends the ticket, whatever
//! becomes of the request, and with it all its objects; a worker that still works for a request that was given up finds
//! nothing any more, and what it adds is dropped.

use crate::frame::NO_TICKET;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

type Table = HashMap<u64, Vec<Py<PyAny>>>;

static OBJECTS: LazyLock<Mutex<Table>> = LazyLock::new(Mutex::default);

/// Nothing that runs under the lock can run Python's code: objects are dropped after it.
fn table() -> MutexGuard<'static, Table> {
    OBJECTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The objects of one request, until it is dropped.
#[derive(Debug)]
pub(crate) struct Ticket(u64);

impl Ticket {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(NO_TICKET + 1);
        let ticket = NEXT.fetch_add(1, Ordering::Relaxed); // only the number counts
        table().insert(ticket, Vec::new());
        Self(ticket)
    }

    pub(crate) fn number(&self) -> u64 {
        self.0
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let objects = table().remove(&self.0);
        drop(objects);
    }
}

/// Adds an object, and says its index.
pub(crate) fn add(ticket: u64, object: Py<PyAny>) -> usize {
    let mut table = table();
    match table.get_mut(&ticket) {
        Some(objects) => {
            objects.push(object);
            objects.len() - 1
        }
        None => {
            drop(table);
            drop(object);
            0
        }
    }
}

pub(crate) fn get<'py>(py: Python<'py>, ticket: u64, index: usize) -> PyResult<Bound<'py, PyAny>> {
    let object =
        table().get(&ticket).and_then(|objects| objects.get(index).map(|object| object.clone_ref(py)));
    match object {
        Some(object) => Ok(object.into_bound(py)),
        None => Err(PyRuntimeError::new_err("the caller has given this request up")),
    }
}
