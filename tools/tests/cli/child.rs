//! A segment in a process of its own.

use super::segments::spec;
use ringmill_shm::segment::{Location, Segment};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

const CHILD: &str = "SHMTOOL_TEST_SEGMENT";
const HOLDER: &str = "SHMTOOL_TEST_HELD_SEGMENT";

/// A process that has created a segment and sleeps.
pub(crate) fn serve_in_a_child(name: &str) -> std::process::Child {
    in_a_child(CHILD, name)
}

/// A process that has a segment of another one, and sleeps.
pub(crate) fn hold_in_a_child(address: &str) -> std::process::Child {
    in_a_child(HOLDER, address)
}

fn in_a_child(variable: &str, name: &str) -> std::process::Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child::child_that_serves", "--ignored", "--nocapture"])
        .env(variable, name)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    let ready = said.map_while(Result::ok).any(|line| line.ends_with("serving"));
    assert!(ready, "the child ended before it served");
    child
}

#[test]
#[ignore = "not a test: a server that other tests start and kill"]
fn child_that_serves() {
    let _segment = match (std::env::var(CHILD), std::env::var(HOLDER)) {
        (Ok(name), _) => {
            // With an @ at its end it is a label.
            let location = name.strip_suffix('@').map_or_else(|| Location::named(&name), Location::anonymous);
            Segment::create(location.unwrap(), &spec()).unwrap()
        }
        (_, Ok(address)) => Segment::inspect(Location::parse(&address).unwrap()).unwrap(),
        _ => return,
    };
    println!("serving");
    // Until the test kills this process, or ends itself.
    let _ = std::io::stdin().read_line(&mut String::new());
}
