//! A failure in a worker's code is an error for exactly the items it concerns, with all the facts that a person needs; the
//! worker goes on.

use ringmill::error::{ErrorKind, RemoteCause, RemoteError};
use ringmill::worker::Stop;
use ringmill::{
    Batch, BatchWorker, BoxError, CallError, Context, Ensemble, OnDeath, PassThrough, ProcessServlet, Server,
    Servlet, ThreadServlet, Worker,
};
use ringmill_tests::fresh_name;
use ringmill_tests::gate::{Gate, report, stop_at};
use ringmill_tests::host::{Crew, Host, on_both};
use ringmill_tests::pile::pile_up;
use ringmill_tests::printer::Printer;
use ringmill_tests::traces::assert_gone;
use rkyv::rancor::Fallible;
use rkyv::string::ArchivedString;
use rkyv::with::{ArchiveWith, DeserializeWith, SerializeWith};
use rkyv::{Archive, Archived, Place};
use std::fmt;

ringmill::init!(Clerk, Foreman, Printer, Leaver, Scribe);

/// An error with a cause of its own.
#[derive(Debug)]
struct ModelMissing(std::num::ParseIntError);

impl fmt::Display for ModelMissing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no model of that number")
    }
}

impl std::error::Error for ModelMissing {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

fn attached(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| index as u8).collect()
}

/// Does as each item says; answers with how many items it has answered before.
struct Clerk {
    gate: String,
    answered: u64,
}

impl Worker for Clerk {
    type Config = String;
    type In = String;
    type Out = u64;

    fn new(gate: String, _: &Context) -> Result<Self, BoxError> {
        Ok(Self { gate, answered: 0 })
    }

    fn call(&mut self, input: &ArchivedString) -> Result<u64, BoxError> {
        match input.as_str() {
            "stop" => stop_at(&self.gate, "stopped"),
            "fail" => {
                "x7".parse::<u32>().map_err(ModelMissing)?;
            }
            "send another" => return Err(BoxError::msg("there is no such thing").invalid()),
            "no number" => {
                "x7".parse::<u32>().map_err(|error| BoxError::from(error).invalid())?;
            }
            attach if attach.starts_with("attach ") => {
                let bytes: usize = attach[7..].parse()?;
                let error = BoxError::msg(format!("{bytes} bytes are attached"));
                return Err(error.with_attachment(attached(bytes)));
            }
            "say" => return Err(BoxError::msg("only words")),
            "say much" => {
                return Err(BoxError::msg(format!("it begins so {}", "and goes on ".repeat(100_000))));
            }
            "say lines" => return Err(BoxError::msg("first\nsecond\r\n\tthird")),
            "panic" => panic!("item {} is unlucky", 13),
            "panic with a value" => std::panic::panic_any(13_u8),
            "panic with lines" => assert_eq!(self.answered, u64::MAX, "counted"),
            _ => {}
        }
        self.answered += 1;
        Ok(self.answered)
    }
}

fn clerks(host: Host, gate: &Gate, crew: Crew) -> Server<String, u64> {
    host.start::<Clerk>(Server::builder(fresh_name("errors")), gate.name(), crew)
}

/// The message of a call that fails on the worker's side.
#[track_caller]
fn remote<Out: ringmill::Payload>(server: &Server<String, Out>, item: &str) -> (RemoteError, String) {
    let error = server.call(&item.to_string()).map(drop).expect_err("it fails");
    match &error {
        CallError::Remote(remote) => ((**remote).clone(), error.to_string()),
        other => panic!("{other:?}"),
    }
}

/// The process that the worker of this server runs in.
fn pid_of<In, Out>(server: &Server<In, Out>, worker: usize) -> u32 {
    server.stats().servlets[0].workers[worker].pid
}

#[test]
fn an_error_has_its_type_its_chain_and_its_worker() {
    on_both(|host| {
        let server = clerks(host, &Gate::new(), Crew::of(1));
        let (error, text) = remote(&server, "fail");
        let pid = pid_of(&server, 0);
        assert_eq!(pid == std::process::id(), host == Host::Threads);
        assert_eq!((error.servlet.as_str(), error.worker, error.pid, error.attempt), ("clerk", 0, pid, 0));
        let RemoteCause::Failed { type_name, messages, .. } = &error.cause else { panic!("{error:?}") };
        assert_eq!(type_name, "servlets::errors::ModelMissing");
        assert_eq!(messages, &["no model of that number", "invalid digit found in string"]);
        let line = format!(
            "clerk/0 (pid {pid}): servlets::errors::ModelMissing: no model of that number: invalid digit found in string"
        );
        assert_eq!(text, line);
        assert_eq!(server.stats().servlets[0].total().errors, 1);
    });
}

#[test]
fn an_error_made_of_text_is_that_text() {
    on_both(|host| {
        let server = clerks(host, &Gate::new(), Crew::of(1));
        let (_, text) = remote(&server, "say");
        assert_eq!(text, format!("clerk/0 (pid {}): only words", pid_of(&server, 0)));
    });
}

#[test]
fn a_panic_is_an_error_with_its_line_and_the_worker_goes_on() {
    on_both(|host| {
        let server = clerks(host, &Gate::new(), Crew::of(1));
        let pid = pid_of(&server, 0);
        assert_eq!(*server.call(&String::new()).expect("an answer"), 1);
        for item in ["panic", "panic with a value"] {
            let (error, text) = remote(&server, item);
            let RemoteCause::Panicked { message, .. } = &error.cause else { panic!("{error:?}") };
            assert!(message.contains("errors.rs:"), "its line: {message}");
            assert!(text.starts_with(&format!("clerk/0 (pid {pid}): panicked: ")), "{text}");
        }
        let (error, _) = remote(&server, "panic");
        assert!(error.cause.to_string().starts_with("panicked: item 13 is unlucky at "), "{error}");
        assert_eq!(*server.call(&String::new()).expect("an answer"), 2, "it has kept its state");
        assert_eq!(pid_of(&server, 0), pid, "it is the same process");
        let total = server.stats().servlets[0].total();
        assert_eq!((total.panics, total.errors, total.items), (3, 3, 5));
    });
}

/// Symptom: a stack began with the hook of the panic and ended with the engine and `main`, so that a caller's log had
/// twenty lines around the two that matter.
#[test]
fn the_stack_of_a_panic_is_that_of_the_users_code() {
    for (variable, is_whole) in [("1", false), ("full", true)] {
        let servlet = ProcessServlet::<Clerk>::new(Gate::new().name()).env("RUST_BACKTRACE", variable);
        let server = Server::builder(fresh_name("errors")).start(servlet).expect("it starts");
        let (error, _) = remote(&server, "panic");
        let RemoteCause::Panicked { backtrace: Some(stack), .. } = &error.cause else { panic!("{error:?}") };
        assert!(stack.contains("Clerk"), "{stack}");
        for outside in ["panic_with_hook", "ringmill::worker::collect::"] {
            assert_eq!(stack.contains(outside), is_whole, "{outside}: {stack}");
        }
    }
}

/// The kind of the error of a call with each input.
fn kinds<Out: ringmill::Payload>(
    server: &Server<String, Out>,
    inputs: &[&str],
) -> Vec<Result<(), ErrorKind>> {
    inputs.iter().map(|input| server.call(&(*input).to_owned()).map(drop).map_err(|e| e.kind())).collect()
}

/// Symptom: a worker could only say that it had failed, so a bad input was a 500.
#[test]
fn an_input_that_a_worker_calls_invalid_is_the_callers_fault() {
    let (invalid, worker) = (Err(ErrorKind::Invalid), Err(ErrorKind::Worker));
    on_both(|host| {
        let server = clerks(host, &Gate::new(), Crew::of(1));
        let pid = pid_of(&server, 0);
        let asked = ["", "send another", "no number", "fail", "panic", ""];
        assert_eq!(kinds(&server, &asked), [Ok(()), invalid, invalid, worker, worker, Ok(())]);
        let (error, text) = remote(&server, "no number");
        assert!(matches!(error.cause, RemoteCause::Failed { invalid: true, .. }), "{error:?}");
        assert!(text.ends_with("ParseIntError: invalid digit found in string"), "{text}");

        let inputs = ["", "send another", ""].map(String::from);
        let outcomes: Vec<_> = server.stream(inputs).map(|o| o.map(drop).map_err(|e| e.kind())).collect();
        assert_eq!(outcomes, [Ok(()), invalid, Ok(())]);

        let stats = server.stats();
        assert_eq!((stats.requests.counters.invalid, stats.requests.counters.worker), (4, 2));
        assert_eq!((pid_of(&server, 0), stats.deaths.deaths), (pid, 0));
    });
}

#[test]
fn an_invalid_input_is_invalid_through_stages_ensembles_and_batches() {
    let (invalid, worker) = (Err(ErrorKind::Invalid), Err(ErrorKind::Worker));
    let clerk = || ThreadServlet::<Clerk>::new("no gate".to_owned());
    let texts = || ThreadServlet::<PassThrough<String>>::new(());
    let builder = || Server::builder(fresh_name("errors"));

    let stages = texts().then(clerk()).then(ThreadServlet::<PassThrough<u64>>::new(()));
    assert_eq!(
        kinds(&builder().start(stages).expect("it starts"), &["send another", "fail"]),
        [invalid, worker]
    );

    let ensemble = builder().start(Ensemble::of((clerk(), texts()))).expect("it starts");
    assert_eq!(kinds(&ensemble, &["send another", "fail", ""]), [invalid, worker, Ok(())]);

    let batches = ThreadServlet::<Foreman>::new("no gate".to_owned()).batch_size(4);
    let server = builder().start(batches).expect("it starts");
    assert_eq!(kinds(&server, &["all invalid", "each its own"]), [invalid, Ok(())]);

    let mut alone = ringmill::testing::build::<Clerk>("no gate".to_owned()).expect("it is built");
    let handled = ringmill::testing::batch(&mut alone, ["send another".to_owned()]);
    assert_eq!(handled.outcomes[0].as_ref().map(drop).map_err(CallError::kind), invalid);
}

#[test]
fn errors_print_as_one_line_whatever_is_in_them() {
    on_both(|host| {
        let server = clerks(host, &Gate::new(), Crew::of(1));
        for item in ["say lines", "panic with lines"] {
            let (error, text) = remote(&server, item);
            assert_eq!(text.lines().count(), 1, "{text:?}");
            assert_eq!(error.to_string(), text);
        }
        let (_, text) = remote(&server, "say lines");
        assert!(text.contains("first") && text.contains("second") && text.contains("third"), "{text}");
    });
}

#[test]
fn an_error_or_a_panic_of_a_single_item_worker_touches_only_its_item() {
    on_both(|host| {
        let gate = Gate::new();
        let server = clerks(host, &gate, Crew::of(1).greedy(8));
        let items = ["", "panic", "", "fail", ""].map(String::from).into();
        let outcomes = pile_up(&server, &gate, "stop".to_string(), items);
        assert_eq!(server.stats().servlets[0].batches().max, 5, "they were one batch");
        let shown: Vec<_> =
            outcomes.iter().map(|o| o.as_ref().map_err(|e| e.remote_error().is_some())).collect();
        assert_eq!(shown, [Ok(&2), Err(true), Ok(&3), Err(true), Ok(&4)]);
    });
}

#[test]
fn an_error_too_large_for_its_buffer_is_shortened_and_not_lost() {
    on_both(|host| {
        let full = |server: &Server<String, u64>| {
            let (error, text) = remote(server, "say much");
            assert!(text.contains("): it begins so and goes"), "{text}");
            assert_eq!((error.servlet.as_str(), error.pid), ("clerk", pid_of(server, 0)));
        };
        full(&clerks(host, &Gate::new(), Crew::of(1)));
        // Without blocks only the in-line buffer is left, for as much as it holds.
        let builder = Server::builder(fresh_name("errors")).max_payload(0);
        let server = host.start::<Clerk>(builder, "no gate".into(), Crew::of(1));
        let (error, text) = remote(&server, "say much");
        assert!(text.contains("): it begins so"), "{text}");
        assert_eq!(error.pid, pid_of(&server, 0));
        let (_, text) = remote(&server, "panic");
        // The first 16 bytes, the least that is kept.
        assert_eq!(text, format!("clerk/0 (pid {}): panicked: item 13 is unluc", pid_of(&server, 0)));
        assert_eq!(*server.call(&String::new()).expect("an answer"), 1);
    });
}

#[test]
fn an_error_says_which_of_several_workers_it_comes_from() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &clerks(host, &gate, Crew::of(2));
        std::thread::scope(|scope| {
            // One worker is held, so the other one answers.
            let held = scope.spawn(|| server.call(&"stop".to_string()).map(drop));
            let arrival = gate.arrival();
            let (error, _) = remote(server, "fail");
            assert_eq!(error.pid, pid_of(server, error.worker as usize));
            let answered: Vec<u64> =
                server.stats().servlets[0].workers.iter().map(|w| w.counters.errors).collect();
            assert_eq!(answered[error.worker as usize], 1);
            arrival.release();
            held.join().expect("no panic").expect("an answer");
        });
    });
}

/// Handles batches as their first item says.
struct Foreman {
    gate: String,
}

impl BatchWorker for Foreman {
    type Config = String;
    type In = String;
    type Out = String;

    fn new(gate: String, _: &Context) -> Result<Self, BoxError> {
        Ok(Self { gate })
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        let texts: Vec<String> = batch.inputs().map(ArchivedString::to_string).collect();
        let len = batch.len();
        match texts[0].as_str() {
            "stop" => stop_at(&self.gate, "stopped"),
            "too few" => return batch.reply_all(texts.into_iter().skip(1)),
            "none" => return batch.reply_all([]),
            "too many" => return batch.reply_all(texts.into_iter().chain(["more".into()])),
            "endless" => return batch.reply_all(std::iter::repeat("again".to_string())),
            "wrong count, ignored" => {
                let _ = batch.reply_all([]);
                return Ok(());
            }
            "outcomes panic" => return batch.reply_all((0..len).map(|i| format!("{}", 10 / (1 - i)))),
            "error" => return Err(BoxError::msg("the whole batch is bad")),
            "all invalid" => return Err(BoxError::msg("the whole batch is invalid").invalid()),
            "panic" => panic!("the whole batch panics"),
            "error after two" | "panic after two" | "silence after two" => {
                let mut items = batch.into_iter();
                items.by_ref().take(2).for_each(|item| item.reply("done".into()));
                match texts[0].as_str() {
                    "error after two" => return Err(BoxError::msg("the rest is bad")),
                    "panic after two" => panic!("the rest panics"),
                    _ => return Ok(()),
                }
            }
            "each its own" => {
                for item in batch {
                    match item.input().as_str() {
                        "fail" => item.fail(BoxError::msg("this one only")),
                        "forget" => {}
                        _ => item.pass(),
                    }
                }
                return Ok(());
            }
            _ => {}
        }
        batch.reply_all(texts)
    }
}

/// Gives a foreman one batch of these items; returns the outcome of each, or the error's text without its worker.
fn one_batch(host: Host, items: &[&str]) -> Vec<Result<String, String>> {
    let gate = Gate::new();
    let builder = Server::builder(fresh_name("errors"));
    let server = host.start::<Foreman>(builder, gate.name(), Crew::of(1).greedy(16));
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    let count = items.len() as u64;
    let outcomes = pile_up(&server, &gate, "stop".into(), items);
    assert_eq!(server.stats().servlets[0].batches().max, count, "they were one batch");
    // In every case the worker goes on.
    assert_eq!(server.call(&"well".to_string()).expect("an answer").as_str(), "well");
    assert_eq!(server.backlog(), 0);
    let shown = |outcome: Result<String, CallError>| {
        outcome.map_err(|error| match error {
            CallError::Remote(error) => error.cause.to_string(),
            other => panic!("{other:?}"),
        })
    };
    outcomes.into_iter().map(shown).collect()
}

#[test]
fn a_wrong_number_of_outcomes_is_an_error_for_every_item_of_the_batch() {
    on_both(|host| {
        for (what, given) in
            [("too few", 2), ("none", 0), ("too many", 4), ("endless", 4), ("wrong count, ignored", 0)]
        {
            let text = format!("the worker's call gave {given} outcomes for a batch of 3; none was used");
            assert_eq!(one_batch(host, &[what, "b", "c"]), vec![Err(text); 3], "{what}");
        }
        assert_eq!(one_batch(host, &["well", "b"]), ["well", "b"].map(|text| Ok(text.to_string())));
    });
}

#[test]
fn outcomes_that_panic_while_they_are_made_are_an_error_for_every_item() {
    on_both(|host| {
        let outcomes = one_batch(host, &["outcomes panic", "b", "c"]);
        let by_panic = |outcome: &Result<String, String>| {
            outcome.as_ref().is_err_and(|text| text.starts_with("panicked: attempt to"))
        };
        assert!(outcomes.iter().all(by_panic), "{outcomes:?}");
    });
}

#[test]
fn an_error_of_a_whole_batch_is_that_of_each_item() {
    on_both(|host| {
        let text = Err("the whole batch is bad".to_string());
        assert_eq!(one_batch(host, &["error", "b", "c"]), vec![text; 3]);
        let outcomes = one_batch(host, &["panic", "b", "c"]);
        let by_panic = |outcome: &Result<String, String>| {
            outcome.as_ref().is_err_and(|text| text.starts_with("panicked: the whole batch panics at "))
        };
        assert!(outcomes.iter().all(by_panic), "{outcomes:?}");
    });
}

#[test]
fn an_error_touches_only_items_that_have_not_been_answered() {
    on_both(|host| {
        for (what, text) in [
            ("error after two", "the rest is bad"),
            ("panic after two", "panicked: the rest panics at "),
            ("silence after two", "the worker's call returned without answering this item"),
        ] {
            let outcomes = one_batch(host, &[what, "b", "c", "d"]);
            assert_eq!(outcomes[..2], ["done", "done"].map(|text| Ok(text.to_string())), "{what}");
            let rest = |o: &Result<String, String>| o.as_ref().is_err_and(|e| e.starts_with(text));
            assert!(outcomes[2..].iter().all(rest), "{outcomes:?}");
        }
    });
}

#[test]
fn an_item_can_fail_or_be_forgotten_alone() {
    on_both(|host| {
        assert_eq!(
            one_batch(host, &["each its own", "fail", "c", "forget", "e"]),
            [
                Ok("each its own".to_string()),
                Err("this one only".to_string()),
                Ok("c".to_string()),
                Err("the worker's call returned without answering this item".to_string()),
                Ok("e".to_string()),
            ]
        );
    });
}

#[test]
fn an_outcome_too_large_is_an_error_with_both_sizes() {
    on_both(|host| {
        let builder = Server::builder(fresh_name("errors")).max_payload(2048);
        let server = host.start::<Printer>(builder, (), Crew::of(1));
        let (error, text) = remote(&server, "5000");
        let RemoteCause::OutcomeTooLarge { bytes: 5000.., largest: 2048 } = error.cause else {
            panic!("{error:?}")
        };
        assert!(text.contains("the outcome has 5") && text.contains("class 2048"), "{text}");
        assert_eq!(server.call(&"2000".to_string()).expect("it fits").len(), 2000);
        assert_eq!(server.backlog(), 0);
    });
}

/// Says why it leaves; then panics, if that is its configuration.
struct Leaver {
    gate: String,
    panics: bool,
}

impl Worker for Leaver {
    type Config = (String, bool);
    type In = ();
    type Out = ();

    fn new((gate, panics): (String, bool), _: &Context) -> Result<Self, BoxError> {
        Ok(Self { gate, panics })
    }

    fn call(&mut self, _: &()) -> Result<(), BoxError> {
        Ok(())
    }

    fn cleanup(&mut self, reason: &Stop) {
        report(&self.gate, &format!("{reason:?}"));
        assert!(!self.panics, "as its configuration says");
    }
}

#[test]
fn cleanup_gets_the_reason_and_runs_once_in_each_worker() {
    on_both(|host| {
        for panics in [false, true] {
            let (gate, name) = (Gate::new(), fresh_name("errors"));
            let server = host.start::<Leaver>(Server::builder(&name), (gate.name(), panics), Crew::of(3));
            assert!(server.call(&()).is_ok());
            assert!(gate.arrival_if_any().is_none(), "no worker leaves yet");
            server.shutdown();
            for _ in 0..3 {
                assert_eq!(gate.arrival().label(), "Shutdown");
            }
            assert!(gate.arrival_if_any().is_none(), "once each");
            drop(server);
            assert_gone(&name);
        }
    });
}

/// A number that some of its writers cannot write: 13 and 14.
pub(super) struct Fussy;

impl ArchiveWith<u64> for Fussy {
    type Archived = Archived<u64>;
    type Resolver = ();

    fn resolve_with(number: &u64, (): (), out: Place<Archived<u64>>) {
        assert_ne!(*number, 14, "not in its place");
        number.resolve((), out);
    }
}

impl<S: Fallible + ?Sized> SerializeWith<u64, S> for Fussy {
    fn serialize_with(number: &u64, _: &mut S) -> Result<(), S::Error> {
        assert_ne!(*number, 13, "not its parts");
        Ok(())
    }
}

impl<D: Fallible + ?Sized> DeserializeWith<Archived<u64>, u64, D> for Fussy {
    fn deserialize_with(number: &Archived<u64>, _: &mut D) -> Result<u64, D::Error> {
        Ok(number.to_native())
    }
}

/// A text of this many bytes, and a fussy number.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(super) struct Letter {
    pub(super) text: String,
    #[rkyv(with = Fussy)]
    pub(super) number: u64,
}

/// Writes letters.
struct Scribe;

impl Worker for Scribe {
    type Config = ();
    type In = (u64, u32);
    type Out = Letter;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, input: &Archived<(u64, u32)>) -> Result<Letter, BoxError> {
        Ok(Letter { text: "x".repeat(input.1.to_native() as usize), number: input.0.to_native() })
    }
}

/// Symptom: a caller waited for ever. Cause: its outcome's own serialiser panicked when the task had left the desk, so no code
/// answered it. Fix: the task leaves the desk once its outcome is written.
#[test]
fn a_panic_while_an_outcome_is_written_is_its_items_error() {
    for policy in [OnDeath::Fail, OnDeath::Retry(1)] {
        // Few blocks: a block that such an outcome leaked would be missing.
        let scribe = ProcessServlet::<Scribe>::new(()).on_death(policy).batch_size(4);
        let server = Server::builder(fresh_name("scribe")).capacity(4).max_payload(4096);
        let server: Server<(u64, u32), Letter> = server.start(scribe).expect("it starts");
        for round in 0..20 {
            for (number, bytes) in [(13, 10), (14, 10), (13, 3000), (14, 3000)] {
                let error = server.call(&(number, bytes)).map(drop).expect_err("it cannot be written");
                let CallError::Remote(error) = &error else { panic!("{policy:?}, round {round}: {error:?}") };
                let RemoteCause::Panicked { message, .. } = &error.cause else { panic!("{error:?}") };
                assert!(message.contains(if number == 13 { "not its parts" } else { "not in its place" }));
            }
            let letter = server.call(&(100 + round, 3000)).expect("a letter");
            assert_eq!((letter.text.len(), letter.number.to_native()), (3000, 100 + round));
        }
        let totals = server.stats().servlets[0].total();
        assert_eq!((totals.panics, totals.errors, totals.items), (80, 80, 100));
    }
}

#[test]
fn what_is_attached_to_an_error_arrives_with_it_if_it_fits() {
    on_both(|host| {
        let start = |max_payload| {
            let builder = Server::builder(fresh_name("attached")).max_payload(max_payload);
            host.start::<Clerk>(builder, String::new(), Crew::of(1))
        };
        let (small, large) = (start(16 << 10), start(1 << 20));
        let failed = |server: &Server<String, u64>, bytes: usize| {
            let error = server.call(&format!("attach {bytes}")).expect_err("it fails");
            let CallError::Remote(error) = error else { panic!("{error}") };
            assert!(error.to_string().ends_with(&format!("{bytes} bytes are attached")), "{error}");
            error.attachment().map(<[u8]>::to_vec)
        };
        for (server, bytes, arrives) in [
            (&small, 0, true),
            (&small, 1, true),
            (&small, 12_000, true),
            (&small, 17_000, false), // the record has no room for it
            (&large, 17_000, true),
            (&large, 64 << 10, true),
            (&large, (64 << 10) + 1, false), // beyond what can be attached
        ] {
            assert_eq!(failed(server, bytes), arrives.then(|| attached(bytes)), "{bytes}");
        }
    });
}

#[test]
fn what_is_attached_arrives_from_members_of_ensembles() {
    let clerk = |name: &str| ThreadServlet::<Clerk>::new(String::new()).name(name);
    let server = Server::builder(fresh_name("attached-member")).start(Ensemble::of((clerk("a"), clerk("b"))));
    let error = server.expect("it starts").call(&"attach 500".into()).expect_err("both fail");
    let CallError::Ensemble(error) = error else { panic!("{error}") };
    let attachments = error.members.iter().filter_map(|member| member.outcome.error()?.attachment());
    assert!(attachments.clone().count() > 0, "{error}");
    assert!(attachments.into_iter().all(|attachment| attachment == attached(500)), "{error}");
}
