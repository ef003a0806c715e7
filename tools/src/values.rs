//! Values of the command line that several commands take.

use clap::builder::{PathBufValueParser, TypedValueParser};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The segment that a command is about.
#[derive(Debug, clap::Args)]
pub(crate) struct SegmentArg {
    /// Its name; its path, if it has a slash; LABEL@PID, if it is anonymous.
    pub(crate) name: String,
}

impl From<&str> for SegmentArg {
    fn from(name: &str) -> Self {
        Self { name: name.into() }
    }
}

/// A time, such as `500ms` or `1min`; one that can be added to any instant.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    const MOST: Duration = Duration::from_secs(366 * 86_400);
    match humantime::parse_duration(text) {
        Ok(time) if time <= MOST => Ok(time),
        Ok(_) => Err("it must be at most 366 days".into()),
        Err(error) => Err(format!("{error}; it is a number with a unit, such as 500ms, 10s or 1min")),
    }
}

/// A time that is not so short that the tool would only look.
pub(crate) fn period(text: &str) -> Result<Duration, String> {
    const LEAST: Duration = Duration::from_millis(10);
    match time(text)? {
        period if period >= LEAST => Ok(period),
        _ => Err(format!("it must be at least {LEAST:?}")),
    }
}

#[cfg(feature = "bench")]
pub(crate) fn up_to_an_hour(text: &str) -> Result<Duration, String> {
    const MOST: Duration = Duration::from_secs(3600);
    match time(text)? {
        time if time <= MOST => Ok(time),
        _ => Err("it must be at most an hour".into()),
    }
}

/// The path of a file that is read or written.
pub(crate) fn file() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| match path == Path::new("-") {
        false => Ok(path),
        true => Err("it is the path of a file, and - is none; ./- is one"),
    })
}

#[cfg(feature = "bench")]
pub(crate) fn up_to<const MOST: usize>(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..) if number <= MOST => Ok(number),
        _ => Err(format!("1 to {MOST} are allowed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_limits() {
        assert_eq!(time("366d"), Ok(Duration::from_secs(366 * 86_400)));
        assert_eq!(time("367d"), Err("it must be at most 366 days".into()));
        assert_eq!(period("9ms"), Err("it must be at least 10ms".into()));
        for wrong in ["", "-1s", "1000000000000y", "soon"] {
            assert!(time(wrong).is_err() && period(wrong).is_err(), "{wrong}");
        }
    }
}
