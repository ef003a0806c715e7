//! Which calls this kernel, and what filters its calls, lets this process make: each is tried in a way that does no harm. A
//! version would not tell: kernels are patched, and filters forbid calls one by one.
#![expect(unsafe_code, reason = "system calls by their numbers")]

use super::memfd;
use super::process::PidFd;
use std::fs::File;
use std::io;

/// A system call, or a part of what one does.
#[derive(Debug)]
#[non_exhaustive]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// What uses it; `None`: nothing does yet.
    pub user: Option<&'static str>,
    /// Why this process cannot have it.
    pub refused: Option<io::Error>,
}

/// Tries each.
#[must_use]
pub fn features() -> Vec<Feature> {
    let memory = memfd::create("ringmill-probe");
    let in_memory = |act: &dyn Fn(&File) -> io::Result<()>| match &memory {
        Ok(file) => act(file),
        Err(error) => Err(io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(libc::ENOSYS))),
    };
    let used = |name, user, tried: io::Result<()>| Feature { name, user: Some(user), refused: tried.err() };
    let idle = |name, tried: io::Result<()>| Feature { name, user: None, refused: tried.err() };
    let waits: u32 = 0;
    let own = std::process::id();
    vec![
        used("memfd_create", "anonymous servers", in_memory(&|_| Ok(()))),
        used("fallocate", "every segment", in_memory(&|file| super::file::reserve(file, 0..4096))),
        used(
            "file seals",
            "anonymous servers",
            in_memory(&|file| {
                if memfd::seal_size(file) { Ok(()) } else { Err(io::Error::last_os_error()) }
            }),
        ),
        used("OFD locks", "the proof of deaths", in_memory(&|file| super::file::try_lock_byte(file, 0))),
        // No thread waits there.
        used(
            "futex",
            "sleeping and waking",
            call(libc::SYS_futex, &[&raw const waits as i64, libc::FUTEX_WAKE.into(), 1], 0),
        ),
        used("pidfd_open", "the supervisor", PidFd::open(own).map(drop)),
        used("pidfd_send_signal", "the supervisor", PidFd::open(own).and_then(|me| me.send_signal(0))),
        used(
            "close_range",
            "workers' processes",
            call(
                libc::SYS_close_range,
                &[u32::MAX.into(), u32::MAX.into(), libc::CLOSE_RANGE_CLOEXEC.into()],
                0,
            ),
        ),
        // Of no file: the call is known if it looks at the descriptor.
        used(
            "execveat",
            "starting workers",
            call(
                libc::SYS_execveat,
                &[-1, c"".as_ptr() as i64, 0, 0, libc::AT_EMPTY_PATH.into()],
                libc::EBADF,
            ),
        ),
        idle("futex_waitv", call(libc::SYS_futex_waitv, &[0, 0, 0, 0, 0], libc::EINVAL)),
        idle("membarrier", call(libc::SYS_membarrier, &[0, 0, 0], 0)),
        idle("clone3", call(libc::SYS_clone3, &[0, 0], libc::EINVAL)),
    ]
}

/// Makes a call of at most five arguments that is expected to give no less than 0, or this error.
fn call(number: libc::c_long, arguments: &[i64], expected: i32) -> io::Result<()> {
    let mut all = [0_i64; 5];
    all[..arguments.len()].copy_from_slice(arguments);
    let [a, b, c, d, e] = all;
    // SAFETY: `features` passes integers that these calls refuse, or pointers to live values that they only read.
    let result = unsafe { libc::syscall(number, a, b, c, d, e) };
    match io::Error::last_os_error() {
        _ if result >= 0 => Ok(()),
        error if error.raw_os_error() == Some(expected) => Ok(()),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the tests themselves need is found, each once.
    #[test]
    fn this_kernel_has_what_ringmill_needs() {
        let all = features();
        for feature in &all {
            assert!(feature.user.is_none() || feature.refused.is_none(), "{feature:?}");
            assert_eq!(all.iter().filter(|other| other.name == feature.name).count(), 1);
        }
    }

    #[test]
    fn a_call_that_the_kernel_does_not_know_is_refused() {
        let refused = call(100_000, &[], libc::EINVAL).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENOSYS));
    }
}
