//! Large payloads that are written where they stay: inputs by their caller, outcomes by their worker.

use ringmill::payload::{Tailed, fill, fill_tail};
use ringmill::rkyv::Archived;
use ringmill::{
    Batch, BatchWorker, BoxError, CallError, CallOptions, Context, Ensemble, OnDeath, ProcessServlet, Server,
    ServerBuilder, Servlet, ThreadServlet,
};
use ringmill_tests::host::{Crew, Host, assert_at_rest, on_both};
use ringmill_tests::{GUARD, fresh_name};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Numbers up to here lie in line, with their root.
const SMALL: usize = 8;
/// So many take a block of the largest class.
const LARGE: usize = 200_000;
const SIZES: [usize; 5] = [0, 1, SMALL, 1000, LARGE];

/// Answers with the sum of the input, as many times as the first number says: `[n, …]` → `[sum; n]`.
struct Repeat;

impl BatchWorker for Repeat {
    type Config = ();
    type In = Vec<u32>;
    type Out = Vec<u32>;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        for item in batch {
            let len = item.input().first().map_or(0, |len| len.to_native() as usize);
            item.reply_in_place(len, |input, room| {
                room.fill(sum(input));
                assert_ne!(len, 13, "thirteen");
            });
        }
        Ok(())
    }
}

fn sum(numbers: &Archived<Vec<u32>>) -> u32 {
    numbers.iter().fold(0, |sum: u32, number| sum.wrapping_add(number.to_native()))
}

/// Adds one to every number, where it lies; panics at a first number of 13, half-way.
struct Increment;

impl BatchWorker for Increment {
    type Config = ();
    type In = Vec<u32>;
    type Out = Vec<u32>;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        for item in batch {
            item.pass_changed(|numbers| {
                let half = numbers.len() / 2;
                numbers[..half].iter_mut().for_each(|number| *number += 1);
                assert_ne!(numbers.first(), Some(&14), "thirteen");
                numbers[half..].iter_mut().for_each(|number| *number += 1);
            });
        }
        Ok(())
    }
}

/// As [`Increment`]; its first life dies half-way.
struct Mortal {
    dies: bool,
}

impl BatchWorker for Mortal {
    type Config = ();
    type In = Vec<u32>;
    type Out = Vec<u32>;

    fn new((): (), context: &Context) -> Result<Self, BoxError> {
        Ok(Self { dies: context.restarts() == 0 })
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        for item in batch {
            item.pass_changed(|numbers| {
                let half = numbers.len() / 2;
                numbers[..half].iter_mut().for_each(|number| *number += 1);
                if self.dies {
                    std::process::abort();
                }
                numbers[half..].iter_mut().for_each(|number| *number += 1);
            });
        }
        Ok(())
    }
}

ringmill::make_worker!(Sum: Vec<u32> => u32, sum);

/// Turns a frame on its side: width and height change places, and so do its pixels.
struct Turn;

type Frame = Tailed<(u32, u32), u8>;

impl BatchWorker for Turn {
    type Config = ();
    type In = Frame;
    type Out = Frame;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        for item in batch {
            let (width, height) = (item.input().head.0.to_native(), item.input().head.1.to_native());
            let len = item.input().tail.len();
            item.reply_tailed((height, width), len, |frame, pixels| {
                let (width, height) = (width as usize, height as usize);
                for (at, pixel) in pixels.iter_mut().enumerate() {
                    *pixel = frame.tail[at % height * width + at / height];
                }
            });
        }
        Ok(())
    }
}

ringmill::init!(Repeat, Increment, Mortal, Sum, Turn);

fn builder() -> ServerBuilder {
    Server::builder(fresh_name("in-place")).capacity(8).max_payload(2 << 20)
}

fn numbers(len: usize) -> Vec<u32> {
    (0..len as u32).map(|number| number * 3).collect()
}

fn more(numbers: &[u32], by: u32) -> Vec<u32> {
    numbers.iter().map(|number| number + by).collect()
}

fn sum_of(numbers: &[u32]) -> u32 {
    numbers.iter().fold(0, |sum, number| sum.wrapping_add(*number))
}

#[test]
fn an_outcome_is_written_beside_its_input() {
    on_both(|host| {
        let server = host.start::<Repeat>(builder(), (), Crew::of(1).greedy(4));
        for from in SIZES {
            for to in SIZES {
                let mut input = numbers(from);
                if let Some(first) = input.first_mut() {
                    *first = to as u32;
                }
                let answer = server.call(&input).expect("an answer");
                let expected = sum_of(&input);
                assert_eq!(answer.len(), if from == 0 { 0 } else { to });
                assert!(answer.iter().all(|&number| number == expected), "{from} to {to}");
            }
        }
        assert_at_rest(&server);
    });
}

#[test]
fn an_outcome_that_cannot_be_written_is_an_error() {
    on_both(|host| {
        let server = host.start::<Repeat>(builder(), (), Crew::of(1).greedy(4));
        let error = server.call_ref(&[1 << 30]).expect_err("4 GiB").to_string();
        assert!(error.contains("4294967312 bytes") && error.contains("the largest payload class"), "{error}");
        let error = server.call_ref(&[13, 1]).expect_err("it panics").to_string();
        assert!(error.contains("thirteen"), "{error}");
        assert_eq!(*server.call_ref(&[3, 1, 2]).expect("an answer"), [6, 6, 6]);
        assert_at_rest(&server);
    });
}

#[test]
fn an_input_is_changed_where_it_lies_through_all_stages() {
    on_both(|host| {
        let server = match host {
            Host::Processes => {
                let stage = || ProcessServlet::<Increment>::new(()).batch_size(4);
                builder().start(stage().then(stage()).then(stage())).expect("a server")
            }
            Host::Threads => {
                let stage = || ThreadServlet::<Increment>::new(()).batch_size(4);
                builder().start(stage().then(stage()).then(stage())).expect("a server")
            }
        };
        for len in SIZES {
            let answer = server.call(&numbers(len)).expect("an answer").into_owned().expect("numbers");
            assert_eq!(answer, more(&numbers(len), 3));
        }
        let error = server.call(&vec![13; 10]).expect_err("it panics").to_string();
        assert!(error.contains("thirteen"), "{error}");
        let many: Vec<_> = (0..40).map(|len| numbers(len * 50)).collect();
        for (answer, input) in server.stream(many.clone()).zip(&many) {
            assert_eq!(answer.expect("an answer"), more(input, 3));
        }
        assert_at_rest(&server);
    });
}

#[test]
fn an_input_that_others_read_stays_as_it_is() {
    let members = (
        ThreadServlet::<Increment>::new(()),
        ProcessServlet::<Sum>::new(()).cpus(2),
        ProcessServlet::<Increment>::new(()),
    );
    let server = builder().start(Ensemble::of(members)).expect("a server");
    for len in SIZES {
        for _ in 0..10 {
            let input = numbers(len);
            let (one, sum, other) = server.call(&input).expect("an answer").into_owned().expect("three");
            assert_eq!((&*one, &*other), (&more(&input, 1), &*one));
            assert_eq!(*sum, sum_of(&input), "{len}");
        }
    }
    assert_at_rest(&server);
}

#[test]
fn a_retry_finds_the_input_whole() {
    for len in SIZES {
        let mortal = ProcessServlet::<Mortal>::new(()).on_death(OnDeath::Retry(1));
        let server = builder().start(mortal).expect("a server");
        let answer = server.call_with(&numbers(len), CallOptions::new().timeout(GUARD)).expect("an answer");
        assert_eq!(*answer, more(&numbers(len), 1)[..]);
        drop(answer);
        assert_at_rest(&server);
    }
}

#[test]
fn without_a_retry_a_death_in_the_midst_of_a_change_is_told() {
    let server = builder().start(ProcessServlet::<Mortal>::new(())).expect("a server");
    let error = server.call(&numbers(LARGE)).expect_err("it dies");
    assert!(matches!(error, CallError::WorkerDied { .. }), "{error}");
    let options = CallOptions::new().timeout(GUARD);
    assert_eq!(server.call_with(&numbers(LARGE), options).expect("an answer")[7], 22);
    assert_at_rest(&server);
}

#[test]
fn loans_are_submitted_and_awaited() {
    on_both(|host| {
        let server = host.start::<Increment>(builder(), (), Crew::of(1).greedy(4));
        let handle = server.handle();
        let lend = |len| {
            let mut loan = server.loan(len).expect("a permit");
            loan.as_mut_slice().copy_from_slice(&numbers(len));
            loan
        };
        let pending: Vec<_> = SIZES.iter().map(|&len| server.submit_loan(lend(len)).expect("sent")).collect();
        for (pending, len) in pending.into_iter().zip(SIZES) {
            assert_eq!(*pending.wait().expect("an answer"), more(&numbers(len), 1)[..]);
        }
        let awaited = handle.submit_loan(lend(1000)).expect("sent");
        let answer = pollster::block_on(awaited).expect("an answer");
        assert_eq!(*answer, more(&numbers(1000), 1)[..]);
        drop(answer);

        let past = CallOptions::new().deadline(Instant::now() - Duration::from_millis(1));
        assert!(matches!(server.submit_loan_with(lend(10), past), Err(CallError::Timeout { .. })));
        let other = ThreadServlet::<Increment>::new(());
        let other = builder().start(other).expect("a server");
        assert!(matches!(other.submit_loan(lend(10)), Err(CallError::ForeignLoan)));
        drop(server.submit_loan(lend(LARGE)).expect("sent")); // cancelled
        assert_at_rest(&server);
    });
}

#[test]
fn the_largest_loan_is_told() {
    let server = builder().start(ThreadServlet::<Increment>::new(())).expect("a server");
    let largest = server.largest_loan();
    assert_eq!(largest, server.handle().largest_loan());
    assert_eq!(largest, ((2 << 20) - 16) / size_of::<u32>(), "a block, less the root of a vector");
    let loan = server.loan(largest).expect("it is the largest");
    assert_eq!(server.call_loan(loan).expect("an answer").len(), largest);
    let error = server.loan(largest + 2).expect_err("larger");
    assert!(matches!(error, CallError::PayloadTooLarge { .. }), "{error}");
}

#[test]
fn an_input_is_written_where_it_stays() {
    on_both(|host| {
        let server = host.start::<Increment>(builder(), (), Crew::of(1).greedy(4));
        for len in SIZES {
            let mut written = 0;
            let input = fill(len, |room: &mut [u32]| {
                written += 1;
                room.copy_from_slice(&numbers(len));
            });
            let answer = server.call_ref(input).expect("an answer");
            assert_eq!(*answer, more(&numbers(len), 1)[..]);
            drop(answer);
            assert_eq!(written, 1, "{len} numbers");
        }
        for len in [server.largest_loan() + 2, usize::MAX] {
            let refused = server.call_ref(fill(len, |_: &mut [u32]| unreachable!("there is no room")));
            assert!(matches!(refused, Err(CallError::PayloadTooLarge { .. })), "{refused:?}");
        }
        let panics = fill(LARGE, |_: &mut [u32]| panic!("on purpose"));
        let panicked = catch_unwind(AssertUnwindSafe(|| server.submit_ref(panics).map(drop)));
        assert!(panicked.is_err());
        assert_at_rest(&server);
    });
}

#[test]
fn a_head_travels_with_its_tail() {
    on_both(|host| {
        let server = host.start::<Turn>(builder(), (), Crew::of(1).greedy(4));
        for (width, height) in [(1, 1), (3, 2), (640, 480), (1, 1 << 20)] {
            let frame: Frame = Tailed {
                head: (width, height),
                tail: (0..width * height).map(|pixel| (pixel % 251) as u8).collect(),
            };
            let same = fill_tail(frame.head, frame.tail.len(), |pixels: &mut [u8]| {
                pixels.copy_from_slice(&frame.tail);
            });
            let turned = server.call(&frame).expect("an answer").into_owned().expect("a frame");
            assert_eq!(turned.head, (height, width));
            let pixel = |x: u32, y: u32| frame.tail[(y * width + x) as usize];
            assert_eq!(turned.tail[(height - 1) as usize], pixel(0, height - 1));
            assert_eq!(server.call_ref(same).expect("an answer").into_owned().expect("a frame"), turned);
            assert_eq!(server.call(&turned).expect("an answer").into_owned().expect("a frame"), frame);
        }
        assert_at_rest(&server);
    });
}
