//! The program; what it does is in the library, where tests find it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

// The workers of `shmtool bench --demo`.
#[cfg(feature = "bench")]
ringmill::init!(shmtool::Demo);

fn main() -> ExitCode {
    shmtool::main()
}
