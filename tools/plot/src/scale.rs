//! Axes: from figures to positions, and which positions are named. Pure.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

use crate::units;

/// One axis.
#[derive(Clone, Debug)]
pub struct Scale {
    logarithmic: bool,
    low: f64,
    high: f64,
    ticks: Vec<Tick>,
}

/// A position of an axis that has a name.
#[derive(Clone, Debug, PartialEq)]
pub struct Tick {
    /// Where.
    pub at: f64,
    /// Its name.
    pub name: String,
}

/// How a figure is written beside an axis.
pub type Name = fn(f64) -> String;

/// More of them stand too close in a picture of the usual size.
pub const TICKS: usize = 9;
/// No two ticks of chosen figures are nearer, in parts of the axis.
const CLOSEST: f64 = 0.06;

/// No axis ends below it: what divides a smaller one is zero.
const SMALLEST: f64 = 1e-300;

/// Factors within a decade, from the finest grid to the coarsest.
const GRIDS: [&[f64]; 4] = [&[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0], &[1.0, 2.0, 5.0], &[1.0, 3.0], &[1.0]];

impl Scale {
    /// A logarithmic axis from a bit below the smallest figure to a bit above the largest, with ticks at round
    /// numbers. Figures that have no logarithm are left out; `None` if none is left.
    #[must_use]
    pub fn logarithmic(figures: impl IntoIterator<Item = f64>, name: Name) -> Option<Self> {
        Self::logarithmic_of(TICKS, figures, name)
    }

    /// As [`logarithmic`](Self::logarithmic), with at most `ticks` ticks.
    #[must_use]
    pub fn logarithmic_of(ticks: usize, figures: impl IntoIterator<Item = f64>, name: Name) -> Option<Self> {
        let (low, high) = logarithmic_extent(figures)?;
        let inside = |grid: &[f64]| -> Vec<f64> {
            let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
            decades
                .flat_map(|decade| grid.iter().map(move |factor| factor * 10f64.powi(decade)))
                .filter(|at| (low..=high).contains(at))
                .collect()
        };
        let at = GRIDS.into_iter().map(inside).find(|at| at.len() <= ticks);
        Some(Self::new(true, low, high, at.unwrap_or_else(|| inside(&[1.0])), name))
    }

    /// A logarithmic axis with ticks at powers of two: for bytes.
    #[must_use]
    pub fn binary(figures: impl IntoIterator<Item = f64>, name: Name) -> Option<Self> {
        let (low, high) = logarithmic_extent(figures)?;
        let (first, last) = (low.log2().ceil() as i32, high.log2().floor() as i32);
        let step = usize::try_from(last - first).unwrap_or_default() / TICKS + 1;
        let at = (first..=last).step_by(step).map(|power| 2f64.powi(power)).collect();
        Some(Self::new(true, low, high, at, name))
    }

    /// An even axis from zero to a bit above the largest figure, with ticks at round numbers; `None` if there is
    /// no figure.
    #[must_use]
    pub fn from_zero(figures: impl IntoIterator<Item = f64>, name: Name) -> Option<Self> {
        let (_, high) = extent(figures)?;
        let high = if high > 0.0 { (high * 1.08).clamp(SMALLEST, f64::MAX) } else { 1.0 };
        let decade = 10f64.powf(high.log10().floor());
        let steps = [0.1, 0.2, 0.25, 0.5, 1.0, 2.0];
        let step = steps.into_iter().map(|step| step * decade).find(|step| high / step <= 6.0);
        let step = step.unwrap_or(5.0 * decade);
        let at = (0..).map(|count| f64::from(count) * step).take_while(|at| *at <= high).collect();
        Some(Self::new(false, 0.0, high, at, name))
    }

    /// An even axis from zero to so many seconds, with ticks at round times; `None` if that is no time.
    #[must_use]
    pub fn seconds(high: f64) -> Option<Self> {
        const STEPS: [f64; 15] =
            [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0];
        if !(high.is_finite() && high > 0.0) {
            return None;
        }
        let step = STEPS.into_iter().find(|step| high / step <= TICKS as f64);
        let step = step.unwrap_or_else(|| (high / TICKS as f64 / 86_400.0).ceil() * 86_400.0);
        let at = (0..).map(|count| f64::from(count) * step).take_while(|at| *at <= high).collect();
        Some(Self::new(false, 0.0, high, at, units::seconds))
    }

    /// An axis whose ticks are the figures themselves: for what was chosen, not measured. Logarithmic if they
    /// span more than a factor of four.
    #[must_use]
    pub fn at(figures: impl IntoIterator<Item = f64>, name: Name) -> Option<Self> {
        Self::chosen(figures, name, |low, high| low > 0.0 && high > 4.0 * low)
    }

    /// As [`at`](Self::at), always with even distances.
    #[must_use]
    pub fn at_even(figures: impl IntoIterator<Item = f64>, name: Name) -> Option<Self> {
        Self::chosen(figures, name, |_, _| false)
    }

    fn chosen(
        figures: impl IntoIterator<Item = f64>,
        name: Name,
        is_logarithmic: impl Fn(f64, f64) -> bool,
    ) -> Option<Self> {
        let mut at: Vec<f64> = figures.into_iter().filter(|figure| figure.is_finite()).collect();
        at.sort_by(f64::total_cmp);
        at.dedup();
        let (&low, &high) = (at.first()?, at.last()?);
        let logarithmic = is_logarithmic(low, high);
        let spare = if low < high { 0.0 } else { 0.5 };
        let step = at.len().div_ceil(TICKS);
        let at = at.into_iter().step_by(step).collect();
        let mut scale = Self::new(logarithmic, low - spare, high + spare, at, name);
        scale.thin_out();
        Some(scale)
    }

    /// Of ticks whose names would overlap, the larger remains.
    fn thin_out(&mut self) {
        let mut next = f64::INFINITY;
        let positions: Vec<f64> = self.ticks.iter().map(|tick| self.position(tick.at)).collect();
        for (index, position) in positions.into_iter().enumerate().rev() {
            if next - position < CLOSEST {
                self.ticks.remove(index);
            } else {
                next = position;
            }
        }
    }

    /// For `count` rows, the first one at the top: row `n` lies at `n`, and has a tick without a name.
    #[must_use]
    pub fn rows(count: usize) -> Self {
        let at = (0..count).map(|row| row as f64).collect();
        Self::new(false, count as f64 - 0.5, -0.5, at, |_| String::new())
    }

    fn new(logarithmic: bool, low: f64, high: f64, at: Vec<f64>, name: Name) -> Self {
        let ticks = at.into_iter().map(|at| Tick { at, name: name(at) }).collect();
        Self { logarithmic, low, high, ticks }
    }

    /// The borders.
    #[must_use]
    pub fn ends(&self) -> (f64, f64) {
        (self.low, self.high)
    }

    /// Where `figure` lies: 0 at the axis' begin, 1 at its end. What lies outside is put at the nearer one.
    #[must_use]
    pub fn position(&self, figure: f64) -> f64 {
        let position = |figure: f64| if self.logarithmic { figure.ln() } else { figure };
        let (low, high) = (position(self.low), position(self.high));
        ((position(figure) - low) / (high - low)).clamp(0.0, 1.0)
    }

    /// The positions that have names.
    #[must_use]
    pub fn ticks(&self) -> &[Tick] {
        &self.ticks
    }
}

impl Ranged for Scale {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, figure: &f64, (from, to): (i32, i32)) -> i32 {
        from + (self.position(*figure) * f64::from(to - from)).round() as i32
    }

    /// The ticks; nothing between them.
    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        match hint.weight().allow_light_points() {
            true => Vec::new(),
            false => self.ticks.iter().map(|tick| tick.at).collect(),
        }
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Scale {
    fn format(figure: &f64) -> String {
        units::count(*figure)
    }

    fn format_ext(&self, figure: &f64) -> String {
        let tick = self.ticks.iter().find(|tick| tick.at == *figure);
        tick.map(|tick| tick.name.clone()).unwrap_or_default()
    }
}

/// From a bit below the smallest figure that has a logarithm to a bit above the largest; at least half a decade, so
/// that two figures that are nearly the same look it.
fn logarithmic_extent(figures: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    let (low, high) = extent(figures.into_iter().filter(|figure| *figure > 0.0))?;
    let low = (low / 1.25).max(SMALLEST);
    Some((low, (high.max(low * 3.0) * 1.25).min(f64::MAX)))
}

fn extent(figures: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    let finite = figures.into_iter().filter(|figure| figure.is_finite());
    finite.fold(None, |extent, figure| match extent {
        None => Some((figure, figure)),
        Some((low, high)) => Some((f64::min(low, figure), f64::max(high, figure))),
    })
}

/// An axis without figures, for what has no rows.
impl Default for Scale {
    fn default() -> Self {
        Self::new(false, 0.0, 1.0, Vec::new(), units::count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(scale: &Scale) -> Vec<&str> {
        scale.ticks().iter().map(|tick| tick.name.as_str()).collect()
    }

    /// Symptom: an axis to 5e-324 had ticks without end. Cause: their step was zero. Fix: axes have a least end.
    #[test]
    fn axes_of_the_least_and_the_greatest_figures_end() {
        for figure in [5e-324, f64::MIN_POSITIVE, f64::MAX] {
            for scale in
                [Scale::from_zero([figure], units::count), Scale::logarithmic([figure], units::count)]
            {
                let scale = scale.unwrap();
                let (low, high) = scale.ends();
                assert!(
                    low < high && high.is_finite() && scale.ticks().len() <= TICKS,
                    "{figure}: {scale:?}"
                );
                assert!((0.0..=1.0).contains(&scale.position(figure)), "{figure}: {scale:?}");
            }
        }
    }

    #[test]
    fn windows_are_named_as_they_were_chosen() {
        let windows = [16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0];
        let scale = Scale::at(windows, units::count).unwrap();
        assert_eq!(names(&scale), ["16", "64", "256", "1024", "4096", "16384", "65536"]);
        assert_eq!((scale.position(16.0), scale.position(65536.0)), (0.0, 1.0));
        assert!((scale.position(1024.0) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn of_two_that_are_too_near_one_is_named() {
        let scale = Scale::at([4.0, 4096.0, 10_923.0, 16_384.0, 65_536.0], units::count).unwrap();
        assert_eq!(names(&scale), ["4", "4096", "16384", "65536"]);
    }

    #[test]
    fn a_single_place_is_in_the_middle() {
        let scale = Scale::at([8.0], units::count).unwrap();
        assert_eq!((scale.position(8.0), names(&scale)), (0.5, vec!["8"]));
    }

    #[test]
    fn many_places_are_thinned_out() {
        let scale = Scale::at((1..=40).map(f64::from), units::count).unwrap();
        assert!(scale.ticks().len() <= TICKS && names(&scale)[0] == "1", "{scale:?}");
    }

    #[test]
    fn logarithmic_ticks_are_round_and_few() {
        let scale = Scale::logarithmic([2.1, 31.0], units::count).unwrap();
        assert_eq!(names(&scale), ["2", "3", "4", "5", "7", "10", "15", "20", "30"]);
        let scale = Scale::logarithmic([2.1, 91.0], units::count).unwrap();
        assert_eq!(names(&scale), ["2", "5", "10", "20", "50", "100"]);
        let scale = Scale::logarithmic([0.15, 1_800.0], units::count).unwrap();
        assert_eq!(names(&scale), ["0.3", "1", "3", "10", "30", "100", "300", "1k"]);
        let scale = Scale::logarithmic([1.0, 3e8], units::count).unwrap();
        assert_eq!(names(&scale)[..4], ["1", "10", "100", "1k"]);
        assert!(scale.position(1.0) > 0.0 && scale.position(3e8) < 1.0);
    }

    #[test]
    fn bytes_have_ticks_at_powers_of_two() {
        let scale = Scale::binary([260.0, 5_000.0], units::bytes).unwrap();
        assert_eq!(names(&scale), ["256 B", "512 B", "1 KiB", "2 KiB", "4 KiB"]);
        let scale = Scale::binary([64.0, 1e9], units::bytes).unwrap();
        assert_eq!(names(&scale)[..3], ["64 B", "512 B", "4 KiB"]);
        assert!(scale.ticks().len() <= TICKS);
    }

    #[test]
    fn even_axes_begin_at_zero() {
        let scale = Scale::from_zero([0.4, 97.0], units::count).unwrap();
        assert_eq!(names(&scale), ["0", "20", "40", "60", "80", "100"]);
        assert_eq!(scale.position(0.0), 0.0);
        assert_eq!(names(&Scale::from_zero([0.0], units::count).unwrap())[0], "0");
    }

    #[test]
    fn times_have_ticks_at_round_ones() {
        assert_eq!(names(&Scale::seconds(50.0).unwrap()), ["0", "10 s", "20 s", "30 s", "40 s", "50 s"]);
        assert_eq!(names(&Scale::seconds(0.35).unwrap())[..3], ["0", "0.1 s", "0.2 s"]);
        assert_eq!(names(&Scale::seconds(3_700.0).unwrap())[5..], ["50 min", "1 h"]);
        assert_eq!(names(&Scale::seconds(5_500.0).unwrap())[3], "1 h 30");
        assert!(Scale::seconds(1e9).unwrap().ticks().len() <= TICKS + 1);
        assert!(Scale::seconds(0.0).is_none() && Scale::seconds(f64::NAN).is_none());
    }

    #[test]
    fn figures_that_are_none_make_no_axis() {
        assert!(Scale::logarithmic([0.0, -1.0, f64::NAN], units::count).is_none());
        assert!(Scale::from_zero([], units::count).is_none());
        assert!(Scale::at([f64::INFINITY], units::count).is_none());
    }
}
