//! The table of deaths by point and role.

use ringmill_shm::crash::Point;
use std::collections::BTreeMap;
use std::fmt;

/// All crash points with their numbers.
pub(crate) fn points() -> impl Iterator<Item = (usize, &'static Point)> {
    ringmill_shm::crash::POINTS.iter().chain(&ringmill::crash::POINTS).enumerate()
}

pub(crate) fn number(name: &str) -> usize {
    points().find(|(_, point)| point.name == name).expect("a point's name").0
}

pub(crate) fn name(number: usize) -> &'static str {
    points().nth(number).expect("a point's number").1.name
}

/// Reports a line of a lane; the driver reads its standard output.
pub(crate) fn tell_killed(point: usize, role: &str, what_then: &str) {
    println!("killed\t{point}\t{role}\t{what_then}");
}

/// Reports the points that were passed.
pub(crate) fn tell_passed(point: usize, role: &str, times: u64) {
    println!("passed\t{point}\t{role}\t{times}");
}

#[derive(Debug, Default)]
struct Row {
    passed: u64,
    killed: u64,
    what_then: String,
}

/// All that lanes have said.
#[derive(Debug, Default)]
pub(crate) struct Report(BTreeMap<(usize, String), Row>);

impl Report {
    pub(crate) fn read(&mut self, text: &str) {
        for line in text.lines() {
            let words: Vec<&str> = line.split('\t').collect();
            let ["killed" | "passed", point, role, rest] = words[..] else { continue };
            let row = self.0.entry((point.parse().expect("a number"), role.into())).or_default();
            if words[0] == "killed" {
                row.killed += 1;
                if !row.what_then.contains(rest) {
                    let comma = if row.what_then.is_empty() { "" } else { ", " };
                    row.what_then += &format!("{comma}{rest}");
                }
            } else {
                row.passed += rest.parse::<u64>().expect("a number");
            }
        }
    }

    /// The points without a death.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        let killed = |number| self.0.iter().any(|((point, _), row)| *point == number && row.killed > 0);
        points().filter(|(number, _)| !killed(*number)).map(|(_, point)| point.name).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:26} {:28} {:>9} {:>6}  then", "point", "role", "passed", "killed")?;
        for ((point, role), row) in &self.0 {
            let Row { passed, killed, what_then } = row;
            writeln!(f, "{:26} {role:28} {passed:>9} {killed:>6}  {what_then}", name(*point))?;
        }
        let killed: u64 = self.0.values().map(|row| row.killed).sum();
        let pairs = self.0.values().filter(|row| row.killed > 0).count();
        write!(f, "{killed} deaths, {pairs} of point and role, at {} points", points().count())
    }
}
