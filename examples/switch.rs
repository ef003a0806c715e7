//! Shows how a switch gives each item to one of several servlets.
//!
//! A function of the input names the member: short texts go to a thread that takes them one by one, long
//! ones to a process that takes them in batches. For an empty text the function names a member that does
//! not exist: that is an error, as a value, for that text alone.
//!
//! Run it with `cargo run --release --example switch`.

use ringmill::error::RemoteCause;
use ringmill::rkyv::Archived;
use ringmill::{Batch, BatchWorker, BoxError, CallError, Context, ProcessServlet, Server};
use ringmill::{Switch, ThreadServlet};
use std::time::Duration;

ringmill::make_worker!(Short: String => String, |text| format!("short, {} letters", text.len()));

/// Takes batches, and says with each answer that it did.
struct Long;

impl BatchWorker for Long {
    type Config = ();
    type In = String;
    type Out = String;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        let answer = |text: &Archived<String>| format!("long, {} words", text.split(' ').count());
        let answers: Vec<String> = batch.inputs().map(answer).collect();
        batch.reply_all(answers)
    }
}

/// Which member handles a text; the third one does not exist.
fn member(text: &Archived<String>) -> usize {
    match text.len() {
        1..=12 => 0,
        13.. => 1,
        0 => 2,
    }
}

/// Some texts and what they must become; `None` for the error.
const TEXTS: [(&str, Option<&str>); 5] = [
    ("one word", Some("short, 8 letters")),
    ("a text of some more words", Some("long, 6 words")),
    ("", None),
    ("twelve chars", Some("short, 12 letters")),
    ("thirteen char", Some("long, 2 words")),
];
const PASSES: usize = 4_000;

fn main() -> Result<(), BoxError> {
    ringmill::init!(Long); // the one that runs in a process

    let short = ThreadServlet::<Short>::new(());
    let long = ProcessServlet::<Long>::new(()).batch_size(32).batch_wait_time(Duration::ZERO);
    let server = Server::builder("switch").start(Switch::new(member, (short, long)))?;

    let mut refused = None;
    println!("{:29} member   outcome", "the text");
    let answers = server.stream(TEXTS.map(|(text, _)| text.to_string()));
    for (answer, (text, expected)) in answers.zip(TEXTS) {
        let outcome = match &answer {
            Ok(answer) => answer.clone(),
            Err(_) => "an error (below)".to_string(),
        };
        let member = if text.is_empty() { 2 } else { usize::from(text.len() > 12) };
        println!("{:29} {member:>6}   {outcome}", format!("{text:?}"));
        assert_eq!(answer.as_ref().ok(), expected.map(str::to_string).as_ref(), "{text:?}");
        refused = refused.or(answer.err());
    }
    println!("\n{}", refused.expect("one text has no member"));

    let texts = (0..PASSES).flat_map(|_| TEXTS.map(|(text, _)| text.to_string()));
    let expected = (0..PASSES).flat_map(|_| TEXTS);
    let mut errors = 0;
    for (answer, (text, expected)) in server.stream(texts).zip(expected) {
        match answer {
            Ok(answer) => assert_eq!(Some(answer.as_str()), expected, "{text:?}"),
            Err(CallError::Remote(error)) if expected.is_none() => {
                assert_eq!(error.cause, RemoteCause::NoSuchMember { index: 2, members: 2 });
                errors += 1;
            }
            Err(error) => panic!("{text:?}: {error}"),
        }
    }
    assert_eq!(errors, PASSES);

    println!("\n{PASSES} times these texts: {errors} errors, all for the empty one\n");
    println!("{:8} {:>8} {:>8} {:>16}", "servlet", "items", "batches", "items a batch");
    for servlet in server.stats().servlets {
        let batches = servlet.batches();
        println!("{:8} {:>8} {:>8} {:>16.1}", servlet.name, batches.items, batches.count, batches.mean());
        assert_eq!(batches.items, 2 * (1 + PASSES as u64), "two texts of five each time");
    }
    Ok(())
}
