//! Tests in a pid namespace of their own, where they choose which pid comes next; with a `/proc` and a `/dev/shm`
//! of their own.
#![expect(unsafe_code, reason = "namespaces and forks, in child processes only")]

use crate::alone::{ALONE_GUARD, is_alone, run, this_program, with_test};
use crate::other_user::can_be_another_user;
use ringmill_shm::sys::process::inherit_only_standard_descriptors;
use std::io;
use std::os::unix::process::CommandExt;

/// Runs the body of a test in a namespace: starts this program again in one, for this test only, by its name in the harness.
///
/// # Panics
/// If the test fails there.
pub fn within(test: &str, body: impl FnOnce()) {
    if is_alone(test) {
        return body();
    }
    if !can_be_another_user("reused pids, which takes a pid namespace") {
        return;
    }
    let mut command = this_program();
    inherit_only_standard_descriptors(&mut command);
    // SAFETY: `enter` makes system calls and nothing else; only one of its children goes on to exec.
    unsafe { command.pre_exec(enter) };
    run(ALONE_GUARD, with_test(&mut command, test)).assert_passed(test);
}

/// Has the next process, or thread, of this namespace get this pid, if it is free.
///
/// # Panics
/// If the namespace is not ours.
pub fn next_pid(pid: u32) {
    std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).expect("the namespace is ours");
}

/// All processes that there are.
///
/// # Panics
/// If there is no `/proc`.
#[must_use]
pub fn processes() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("it is mounted").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn done(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Between fork and exec. The forked process stays outside and waits; its child is the namespace's first process and waits for
/// orphans; the child of that goes on.
fn enter() -> io::Result<()> {
    let none = core::ptr::null();
    // SAFETY: integers, live C strings, null pointers. Each fork is of a process with one thread.
    unsafe {
        done(libc::unshare(libc::CLONE_NEWPID | libc::CLONE_NEWNS))?;
        done(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()))?;
        let mount = |what: &core::ffi::CStr, at: &core::ffi::CStr| {
            done(libc::mount(what.as_ptr(), at.as_ptr(), what.as_ptr(), 0, none.cast()))
        };
        match libc::fork() {
            -1 => return Err(io::Error::last_os_error()),
            0 => {}
            first => wait_for(first, first),
        }
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        mount(c"proc", c"/proc")?;
        mount(c"tmpfs", c"/dev/shm")?;
        match libc::fork() {
            -1 => Err(io::Error::last_os_error()),
            0 => Ok(()),
            second => wait_for(second, -1),
        }
    }
}

/// Waits for `which` of its children until `last` has ended, and ends as `last` did.
///
/// # Safety
/// Between fork and exec only: it does not return.
unsafe fn wait_for(last: i32, which: i32) -> ! {
    // SAFETY: integers, and a live integer to fill. No other code uses the descriptors here.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0);
        loop {
            let mut status = 0;
            let ended = libc::waitpid(which, &raw mut status, 0);
            if ended == last || ended == -1 {
                libc::_exit(if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 101 });
            }
        }
    }
}
