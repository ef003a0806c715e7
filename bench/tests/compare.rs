//! `compare` as its users start it.

use std::process::{Command, Output};

use ringmill::cpu;

const FIELDS: [&str; 8] =
    ["job", "who", "regime", "payload_bytes", "window", "ns_per_item", "ratio_to_raw", "rounds"];

fn compare(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_compare")).args(arguments).output().unwrap()
}

#[test]
fn says_that_one_cpu_is_too_few() {
    let only = cpu::allowed()[0];
    // The child inherits what this thread may use.
    cpu::pin_thread(&[only]).unwrap();
    let output = compare(&["--rounds", "1"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && output.stdout.is_empty());
    assert_eq!(
        error,
        format!(
            "compare: two CPUs are needed, one for each side of a ping-pong; this process may use only [{only}]\n"
        )
    );
}

#[test]
fn prints_one_json_object_a_line() {
    if cpu::allowed().len() < 2 {
        eprintln!("not tested: two CPUs are needed");
        return;
    }
    let output = compare(&["--json", "--rounds", "1", "--window", "8"]);
    let error = String::from_utf8(output.stderr).unwrap();
    // On a busy machine too few slices may count; then it has to say so, and prints what it has.
    let complete = output.status.success();
    assert!(complete || error.contains("gave up"), "{error}");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = 0;
    for line in text.lines() {
        let row: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
        assert_eq!(row.len(), FIELDS.len(), "{line}");
        assert!(FIELDS.iter().all(|field| row.contains_key(*field)), "{line}");
        lines += 1;
    }
    // Four contestants in `call`, five in `stream`, eight in `stages`, each in at least one regime.
    assert!(!complete || lines >= 17, "{text}");
}
