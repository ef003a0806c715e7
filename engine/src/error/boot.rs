//! The message that a worker leaves when it could not start, or gives up.

use super::RemoteError;
use crate::wire::{from_bytes, to_bytes};
use ringmill_shm::participant::MESSAGE_BYTES;

/// The message of a worker that could not start, or gave up, which stands in its row: a line for people, a zero byte,
/// and the error record.
pub(crate) fn write(error: &RemoteError) -> Vec<u8> {
    let mut error = error.clone();
    loop {
        let mut message = error.cause.to_string().into_bytes();
        message.truncate(256);
        message.push(0);
        if let Ok(record) = to_bytes(&error) {
            message.extend(record);
        }
        if message.len() <= MESSAGE_BYTES || !error.shorten() {
            return message;
        }
    }
}

/// Reads the error record of a boot message.
pub(crate) fn read(message: &[u8]) -> Option<RemoteError> {
    let record = message.splitn(2, |&b| b == 0).nth(1)?;
    from_bytes(record).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{FailureDetails, RemoteCause};

    #[test]
    fn a_boot_message_fits_and_comes_back() {
        let long = "w".repeat(5_000);
        let messages = vec!["no model".to_string(), long.clone()];
        let cause = RemoteCause::Failed {
            invalid: false,
            type_name: "app::E".into(),
            messages,
            details: Some(Box::new(FailureDetails {
                backtrace: Some(long),
                attachment: Some(vec![1; 5_000]),
            })),
        };
        let error = RemoteError { servlet: "s".into(), worker: 2, pid: 1, attempt: 0, cause };
        let message = write(&error);
        assert!(message.len() <= MESSAGE_BYTES);
        let back = read(&message).unwrap();
        assert_eq!((back.worker, back.servlet.as_str()), (2, "s"));
        assert!(back.to_string().contains("no model"), "{back}");
        assert_eq!(read(b"no zero byte"), None);
        assert_eq!(read(b"x\0garbage"), None);
    }
}
