//! Partner processes: stopped when they should be, and gone when they are no longer needed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use ringmill::cpu;
use ringmill_bench::Error;
use ringmill_bench::process::{self, Process};
use ringmill_shm::sys::process::{PidFd, wait_readable};
use rustix::fs::{MemfdFlags, memfd_create};

/// Counts in the first eight bytes of its input, as fast as it can.
const COUNT: &str = "count";
/// Ends with [`CODE`] as soon as it gets the order.
const END: &str = "end";
/// Starts a partner, stops it, prints its pid, and waits.
const START_ANOTHER: &str = "start another";
/// Says that it is ready, and waits.
const WAIT: &str = "wait";

const CODE: i32 = 7;

/// Only a broken test takes that long.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    if let Some(task) = process::task() {
        let Err(error) = work(&task);
        process::give_up(&error.to_string());
    }
    let tests: [(&str, fn()); 6] = [
        ("a partner works only while it is not paused", a_partner_works_only_while_it_is_not_paused),
        ("a death is an error", a_death_is_an_error),
        ("a death before it is ready is an error", a_death_before_it_is_ready_is_an_error),
        ("a dead partner can be paused", a_dead_partner_can_be_paused),
        ("a partner dies with its starter, though stopped", a_partner_dies_with_its_starter_though_stopped),
        ("a program started by hand is no partner", a_program_started_by_hand_is_no_partner),
    ];
    for (name, test) in tests {
        println!("{name}");
        test();
    }
}

fn work(task: &str) -> io::Result<std::convert::Infallible> {
    let mut input = File::from(process::input()?);
    match task {
        COUNT => {
            for count in 1_u64.. {
                input.write_all_at(&count.to_ne_bytes(), 0)?;
            }
        }
        END => {
            input.read_exact(&mut [0])?;
            std::process::exit(CODE);
        }
        START_ANOTHER => {
            let another = Process::start("another", cpu(), WAIT, Stdio::null(), Stdio::piped());
            let mut another = another.map_err(io::Error::other)?;
            another.wait_until_ready().map_err(io::Error::other)?;
            another.pause();
            File::from(process::output()?).write_all(&another.id().to_ne_bytes())?;
            // Until it is killed: nothing is ever written.
            input.read_exact(&mut [0])?;
        }
        _ => process::ready()?,
    }
    loop {
        thread::park();
    }
}

fn cpu() -> usize {
    cpu::allowed()[0]
}

fn a_partner_works_only_while_it_is_not_paused() {
    let memory = File::from(memfd_create("count", MemfdFlags::CLOEXEC).unwrap());
    memory.set_len(8).unwrap();
    let count = || {
        let mut bytes = [0; 8];
        memory.read_exact_at(&mut bytes, 0).unwrap();
        u64::from_ne_bytes(bytes)
    };
    let partner = Process::start("test", cpu(), COUNT, memory.try_clone().unwrap(), Stdio::null()).unwrap();
    for _ in 0..3 {
        partner.pause();
        let at_rest = count();
        thread::yield_now();
        assert_eq!(count(), at_rest);
        partner.resume();
        while count() == at_rest {
            thread::yield_now();
        }
    }
}

fn a_death_is_an_error() {
    let (theirs, mut ours) = io::pipe().unwrap();
    let mut partner = Process::start("test", cpu(), END, theirs, Stdio::null()).unwrap();
    for _ in 0..1000 {
        partner.spin().unwrap();
    }
    ours.write_all(&[0]).unwrap();
    let error = loop {
        if let Err(error) = partner.spin() {
            break error;
        }
    };
    assert!(
        matches!(&error, Error::PartnerDied { who: "test", status } if status.code() == Some(CODE)),
        "{error}"
    );
}

fn a_death_before_it_is_ready_is_an_error() {
    let mut partner = Process::start("test", cpu(), END, Stdio::null(), Stdio::piped()).unwrap();
    let error = partner.wait_until_ready().unwrap_err();
    assert!(matches!(&error, Error::PartnerDied { .. }), "{error}");
}

fn a_dead_partner_can_be_paused() {
    let (theirs, mut ours) = io::pipe().unwrap();
    let mut partner = Process::start("test", cpu(), END, theirs, Stdio::null()).unwrap();
    let watched = PidFd::open(partner.id()).unwrap();
    ours.write_all(&[0]).unwrap();
    assert_eq!(wait_readable(&[watched.as_raw_fd()], Some(PATIENCE)), [true]);
    // Before its death is known here, and after.
    partner.pause();
    while partner.spin().is_ok() {}
    partner.pause();
    partner.resume();
}

fn a_partner_dies_with_its_starter_though_stopped() {
    let (waits, never_written) = io::pipe().unwrap();
    let (mut says, output) = io::pipe().unwrap();
    let starter = Process::start("test", cpu(), START_ANOTHER, waits, output).unwrap();
    let mut id = [0; 4];
    says.read_exact(&mut id).unwrap();
    let another = PidFd::open(u32::from_ne_bytes(id)).unwrap();
    assert_eq!(wait_readable(&[another.as_raw_fd()], Some(Duration::ZERO)), [false], "it lives");
    // By SIGKILL, so the starter has no time to do anything about it.
    drop(starter);
    assert_eq!(wait_readable(&[another.as_raw_fd()], Some(PATIENCE)), [true]);
    drop(never_written);
}

fn a_program_started_by_hand_is_no_partner() {
    let run = |arguments: &[&str]| {
        let output = Command::new("/proc/self/exe").arg("--be-the-partner").args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(run(&[]).contains("is not meant to be given by hand"));
    // Process 1 has not started it, or has it now because its starter is gone.
    let cpu = cpu().to_string();
    assert!(run(&[&cpu, "2147483647", WAIT]).contains("its starter is gone"));
}
