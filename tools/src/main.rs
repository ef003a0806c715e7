//! The program; what it does is in the library, where tests find it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    shmtool::main()
}
