//! Payloads, error records, and the texts that tell a worker's process what to be.

use ringmill::__private::hostile;
use ringmill::Payload;
use ringmill::error::RemoteError;
use ringmill_shm::segment::Location;

/// Bytes as payloads of many types, chosen by the first byte: a value that is read can be printed, compared with a second
/// reading, and dropped.
pub fn payload(input: &[u8]) {
    is_payload(input);
}

/// [`payload`]; whether a value was read.
pub fn is_payload(input: &[u8]) -> bool {
    type Ok64 = Result<Box<u64>, Box<RemoteError>>;
    let Some((kind, bytes)) = input.split_first() else { return false };
    match kind % 10 {
        0 => read::<u64>(bytes),
        1 => read::<String>(bytes),
        2 => read::<Vec<String>>(bytes),
        3 => read::<Vec<Option<Box<(u8, String)>>>>(bytes),
        4 => read::<(Box<u64>, Box<String>)>(bytes),
        5 => read::<Vec<Box<String>>>(bytes),
        6 => read::<(Ok64, Ok64)>(bytes),
        7 => read::<Vec<Ok64>>(bytes),
        8 => read::<(char, bool, [i16; 3], Option<f32>)>(bytes),
        _ => record(bytes),
    }
}

fn read<T: Payload + std::fmt::Debug>(bytes: &[u8]) -> bool {
    match hostile::read::<T>(bytes) {
        Ok(value) => {
            let again = hostile::read::<T>(bytes).expect("it was read before");
            assert_eq!(format!("{value:?}"), format!("{again:?}"));
            true
        }
        Err(message) => {
            assert!(!message.is_empty());
            false
        }
    }
}

/// Bytes as an error record: printed, shortened until nothing is left, each time written and read again.
fn record(bytes: &[u8]) -> bool {
    let Ok(error) = hostile::read::<RemoteError>(bytes) else { return false };
    let _ = (error.to_string(), format!("{error:#}"), format!("{error:?}"));
    let steps = hostile::shorten_to_the_end(error);
    assert!(steps <= 64 + bytes.len(), "{steps} steps for {} bytes", bytes.len());
    true
}

/// What a text was read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    /// A worker's order.
    pub order: bool,
    /// A segment's location.
    pub location: bool,
    /// The message of a worker that could not start.
    pub message: bool,
    /// An event of a worker.
    pub event: bool,
}

/// Bytes as a worker's order, as a segment's location, as the message of a worker that could not start, and as an event.
pub fn text(input: &[u8]) {
    read_text(input);
}

/// [`text`]; what the bytes were read as.
pub fn read_text(input: &[u8]) -> Read {
    let text = String::from_utf8_lossy(input);
    let order = hostile::order(&text);
    let location = Location::parse(&text);
    if let Ok(location) = &location {
        let again = Location::parse(&location.to_text());
        assert!(again.is_ok() || location.to_text() != text, "{location:?}");
        let _ = (location.path(), location.lease_path());
    }
    let (message, event) = (hostile::boot_message(input).is_some(), hostile::event(input));
    Read { order, location: location.is_ok(), message, event }
}
