//! If the system refuses any call, a service still ends in time, with values or errors, and leaves nothing.
//!
//! The short form of the program `refusals`, which tries all of them: see `ringmill_tests::refusals`.

use crate::resident::{RESIDENT, Service};
use ringmill_tests::guard::{guarded, guarded_for};
use ringmill_tests::name::Name;
use ringmill_tests::refusals::{Case, run};
use ringmill_tests::refuse::{Refusal, in_process_of};
use std::process::Command;
use std::time::Duration;

/// How many of the cases are tried here.
const TRIED: usize = 24;

fn assert_well(cases: &[usize]) {
    for &index in cases {
        let report = run(&mut Command::new(env!("CARGO_BIN_EXE_refusals")), Some(index));
        assert!(report.problems.is_empty(), "{}: {report:#?}", Case::all()[index].name());
    }
}

#[test]
fn a_service_survives_a_sample_of_refusals() {
    guarded_for(Duration::from_secs(600), || {
        let usual = run(&mut Command::new(env!("CARGO_BIN_EXE_refusals")), None);
        assert!(usual.problems.is_empty(), "{usual:#?}");
        let count = Case::all().len();
        // Odd, so that each phase and each error has its turn.
        let cases: Vec<usize> = (0..count).step_by((count / TRIED) | 1).collect();
        let (some, others) = cases.split_at(cases.len() / 2);
        std::thread::scope(|scope| {
            scope.spawn(|| assert_well(some));
            assert_well(others);
        });
    });
}

/// The calls that only an anonymous server makes, and those by which its memory gets its size.
#[test]
fn an_anonymous_server_that_is_refused_its_memory_says_so() {
    guarded(|| {
        let cases = [
            (libc::SYS_memfd_create, libc::EPERM, "make /memfd:ringmill-"),
            (libc::SYS_memfd_create, libc::EMFILE, "make /memfd:ringmill-"),
            (libc::SYS_fallocate, libc::ENOSPC, "reserve the pages of /memfd:ringmill-"),
        ];
        for (call, error, what) in cases {
            let label = Name::label("refused");
            let mut command = Command::new(RESIDENT);
            in_process_of(&mut command, &[Refusal::of(call, error)]);
            let (_service, line) = Service::try_start(&mut command, &label, &[]);
            let why = std::io::Error::from_raw_os_error(error).to_string();
            assert!(line.starts_with(&format!("error cannot {what}")) && line.ends_with(&why), "{line}");
            label.assert_nothing_left();
        }
        // What it does without.
        for call in [libc::SYS_statx, libc::SYS_readlinkat] {
            let label = Name::label("notneeded");
            let mut command = Command::new(RESIDENT);
            in_process_of(&mut command, &[Refusal::of(call, libc::EPERM)]);
            let mut service = Service::start(&mut command, &label, &[]);
            service.replace_worker();
            label.assert_consistent();
            assert_eq!(service.end(), "");
            label.assert_nothing_left();
        }
    });
}

/// Symptom: where signals were refused (sandboxes, privileges that were dropped), `shutdown` and `drop` waited for ever,
/// and `exec_timeout` did nothing. Fix: the tether tells a worker to end; the log names one that does not, and the server goes
/// on without it.
#[test]
fn a_service_that_may_not_send_signals_ends() {
    guarded_for(Duration::from_secs(300), || {
        let of_signals = |case: &Case| case.call.name.contains("kill") || case.call.name.contains("signal");
        let cases: Vec<usize> =
            (0..).zip(Case::all()).filter(|(_, c)| of_signals(c)).map(|(i, _)| i).collect();
        assert!(cases.len() >= 24);
        assert_well(&cases);
    });
}
