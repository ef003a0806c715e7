//! The state word: exactly one outcome, freed by exactly one side, and no caller sleeps on.

use super::{Grave, explore, explore_deaths, spawn, take_part, token};
use crate::token::Token;
use crate::word::{Cancel, Claim, Due, Finish, Phase, State, Word};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32 as Counter, Ordering::SeqCst};

fn client() -> Token {
    token(0)
}

fn worker() -> Token {
    token(1)
}

fn repairer() -> Token {
    token(2)
}

fn in_phase(phase: Phase, owner: Token) -> Arc<Word> {
    Arc::new(Word::new(State::new(phase, Some(owner), 0, 0)))
}

/// The caller's way: sleep until the outcome is there.
fn await_outcome(word: &Word) -> State {
    loop {
        let state = word.load();
        if state.phase() == Some(Phase::Done) {
            return state;
        }
        word.sleep(None);
    }
}

fn finish(word: &Word, by: Token, error: bool) -> bool {
    match word.finish(by, client(), error) {
        Finish::Done { wake, .. } => {
            if wake {
                word.wake_caller();
            }
            true
        }
        Finish::Abandoned => panic!("no caller cancelled it"),
        Finish::Lost(_) => false,
    }
}

/// WAITING against claim and finish: the caller wakes.
#[test]
fn a_sleeping_caller_is_woken() {
    explore(|| {
        let word = in_phase(Phase::Queued, client());
        let working = {
            let word = word.clone();
            spawn(move || {
                assert!(matches!(word.claim(worker(), |_| false), Claim::Taken(_)));
                assert!(finish(&word, worker(), false));
            })
        };
        take_part();
        let outcome = await_outcome(&word);
        assert!(outcome.is(Phase::Done, client()) && !outcome.is_error());
        working.join().unwrap();
    });
}

/// CANCELLED against claim and finish: exactly one side frees.
#[test]
fn a_cancelled_task_is_freed_once() {
    explore(|| {
        let word = in_phase(Phase::Queued, client());
        let working = {
            let word = word.clone();
            spawn(move || match word.claim(worker(), |_| false) {
                Claim::Abandoned(state) => {
                    word.free(state);
                    1
                }
                Claim::Taken(state) => match word.finish(worker(), client(), false) {
                    Finish::Done { .. } => 0,
                    Finish::Abandoned => {
                        word.free(state);
                        1
                    }
                    Finish::Lost(now) => panic!("{now:?}"),
                },
                Claim::Stale(now) => panic!("{now:?}"),
            })
        };
        take_part();
        let mut freed = 0;
        if word.cancel() == Cancel::WasDone {
            word.free(word.load());
            freed += 1;
        }
        freed += working.join().unwrap();
        assert_eq!((freed, word.load()), (1, State::new(Phase::Free, None, 1, 0)));
    });
}

/// A worker dies anywhere between claim and wake; the repairer answers for it. Its caller, which goes to sleep at any
/// moment, has one outcome.
#[test]
fn a_worker_dies() {
    explore_deaths(|death| {
        let word = in_phase(Phase::Claimed, worker());
        let answers = Arc::new(Counter::new(0));
        let victim = {
            let (word, answers, death) = (word.clone(), answers.clone(), death.clone());
            spawn(move || {
                death.strikes(|| match word.finish(worker(), client(), false) {
                    Finish::Done { wake, .. } => {
                        answers.fetch_add(1, SeqCst);
                        if wake {
                            word.wake_caller(); // or dies just before
                        }
                    }
                    other => panic!("{other:?}"),
                })
            })
        };
        let caller = {
            let word = word.clone();
            spawn(move || await_outcome(&word))
        };
        if victim.join().unwrap() {
            let found = word.load();
            if found.owner() == Some(worker()) {
                assert_eq!(found.due(false), Due::Answer);
                assert!(word.take_over(found, repairer()).is_some(), "only flags of the caller can change");
                assert!(finish(&word, repairer(), true));
                answers.fetch_add(1, SeqCst);
            }
            if word.peek().may_have_sleeper() {
                word.wake_spuriously();
            }
        }
        caller.join().unwrap();
        assert_eq!(answers.load(SeqCst), 1);
    });
}

/// A worker dies so while the caller goes.
#[test]
fn a_worker_dies_and_the_caller_goes() {
    explore_deaths(|death| {
        let word = in_phase(Phase::Claimed, worker());
        let freed = Arc::new(Counter::new(0));
        let free = |word: &Word, freed: &Counter, state| {
            word.free(state);
            freed.fetch_add(1, SeqCst);
        };
        let victim = {
            let (word, freed, death) = (word.clone(), freed.clone(), death.clone());
            spawn(move || {
                death.strikes(|| {
                    if word.finish(worker(), client(), false) == Finish::Abandoned {
                        free(&word, &freed, State::new(Phase::Claimed, Some(worker()), 0, 0));
                    }
                })
            })
        };
        let caller = {
            let (word, freed) = (word.clone(), freed.clone());
            spawn(move || {
                if word.cancel() == Cancel::WasDone {
                    free(&word, &freed, word.load());
                }
            })
        };
        let died = victim.join().unwrap();
        let found = word.load();
        if died && found.owner() == Some(worker()) {
            let mine = word.take_over(found, repairer()).expect("only flags of the caller can change");
            if word.finish(repairer(), client(), true) == Finish::Abandoned {
                free(&word, &freed, mine);
            }
        }
        caller.join().unwrap();
        assert_eq!(freed.load(SeqCst), 1);
        assert_eq!(word.load(), State::new(Phase::Free, None, 1, 0));
    });
}

/// The next reader (which still finds its cell) and a repairer (which saw no cell) reach for a task that a dead reader
/// had claimed: one gets it.
#[test]
fn a_reader_and_a_repairer_reach_for_one_task() {
    explore(|| {
        let word = in_phase(Phase::Claimed, worker());
        let grave = Arc::new(Grave::default());
        grave.dig();
        let reading = {
            let (word, grave) = (word.clone(), grave.clone());
            spawn(move || {
                let claim = word.claim(token(3), |t| t == worker() && grave.holds());
                matches!(claim, Claim::Taken(_)) && finish(&word, token(3), false)
            })
        };
        take_part();
        let found = word.load();
        let repaired = found.owner() == Some(worker())
            && word.take_over(found, repairer()).is_some()
            && finish(&word, repairer(), true);
        assert!(repaired ^ reading.join().unwrap());
        assert!(word.load().is(Phase::Done, client()));
    });
}

/// Two repairers find one mover dead: one of them pushes.
#[test]
fn two_repairers_adopt_once() {
    explore(|| {
        let word = in_phase(Phase::Queued, worker());
        let other = {
            let word = word.clone();
            spawn(move || {
                let found = word.load();
                found.owner() == Some(worker()) && word.adopt(found, token(3))
            })
        };
        take_part();
        let found = word.load();
        let mine = found.owner() == Some(worker()) && word.adopt(found, repairer());
        assert!(mine ^ other.join().unwrap());
    });
}
