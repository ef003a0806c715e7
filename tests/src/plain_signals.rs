//! Programs that begin as in a terminal, whatever started the tests: a shell without job control, for example, makes its
//! background processes ignore SIGINT and SIGQUIT.
#![expect(unsafe_code, reason = "what is done between fork and exec")]

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Signals by which a program is ended.
const ENDING: [i32; 4] = [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTERM];

/// Has the program begin with the default effect of the signals by which programs are ended.
pub fn with_plain_signals(command: &mut Command) -> &mut Command {
    let reset = || {
        for signal in ENDING {
            // SAFETY: a signal that may be set, to its default.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    };
    // SAFETY: `reset` makes system calls and nothing else.
    unsafe { command.pre_exec(reset) }
}
