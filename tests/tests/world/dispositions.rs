//! A worker's signal dispositions are its own: programs that it starts have those of a fresh program.
//!
//! Symptom: programs that workers started could not be ended by SIGTERM or Ctrl-C. Cause: the worker ignored both, and an
//! ignored signal stays so over an exec. Fix: see `sys::process::outlive_group_signals`.

use crate::resident::{RESIDENT, Service};
use ringmill_shm::sys::process::GROUP_SIGNALS;
use ringmill_tests::guard::guarded;
use ringmill_tests::name::Name;
use ringmill_tests::process::{signal, status_number};
use std::process::Command;

/// Bits of a `/proc/…/status` file, as a program says that is run by `sh`.
fn mask(text: &str) -> u64 {
    u64::from_str_radix(text.split_whitespace().last().expect("a mask"), 16).expect("hexadecimal")
}

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

#[test]
fn a_workers_children_have_the_services_dispositions() {
    guarded(|| {
        for ignored in [None, Some(libc::SIGHUP)] {
            let name = Name::new("masks");
            let option = ignored.map(|signal| format!("ignore={signal}"));
            let options: Vec<&str> = option.iter().map(String::as_str).collect();
            let mut service = Service::start(&mut Command::new(RESIDENT), &name, &options);
            for _ in 0..2 {
                let group: u64 = GROUP_SIGNALS.iter().map(|&signal| bit(signal)).sum();
                let ignores = mask(&service.worker("sh grep SigIgn /proc/self/status"));
                assert_eq!(ignores & group, ignored.map_or(0, bit), "{ignores:x}");
                assert_eq!(ignores & bit(libc::SIGPIPE), 0);
                assert_eq!(mask(&service.worker("sh grep SigBlk /proc/self/status")), 0);
                assert_eq!(mask(&service.worker("sh grep SigCgt /proc/self/status")) & group, 0);
                for &signal in GROUP_SIGNALS.iter().filter(|&&signal| Some(signal) != ignored) {
                    // A shell without job control makes its background processes ignore the other two.
                    if [libc::SIGTERM, libc::SIGHUP].contains(&signal) {
                        let killed =
                            service.worker(&format!("sh sleep 60 & kill -{signal} $!; wait $!; echo $?"));
                        assert_eq!(killed, (128 + signal).to_string());
                    }
                    assert_eq!(service.worker(&format!("child-signal {signal}")), signal.to_string());
                }
                service.replace_worker();
            }
            assert_eq!(service.end(), "");
            name.assert_nothing_left();
        }
    });
}

/// A terminal sends signals to the whole group; the server decides, and tells the workers.
#[test]
fn signals_of_the_group_do_not_end_a_worker() {
    guarded(|| {
        let name = Name::new("group");
        let mut service = Service::start(&mut Command::new(RESIDENT), &name, &[]);
        let worker = service.worker_pid();
        for _ in 0..3 {
            for &number in GROUP_SIGNALS {
                signal(worker, number);
            }
            assert_eq!(service.worker_pid(), worker);
        }
        let blocked = status_number(&format!("/proc/{worker}/status"), "SigBlk");
        assert_eq!(blocked, Some(0));
        assert_eq!(service.end(), "");
        name.assert_nothing_left();
    });
}
