//! Shows how to put stages one after another with `then`.
//!
//! A text becomes words, the words become counts, the counts become a line of a report. The input of each
//! stage is the outcome of the stage before; two stages run in processes, the last in a thread of this process. A
//! text without words fails in the first stage: the other stages never see it, and its caller gets the error. The
//! first stage has two workers, which overtake each other; each answer still comes to its caller.
//!
//! Run it with `cargo run --release --example pipeline`.

use ringmill::{BoxError, CallError, ProcessServlet, Server, Servlet, ThreadServlet};
use std::collections::BTreeMap;

ringmill::make_worker!(Split: String => Vec<String>, |text| {
    let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
    if words.is_empty() { Err(BoxError::msg("there is no word in it")) } else { Ok(words) }
});

ringmill::make_worker!(Count: Vec<String> => BTreeMap<String, u32>, |words| {
    let mut counts = BTreeMap::new();
    for word in words.iter() {
        *counts.entry(word.to_string()).or_insert(0) += 1;
    }
    counts
});

ringmill::make_worker!(Report: BTreeMap<String, u32> => String, |counts| {
    let counts: Vec<String> = counts.iter().map(|(word, count)| format!("{word} {count}")).collect();
    counts.join(", ")
});

/// Some texts and the reports that they must become; `None` for an error.
const TEXTS: [(&str, Option<&str>); 4] = [
    ("The cat saw the other cat", Some("cat 2, other 1, saw 1, the 2")),
    ("one", Some("one 1")),
    (" ", None),
    ("to be or not to be", Some("be 2, not 1, or 1, to 2")),
];
const CALLERS: usize = 4;
const TEXTS_EACH: usize = 5_000;

fn main() -> Result<(), BoxError> {
    ringmill::init!(Split, Count); // the stages that run in processes; a thread needs no listing

    let split = ProcessServlet::<Split>::new(()).cpus(2); // two workers
    let count = ProcessServlet::<Count>::new(());
    let report = ThreadServlet::<Report>::new(());
    let server = Server::builder("pipeline").start(split.then(count).then(report))?;

    println!("{:28} became", "the text");
    let answers = server.stream(TEXTS.map(|(text, _)| text.to_string()));
    for (answer, (text, expected)) in answers.zip(TEXTS) {
        match &answer {
            Ok(report) => println!("{:28} {report}", format!("{text:?}")),
            Err(error) => println!("{:28} error: {error}", format!("{text:?}")),
        }
        assert_eq!(answer.ok().as_deref(), expected, "{text:?}");
    }

    // Several callers at once, each with texts of its own; every tenth text has no word.
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let server = &server;
            scope.spawn(move || {
                let text = |n| if n % 10 == 0 { String::new() } else { format!("c{caller} t{n} t{n}") };
                for (n, answer) in server.stream((0..TEXTS_EACH).map(text)).enumerate() {
                    match answer {
                        Ok(report) => assert_eq!(report, format!("c{caller} 1, t{n} 2")),
                        Err(CallError::Remote(error)) if n % 10 == 0 => assert_eq!(error.servlet, "split"),
                        Err(error) => panic!("caller {caller}, text {n}: {error}"),
                    }
                }
            });
        }
    });
    println!("\n{CALLERS} callers with {TEXTS_EACH} texts each: every answer came to its caller\n");

    println!("{:8} {:12} {:>7} {:>7}   by each worker", "stage", "runs in", "items", "errors");
    let runs_in = ["2 processes", "1 process", "1 thread"];
    let stages = server.stats().servlets;
    for (stage, runs_in) in stages.iter().zip(runs_in) {
        let by_worker: Vec<String> = stage.workers.iter().map(|w| w.counters.items.to_string()).collect();
        let (total, by_worker) = (stage.total(), by_worker.join(" + "));
        println!("{:8} {runs_in:12} {:>7} {:>7}   {by_worker}", stage.name, total.items, total.errors);
    }

    // Only the item that failed in the first stage is missing in the others.
    let items: Vec<u64> = stages.iter().map(|stage| stage.total().items).collect();
    let (sent, failed) = (TEXTS.len() + CALLERS * TEXTS_EACH, 1 + CALLERS * TEXTS_EACH / 10);
    assert_eq!(items, [sent, sent - failed, sent - failed].map(|n| n as u64));
    Ok(())
}
