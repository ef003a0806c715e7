//! mpservice: a Python server with one worker process, driven by a script.
//!
//! The scripts lie in `bench/mpservice`. `environment.py` installs mpservice into an environment that is removed with
//! [`Environment`]; `run.py` is the server, its worker and a client that checks every answer. It sends as many items as a line
//! says, and reports the end: so this measures what Python programs see, plus one line each way through pipes, which is nothing
//! beside a [`SLICE`].
//!
//! The server with its threads for input, output and notification lies on the client's CPU, the worker on the
//! partner's. That is where it is fastest on two CPUs: where the server, or both, may use both, `stream` takes more
//! than half as long again, and `call` as long. With server and worker on *one* CPU `call` takes about half as long,
//! since no sleeping CPU has to be woken, and `stream` longer; but no other contestant has both sides on one CPU. The
//! worker takes the items there are and never waits for more.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use crate::Error;
use crate::contestant::{Contestant, Point, ROOM};
use crate::pin::CpuPair;

/// How long it is measured at a time: an item takes as long as thousands of others', and a window must be filled
/// many times.
pub const SLICE: Duration = Duration::from_millis(250);

/// The widest window: it takes this script an eighth of a second to go through one.
pub const WIDEST_WINDOW: u32 = 4096;

const PYTHON: &str = "python3";

/// The script's process and its pipes.
#[derive(Debug)]
pub struct Mpservice {
    who: &'static str,
    script: Child,
    /// None while it is dropped.
    commands: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
    /// It runs from there.
    _environment: Arc<Environment>,
}

impl Mpservice {
    /// Starts the server and its worker, which takes up to `batch_size` items at once; with 0, single items.
    ///
    /// # Errors
    ///
    /// Those of [`Environment::shared`], or [`Error::Rival`] if the script does not start.
    pub fn start(who: &'static str, batch_size: u32, point: Point, cpus: CpuPair) -> Result<Self, Error> {
        let environment = Environment::shared()?;
        // `call` has one item in progress, but no queues of one slot.
        let window = if point.window == 1 { ROOM } else { point.window };
        let arguments = [
            ("--payload-bytes", point.payload_bytes as usize),
            ("--batch-size", batch_size as usize),
            ("--window", window as usize),
            ("--client-cpus", cpus.client),
            ("--worker-cpus", cpus.partner),
        ];
        let mut command = python(&environment.python, "run.py")?;
        for (name, value) in arguments {
            command.arg(name).arg(value.to_string());
        }
        let mut script = spawn(&mut command)?;
        let commands = script.stdin.take();
        let replies = BufReader::new(script.stdout.take().expect("its output is a pipe"));
        let mut this = Self { who, script, commands, replies, _environment: environment };
        this.read_reply()?;
        Ok(this)
    }

    /// Has the script do `items` items of `job`.
    fn order(&mut self, job: &str, items: u64) -> Result<(), Error> {
        let commands = self.commands.as_mut().expect("it is taken when this is dropped");
        // One write: the reader of a line must not be woken for a part of it. If the write fails, so does the reading.
        let _ = commands.write_all(format!("{job} {items}\n").as_bytes());
        self.read_reply()
    }

    /// Waits for the line that reports the end; if the script ends without one, it prints the reason itself.
    fn read_reply(&mut self) -> Result<(), Error> {
        let mut line = String::new();
        let failed = |source| Error::Transport { who: self.who, source };
        match self.replies.read_line(&mut line).map_err(failed)? {
            0 => Err(Error::PartnerDied { who: self.who, status: self.script.wait().map_err(failed)? }),
            _ => Ok(()),
        }
    }
}

impl Contestant for Mpservice {
    fn name(&self) -> &'static str {
        self.who
    }

    fn shortest_slice(&self) -> Duration {
        SLICE
    }

    fn call(&mut self, items: u64) -> Result<(), Error> {
        self.order("call", items)
    }

    /// The window is the one it was started with.
    fn stream(&mut self, items: u64, _window: u32) -> Result<(), Error> {
        self.order("stream", items)
    }
}

impl Drop for Mpservice {
    fn drop(&mut self) {
        // The end of its input ends the script, and that its worker.
        drop(self.commands.take());
        let _ = self.script.wait();
    }
}

/// A throw-away Python environment with mpservice in it; removed when this is dropped, or when this process ends.
#[derive(Debug)]
pub struct Environment {
    python: PathBuf,
    /// The process that has made it and will remove it.
    keeper: Child,
}

static SHARED: Mutex<Weak<Environment>> = Mutex::new(Weak::new());

impl Environment {
    /// The environment that this process still has, or a new one, which takes some seconds to make: it reports each step on
    /// standard error.
    ///
    /// # Errors
    ///
    /// [`Error::Rival`] if there is no Python, or mpservice cannot be installed.
    pub fn shared() -> Result<Arc<Self>, Error> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(environment) = shared.upgrade() {
            return Ok(environment);
        }
        let environment = Arc::new(Self::make()?);
        *shared = Arc::downgrade(&environment);
        Ok(environment)
    }

    fn make() -> Result<Self, Error> {
        let mut keeper = spawn(&mut python(Path::new(PYTHON), "environment.py")?)?;
        let mut line = String::new();
        let output = keeper.stdout.take().expect("its output is a pipe");
        let read = BufReader::new(output).read_line(&mut line);
        // From here on it is waited for and removed.
        let environment = Self { python: PathBuf::from(line.trim_end()), keeper };
        match read {
            Ok(1..) => Ok(environment),
            _ => {
                Err(Error::Rival("mpservice: no Python environment with mpservice could be made".to_owned()))
            }
        }
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// `python` with the script of that name.
///
/// Apart from the user's own packages and settings, and in a process group of its own: so Ctrl-C ends this process,
/// and the end of their input ends the scripts in order.
fn python(python: &Path, script: &str) -> Result<Command, Error> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("mpservice").join(script);
    if !script.exists() {
        return Err(Error::Rival(format!("mpservice: there is no {}", script.display())));
    }
    let mut command = Command::new(python);
    command.args(["-I", "-B"]).arg(script).process_group(0);
    Ok(command)
}

fn spawn(command: &mut Command) -> Result<Child, Error> {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    child.map_err(|error| {
        Error::Rival(format!("mpservice: cannot run {}: {error}", command.get_program().display()))
    })
}
