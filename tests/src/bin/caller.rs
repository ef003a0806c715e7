//! A program that is a client of a test's server of actors.
//!
//! `caller ADDRESS` connects and says `connected PERMITS`, or `refused ERROR`; then it obeys the lines of its standard
//! input, each in turn, and answers each with a line.
//!
//! Commands: `double N` (says `= VALUE`, or `error TEXT`), `hold N` (sends it, keeps it in progress, and says `sent`),
//! `await` (waits for what `hold` sent, in order; says as `double`), `future N` (as `double`, by a future), `hold-future N`
//! (as `hold`, whose request a future waits for), `stream N` (checks N outcomes in order), `unordered N`, `async N` (likewise,
//! by an asynchronous stream), `fill` (holds requests until none is free, says how many), `flood N` (N threads call for as
//! long as the process lives), `let-go` (drops what is in progress), `fork` (a forked child calls), `leave` (drops the
//! client), `exec` (runs another program), `close-all` (closes all descriptors but the standard ones), `limit MS` (of the calls from now on).
#![expect(unsafe_code, reason = "a fork")]

use futures_util::StreamExt;

use futures_util::stream::iter;
use pollster::block_on;
use ringmill::call::Pending;
use ringmill::{BoxError, CallError, CallOptions, Client, WhenFull};
use ringmill_tests::actor::{Act, Answer};
use std::collections::VecDeque;
use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::time::Duration;

type Actors = Client<Act, Answer>;

/// What is in progress.
enum Held {
    Pending(Pending<'static, Answer>),
    Thread(std::thread::JoinHandle<String>),
}

fn said(outcome: Result<u64, CallError>) -> String {
    match outcome {
        Ok(value) => format!("= {value}"),
        Err(error) => format!("error {error}"),
    }
}

fn doubled(client: &Actors, number: u64, options: CallOptions) -> String {
    said(client.call_with(&Act::Double(number), options).map(|answer| answer.value.to_native()))
}

fn checked<'a>(outcomes: impl Iterator<Item = (u64, Result<Answer, CallError>)> + 'a) -> String {
    let mut count = 0;
    for (number, outcome) in outcomes {
        match outcome {
            Ok(answer) if answer.value == 2 * number => count += 1,
            Ok(answer) => return format!("wrong: {} for {number}", answer.value),
            Err(error) => return format!("error {error}"),
        }
    }
    format!("= {count}")
}

/// What a child of this process, a fork, says of a call.
fn in_a_child(client: &Actors) -> String {
    // SAFETY: the child makes calls that end at once, and ends by `_exit`; this process has no other thread now.
    match unsafe { libc::fork() } {
        0 => {
            let is_refused = matches!(client.call(&Act::Double(1)), Err(CallError::Forked { .. }));
            let mut future = Box::pin(client.call_async(Act::Double(1)));
            let waker = futures_util::task::noop_waker();
            let polled =
                std::future::Future::poll(future.as_mut(), &mut std::task::Context::from_waker(&waker));
            let is_future_refused = matches!(polled, std::task::Poll::Ready(Err(CallError::Forked { .. })));
            drop(future);
            // A client that is dropped in a child gives nothing back.
            drop(client.clone());
            // SAFETY: ends the child without its parent's clean-ups.
            unsafe { libc::_exit(if is_refused && is_future_refused { 7 } else { 8 }) }
        }
        child => {
            let mut status = 0;
            // SAFETY: a child of ours, and a live integer.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            format!("= {}", libc::WEXITSTATUS(status))
        }
    }
}

fn main() -> Result<(), BoxError> {
    let address = std::env::args().nth(1).expect("an address");
    let mut client = match Actors::connect(&address) {
        Ok(client) => {
            println!("connected {}", client.capacity());
            Some(client)
        }
        Err(error) => {
            println!("refused {error}");
            return Ok(());
        }
    };
    let (mut held, mut options) = (VecDeque::new(), CallOptions::default());
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (command, number) = line.split_once(' ').unwrap_or((&line, "0"));
        let number: u64 = number.parse()?;
        let Some(here) = client.as_ref() else { break };
        let answer = match command {
            "double" => doubled(here, number, options),
            "hold" => match here.handle().submit_with(&Act::Hold(number), options) {
                Ok(pending) => {
                    held.push_back(Held::Pending(pending));
                    "sent".into()
                }
                Err(error) => format!("error {error}"),
            },
            "hold-future" => {
                let future = here.call_async_with(Act::Hold(number), options);
                let wait = move || said(block_on(future).map(|answer| answer.value.to_native()));
                held.push_back(Held::Thread(std::thread::spawn(wait)));
                "sent".into()
            }
            "await" => match held.pop_front() {
                Some(Held::Pending(pending)) => said(pending.wait().map(|answer| answer.value.to_native())),
                Some(Held::Thread(thread)) => thread.join().expect("it does not panic"),
                None => "nothing".into(),
            },
            "future" => {
                said(block_on(here.call_async(Act::Double(number))).map(|answer| answer.value.to_native()))
            }
            "stream" => checked((0..number).zip(here.stream((0..number).map(Act::Double)))),
            "unordered" => {
                let items = (0..number).map(Act::Double);
                let mut outcomes = here.stream(items).with_inputs().unordered();
                checked(std::iter::from_fn(|| match outcomes.next()? {
                    Ok((Act::Double(number), outcome)) => Some((number, outcome)),
                    Ok(other) => panic!("{other:?}"),
                    Err(error) => Some((0, Err(error))),
                }))
            }
            "async" => {
                let mut outcomes = Box::pin(here.stream_async(iter((0..number).map(Act::Double))));
                let all = block_on(async {
                    let mut all = Vec::new();
                    while let Some(outcome) = outcomes.next().await {
                        all.push(outcome);
                    }
                    all
                });
                checked((0..number).zip(all))
            }
            "fill" => {
                let fail = options.when_full(WhenFull::Fail);
                let mut count = 0;
                while let Ok(pending) = here.handle().submit_with(&Act::Hold(1000 + count), fail) {
                    held.push_back(Held::Pending(pending));
                    count += 1;
                }
                format!("= {count}")
            }
            "flood" => {
                for _ in 0..number {
                    let here = here.handle();
                    std::thread::spawn(move || {
                        for number in 0.. {
                            let _ = here.call(&Act::Double(number)); // until the process or the server ends
                        }
                    });
                }
                "= 0".into()
            }
            "let-go" => {
                held.clear();
                format!("= {}", here.backlog())
            }
            "limit" => {
                options = options.timeout(Duration::from_millis(number));
                "= 0".into()
            }
            "close-all" => {
                // SAFETY: all but the standard ones; what this process opens later has their numbers.
                let closed = unsafe { libc::close_range(3, u32::MAX, 0) };
                format!("= {closed}")
            }
            "fork" => in_a_child(here),
            "leave" => {
                client = None;
                "= 0".into()
            }
            "exec" => {
                println!("= 0");
                std::io::stdout().flush()?;
                return Err(std::process::Command::new("cat").exec().into());
            }
            other => panic!("no command: {other}"),
        };
        println!("{answer}");
    }
    Ok(())
}
