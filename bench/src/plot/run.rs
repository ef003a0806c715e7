//! Where, when and how rows were measured.

use std::env;
use std::fs;
use std::time::SystemTime;

use ringmill::cpu;
use serde::{Deserialize, Serialize};

use crate::priority::Priority;

/// One run of `compare`: what its rows cannot say themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The command as typed, or an equal one.
    pub command: String,
    /// When it began: RFC 3339, UTC.
    pub date: String,
    /// The version of ringmill.
    pub version: String,
    /// The model of the CPU.
    pub cpu: String,
    /// The CPUs that the process was allowed to use.
    pub cpus: Vec<usize>,
    /// The system and its kernel's release.
    pub system: String,
    /// With which priority it measured; empty in the rows of an older version.
    #[serde(default)]
    pub priority: String,
}

impl Run {
    /// This run, from the arguments that the program was started with and those of `features` that it was built
    /// with, and the priority that it has.
    ///
    /// Call it before any thread is pinned.
    pub fn this(features: &[&str], priority: &Priority) -> Self {
        Self {
            command: command(env::args().skip(1), features),
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cpu: read("/proc/cpuinfo")
                .as_deref()
                .and_then(model)
                .unwrap_or_else(|| env::consts::ARCH.to_owned()),
            cpus: cpu::allowed().to_vec(),
            system: format!("Linux {}", read("/proc/sys/kernel/osrelease").as_deref().unwrap_or("").trim()),
            priority: priority.to_string(),
        }
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// The first CPU's model by the text of `/proc/cpuinfo`; some architectures do not tell.
fn model(cpuinfo: &str) -> Option<String> {
    let value = cpuinfo.lines().find(|line| line.starts_with("model name"))?.split_once(':')?.1.trim();
    (!value.is_empty()).then(|| value.to_owned())
}

fn command(arguments: impl Iterator<Item = String>, features: &[&str]) -> String {
    let mut words: Vec<String> =
        ["cargo", "run", "--release", "-p", "ringmill-bench"].map(String::from).to_vec();
    if !features.is_empty() {
        words.extend(["--features".to_owned(), features.join(",")]);
    }
    words.extend(["--bin", "compare", "--"].map(String::from));
    // A word with a zero byte cannot come from a command line.
    words.extend(arguments.map(|word| shlex::try_quote(&word).map(String::from).unwrap_or(word.clone())));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_can_be_typed_again() {
        let arguments = ["--job", "call", "--report", "my report"].map(String::from).into_iter();
        assert_eq!(
            command(arguments, &["rivals", "aeron"]),
            "cargo run --release -p ringmill-bench --features rivals,aeron --bin compare -- \
             --job call --report 'my report'"
        );
    }

    #[test]
    fn the_model_is_found() {
        let cpuinfo = "processor\t: 0\nmodel\t\t: 143\nmodel name\t: Some CPU @ 2.00GHz\n\nprocessor\t: 1\n";
        assert_eq!(model(cpuinfo).as_deref(), Some("Some CPU @ 2.00GHz"));
        assert_eq!(model("processor: 0\nBogoMIPS: 50.00\n"), None);
    }

    #[test]
    fn this_run_is_read_back() {
        let run = Run::this(&[], &Priority::Ordinary);
        assert!(!run.cpus.is_empty() && run.date.ends_with('Z'), "{run:?}");
        assert_eq!(serde_json::from_str::<Run>(&serde_json::to_string(&run).unwrap()).unwrap(), run);
    }
}
