//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// Classifies real handwritten digits, many times over, in worker processes that
/// take them from shared memory in greedy batches. Checks every answer, and shows
/// what batching is worth.
#[derive(Parser, Debug)]
#[command(name = "digits", verbatim_doc_comment)]
pub(crate) struct Args {
    /// Read the digits from this file instead
    #[arg(long, value_name = "PATH")]
    pub(crate) csv: Option<PathBuf>,

    /// Workers [default: one a listed CPU, else 2 to 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: Option<u16>,

    /// Most images a worker takes at once
    #[arg(
        long,
        value_name = "N",
        default_value_t = 64,
        value_parser = clap::value_parser!(u16).range(1..=4096)
    )]
    batch_size: u16,

    /// Longest wait to fill a batch [default: 200, or 0]
    #[arg(long, value_name = "US", value_parser = clap::value_parser!(u64).range(0..=10_000_000))]
    batch_wait_us: Option<u64>,

    /// Pin the workers to these in turn [default: all]
    #[arg(long, value_name = "0,1,…", value_delimiter = ',')]
    cpus: Vec<usize>,

    /// Times to classify all images
    #[arg(
        long,
        value_name = "N",
        default_value_t = 50,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    pub(crate) repeat: u32,

    /// Threads of this process instead of processes
    #[arg(long)]
    pub(crate) threads: bool,
}

impl Args {
    /// The CPU of each worker. `allowed` are those that this process may use.
    pub(crate) fn worker_cpus(&self, allowed: &[usize]) -> Vec<usize> {
        let cpus = if self.cpus.is_empty() { allowed } else { &self.cpus };
        let workers = match self.workers {
            Some(workers) => usize::from(workers),
            None if self.cpus.is_empty() => allowed.len().clamp(2, 4),
            None => cpus.len(),
        };
        cpus.iter().copied().cycle().take(workers).collect()
    }

    pub(crate) fn batch_size(&self) -> usize {
        usize::from(self.batch_size)
    }

    pub(crate) fn batch_wait(&self) -> Duration {
        let default_us = if self.batch_size > 1 { 200 } else { 0 };
        Duration::from_micros(self.batch_wait_us.unwrap_or(default_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Args, String> {
        Args::try_parse_from(["digits"].into_iter().chain(line.split_whitespace()))
            .map_err(|error| error.to_string())
    }

    fn worker_cpus(line: &str, allowed: &[usize]) -> Vec<usize> {
        parse(line).expect("good arguments").worker_cpus(allowed)
    }

    #[test]
    fn the_command_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn there_are_two_workers_at_least_and_each_has_a_cpu() {
        assert_eq!(worker_cpus("", &[3]), [3, 3]);
        assert_eq!(worker_cpus("", &[0, 1]), [0, 1]);
        assert_eq!(worker_cpus("", &[0, 2, 4, 6, 8, 10]), [0, 2, 4, 6]);
        assert_eq!(worker_cpus("--workers 3", &[0, 1]), [0, 1, 0]);
        assert_eq!(worker_cpus("--workers 1", &[0, 1]), [0]);
        assert_eq!(worker_cpus("--cpus 1", &[0, 1]), [1]);
        assert_eq!(worker_cpus("--cpus 1,0,1", &[0, 1]), [1, 0, 1]);
        assert_eq!(worker_cpus("--cpus 1 --workers 2", &[0, 1]), [1, 1]);
    }

    #[test]
    fn a_batch_of_one_does_not_wait_unless_told_to() {
        let wait_us = |line| parse(line).expect("good arguments").batch_wait().as_micros();
        assert_eq!(wait_us(""), 200);
        assert_eq!(wait_us("--batch-size 1"), 0);
        assert_eq!(wait_us("--batch-size 1 --batch-wait-us 5"), 5, "which the engine refuses");
    }

    #[test]
    fn bad_values_are_errors_with_the_expected_ones() {
        for (line, told) in [
            ("--workers 0", "0 is not in 1..=64"),
            ("--batch-size 0", "0 is not in 1..=4096"),
            ("--repeat 0", "0 is not in 1..=1000000"),
            ("--batch-wait-us -1", "unexpected argument"),
            ("--cpus 0,one", "invalid digit found in string"),
            ("--cpus", "a value is required"),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(told), "{line}: {error}");
        }
    }
}
