//! The native module of the Python package `ringmill`: a thin layer between Python's objects and the engine. What users see
//! is written in Python, in the folder `ringmill` beside this one.

mod engine;
mod error;
mod frame;
mod objects;
mod tree;
mod worker;

/// The native module; the package has the names for users.
#[pyo3::pymodule]
mod _ringmill {
    #[pymodule_export]
    use crate::engine::Engine;
    #[pymodule_export]
    use crate::engine::Stream;
    #[pymodule_export]
    use crate::worker::serve;
}
