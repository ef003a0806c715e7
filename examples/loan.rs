//! Shows how to give a worker a large input without copying it: a loan.
//!
//! 16 MiB of numbers go to a worker process that adds them up. `call` serialises a `Vec` of ours, that is,
//! copies it into the segment. `loan` lends a buffer in the segment: we write the numbers there, and
//! `call_loan` sends them as they lie. Either way the worker reads them in the segment.
//!
//! Run it with `cargo run --release --example loan`.

use ringmill::{BoxError, ProcessServlet, Server};
use std::time::{Duration, Instant};

ringmill::make_worker!(Sum: Vec<f32> => u64, |numbers| {
    numbers.iter().map(|number| number.to_native() as u64).sum::<u64>()
});

const NUMBERS: usize = (16 << 20) / size_of::<f32>();
const ROUNDS: usize = 15;

/// Stands for numbers that a program computes or reads: small whole numbers, others in each round.
fn number(i: usize, round: usize) -> usize {
    (i + round) % 1000
}

fn write(numbers: &mut [f32], round: usize) {
    numbers.iter_mut().enumerate().for_each(|(i, place)| *place = number(i, round) as f32);
}

/// The times of one round.
struct Times {
    write: Duration,
    send: Duration,
}

fn median_ms(times: &[Times], time: impl Fn(&Times) -> Duration) -> f64 {
    let mut times: Vec<Duration> = times.iter().map(time).collect();
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e3
}

fn main() -> Result<(), BoxError> {
    ringmill::init!(Sum);

    let server = Server::builder("loan")
        .capacity(1)
        .max_payload((16 << 20) + 64) // the numbers, and a few bytes that say where they lie
        .start(ProcessServlet::<Sum>::new(()))?;

    let mut ours = vec![0.0; NUMBERS];
    let (mut by_call, mut by_loan) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let expected = (0..NUMBERS).map(|i| number(i, round) as u64).sum::<u64>();

        let began = Instant::now();
        write(&mut ours, round);
        let written = Instant::now();
        let sum = server.call(&ours)?.to_native();
        by_call.push(Times { write: written - began, send: written.elapsed() });
        assert_eq!(sum, expected, "by call");

        let began = Instant::now();
        let mut loan = server.loan(NUMBERS)?;
        write(loan.as_mut_slice(), round);
        let written = Instant::now();
        let sum = server.call_loan(loan)?.to_native();
        by_loan.push(Times { write: written - began, send: written.elapsed() });
        assert_eq!(sum, expected, "by loan");
    }

    println!("16 MiB of f32, medians of {ROUNDS} rounds in turn, in ms\n");
    println!("{:8} {:>8} {:>16} {:>8}   written", "", "write", "send and answer", "in all");
    for (name, times, done) in
        [("by call", by_call, "in a Vec, then copied"), ("by loan", by_loan, "in the segment itself")]
    {
        let times = &times[1..]; // the first round touched its memory for the first time
        let (write, send) = (median_ms(times, |t| t.write), median_ms(times, |t| t.send));
        println!(
            "{name:8} {write:>8.2} {send:>16.2} {:>8.2}   {done}",
            median_ms(times, |t| t.write + t.send)
        );
    }
    println!("\nThe worker reads and adds 16 MiB in either case; all {} sums were right", 2 * (ROUNDS + 1));
    Ok(())
}
