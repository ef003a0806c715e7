//! A library with a server in it, as an extension of an interpreter has one: for tests, which load it.
#![expect(unsafe_code, reason = "functions that others find by name, and their C strings")]

use ringmill::program::{NamedWorker, Workers, become_worker};
use ringmill::rkyv::Archived;
use ringmill::{BoxError, ProcessServlet, Server, ThreadServlet};
use std::ffi::{CStr, CString, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;

ringmill::make_worker!(
    /// Doubles.
    pub Twice: u32 => u32, |x| x.to_native() * 2
);

ringmill::init!(Twice);

/// Doubles 21 with a server that runs `Twice` in a process (of `program`, if it is not empty) or in a thread; the answer,
/// or why there is none. The text is never freed.
///
/// # Safety
/// `name` and `program` are C strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringmill_plugin_double(
    name: *const c_char,
    program: *const c_char,
    in_thread: bool,
) -> *const c_char {
    // SAFETY: as the caller says.
    let (name, program) = unsafe { (CStr::from_ptr(name), CStr::from_ptr(program)) };
    let text = double(&name.to_string_lossy(), OsStr::from_bytes(program.to_bytes()), in_thread);
    let text = text.unwrap_or_else(|error| error.to_string());
    CString::new(text).unwrap_or_default().into_raw()
}

fn double(name: &str, program: &OsStr, in_thread: bool) -> Result<String, BoxError> {
    let builder = Server::builder(name);
    let server = match in_thread {
        true => builder.start(ThreadServlet::<Twice>::new(()))?,
        false if program.is_empty() => builder.start(ProcessServlet::<Twice>::new(()))?,
        false => builder.start(ProcessServlet::<Twice>::new(()).program(program))?,
    };
    let answer: &Archived<u32> = &*server.call(&21)?;
    Ok(answer.to_native().to_string())
}

/// Makes the process of the interpreter that has loaded this a worker; the exit code.
#[unsafe(no_mangle)]
pub extern "C" fn ringmill_plugin_become_worker() -> i32 {
    let workers = Workers::new().with(NamedWorker::<Twice>::new("double"));
    match become_worker(&workers) {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("{error}");
            1
        }
    }
}
