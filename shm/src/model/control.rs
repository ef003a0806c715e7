//! The control page: a question is obeyed once, whole, or withdrawn; whoever dies.

use super::{explore, explore_deaths, spawn, take_part};
use crate::control::{Page, Taken};
use crate::sync::{AtomicU32, Ordering};
use crate::sys::futex;
use std::sync::Arc;

struct Desk {
    page: Page,
    /// How often each question was obeyed.
    obeyed: [AtomicU32; 2],
    /// Set when no more questions come.
    over: AtomicU32,
}

impl Desk {
    fn new() -> Arc<Self> {
        let obeyed = [AtomicU32::new(0), AtomicU32::new(0)];
        Arc::new(Self { page: Page::new(), obeyed, over: AtomicU32::new(0) })
    }

    /// An asker that holds the lock and waits for the answer.
    fn ask(&self, number: u8) -> Option<Vec<u8>> {
        let slot = &self.page.slots()[0];
        let turn = slot.begin()?;
        slot.ask(turn, number.into(), &[number; 12]);
        self.page.asked().ring();
        loop {
            let count = slot.bell().load(Ordering::Acquire);
            if let Some(answer) = slot.take_answer(turn) {
                return Some(answer);
            }
            futex::wait(slot.bell(), count, None);
        }
    }

    /// An asker that waits for nothing; whether it has withdrawn its question.
    fn ask_in_vain(&self, number: u8) -> Option<bool> {
        let slot = &self.page.slots()[0];
        let turn = slot.begin()?;
        slot.ask(turn, number.into(), &[number; 12]);
        self.page.asked().ring();
        Some(slot.withdraw(turn))
    }

    fn obey(&self, Taken { question, pid, .. }: &Taken) {
        assert_eq!(question, &[*pid as u8; 12], "it is whole");
        self.obeyed[*pid as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The server's thread.
    fn serve(&self) {
        loop {
            let count = self.page.asked().count();
            for slot in self.page.slots() {
                if let Some(taken) = slot.take() {
                    self.obey(&taken);
                    slot.answer(&taken, &taken.question[..1]);
                }
            }
            if self.over.load(Ordering::SeqCst) == 1 {
                return;
            }
            self.page.asked().sleep(count, None);
        }
    }

    fn end(&self) {
        self.over.store(1, Ordering::SeqCst);
        self.page.asked().ring();
    }
}

#[test]
fn a_question_is_answered() {
    explore(|| {
        let desk = Desk::new();
        let server = {
            let desk = desk.clone();
            spawn(move || desk.serve())
        };
        take_part();
        assert_eq!(desk.ask(1), Some(vec![1]));
        desk.end();
        server.join().unwrap();
        assert_eq!(desk.obeyed[1].load(Ordering::Relaxed), 1);
    });
}

#[test]
fn a_question_is_obeyed_or_withdrawn() {
    explore(|| {
        let desk = Desk::new();
        let server = {
            let desk = desk.clone();
            spawn(move || desk.serve())
        };
        take_part();
        let withdrawn = desk.ask_in_vain(1).expect("the slot is free");
        desk.end();
        server.join().unwrap();
        assert_eq!(desk.obeyed[1].load(Ordering::Relaxed), u32::from(!withdrawn));
    });
}

/// An asker dies anywhere; the kernel gives its lock to the next one, which finds the slot free, or the server at it.
#[test]
fn an_asker_dies() {
    explore_deaths(|death| {
        let desk = Desk::new();
        let server = {
            let desk = desk.clone();
            spawn(move || desk.serve())
        };
        let victim = {
            let (desk, death) = (desk.clone(), death.clone());
            spawn(move || death.strikes(|| _ = desk.ask_in_vain(0)))
        };
        victim.join().unwrap();
        let answer = desk.ask(1);
        assert!(answer.is_none() || answer == Some(vec![1]), "{answer:?}");
        desk.end();
        server.join().unwrap();
        let obeyed = [0, 1].map(|number: usize| desk.obeyed[number].load(Ordering::Relaxed));
        assert!(obeyed[0] <= 1 && obeyed[1] == u32::from(answer.is_some()), "{obeyed:?}");
    });
}
