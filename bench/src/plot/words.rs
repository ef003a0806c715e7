//! What the names in rows are called on the page, and how their values are written.

use ringmill_plot::units::{self, bytes, count};

/// The heading of a column, with its unit.
pub(super) fn heading(name: &str) -> String {
    let known = match name {
        "payload_bytes" => "payload",
        "batch_size" => "batch size",
        "rate_per_s" => "offered, /s",
        "sent_per_s" => "sent, /s",
        "spin_us" => "spin, µs",
        "ns_per_item" => "ns an item",
        "ratio_to_raw" => "× raw",
        "ratio_lower" => "lower quartile",
        "ratio_upper" => "upper quartile",
        "ratio_to_memcpy" => "times the time of memcpy",
        "gib_per_s" => "GiB/s",
        "mib_per_s" => "MiB/s",
        "mean_batch" => "mean batch",
        "part_of_ideal" => "part of the ideal",
        "cpu_percent" => "CPU, %",
        "p999_us" => "p99.9, µs",
        "slowest_thread_p999_us" => "slowest thread's p99.9, µs",
        "ready_ms" => "ready, ms",
        "first_us" => "first pass, µs an item",
        "later_us" => "later passes, µs an item",
        "lower" => "lower quartile",
        "upper" => "upper quartile",
        "fastest_thread_p999_us" => "fastest thread's p99.9, µs",
        "throughput_vs_one" => "part of one's throughput",
        "ratio_per_further" => "× raw, each further one",
        "keeps_up" => "keeps up",
        "ratio_to_futex" => "× futex",
        "caller_cpu_percent" => "caller's CPU, %",
        "worker_cpu_percent" => "worker's CPU, %",
        "workers_cpu_percent" => "workers' CPU, %",
        "server_cpu_percent" => "server's CPU, %",
        "worker_private_bytes" => "a worker's own memory",
        "server_private_bytes" => "the server's own memory",
        "bytes_per_request" => "bytes a request",
        "segment_bytes" => "segment",
        _ => return with_unit(name),
    };
    known.to_owned()
}

/// `some_thing_us` is "some thing, µs".
fn with_unit(name: &str) -> String {
    let units = [
        ("_us", "µs"),
        ("_ms", "ms"),
        ("_ns", "ns"),
        ("_percent", "%"),
        ("_bytes", "bytes"),
        ("_per_s", "/s"),
    ];
    let found = units.into_iter().find_map(|(ending, unit)| Some((name.strip_suffix(ending)?, unit)));
    match found {
        Some((stem, unit)) => format!("{}, {unit}", stem.replace('_', " ")),
        None => name.replace('_', " "),
    }
}

/// A parameter's value in a table.
pub(super) fn parameter(name: &str, value: u64) -> String {
    match name {
        "payload_bytes" => bytes(value as f64),
        _ => units::precise(value as f64),
    }
}

/// A figure in a table.
pub(super) fn figure(name: &str, value: f64) -> String {
    match name {
        "keeps_up" => if value == 0.0 { "no" } else { "yes" }.to_owned(),
        _ if name.ends_with("_bytes") => bytes(value),
        _ => units::precise(value),
    }
}

/// A parameter in a sentence or beside a line: "64 B", "window 256", "2 workers".
pub(super) fn described(name: &str, value: u64) -> String {
    let text = count(value as f64);
    let many = if value == 1 { "" } else { "s" };
    match name {
        "payload_bytes" => bytes(value as f64),
        "window" => format!("window {text}"),
        "threads" => format!("{text} calling thread{many}"),
        "workers" => format!("{text} worker{many}"),
        "stages" => format!("{text} stage{many}"),
        "members" => format!("{text} member{many}"),
        "batch_size" => format!("batch size {text}"),
        "rate_per_s" => format!("{text}/s"),
        "spin_us" => format!("spin {text} µs"),
        _ => format!("{} {text}", name.replace('_', " ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_are_still_readable() {
        assert_eq!(heading("some_cpu_percent"), "some cpu, %");
        assert_eq!(heading("rounds"), "rounds");
        assert_eq!(described("threads", 1), "1 calling thread");
        assert_eq!(described("rate_per_s", 10_000), "10k/s");
        assert_eq!(parameter("window", 65_536), "65,536");
        assert_eq!(figure("segment_bytes", 1_048_576.0), "1 MiB");
    }
}
