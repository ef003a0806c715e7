//! System calls that return an error, as sandboxes, old kernels and dropped privileges make them.
//!
//! A seccomp filter of the kernel's classic BPF, made by hand: a load of the call's number, of an argument if one is given, and
//! the error. It stays for the rest of the process's life, and of all processes that it starts.
#![expect(unsafe_code, reason = "prctl and seccomp")]

use std::io;
use std::mem::offset_of;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// One system call that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Its number: `libc::SYS_…`.
    pub call: libc::c_long,
    /// Only where this argument, counted from 0, has that value (the lower 32 bits of it).
    pub argument: Option<(u8, u32)>,
    /// The error that it returns.
    pub errno: i32,
}

impl Refusal {
    /// A call that always answers this error.
    #[must_use]
    pub const fn of(call: libc::c_long, errno: i32) -> Self {
        Self { call, argument: None, errno }
    }

    /// A call that returns this error if one argument has one value: each command of `fcntl` and `prctl` is a call of its own.
    #[must_use]
    pub const fn where_argument(self, index: u8, value: u32) -> Self {
        Self { argument: Some((index, value)), ..self }
    }

    fn program(self) -> Vec<libc::sock_filter> {
        let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
        let load = |offset: usize| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset as u32);
        let unless_equal = |k: u32, skip: u8| libc::sock_filter {
            code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
            jt: 0,
            jf: skip,
            k,
        };
        let mut program = vec![load(offset_of!(libc::seccomp_data, nr))];
        program.push(unless_equal(self.call as u32, if self.argument.is_some() { 3 } else { 1 }));
        if let Some((index, value)) = self.argument {
            // The lower half comes first on the little-endian machines that ringmill runs on.
            program.push(load(offset_of!(libc::seccomp_data, args) + 8 * usize::from(index)));
            program.push(unless_equal(value, 1));
        }
        let errno = self.errno.cast_unsigned() & libc::SECCOMP_RET_DATA;
        program.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno));
        program
    }
}

/// A filter that is ready to be installed.
struct Filter(Vec<libc::sock_filter>);

impl Filter {
    fn new(refusals: &[Refusal]) -> Self {
        let mut program: Vec<_> = refusals.iter().flat_map(|refusal| refusal.program()).collect();
        let allow = (libc::BPF_RET | libc::BPF_K) as u16;
        program.push(libc::sock_filter { code: allow, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW });
        Self(program)
    }

    /// Makes two system calls and nothing else, so it may be called between fork and exec.
    fn install(&self) -> io::Result<()> {
        let program = libc::sock_fprog { len: self.0.len() as u16, filter: self.0.as_ptr().cast_mut() };
        // SAFETY: integers; without this only root may install filters, with it any user.
        if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let (mode, every_thread) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_TSYNC);
        // SAFETY: `program` is a live structure with a live array of the length it says; both are only read.
        let result = unsafe { libc::syscall(libc::SYS_seccomp, mode, every_thread, &raw const program) };
        if result != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// From now on these calls are refused to every thread of this process, and to processes that it starts.
///
/// # Errors
/// Where there is no seccomp.
pub fn from_now_on(refusals: &[Refusal]) -> io::Result<()> {
    Filter::new(refusals).install()
}

/// Lets a command's process start with these calls refused; if the filter cannot be installed, the process does not start.
pub fn in_process_of(command: &mut Command, refusals: &[Refusal]) {
    let filter = Filter::new(refusals);
    // SAFETY: `install` only makes system calls; the filter was made before the fork.
    unsafe { command.pre_exec(move || filter.install()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_refused_by_number_and_by_argument() {
        let status = |refusals: &[Refusal]| {
            let mut command = Command::new("cat");
            command.arg("/dev/null").stderr(std::process::Stdio::null());
            in_process_of(&mut command, refusals);
            command.status().map(|status| status.success()).map_err(|error| error.raw_os_error())
        };
        assert_eq!(status(&[]), Ok(true));
        assert_eq!(status(&[Refusal::of(libc::SYS_execve, libc::EPERM)]), Err(Some(libc::EPERM)));
        let never = Refusal::of(libc::SYS_openat, libc::EPERM).where_argument(2, u32::MAX);
        assert_eq!(status(&[never, Refusal::of(libc::SYS_getppid, libc::ENOSYS)]), Ok(true));
        // The linker opens its libraries.
        assert_eq!(status(&[never, Refusal::of(libc::SYS_openat, libc::EACCES)]), Ok(false));
    }
}
