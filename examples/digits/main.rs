//! Real handwritten digits, classified in greedy batches by worker processes over shared memory.
//!
//! Every other digit of the data is a known example; the rest are classified by the three nearest
//! known ones, many times over: in batches by several pinned worker processes, and for comparison
//! by one process with and without batches and by this process itself. Every answer must come back
//! in order and bear the label that the in-process classifier gives; otherwise the program fails.
//!
//! `cargo run --release --example digits` runs it, `-- --help` lists the options.
//!
//! `Classify` is all that a worker needs; `Setup::start` is all that a server needs. `knn` classifies,
//! `data` reads the digits, `exam` asks and checks, `report` and `picture` show, `args` is the command
//! line.

mod args;
mod data;
mod exam;
mod knn;
mod picture;
mod report;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use ringmill::{Batch, BatchWorker, BoxError, Context, ProcessServlet, Server, StartError, ThreadServlet};

use crate::args::Args;
use crate::data::{DataError, Digit, Image};
use crate::exam::{Exam, ExamError};
use crate::knn::{Classifier, TooFewKnown};
use crate::report::{Row, thousands};

/// The worker: says which digit each image of a batch is.
struct Classify(Classifier);

impl BatchWorker for Classify {
    type Config = Vec<Digit>;
    type In = Image;
    type Out = u8;

    fn new(known: Vec<Digit>, _: &Context) -> Result<Self, BoxError> {
        Ok(Self(Classifier::new(&known)?))
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        let labels = self.0.labels(batch.inputs().map(|image| &image.pixels));
        batch.reply_all(labels.iter().copied())
    }
}

/// A way to run `Classify`.
#[derive(Clone, PartialEq)]
struct Setup {
    threads: bool,
    /// One worker on each; a CPU named twice gets two.
    cpus: Vec<usize>,
    batch_size: usize,
    batch_wait: Duration,
}

impl Setup {
    fn start(&self, known: &[Digit]) -> Result<Server<Image, u8>, StartError> {
        // Room for every worker's batch and for as much again to pile up meanwhile.
        let capacity = (4 * self.cpus.len() * self.batch_size).max(1024);
        let server = Server::builder("digits").capacity(capacity);
        if self.threads {
            server.start(
                ThreadServlet::<Classify>::new(known.to_vec())
                    .name("classify")
                    .cpus(self.cpus.clone())
                    .batch_size(self.batch_size)
                    .batch_wait_time(self.batch_wait),
            )
        } else {
            server.start(
                ProcessServlet::<Classify>::new(known.to_vec())
                    .name("classify")
                    .cpus(self.cpus.clone())
                    .batch_size(self.batch_size)
                    .batch_wait_time(self.batch_wait),
            )
        }
    }

    /// This setup with one worker.
    fn one(&self) -> Self {
        Self { cpus: self.cpus[..1].to_vec(), ..self.clone() }
    }

    /// This setup with one worker, in batches of one.
    fn unbatched(&self) -> Self {
        Self { batch_size: 1, batch_wait: Duration::ZERO, ..self.one() }
    }

    /// In some twenty columns.
    fn describe(&self) -> String {
        let workers = match (self.cpus.len(), self.threads) {
            (1, false) => "1 process".to_owned(),
            (1, true) => "1 thread".to_owned(),
            (n, false) => format!("{n} processes"),
            (n, true) => format!("{n} threads"),
        };
        let batches = if self.batch_size == 1 { "unbatched" } else { "batched" };
        format!("{workers}, {batches}")
    }

    /// What the table leaves out.
    fn options(&self) -> String {
        let cpus: Vec<String> = self.cpus.iter().map(usize::to_string).collect();
        format!(
            "workers on CPUs {}, batches of up to {}, {} µs to fill one",
            cpus.join(", "),
            self.batch_size,
            self.batch_wait.as_micros()
        )
    }
}

/// Why the program could not do its job.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Known(#[from] TooFewKnown),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("{how}")]
    Exam { how: String, source: ExamError },
}

impl Failure {
    fn exit_code(&self) -> ExitCode {
        /// What a shell reports for a program that Ctrl-C ended.
        const INTERRUPTED: u8 = 130;
        match self {
            Self::Exam { source: ExamError::Interrupted, .. } => ExitCode::from(INTERRUPTED),
            _ => ExitCode::FAILURE,
        }
    }
}

fn main() -> ExitCode {
    ringmill::init!(Classify);
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("digits: {}", with_sources(&failure));
            failure.exit_code()
        }
    }
}

/// The error and what caused it, in one line; causes that it names itself are not said twice.
fn with_sources(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !line.ends_with(&cause) {
            line += &format!(": {cause}");
        }
        source = error.source();
    }
    line
}

fn run(args: &Args) -> Result<(), Failure> {
    let digits = data::load(args.csv.as_deref())?;
    let known: Vec<Digit> = digits.iter().step_by(2).copied().collect();
    let unknown: Vec<Digit> = digits.iter().skip(1).step_by(2).copied().collect();
    let mut classifier = Classifier::new(&known)?;
    let expected =
        unknown.iter().map(|digit| classifier.labels([&digit.image.pixels].into_iter())[0]).collect();
    let exam = Exam { unknown, expected, passes: args.repeat };

    let full = Setup {
        threads: args.threads,
        cpus: args.worker_cpus(ringmill::cpu::allowed()),
        batch_size: args.batch_size(),
        batch_wait: args.batch_wait(),
    };
    // The largest first: an impossible option is an error before any work is done.
    let mut setups = vec![full.clone(), full.one(), full.unbatched()];
    setups.dedup();
    let bar = progress_bar(exam.len() * (setups.len() as u64 + 1));
    let rows = setups
        .iter()
        .map(|setup| through_workers(setup, &known, &exam, &bar))
        .chain(std::iter::once_with(|| in_process(&mut classifier, &exam, &bar)))
        .collect::<Result<Vec<Row>, Failure>>();
    bar.finish_and_clear();
    let mut rows = rows?;
    rows.reverse();

    let (known, unknown, passes) = (known.len(), exam.unknown.len(), exam.passes);
    println!("{passes} × {unknown} digits, classified by {known} known ones");
    println!("{}\n", full.options());
    println!("{}\n", report::pictures(&exam));
    println!("{}\n", report::table(&rows, &rows[1]));
    let answers = rows.iter().map(|row| row.marks.answers).sum();
    println!("All {} answers came in order, as the in-process classifier says", thousands(answers));
    Ok(())
}

/// Streams all images through the workers of `setup`.
fn through_workers(setup: &Setup, known: &[Digit], exam: &Exam, bar: &ProgressBar) -> Result<Row, Failure> {
    let how = setup.describe();
    bar.set_message(how.clone());
    let server = setup.start(known)?;
    match exam.mark(server.stream(exam.questions()), bar) {
        Ok(marks) => {
            let batches = server.stats().servlets.first().map(|servlet| servlet.batches().into());
            Ok(Row { how, marks, batches })
        }
        Err(source) => Err(Failure::Exam { how, source }),
    }
}

/// Classifies all images right here, one after the other.
fn in_process(classifier: &mut Classifier, exam: &Exam, bar: &ProgressBar) -> Result<Row, Failure> {
    let how = "in-process, unbatched".to_owned();
    bar.set_message(how.clone());
    let answers = exam.questions().map(|image| Ok(classifier.labels([&image.pixels].into_iter())[0]));
    match exam.mark(answers, bar) {
        Ok(marks) => Ok(Row { how, marks, batches: None }),
        Err(source) => Err(Failure::Exam { how, source }),
    }
}

/// On stderr, and only where that is a terminal.
fn progress_bar(images: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:21} {wide_bar:.cyan/blue} {percent:>3} %  {elapsed:>3}")
        .expect("the template is well-formed");
    ProgressBar::new(images).with_style(style)
}
