//! Which levels of load are tried, one after the other. Pure.

/// From a first level to a last one, in steps: `START`, `START:END` or `START:END:STEP`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Range {
    pub(crate) start: f64,
    pub(crate) end: f64,
    pub(crate) step: f64,
}

impl std::str::FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| match part.parse::<f64>() {
            Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
            _ => Err(format!("{part:?} is no number above 0")),
        };
        let parts = text.split(':').map(number).collect::<Result<Vec<_>, _>>()?;
        let (start, end, step) = match parts[..] {
            [start] => (start, start, 1.0),
            [start, end] => (start, end, 1.0),
            [start, end, step] => (start, end, step),
            _ => return Err("it is START, START:END or START:END:STEP".into()),
        };
        match end >= start {
            true => Ok(Self { start, end, step }),
            false => Err(format!("its end, {end}, is below its start, {start}")),
        }
    }
}

/// What was seen at a level, as far as the next one depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Within the latency threshold, or there is none.
    Within,
    /// Above it, or the server did not keep up.
    Above,
}

/// The levels to be tried.
#[derive(Debug)]
pub(crate) enum Search {
    /// Each of the range, up to the first that is above the threshold.
    Linear { range: Range, next: f64 },
    /// The highest within the threshold, to within a step.
    Binary { within: Option<f64>, above: Option<f64>, range: Range },
}

impl Search {
    pub(crate) fn new(range: Range, is_binary: bool) -> Self {
        match is_binary {
            true => Self::Binary { within: None, above: None, range },
            false => Self::Linear { range, next: range.start },
        }
    }

    /// The level to try now; none: all that are to be tried have been.
    pub(crate) fn next(&self) -> Option<f64> {
        match *self {
            Self::Linear { range, next } => (next <= range.end * (1.0 + 1e-9)).then_some(next),
            // The ends first: what lies between them is searched only if it lies between them.
            Self::Binary { within: None, above: None, range } => Some(range.start),
            Self::Binary { within: None, above: Some(_), .. } => None,
            Self::Binary { within: Some(within), above: None, range } => {
                (within < range.end).then_some(range.end)
            }
            Self::Binary { within: Some(within), above: Some(above), range } => {
                // A whole number of steps above the start.
                let middle = (within + above) / 2.0;
                let steps = ((middle - range.start) / range.step).round();
                let level = range.start + steps * range.step;
                (level > within && level < above).then_some(level)
            }
        }
    }

    /// What was seen at the level that [`next`](Self::next) named.
    pub(crate) fn saw(&mut self, level: f64, outcome: Outcome) {
        match (self, outcome) {
            (Self::Linear { range, next }, Outcome::Within) => *next = level + range.step,
            (Self::Linear { next, .. }, Outcome::Above) => *next = f64::INFINITY,
            (Self::Binary { within, .. }, Outcome::Within) => *within = Some(level),
            (Self::Binary { above, .. }, Outcome::Above) => *above = Some(level),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The levels that are tried if those up to `highest` are within the threshold.
    fn tried(range: &str, is_binary: bool, highest: f64) -> Vec<f64> {
        let mut search = Search::new(range.parse().unwrap(), is_binary);
        let mut all = Vec::new();
        while let Some(level) = search.next() {
            assert!(all.len() < 64, "{all:?}");
            all.push(level);
            search.saw(level, if level <= highest { Outcome::Within } else { Outcome::Above });
        }
        all
    }

    #[test]
    fn a_range_is_tried_up_to_the_first_level_above_the_threshold() {
        assert_eq!(tried("1:4", false, 9.0), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(tried("1:9:4", false, 2.0), [1.0, 5.0]);
        assert_eq!(tried("7", false, 1.0), [7.0]);
    }

    #[test]
    fn a_binary_search_ends_at_the_highest_level_within_the_threshold() {
        assert_eq!(tried("100:1000:100", true, 5000.0), [100.0, 1000.0]);
        assert_eq!(tried("100:1000:100", true, 50.0), [100.0]);
        for highest in [100, 150, 200, 550, 900, 999] {
            let all = tried("100:1000:100", true, highest.into());
            let best = all.iter().copied().filter(|&level| level <= highest.into()).fold(0.0, f64::max);
            assert_eq!(best, f64::from(highest / 100 * 100), "{all:?}");
            assert!(all.len() <= 6, "{all:?}");
        }
        assert_eq!(tried("3:3", true, 9.0), [3.0]);
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for wrong in ["", "0", "-1", "1:", "5:1", "1:2:0", "1:2:3:4", "a", "inf", "NaN"] {
            assert!(wrong.parse::<Range>().is_err(), "{wrong}");
        }
    }
}
