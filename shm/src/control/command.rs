//! What a process can ask of a server, as bytes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

/// What is to be done with a servlet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lever {
    /// No new request enters it; the answer comes when it is empty, or after this time.
    Drain {
        /// At most this long, in milliseconds.
        limit: Duration,
    },
    /// Requests enter it again.
    Resume,
    /// A worker leaves in order, and its successor starts.
    Restart {
        /// Its index.
        worker: u32,
    },
    /// A worker's process is killed.
    Kill {
        /// Its index.
        worker: u32,
    },
    /// It has this many workers.
    Scale {
        /// How many.
        workers: u32,
    },
    /// Its workers are replaced, one by one.
    Replace {
        /// By processes of this executable; `None`: of the file at the present one's path.
        program: Option<PathBuf>,
    },
}

/// A lever of a servlet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The servlet's name.
    pub servlet: String,
    /// What is to be done.
    pub lever: Lever,
}

/// Why bytes are no command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are no command")]
pub struct NoCommand;

impl Command {
    /// Its lines: the verb, the servlet, and what the verb needs; a path is the last of them, since it may have any
    /// bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let (verb, with): (&str, Vec<u8>) = match &self.lever {
            Lever::Drain { limit } => ("drain", limit.as_millis().to_string().into()),
            Lever::Resume => ("resume", vec![]),
            Lever::Restart { worker } => ("restart", worker.to_string().into()),
            Lever::Kill { worker } => ("kill", worker.to_string().into()),
            Lever::Scale { workers } => ("scale", workers.to_string().into()),
            Lever::Replace { program: None } => ("replace", vec![]),
            Lever::Replace { program: Some(path) } => ("replace-by", path.as_os_str().as_bytes().to_vec()),
        };
        [verb.as_bytes(), self.servlet.as_bytes(), &with].join(&b'\n')
    }

    /// The command that another process has written.
    ///
    /// # Errors
    /// If the bytes are none.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoCommand> {
        let mut lines = bytes.splitn(3, |&byte| byte == b'\n');
        let mut line = || lines.next().ok_or(NoCommand);
        let (verb, servlet, with) = (line()?, line()?, line()?);
        let servlet = std::str::from_utf8(servlet).map_err(|_| NoCommand)?.to_owned();
        let number =
            || std::str::from_utf8(with).ok().and_then(|text| text.parse::<u32>().ok()).ok_or(NoCommand);
        let nothing = || if with.is_empty() { Ok(()) } else { Err(NoCommand) };
        let lever = match verb {
            b"drain" => Lever::Drain { limit: Duration::from_millis(number()?.into()) },
            b"resume" => nothing().map(|()| Lever::Resume)?,
            b"restart" => Lever::Restart { worker: number()? },
            b"kill" => Lever::Kill { worker: number()? },
            b"scale" => Lever::Scale { workers: number()? },
            b"replace" => nothing().map(|()| Lever::Replace { program: None })?,
            b"replace-by" if !with.is_empty() && !with.contains(&0) => {
                Lever::Replace { program: Some(OsStr::from_bytes(with).into()) }
            }
            _ => return Err(NoCommand),
        };
        Ok(Self { servlet, lever })
    }
}

/// Whether a command was done, and what there is to say: a servlet's name, or why it was not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it was done.
    pub is_done: bool,
    /// Any text.
    pub text: String,
}

impl Verdict {
    /// Its bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [if self.is_done { b"+" } else { b"-" }, self.text.as_bytes()].concat()
    }

    /// The verdict that another process has written; what is no verdict says that nothing was done.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let (first, text) = bytes.split_first().unwrap_or((&b'-', b"the answer is empty"));
        Self { is_done: *first == b'+', text: String::from_utf8_lossy(text).into_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn commands() -> impl Strategy<Value = Command> {
        let number = any::<u32>();
        let path = proptest::collection::vec(1..=u8::MAX, 1..40);
        let lever = prop_oneof![
            number.prop_map(|ms| Lever::Drain { limit: Duration::from_millis(ms.into()) }),
            Just(Lever::Resume),
            number.prop_map(|worker| Lever::Restart { worker }),
            number.prop_map(|worker| Lever::Kill { worker }),
            number.prop_map(|workers| Lever::Scale { workers }),
            Just(Lever::Replace { program: None }),
            path.prop_map(|path| Lever::Replace { program: Some(OsStr::from_bytes(&path).into()) }),
        ];
        ("[a-zäß 0-9.-]{0,20}", lever).prop_map(|(servlet, lever)| Command { servlet, lever })
    }

    proptest! {
        #[test]
        fn commands_come_back_as_they_were(command in commands()) {
            prop_assert_eq!(Command::parse(&command.to_bytes()).unwrap(), command);
        }

        #[test]
        fn other_bytes_are_refused_or_another_command(command in commands(), at: usize, byte: u8, end: usize) {
            let mut bytes = command.to_bytes();
            let (at, end) = (at % bytes.len(), end % bytes.len());
            bytes[at] = byte;
            let _ = Command::parse(&bytes);
            let _ = Command::parse(&bytes[..end]);
        }
    }

    #[test]
    fn what_is_no_command_is_refused() {
        for bytes in [
            "",
            "scale",
            "scale\na",
            "scale\na\n",
            "scale\na\n-1",
            "scale\na\n4294967296",
            "resume\na\n1",
            "stop\na\n",
            "replace-by\na\n",
        ] {
            assert_eq!(Command::parse(bytes.as_bytes()), Err(NoCommand), "{bytes:?}");
        }
        assert_eq!(Command::parse(b"resume\n\xff\n"), Err(NoCommand));
        assert_eq!(Command::parse(b"replace-by\na\n/b\0c"), Err(NoCommand));
    }

    #[test]
    fn verdicts_come_back_as_they_were() {
        for is_done in [true, false] {
            let verdict = Verdict { is_done, text: "why\nnot".into() };
            assert_eq!(Verdict::parse(&verdict.to_bytes()), verdict);
        }
        assert!(!Verdict::parse(b"").is_done && !Verdict::parse(b"\xff\xff").is_done);
    }
}
