//! The state word's transitions on the way of a request, by one thread, so that no line moves between CPUs.

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};
use ringmill_bench::parts::{client, timed, worker};
use ringmill_shm::word::{Claim, Finish, Phase, State, Word};
use std::hint::black_box;

/// So many words take turns; they fit into the nearest cache.
const WORDS: usize = 512;

/// FREE → FILLING → QUEUED.
fn queue(word: &Word) {
    let filling = word.begin(black_box(client()));
    word.queue(filling, client());
}

/// QUEUED → CLAIMED.
fn claim(word: &Word) {
    let claim = word.claim(black_box(worker()), |_| false);
    assert!(matches!(claim, Claim::Taken(_)));
}

/// CLAIMED → DONE.
fn finish(word: &Word) {
    let finish = word.finish(black_box(worker()), client(), false);
    assert_eq!(finish, Finish::Done { wake: false, notify: false });
}

/// DONE → FREE.
fn free(word: &Word) {
    let done = word.load();
    assert_eq!(done.phase(), Some(Phase::Done));
    word.free(done);
}

/// One step by itself: `before` leads to it from FREE, `after` from it to FREE.
fn bench(
    group: &mut BenchmarkGroup<'_, WallTime>,
    words: &[Word],
    name: &str,
    before: impl Fn(&Word),
    step: impl Fn(&Word),
    after: impl Fn(&Word),
) {
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|items| timed(items, words, &before, &step, &after));
    });
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let words: Vec<Word> = (0..WORDS).map(|_| Word::new(State::new(Phase::Free, None, 0, 0))).collect();
    let mut group = criterion.benchmark_group("state word");
    let from_queued = |word: &Word| {
        claim(word);
        finish(word);
        free(word);
    };
    let to_claimed = |word: &Word| {
        queue(word);
        claim(word);
    };
    let to_done = |word: &Word| {
        to_claimed(word);
        finish(word);
    };
    let from_claimed = |word: &Word| {
        finish(word);
        free(word);
    };
    bench(&mut group, &words, "FREE to QUEUED", |_| {}, queue, from_queued);
    bench(&mut group, &words, "QUEUED to CLAIMED", queue, claim, from_claimed);
    bench(&mut group, &words, "CLAIMED to DONE", to_claimed, finish, free);
    bench(&mut group, &words, "DONE to FREE", to_done, free, |_| {});
    group.bench_function("all the way round", |bencher| {
        bencher.iter(|| {
            queue(&words[0]);
            from_queued(&words[0]);
        });
    });
    group.finish();
    criterion.final_summary();
}
