//! CPU time that threads and processes have used, to the nanosecond, also of one that is running right now.

use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// That of the calling thread.
///
/// # Panics
///
/// Never: every thread has this clock.
pub fn of_this_thread() -> Duration {
    read(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every thread has this clock")
}

/// That of all threads of the calling process.
///
/// # Panics
///
/// Never: every process has this clock.
pub fn of_this_process() -> Duration {
    read(ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("every process has this clock")
}

/// That of all threads of a process, as long as it is there.
///
/// # Errors
///
/// If there is no such process.
pub fn of_process(pid: u32) -> io::Result<Duration> {
    let pid = Pid::from_raw(i32::try_from(pid).map_err(|_| Errno::ESRCH)?);
    Ok(read(clock_getcpuclockid(pid)?)?)
}

fn read(clock: ClockId) -> Result<Duration, Errno> {
    clock_gettime(clock).map(TimeSpec::into)
}

#[cfg(test)]
mod tests {
    use std::{process, thread};

    use super::*;

    #[test]
    fn work_is_counted_where_it_is_done() {
        let before = of_this_process();
        let of_worker = thread::spawn(|| {
            let before = of_this_thread();
            while of_this_thread() - before < Duration::from_millis(5) {}
            of_this_thread()
        });
        let of_worker = of_worker.join().unwrap();
        let used = of_this_process() - before;
        assert!(used >= Duration::from_millis(5) && of_worker >= Duration::from_millis(5));
        let seen = of_process(process::id()).unwrap();
        assert!(of_this_process() >= seen && seen >= before + used);
    }

    #[test]
    fn of_no_process_there_is_none() {
        // No system gives numbers as large as these. (A clock's name has room for 29 bits of them.)
        assert!(of_process(1 << 25).is_err());
        assert!(of_process(u32::MAX).is_err());
    }
}
