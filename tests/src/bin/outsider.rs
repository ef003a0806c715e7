//! A program without `init!` whose processes become workers by a call; its first argument says what it does instead, or
//! besides.

use ringmill::payload::{Bytes, Schema};
use ringmill::program::{BecomeError, NamedWorker, Outside, Workers, become_worker};
use ringmill::rkyv::Archived;
use ringmill::worker::Stop;
use ringmill::{BoxError, Context, PassThrough, ProcessServlet, Server, Worker};
use std::io::Write;
use std::process::{Command, ExitCode};

/// Answers with a text before its input, and does a few other things.
struct Clerk {
    greeting: String,
    farewell: String,
}

impl Worker for Clerk {
    /// The end of its greeting, and the file into which it writes when it ends.
    type Config = (String, String);
    type In = String;
    type Out = String;

    fn new((greeting, farewell): (String, String), _: &Context) -> Result<Self, BoxError> {
        if greeting.ends_with("nobody") {
            return Err(BoxError::msg("there is nobody to greet").with_attachment(b"an exception".into()));
        }
        Ok(Self { greeting, farewell })
    }

    fn call(&mut self, input: &Archived<String>) -> Result<String, BoxError> {
        match input.as_str() {
            "die" => std::process::abort(),
            "pid" => Ok(std::process::id().to_string()),
            "arguments" => Ok(std::env::args().collect::<Vec<_>>().join(" ")),
            // It has this process's environment.
            "child" => {
                let child = Command::new(std::env::current_exe()?).arg("worker").output()?;
                Ok(String::from_utf8(child.stderr)?)
            }
            "again" => Ok(become_worker(&Workers::new()).expect_err("it is one already").to_string()),
            text => Ok(format!("{} {text}", self.greeting)),
        }
    }

    fn cleanup(&mut self, reason: &Stop) {
        note(&self.farewell, &format!("cleanup {reason:?}"));
    }
}

/// Adds a line to a file, if it has a name.
fn note(file: &str, line: &str) {
    if !file.is_empty() {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(file);
        writeln!(file.expect("a file"), "{line}").expect("it is written");
    }
}

fn clerk(name: &str, greeting: &'static str) -> NamedWorker<Clerk> {
    let build = move |(end, farewell): (String, String), context: &Context| {
        Clerk::new((format!("{greeting}{end}"), farewell), context)
    };
    NamedWorker::built_by(name, build)
}

fn workers() -> Workers {
    Workers::new()
        .with(NamedWorker::<PassThrough<String>>::new("écho, à la carte"))
        .with(clerk("polite", "Good day"))
        .with(clerk("curt", "Hi"))
        .with(
            NamedWorker::<PassThrough<Bytes>>::new("tensors")
                .input_schema(&Schema::new("test.Tensor", 2).hash(7)),
        )
        .with(NamedWorker::<PassThrough<u32>>::new("twin"))
        .with(NamedWorker::<PassThrough<u32>>::new("twin"))
}

/// Becomes a worker; the exit code says how that went.
fn work() -> ExitCode {
    match become_worker(&workers()) {
        Ok(code) => {
            let farewell = std::env::var("OUTSIDER_FAREWELL").unwrap_or_default();
            note(&farewell, &format!("returned {code}"));
            ExitCode::from(code)
        }
        Err(error) => {
            eprintln!("outsider: {error}");
            ExitCode::from(if error == BecomeError::NotOrdered { 3 } else { 4 })
        }
    }
}

fn main() -> Result<ExitCode, BoxError> {
    let mut arguments = std::env::args().skip(1);
    Ok(match arguments.next().as_deref() {
        Some("exit") => ExitCode::from(arguments.next().expect("a code").parse::<u8>()?),
        Some("print") => {
            println!("This is no worker.");
            ExitCode::SUCCESS
        }
        Some("hang") => loop {
            std::thread::park();
        },
        // It is no worker, and does not end.
        Some("stay") => {
            let _ = work();
            loop {
                std::thread::park();
            }
        }
        // Instead of becoming a worker it starts a server, with itself as the worker.
        Some("serve") => {
            let servlet = ProcessServlet::<Outside<String>>::new(()).program_worker("écho, à la carte");
            let servlet = servlet.program_args(["serve"]);
            Server::anonymous("outsider").start(servlet)?;
            ExitCode::SUCCESS
        }
        // A program that is the service, and by a call also its worker.
        Some("both") => match become_worker(&workers()) {
            Err(BecomeError::NotOrdered) => {
                let servlet = ProcessServlet::<Outside<String>>::new(()).program_worker("écho, à la carte");
                let server = Server::anonymous("both").start(servlet.program_args(["both"]))?;
                println!("{}", server.call_ref("well")?.as_str());
                ExitCode::SUCCESS
            }
            became => ExitCode::from(became?),
        },
        _ => work(),
    })
}
