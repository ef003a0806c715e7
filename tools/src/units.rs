//! Times, CPUs and counts in words.

use std::time::{SystemTime, UNIX_EPOCH};

/// `3725` → `1 h 2 min`: the two largest units.
pub(crate) fn age(seconds: u64) -> String {
    let (s, min, h, d) = (seconds % 60, seconds / 60 % 60, seconds / 3600 % 24, seconds / 86_400);
    let two = |large: u64, large_unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large} {large_unit}"),
        _ => format!("{large} {large_unit} {small} {small_unit}"),
    };
    match (d, h, min) {
        (0, 0, 0) => format!("{s} s"),
        (0, 0, _) => two(min, "min", s, "s"),
        (0, _, _) => two(h, "h", min, "min"),
        (_, _, _) => two(d, "d", h, "h"),
    }
}

/// `0.0123` → `12.3 ms`, `133.0` → `2 min 13 s`, with a sign if it is negative.
pub(crate) fn seconds(seconds: f64) -> String {
    let text = match seconds.abs() {
        s if s < 1e-3 => format!("{:.0} µs", s * 1e6),
        s if s < 1.0 => format!("{:.1} ms", s * 1e3),
        s if s < 60.0 => format!("{s:.1} s"),
        s => age(s as u64),
    };
    if seconds < 0.0 { format!("-{text}") } else { text }
}

/// `812` → `812 ns`, `1_234_567` → `1.23 ms`: three digits.
pub(crate) fn nanoseconds(ns: f64) -> String {
    let in_unit = |size: f64, unit: &str| {
        let value = ns / size;
        let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
        format!("{value:.decimals$} {unit}")
    };
    match ns {
        ns if ns < 999.5 => format!("{ns:.0} ns"),
        ns if ns < 999.5e3 => in_unit(1e3, "µs"),
        ns if ns < 999.5e6 => in_unit(1e6, "ms"),
        ns if ns < 60e9 => in_unit(1e9, "s"),
        ns => age((ns / 1e9) as u64),
    }
}

/// `1234567` → `1,234,567`.
pub(crate) fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number a second: `0.25`, `3.1`, `1,234`.
pub(crate) fn rate(per_s: f64) -> String {
    match per_s {
        0.0 => "0".into(),
        r if r < 0.995 => format!("{r:.2}"),
        r if r < 9.95 => format!("{r:.1}"),
        r => number(r.round() as u64),
    }
}

/// `200_000` → `200 µs`; 0 → `none`.
pub(crate) fn wait(ns: u64) -> String {
    let in_unit = |size: u64, unit: &str| {
        let text = format!("{:.3}", ns as f64 / size as f64);
        format!("{} {unit}", text.trim_end_matches('0').trim_end_matches('.'))
    };
    match ns {
        0 => "none".into(),
        1..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => in_unit(1_000, "µs"),
        1_000_000..1_000_000_000 => in_unit(1_000_000, "ms"),
        _ => in_unit(1_000_000_000, "s"),
    }
}

/// `[0, 1, 2, 5]` → `0-2,5`; none → `any`. The numbers ascend.
pub(crate) fn cpus(cpus: &[usize]) -> String {
    if cpus.is_empty() { "any".into() } else { ranges(cpus.iter().map(|&cpu| cpu as u64), usize::MAX) }
}

/// `[0, 1, 2, 5]` → `0-2,5`; more than `limit` ranges → `0-2,...`. The numbers ascend.
pub(crate) fn ranges(numbers: impl IntoIterator<Item = u64>, limit: usize) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let text = |&(first, last)| if first == last { format!("{first}") } else { format!("{first}-{last}") };
    let mut texts: Vec<_> = ranges.iter().take(limit).map(text).collect();
    texts.extend((ranges.len() > limit).then(|| "...".into()));
    texts.join(",")
}

/// `(1, "segment")` → `1 segment`; `(3, "segment")` → `3 segments`.
pub(crate) fn count(n: usize, thing: &str) -> String {
    format!("{n} {thing}{}", if n == 1 { "" } else { "s" })
}

/// Seconds since 1970.
pub(crate) fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// The name of a user, if the machine's own list has it.
pub(crate) fn user_name(user_id: u32) -> Option<String> {
    name_in(&std::fs::read_to_string("/etc/passwd").ok()?, user_id)
}

fn name_in(passwd: &str, user_id: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(user_id)).then(|| name.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_two_units_at_most() {
        let cases = [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (133, "2 min 13 s"),
            (3600, "1 h"),
            (3725, "1 h 2 min"),
            (86_399, "23 h 59 min"),
            (90_061, "1 d 1 h"),
        ];
        for (seconds, text) in cases {
            assert_eq!(age(seconds), text);
        }
    }

    #[test]
    fn seconds_are_in_the_unit_that_fits() {
        let cases = [
            (0.0, "0 µs"),
            (0.000_25, "250 µs"),
            (0.012_34, "12.3 ms"),
            (1.25, "1.2 s"),
            (-1.25, "-1.2 s"),
            (133.9, "2 min 13 s"),
            (1e18, "11574074074074 d 1 h"),
        ];
        for (number, text) in cases {
            assert_eq!(seconds(number), text);
        }
    }

    #[test]
    fn waits_are_in_the_unit_that_fits() {
        let cases = [
            (0, "none"),
            (999, "999 ns"),
            (200_000, "200 µs"),
            (1_500_000, "1.5 ms"),
            (10_000_000, "10 ms"),
            (2_000_000_000, "2 s"),
        ];
        for (ns, text) in cases {
            assert_eq!(wait(ns), text);
        }
    }

    #[test]
    fn numbers_are_easy_to_read() {
        for (ns, text) in [
            (0.0, "0 ns"),
            (812.4, "812 ns"),
            (999.6, "1.00 µs"),
            (12_345.0, "12.3 µs"),
            (123_456.0, "123 µs"),
            (1_234_567.0, "1.23 ms"),
            (2.5e9, "2.50 s"),
            (61e9, "1 min 1 s"),
        ] {
            assert_eq!(nanoseconds(ns), text);
        }
        let numbers = [0, 999, 1_000, 1_234_567].map(number);
        assert_eq!(numbers, ["0", "999", "1,000", "1,234,567"]);
        let rates = [0.0, 0.25, 3.12, 9.96, 1234.4].map(rate);
        assert_eq!(rates, ["0", "0.25", "3.1", "10", "1,234"]);
    }

    #[test]
    fn neighbouring_cpus_are_a_range() {
        assert_eq!(cpus(&[]), "any");
        assert_eq!(cpus(&[7]), "7");
        assert_eq!(cpus(&[0, 1, 2, 5, 8, 9]), "0-2,5,8-9");
        assert_eq!(ranges([0, 1, 2, 5, 8, 9], 2), "0-2,5,...");
    }

    #[test]
    fn users_are_found_by_their_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nada:x:1000:1000::/home/ada:/bin/sh\n";
        assert_eq!(name_in(passwd, 0).as_deref(), Some("root"));
        assert_eq!(name_in(passwd, 1000).as_deref(), Some("ada"));
        assert_eq!(name_in(passwd, 1), None);
    }
}
