//! `shmtool drain`, `resume`, `restart-worker`, `kill-worker`, `scale`, `replace`: have a server do something, by the control
//! page of its segment. The server does it; this process writes into that page alone.

pub(crate) mod args;

use crate::error::ToolError;
use crate::output::{Page, Report, Verdict};
use crate::survey::{Liveness, Survey, way_out};
use args::LeverArgs;
use ringmill_shm::control::{Command, Lever};
use ringmill_shm::participant::SERVER;
use ringmill_shm::text::{shown, shown_path};
use serde::Serialize;
use std::io::{self, BufRead, IsTerminal, Write};
use std::time::Duration;

/// What came of a command.
#[derive(Debug, Serialize)]
pub(crate) struct Pulled {
    /// The argument that commands take.
    name: String,
    /// The file.
    path: String,
    /// The servlet.
    servlet: String,
    /// What was asked, in words.
    asked: String,
    /// Whether the server has done it.
    done: bool,
    /// Why not.
    reason: Option<String>,
}

/// Asks the server, unless the user does not want it after all.
pub(crate) fn pull(of: &LeverArgs, lever: Lever) -> Result<Pulled, ToolError> {
    let (survey, segment) = Survey::open(&of.segment.name)?;
    let servlet = of.servlet.as_str();
    let name = shown(&survey.location.to_text());
    if survey.state != Liveness::Live {
        let why = match survey.state {
            Liveness::Stale => format!("its server has died; {}", way_out(&name)),
            state => format!("its state is {}, not live", state.text()),
        };
        return Err(ToolError::NotLive { name, why });
    }
    let asked = in_words(&lever, servlet);
    let pulled = |done, reason| Pulled {
        name: name.clone(),
        path: shown_path(&survey.location.path()),
        servlet: shown(servlet),
        asked: asked.clone(),
        done,
        reason,
    };
    if !of.yes {
        let pid = segment.participants()[SERVER as usize].pid();
        match confirmed(&format!("{asked} of server {name} (process {pid})?"))? {
            true => {}
            false => return Ok(pulled(false, Some("you have not said yes".into()))),
        }
    }
    let command = Command { servlet: servlet.into(), lever };
    let ask = || segment.asker()?.ask(&command, of.patience, of.timeout.unwrap_or(Duration::MAX));
    let verdict = ask().map_err(|error| ToolError::Lever { name: name.clone(), error })?;
    Ok(pulled(verdict.is_done, (!verdict.is_done).then(|| shown(&verdict.text))))
}

/// What a lever does, for a question and a report.
fn in_words(lever: &Lever, servlet: &str) -> String {
    let servlet = named(servlet);
    match lever {
        Lever::Drain { .. } => format!("drain servlet {servlet}"),
        Lever::Resume => format!("resume servlet {servlet}"),
        Lever::Restart { worker } => format!("restart worker {worker} of servlet {servlet}"),
        Lever::Kill { worker } => format!("kill worker {worker} of servlet {servlet}"),
        Lever::Scale { workers } => format!("scale servlet {servlet} to {workers}"),
        Lever::Replace { program: None } => format!("replace the workers of servlet {servlet}"),
        Lever::Replace { program: Some(path) } => {
            format!("replace the workers of servlet {servlet} by {}", shown_path(path))
        }
    }
}

/// A name as it is given; quoted, where a reader would not see where it ends.
fn named(servlet: &str) -> String {
    match servlet.is_empty() || servlet.trim() != servlet {
        true => format!("{:?}", shown(servlet)),
        false => shown(servlet),
    }
}

/// Asks the user at the terminal.
fn confirmed(question: &str) -> Result<bool, ToolError> {
    let (input, mut output) = (io::stdin(), io::stderr());
    if !input.is_terminal() || !output.is_terminal() {
        return Err(ToolError::Unconfirmed);
    }
    let terminal = ToolError::Terminal;
    write!(output, "{question} [y/N] ").and_then(|()| output.flush()).map_err(terminal)?;
    let mut line = String::new();
    input.lock().read_line(&mut line).map_err(terminal)?;
    Ok(matches!(&*line.trim().to_lowercase(), "y" | "yes"))
}

impl Report for Pulled {
    fn text(&self, _: Page) -> String {
        match &self.reason {
            None => format!("{}: done: {}\n", self.name, self.asked),
            Some(reason) => format!("{}: not done: {}: {reason}\n", self.name, self.asked),
        }
    }

    fn verdict(&self) -> Verdict {
        if self.done { Verdict::Fine } else { Verdict::Wrong }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_documented_fields() {
        let report = Pulled {
            name: "x".into(),
            path: "/dev/shm/ringmill-x".into(),
            servlet: "tag".into(),
            asked: in_words(&Lever::Kill { worker: 1 }, "tag"),
            done: false,
            reason: Some("no".into()),
        };
        assert_eq!(report.text(Page::plain()), "x: not done: kill worker 1 of servlet tag: no\n");
        assert_eq!(report.verdict(), Verdict::Wrong);
        let expected = serde_json::json!({
            "name": "x", "path": "/dev/shm/ringmill-x", "servlet": "tag",
            "asked": "kill worker 1 of servlet tag", "done": false, "reason": "no",
        });
        assert_eq!(serde_json::to_value(report).unwrap(), expected);
        assert_eq!(in_words(&Lever::Resume, ""), "resume servlet \"\"");
        assert_eq!(in_words(&Lever::Scale { workers: 2 }, "a b "), "scale servlet \"a b \" to 2");
    }
}
