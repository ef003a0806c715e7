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

impl Range {
    /// How many steps lie in it; a part of a step that only rounding left counts as a whole one, and one that rounding
    /// added as none.
    fn steps(self) -> f64 {
        let steps = (self.end - self.start) / self.step;
        if (steps - steps.round()).abs() < 1e-6 { steps.round() } else { steps }
    }

    /// The level so many steps above the start, the end at most.
    fn level(self, steps: u64) -> f64 {
        (self.start + steps as f64 * self.step).min(self.end)
    }

    /// How many levels a search through all of it tries.
    pub(crate) fn levels(self) -> f64 {
        self.steps().floor() + 1.0
    }
}

/// The levels to be tried, as numbers of steps above the start of a range.
#[derive(Debug)]
pub(crate) struct Search {
    range: Range,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// Each level, up to the first that is above the threshold.
    Linear { next: Option<u64> },
    /// The highest within the threshold, to within a step.
    Binary { within: Option<u64>, above: Option<u64> },
}

impl Search {
    pub(crate) fn new(range: Range, is_binary: bool) -> Self {
        let way = match is_binary {
            true => Way::Binary { within: None, above: None },
            false => Way::Linear { next: Some(0) },
        };
        Self { range, way }
    }

    fn next_steps(&self) -> Option<u64> {
        match self.way {
            Way::Linear { next } => next.filter(|&next| next as f64 <= self.range.steps()),
            // The ends first: what lies between them is searched only if it lies between them.
            Way::Binary { within: None, above: None } => Some(0),
            Way::Binary { within: None, above: Some(_) } => None,
            Way::Binary { within: Some(within), above: None } => {
                let end = self.range.steps().ceil() as u64;
                (within < end).then_some(end)
            }
            Way::Binary { within: Some(within), above: Some(above) } => {
                (above - within > 1).then_some(within + (above - within) / 2)
            }
        }
    }

    /// The level to try now; none: all that are to be tried have been.
    pub(crate) fn next(&self) -> Option<f64> {
        self.next_steps().map(|steps| self.range.level(steps))
    }

    /// What was seen at the level that [`next`](Self::next) names.
    pub(crate) fn saw(&mut self, outcome: Outcome) {
        let Some(steps) = self.next_steps() else { return };
        match (&mut self.way, outcome) {
            (Way::Linear { next }, Outcome::Within) => *next = Some(steps + 1),
            (Way::Linear { next }, Outcome::Above) => *next = None,
            (Way::Binary { within, .. }, Outcome::Within) => *within = Some(steps),
            (Way::Binary { above, .. }, Outcome::Above) => *above = Some(steps),
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
            search.saw(if level <= highest { Outcome::Within } else { Outcome::Above });
        }
        all
    }

    #[test]
    fn a_range_is_tried_up_to_the_first_level_above_the_threshold() {
        assert_eq!(tried("1:4", false, 9.0), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(tried("1:9:4", false, 2.0), [1.0, 5.0]);
        assert_eq!(tried("7", false, 1.0), [7.0]);
        assert_eq!(
            tried("0.1:0.7:0.2", false, 9.0).len(),
            4,
            "what rounding leaves of a step does not count"
        );
    }

    /// Symptom: one level was two, and many were one more. Cause: the end was compared with a part of itself to spare,
    /// which of large numbers is a step.
    #[test]
    fn large_numbers_have_as_many_levels_as_small_ones() {
        for is_binary in [false, true] {
            assert_eq!(tried("1000000000", is_binary, 1e300), [1e9]);
            assert_eq!(tried("1e15:1e15", is_binary, 1e300), [1e15]);
        }
        assert_eq!(tried("1000000000:1000000003", false, 1e300).len(), 4);
        assert_eq!("1000000000:1000000003".parse::<Range>().unwrap().levels(), 4.0);
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
