//! An event as a message over an event line: JSON, no longer than such a message may be.

use crate::text::one_line;
use ringmill_shm::sys::tether::MESSAGE_LIMIT;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

/// The longest target and source file, in bytes; a module's path may have any length.
const NAME_LIMIT: usize = 256;

/// An event, as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Message<'a> {
    /// 1 is an error, 5 a trace.
    level: u8,
    /// When it happened, in nanoseconds since 1970.
    pub(super) unix_ns: u64,
    pub(super) target: Cow<'a, str>,
    pub(super) file: Option<Cow<'a, str>>,
    pub(super) line: Option<u32>,
    /// Its message.
    pub(super) text: Cow<'a, str>,
    /// Its other fields, as `name=value name=value`.
    pub(super) fields: Cow<'a, str>,
}

const LEVELS: [Level; 5] = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];

/// The message and the other fields of an event, as text.
#[derive(Default)]
struct Texts {
    message: String,
    fields: String,
}

impl Visit for Texts {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => {
                let space = if self.fields.is_empty() { "" } else { " " };
                write!(self.fields, "{space}{name}={value:?}")
            }
        };
        let _ = written; // what was written before a `Debug` failed stays
    }
}

/// The beginning of a text, with an ellipsis if that is not all.
fn beginning(text: &str, bytes: usize) -> Cow<'_, str> {
    if text.len() <= bytes {
        return text.into();
    }
    let end = (0..=bytes).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    format!("{}…", &text[..end]).into()
}

/// An event of this process as a message; long texts are cut.
pub(super) fn of(event: &Event<'_>) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (mut texts, about) = (Texts::default(), event.metadata());
    event.record(&mut texts);
    let level = LEVELS.iter().position(|level| level == about.level()).map_or(5, |index| index as u8 + 1);
    let message = Message {
        level,
        unix_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
        target: about.target().into(),
        file: about.file().map(Cow::from),
        line: about.line(),
        text: texts.message.as_str().into(),
        fields: texts.fields.as_str().into(),
    };
    message.to_bytes()
}

impl Message<'_> {
    fn to_bytes(&self) -> Vec<u8> {
        let mut room = MESSAGE_LIMIT;
        loop {
            let cut = Message {
                target: beginning(&self.target, NAME_LIMIT),
                file: self.file.as_deref().map(|file| beginning(file, NAME_LIMIT)),
                text: beginning(&self.text, room),
                fields: beginning(&self.fields, room),
                ..*self
            };
            let bytes = serde_json::to_vec(&cut).expect("texts and numbers can be written");
            if bytes.len() <= MESSAGE_LIMIT {
                return bytes;
            }
            room /= 2; // escapes may make a text six times as long
        }
    }

    /// What a worker has sent; `None` if that is no event. Each text is on one line.
    pub(super) fn parse(bytes: &[u8]) -> Option<Message<'static>> {
        let Message { level, unix_ns, target, file, line, text, fields } =
            serde_json::from_slice(bytes).ok()?;
        let plain = |text: Cow<'_, str>| Cow::Owned(one_line(&text));
        let (file, text, fields) = (file.map(plain), plain(text), plain(fields));
        let message = Message { level, unix_ns, target: plain(target), file, line, text, fields };
        message.level_if_any().map(|_| message)
    }

    fn level_if_any(&self) -> Option<Level> {
        LEVELS.get(usize::from(self.level).wrapping_sub(1)).copied()
    }

    pub(super) fn level(&self) -> Level {
        self.level_if_any().unwrap_or(Level::ERROR) // it was parsed
    }

    /// Where it is in the source; empty if that is not known.
    pub(super) fn at(&self) -> String {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => format!("{file}:{line}"),
            (Some(file), None) => file.to_string(),
            _ => String::new(),
        }
    }
}

/// Whether bytes are the message of an event.
pub(crate) fn understands(bytes: &[u8]) -> bool {
    Message::parse(bytes).is_some_and(|message| {
        let again = Message::parse(&message.to_bytes()).expect("it was written as an event");
        again.level() == message.level() && again.unix_ns == message.unix_ns
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message<'a>(text: &'a str, fields: &'a str, target: &'a str) -> Message<'a> {
        Message {
            level: 3,
            unix_ns: 7,
            target: target.into(),
            file: Some("src/model.rs".into()),
            line: Some(42),
            text: text.into(),
            fields: fields.into(),
        }
    }

    #[test]
    fn it_comes_back_as_it_was_on_one_line() {
        let sent = message("loaded\n  weights", "layers=12 name=\"a\"", "app::model");
        let read = Message::parse(&sent.to_bytes()).unwrap();
        assert_eq!((read.text.as_ref(), read.level()), ("loaded; weights", Level::INFO));
        assert_eq!((read.at().as_str(), read.target.as_ref()), ("src/model.rs:42", "app::model"));
        assert_eq!(read.fields, "layers=12 name=\"a\"");
    }

    #[test]
    fn a_long_one_is_cut_and_still_read() {
        for long in ["x".repeat(100_000), "\u{1}".repeat(100_000), "ü".repeat(100_000)] {
            let sent = message(&long, &long, &long).to_bytes();
            assert!(sent.len() <= MESSAGE_LIMIT && sent.len() > MESSAGE_LIMIT / 8, "{}", sent.len());
            let read = Message::parse(&sent).unwrap();
            assert!(read.text.ends_with('…') && read.fields.ends_with('…') && read.target.ends_with('…'));
        }
    }

    #[test]
    fn what_is_no_event_is_refused() {
        let good = String::from_utf8(message("a", "b", "c").to_bytes()).unwrap();
        assert!(understands(good.as_bytes()));
        for (part, other) in [
            ("\"level\":3", "\"level\":0"),
            ("\"level\":3", "\"level\":6"),
            ("\"level\":3", "\"level\":-1"),
            ("\"unix_ns\":7,", ""),
            ("\"unix_ns\":7", "\"unix_ns\":7,\"more\":1"),
        ] {
            let bad = good.replacen(part, other, 1);
            assert!(bad != good && !understands(bad.as_bytes()), "{bad}");
        }
        assert!(!understands(b"") && !understands(b"\xff"));
    }

    proptest! {
        #[test]
        fn any_texts_fit_and_are_read(text: String, fields: String, target: String) {
            let sent = message(&text, &fields, &target).to_bytes();
            prop_assert!(sent.len() <= MESSAGE_LIMIT && understands(&sent));
        }
    }
}
