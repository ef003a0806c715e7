//! Every peer that is built in gives right answers, at every point that it has a part in.

use ringmill::cpu;
use ringmill_bench::Error;
use ringmill_bench::contestant::Point;
use ringmill_bench::jobs::Job;
use ringmill_bench::payload::SIZES;
use ringmill_bench::peers::ringmill::Echo;
use ringmill_bench::peers::{self, Peer};
use ringmill_bench::pin::CpuPair;

ringmill::init!(Echo<1>, Echo<8>, Echo<128>);

/// Beside twice the window, so that every queue goes round: no multiple of anything.
const ITEMS: u64 = 199;

fn main() -> Result<(), Error> {
    peers::begin();
    let [client, .., partner] = *cpu::allowed() else {
        println!("not tested: two CPUs are needed");
        return Ok(());
    };
    let cpus = CpuPair { client, partner };
    // A peer that must be installed first takes part only if it is named.
    for peer in Peer::built().filter(|peer| !peer.needs_python()) {
        for payload_bytes in SIZES {
            let alone = Point { payload_bytes, ..Point::STANDARD };
            gives_right_answers(peer, Point { window: 1, ..alone }, cpus)?;
            gives_right_answers(peer, Point { window: 7, ..alone }, cpus)?;
            gives_right_answers(peer, alone, cpus)?;
        }
        gives_right_answers(peer, Point { window: 4096, ..Point::STANDARD }, cpus)?;
        gives_right_answers(peer, Point { threads: 3, workers: 2, ..Point::STANDARD }, cpus)?;
        answers_what_arrives_at_once(peer, cpus)?;
    }
    for peer in Peer::all().filter(|peer| peer.ensure_built().is_err()) {
        let refused = peer.start(Job::Stream, Point::STANDARD, cpus);
        assert!(matches!(refused, Err(Error::NotBuilt { who, .. }) if who == peer.name()));
    }
    Ok(())
}

/// In `call` or `stream`, in two turns with a pause between them. A wrong answer is an error of the peer's own.
fn gives_right_answers(peer: Peer, point: Point, cpus: CpuPair) -> Result<(), Error> {
    let job = if point.window == 1 { Job::Call } else { Job::Stream };
    if !peer.has_a_part_in(job, point) {
        return Ok(());
    }
    let Point { payload_bytes, window, threads, workers } = point;
    println!("{}, {job}, {payload_bytes} B, window {window}, {threads} to {workers}", peer.name());
    let mut contestant = peer.start(job, point, cpus)?;
    assert_eq!(contestant.name(), peer.name());
    assert!((1..=window).contains(&contestant.window(window)));
    for _ in 0..2 {
        contestant.resume();
        match job {
            Job::Call => contestant.call(ITEMS)?,
            _ => contestant.stream(ITEMS + 2 * u64::from(window), window)?,
        }
        contestant.pause();
    }
    Ok(())
}

/// In `latency`, with more requests due than there is room for. A wrong answer is an error of the peer's own.
fn answers_what_arrives_at_once(peer: Peer, cpus: CpuPair) -> Result<(), Error> {
    if !peer.has_a_part_in(Job::Latency, Point::STANDARD) {
        return Ok(());
    }
    println!("{}, latency", peer.name());
    let due_ns: Vec<u64> = (0..2 * u64::from(Point::STANDARD.room()) + ITEMS).collect();
    for mut contestant in peer.start_open_loop(1_000_000, Point::STANDARD, cpus)? {
        for _ in 0..2 {
            contestant.resume();
            let answers = contestant.offer(&due_ns)?;
            contestant.pause();
            assert_eq!(answers.latencies_ns.len(), due_ns.len());
            assert!(answers.latencies_ns.iter().all(|&ns| ns <= answers.end_ns));
        }
    }
    Ok(())
}
