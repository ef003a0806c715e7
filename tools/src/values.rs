//! Values of the command line that several commands take.

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

/// A time that is not so short that the tool would only look.
pub(crate) fn period(text: &str) -> Result<Duration, String> {
    const LEAST: Duration = Duration::from_millis(10);
    match humantime::parse_duration(text) {
        Ok(period) if period >= LEAST => Ok(period),
        Ok(_) => Err(format!("it must be at least {LEAST:?}")),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(feature = "bench")]
pub(crate) fn up_to_an_hour(text: &str) -> Result<Duration, String> {
    const MOST: Duration = Duration::from_secs(3600);
    match humantime::parse_duration(text) {
        Ok(time) if time <= MOST => Ok(time),
        Ok(_) => Err("it must be at most an hour".into()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(feature = "bench")]
pub(crate) fn up_to<const MOST: usize>(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..) if number <= MOST => Ok(number),
        _ => Err(format!("1 to {MOST} are allowed")),
    }
}
