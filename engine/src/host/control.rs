//! The thread that serves the segment's [control page](ringmill_shm::control): what another process of the same user asks
//! is done as if a thread of this process had called the server, and answered.
//!
//! It sleeps on the page's bell, so a server that is asked nothing does nothing. What it reads may be any bytes: a
//! question that is no command is answered with that. Each command has a thread of its own, since it may take long, and
//! since another command may be the way out. There are as many at most as the page has slots.

use crate::error::LeverError;
use crate::host::supervisor::Shared;
use crate::host::supervisor::lever::{Lever, Renewal};
use crate::panics::{caught, say};
use crate::text::OneLine;
use ringmill_shm::control::{self, Command, Taken, Verdict};
use std::os::unix::fs::MetadataExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The supervisor's handle of the thread.
#[derive(Debug)]
pub(in crate::host) struct Controller {
    shared: Arc<Shared>,
    is_ending: Arc<AtomicBool>,
}

impl Controller {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system has no thread for it.
    pub(in crate::host) fn start(shared: &Arc<Shared>, server_name: &str) -> std::io::Result<Self> {
        let is_ending = Arc::<AtomicBool>::default();
        let controller = Self { shared: Arc::clone(shared), is_ending: Arc::clone(&is_ending) };
        let (shared, name) = (Arc::clone(shared), server_name.to_owned());
        let body = move || {
            let _ = shared.placement.keep_off(); // if it is refused, it runs where the server was started
            serve(&shared, &name, &is_ending);
        };
        std::thread::Builder::new().name("ringmill-control".into()).spawn(body).map(|_detached| controller)
    }

    /// The thread ends soon, and takes no question from now on.
    pub(in crate::host) fn end(self) {
        self.is_ending.store(true, Ordering::SeqCst);
        self.shared.segment.control().asked().ring();
    }
}

fn serve(shared: &Arc<Shared>, server: &str, is_ending: &AtomicBool) {
    let page = shared.segment.control();
    // By slot, so that there are no more threads, whatever another process writes there.
    let busy: [_; control::SLOTS] = std::array::from_fn(|_| Arc::<AtomicBool>::default());
    loop {
        let count = page.asked().count();
        if is_ending.load(Ordering::SeqCst) {
            return;
        }
        for (number, slot) in page.slots().iter().enumerate() {
            if busy[number].load(Ordering::SeqCst) {
                continue; // an asker that keeps to the protocol waits for the answer
            }
            if let Some(taken) = slot.take() {
                obey(shared, server, number, taken, &busy[number]);
            }
        }
        if shared.segment.shape().clients > 0 {
            shared.tell_of_clients(); // one of them may have rung
        }
        page.asked().sleep(count, None); // only an asker rings it, a client, or `end`
    }
}

/// Has a thread do what was asked, and answer.
fn obey(shared: &Arc<Shared>, server: &str, slot: usize, taken: Taken, busy: &Arc<AtomicBool>) {
    let asker = Asker::of(taken.pid);
    let command = match Command::parse(&taken.question) {
        Ok(command) => command,
        Err(error) => {
            let Asker { pid, uid } = asker;
            say(|| tracing::warn!(server, asker = pid, uid, "the control page was asked what is no command"));
            return answer(shared, slot, &taken, Err(error.to_string()));
        }
    };
    let (of_thread, server, asked) = (Arc::clone(shared), server.to_owned(), taken.clone());
    let busy_there = Arc::clone(busy);
    busy.store(true, Ordering::SeqCst);
    let body = move || {
        let done = caught(AssertUnwindSafe(|| pull(&of_thread, &server, &asker, &command)));
        let done = done.map_err(|panic| panic.to_string());
        busy_there.store(false, Ordering::SeqCst); // before the answer, after which the slot may be used again
        answer(&of_thread, slot, &asked, done.and_then(|done| done.map_err(|error| error.to_string())));
    };
    if let Err(error) = std::thread::Builder::new().name("ringmill-lever".into()).spawn(body) {
        busy.store(false, Ordering::SeqCst);
        answer(shared, slot, &taken, Err(format!("the server cannot start a thread: {error}")));
    }
}

fn answer(shared: &Shared, slot: usize, to: &Taken, done: Result<(), String>) {
    let verdict = Verdict { is_done: done.is_ok(), text: done.err().unwrap_or_default() };
    shared.segment.control().slots()[slot].answer(to, &verdict.to_bytes());
}

/// Who asks: the process, as it says, and that process's user, as the kernel says.
struct Asker {
    pid: u32,
    uid: Option<u32>,
}

impl Asker {
    fn of(pid: u32) -> Self {
        Self { pid, uid: std::fs::metadata(format!("/proc/{pid}")).ok().map(|meta| meta.uid()) }
    }
}

/// Does what was asked; the log says who wanted what, and what came of it.
fn pull(shared: &Shared, server: &str, asker: &Asker, command: &Command) -> Result<(), LeverError> {
    let (what, servlet) = (what(&command.lever), command.servlet.as_str());
    let Asker { pid, uid } = *asker;
    say(
        || tracing::info!(server, asker = pid, uid, servlet = %OneLine(servlet), "asked from outside: {what}"),
    );
    let done = match command.lever.clone() {
        control::Lever::Drain { limit } => shared.drain_servlet(servlet, limit),
        control::Lever::Resume => shared.resume_servlet(servlet),
        control::Lever::Restart { worker } => shared.pull(servlet, Lever::Restart { worker }),
        control::Lever::Kill { worker } => shared.pull(servlet, Lever::Kill { worker }),
        control::Lever::Scale { workers } => shared.pull(servlet, Lever::Scale { workers }),
        control::Lever::Replace { program } => {
            shared.pull(servlet, Lever::Replace(Renewal { program, config: None }))
        }
    };
    say(|| match &done {
        Ok(()) => {
            tracing::info!(server, asker = pid, uid, servlet = %OneLine(servlet), "done from outside: {what}");
        }
        Err(error) => tracing::warn!(
            server, asker = pid, uid, servlet = %OneLine(servlet),
            "not done from outside: {what}: {error}"
        ),
    });
    done
}

fn what(lever: &control::Lever) -> String {
    match lever {
        control::Lever::Drain { limit } => format!("drain, within {limit:?}"),
        control::Lever::Resume => "resume".into(),
        control::Lever::Restart { worker } => format!("restart worker {worker}"),
        control::Lever::Kill { worker } => format!("kill worker {worker}"),
        control::Lever::Scale { workers } => format!("scale to {workers} workers"),
        control::Lever::Replace { program: None } => "replace, from the executable at its path".into(),
        control::Lever::Replace { program: Some(path) } => {
            format!("replace, from {}", OneLine(&path.to_string_lossy()))
        }
    }
}
