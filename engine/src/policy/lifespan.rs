//! After what a worker that works well is replaced all the same: requests, age, memory. Pure, no clock inside.

use crate::error::StartError;
use std::time::Duration;

/// Up to which part of a limit an incarnation may leave early.
const JITTER: u64 = 10;

/// The limits of a servlet's workers, as the user states them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Lifespan {
    pub(crate) max_requests: Option<u64>,
    pub(crate) max_lifetime: Option<Duration>,
    /// Of what the process has for itself, in bytes.
    pub(crate) max_rss: Option<u64>,
}

/// The limits of one incarnation: those of its servlet, less a random part, so that workers that were started together
/// do not leave together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Span {
    pub(crate) requests: Option<u64>,
    pub(crate) lifetime: Option<Duration>,
}

impl Lifespan {
    /// # Errors
    /// A limit of zero.
    pub(crate) fn check(&self, servlet: &str) -> Result<(), StartError> {
        let lifetime_is_zero = self.max_lifetime.is_some_and(|limit| limit.is_zero());
        let what = match self {
            Self { max_requests: Some(0), .. } => "max_requests",
            Self { max_rss: Some(0), .. } => "max_rss in bytes",
            _ if lifetime_is_zero => "max_lifetime in nanoseconds",
            _ => return Ok(()),
        };
        Err(StartError::Range { servlet: Some(servlet.into()), what, value: 0, least: 1, most: u64::MAX })
    }

    /// The limits of an incarnation, by a random number.
    pub(crate) fn draw(&self, random: u64) -> Span {
        let requests = self.max_requests.map(|limit| limit - below(limit / JITTER + 1, random));
        let lifetime = self.max_lifetime.map(|limit| {
            let part_ns = u64::try_from((limit / JITTER as u32).as_nanos()).unwrap_or(u64::MAX);
            limit.saturating_sub(Duration::from_nanos(below(part_ns.max(1), random)))
        });
        Span { requests, lifetime }
    }
}

/// A number below `end`, as random as `random` is.
fn below(end: u64, random: u64) -> u64 {
    ((u128::from(end) * u128::from(random)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incarnation_leaves_at_most_a_tenth_early() {
        let of = |max_requests, seconds| Lifespan {
            max_requests: Some(max_requests),
            max_lifetime: Some(Duration::from_secs(seconds)),
            max_rss: None,
        };
        let span = |lifespan: Lifespan, random| {
            let Span { requests, lifetime } = lifespan.draw(random);
            (requests.unwrap(), lifetime.unwrap())
        };
        assert_eq!(span(of(1000, 60), 0), (1000, Duration::from_secs(60)));
        let (requests, lifetime) = span(of(1000, 60), u64::MAX);
        assert_eq!(requests, 900);
        assert!((54.0..54.1).contains(&lifetime.as_secs_f64()), "{lifetime:?}");
        for random in [0, 1 << 63, u64::MAX] {
            assert_eq!(span(of(1, 60), random).0, 1, "a small number is exact");
            assert_eq!(span(of(9, 60), random).0, 9);
            let (requests, lifetime) = span(of(u64::MAX, u64::MAX), random);
            assert!(requests >= u64::MAX / 10 * 9 && lifetime.as_secs() >= u64::MAX / 10 * 9);
        }
        assert_eq!(Lifespan::default().draw(7), Span::default());
    }

    #[test]
    fn a_limit_of_zero_is_refused() {
        let refused = |lifespan: Lifespan| lifespan.check("s").unwrap_err().to_string();
        let none = Lifespan::default();
        assert!(none.check("s").is_ok());
        assert!(refused(Lifespan { max_requests: Some(0), ..none }).contains("max_requests"));
        assert!(refused(Lifespan { max_rss: Some(0), ..none }).contains("max_rss"));
        assert!(refused(Lifespan { max_lifetime: Some(Duration::ZERO), ..none }).contains("max_lifetime"));
    }
}
