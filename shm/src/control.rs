//! The control page: through it another process of the same user asks a server to do something, and is answered.
//!
//! # Layout
//!
//! ```text
//! one page    asked: a bell, which the server's thread waits for │ slots, each of them for one question at a time
//! one slot    state:    turn (56) │ phase (8)
//!             bell:     futex word, which the asker waits for
//!             pid:      the asker's, as it says
//!             question, answer: bytes, and how many they are
//! ```
//!
//! # Protocol
//!
//! An asker is no participant. It holds the lock on the slot's byte of the lease file while it uses the slot, which
//! excludes other askers, and which the kernel releases when it dies.
//!
//! | State | Means | Left by, to |
//! |---|---|---|
//! | FREE | no question | asker with the slot's lock → WRITING, with the next turn |
//! | WRITING | an asker writes its question | that asker → ASKED; if it is dead, the next one → WRITING |
//! | ASKED | the question is there | server → TAKEN; its asker, which has waited in vain → FREE; if it is dead, the next one → WRITING |
//! | TAKEN | the server has read the question and does what it says | server → ANSWERED |
//! | ANSWERED | the answer is there | that asker → FREE; the next one → WRITING |
//!
//! # Invariants
//!
//! * `[taken once]`: the server takes a question by a compare-and-swap of the word that names its turn, and so does the
//!   asker that withdraws it. So a question is obeyed once or withdrawn, never both; and an asker whose question was
//!   withdrawn knows that it will not be obeyed.
//! * `[read whole]`: no asker writes a question while the state is TAKEN, and the server reads it only then. An asker that
//!   keeps to this cannot give the server parts of two questions; one that does not is another process of the same
//!   user, which the server trusts with what to do, but not with bytes: each is checked.
//!
//! # Ordering
//!
//! * `[asked]`: WRITING → ASKED (Release) → the server's swap to TAKEN (Acquire). The question travels.
//! * `[answered]`: TAKEN → ANSWERED (Release) → the asker's load of the state (Acquire). The answer travels.
//! * The asker rings `asked` after the swap to ASKED; the server's thread reads that bell's count, looks at the states, and
//!   sleeps unless the count has changed. So it sees the question or does not sleep. The asker sleeps on the slot's bell
//!   in the same way, for both steps of the server.
//!
//! # Crash
//!
//! | Dies | Leaves | Then |
//! |---|---|---|
//! | asker in WRITING, or before it rings | half a question, or one that no thread was woken for | the next asker overwrites it; of a whole one the server's thread may learn by the next ring, and obeys it |
//! | asker in ASKED or TAKEN | a question that is obeyed | nobody reads the answer; a slot in TAKEN is passed over until the answer is there |
//! | server | a slot in any state | its segment is stale; the asker sees by the lease that the server is gone |

#[cfg(not(loom))]
mod command;

#[cfg(not(loom))]
pub use command::{Command, Lever, NoCommand, Verdict};

use crate::bell::SharedBell;
use crate::fields::in_segment;
use crate::sync::{AtomicU32, AtomicU64, HeaderU32, HeaderU64, Ordering};
#[cfg(any(loom, test))]
use core::array::from_fn;

/// How many questions there can be at once.
pub const SLOTS: usize = 4;
/// The longest question, in bytes.
pub const QUESTION_BYTES: usize = 8 * QUESTION_WORDS;
/// The longest answer, in bytes; a longer one is cut.
pub const ANSWER_BYTES: usize = 8 * ANSWER_WORDS;
const QUESTION_WORDS: usize = 50;
const ANSWER_WORDS: usize = 56;

/// A phase of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// No question.
    Free = 0,
    /// An asker writes its question.
    Writing = 1,
    /// The question is there.
    Asked = 2,
    /// The server has read it.
    Taken = 3,
    /// The answer is there.
    Answered = 4,
}

impl Phase {
    fn of(state: u64) -> Option<Self> {
        let all = [Self::Free, Self::Writing, Self::Asked, Self::Taken, Self::Answered];
        all.into_iter().find(|phase| *phase as u64 == state & 0xFF)
    }
}

/// One use of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn(u64);

impl Turn {
    fn state(self, phase: Phase) -> u64 {
        self.0 << 8 | phase as u64
    }

    fn of(state: u64) -> Self {
        Self(state >> 8)
    }
}

in_segment! {
    /// Bytes that one side writes.
    #[derive(Debug)]
    struct Question {
        bytes: HeaderU32,
        words: [HeaderU64; QUESTION_WORDS],
    }
}

in_segment! {
    /// Bytes that the other side writes.
    #[derive(Debug)]
    struct Answer {
        bytes: HeaderU32,
        words: [HeaderU64; ANSWER_WORDS],
    }
}

/// Writes bytes, as many as fit. Relaxed, here and below: they travel with the state.
fn write(bytes: &[u8], count: &HeaderU32, words: &[HeaderU64]) {
    let bytes = &bytes[..bytes.len().min(8 * words.len())];
    for (word, part) in words.iter().zip(bytes.chunks(8)) {
        let mut eight = [0; 8];
        eight[..part.len()].copy_from_slice(part);
        word.store(u64::from_le_bytes(eight), Ordering::Relaxed);
    }
    count.store(bytes.len() as u32, Ordering::Relaxed);
}

/// Reads what another process wrote: at most as many bytes as there are.
fn read(count: &HeaderU32, words: &[HeaderU64]) -> Vec<u8> {
    let bytes = (count.load(Ordering::Relaxed) as usize).min(8 * words.len());
    let words = words[..bytes.div_ceil(8)].iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes());
    words.take(bytes).collect()
}

in_segment! {
    /// A slot for one question and its answer.
    #[repr(align(128))]
    #[derive(Debug)]
    pub struct Slot {
        state: AtomicU64,
        bell: AtomicU32,
        pid: HeaderU32,
        question: Question,
        answer: Answer,
    }
}

/// A question that the server has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    turn: Turn,
    /// The asker's process, as it says.
    pub pid: u32,
    /// Any bytes.
    pub question: Vec<u8>,
}

impl Slot {
    /// A slot that was never used; in a segment all is zero.
    #[cfg(any(loom, test))]
    pub(crate) fn new() -> Self {
        Self {
            state: AtomicU64::new(0),
            bell: AtomicU32::new(0),
            pid: HeaderU32::default(),
            question: Question { bytes: HeaderU32::default(), words: from_fn(|_| HeaderU64::default()) },
            answer: Answer { bytes: HeaderU32::default(), words: from_fn(|_| HeaderU64::default()) },
        }
    }

    /// Begins to ask; `None` if the server is at a former question, or has just taken one. The caller holds the slot's
    /// lock.
    #[must_use]
    pub fn begin(&self) -> Option<Turn> {
        let state = self.state.load(Ordering::Acquire);
        if Phase::of(state) == Some(Phase::Taken) {
            return None;
        }
        let turn = Turn(Turn::of(state).0.wrapping_add(1) & (u64::MAX >> 8));
        // Acquire, both: the former answer's bytes were read before its asker let go of the lock.
        let writing = turn.state(Phase::Writing);
        let begun = self.state.compare_exchange(state, writing, Ordering::AcqRel, Ordering::Acquire);
        crash_point!("control.writing");
        begun.is_ok().then_some(turn)
    }

    /// Asks a question that was begun; the caller rings the page's bell after it. A longer one is cut.
    pub fn ask(&self, turn: Turn, pid: u32, question: &[u8]) {
        self.pid.store(pid, Ordering::Relaxed);
        write(question, &self.question.bytes, &self.question.words);
        crash_point!("control.written");
        let (from, to) = (turn.state(Phase::Writing), turn.state(Phase::Asked));
        // [asked]. It fails only if another process keeps to no protocol; then this question is lost.
        let _ = self.state.compare_exchange(from, to, Ordering::Release, Ordering::Relaxed);
        crash_point!("control.asked");
    }

    /// Withdraws a question; whether the server has not taken it, and will not: `[taken once]`.
    #[must_use]
    pub fn withdraw(&self, turn: Turn) -> bool {
        let (from, to) = (turn.state(Phase::Asked), turn.state(Phase::Free));
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// In which phase this use of the slot is; `None` if it is another one's by now.
    #[must_use]
    pub fn phase(&self, turn: Turn) -> Option<Phase> {
        let state = self.state.load(Ordering::Acquire); // [answered]
        Phase::of(state).filter(|_| Turn::of(state) == turn)
    }

    /// The answer, once it is there, and gives the slot back.
    #[must_use]
    pub fn take_answer(&self, turn: Turn) -> Option<Vec<u8>> {
        if self.phase(turn) != Some(Phase::Answered) {
            return None;
        }
        let answer = read(&self.answer.bytes, &self.answer.words);
        let (from, to) = (turn.state(Phase::Answered), turn.state(Phase::Free));
        let _ = self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed); // its turn is over either way
        Some(answer)
    }

    /// Whether the server is at a question.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        Phase::of(self.state.load(Ordering::Acquire)) == Some(Phase::Taken)
    }

    /// The word on which the asker sleeps while its question is not taken or not answered.
    #[must_use]
    pub fn bell(&self) -> &AtomicU32 {
        &self.bell
    }

    /// The server takes the question, if there is one.
    #[must_use]
    pub fn take(&self) -> Option<Taken> {
        let state = self.state.load(Ordering::Relaxed); // Relaxed: the swap decides
        if Phase::of(state) != Some(Phase::Asked) {
            return None;
        }
        let turn = Turn::of(state);
        let taken = turn.state(Phase::Taken);
        // [asked], [taken once].
        self.state.compare_exchange(state, taken, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        crash_point!("control.taken");
        // [read whole].
        let question = read(&self.question.bytes, &self.question.words);
        let taken = Taken { turn, pid: self.pid.load(Ordering::Relaxed), question };
        self.tell_asker();
        Some(taken)
    }

    /// The server answers a question that it has taken.
    pub fn answer(&self, to: &Taken, answer: &[u8]) {
        write(answer, &self.answer.bytes, &self.answer.words);
        crash_point!("control.answering");
        let (from, answered) = (to.turn.state(Phase::Taken), to.turn.state(Phase::Answered));
        // [answered]. It fails only if another process keeps to no protocol.
        let _ = self.state.compare_exchange(from, answered, Ordering::Release, Ordering::Relaxed);
        crash_point!("control.answered");
        self.tell_asker();
    }

    fn tell_asker(&self) {
        self.bell.fetch_add(1, Ordering::Release);
        crate::sys::futex::wake(&self.bell, u32::MAX);
    }
}

in_segment! {
    /// The control page.
    #[repr(align(4096))]
    #[derive(Debug)]
    pub struct Page {
        asked: Asked,
        slots: [Slot; SLOTS],
    }
}

in_segment! {
    #[repr(align(128))]
    #[derive(Debug)]
    struct Asked {
        count: AtomicU32,
        waiters: AtomicU32,
    }
}

impl Page {
    /// A page that was never used; in a segment all is zero.
    #[cfg(any(loom, test))]
    pub(crate) fn new() -> Self {
        let asked = Asked { count: AtomicU32::new(0), waiters: AtomicU32::new(0) };
        Self { asked, slots: from_fn(|_| Slot::new()) }
    }

    /// The bell for which the server's thread waits.
    #[must_use]
    pub fn asked(&self) -> SharedBell<'_> {
        SharedBell::new(&self.asked.count, &self.asked.waiters)
    }

    /// Its slots.
    #[must_use]
    pub fn slots(&self) -> &[Slot; SLOTS] {
        &self.slots
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_taken_and_answered_once() {
        let page = Page::new();
        let slot = &page.slots()[0];
        assert_eq!(slot.take(), None);
        let turn = slot.begin().unwrap();
        assert_eq!((slot.take(), slot.phase(turn)), (None, Some(Phase::Writing)));
        slot.ask(turn, 7, b"a question of more than eight bytes");
        let taken = slot.take().unwrap();
        assert_eq!((taken.pid, taken.question.as_slice()), (7, &b"a question of more than eight bytes"[..]));
        assert!(slot.take().is_none() && !slot.withdraw(turn) && slot.begin().is_none());
        assert_eq!(slot.take_answer(turn), None);
        slot.answer(&taken, b"an answer");
        assert_eq!(slot.take_answer(turn).unwrap(), b"an answer");
        assert_eq!((slot.phase(turn), slot.take_answer(turn)), (Some(Phase::Free), None));
        slot.answer(&taken, b"late");
        assert!(
            slot.begin().is_some_and(|next| next != turn),
            "an answer that no one waits for changes nothing"
        );
    }

    #[test]
    fn what_is_withdrawn_or_left_by_the_dead_is_overwritten() {
        let slot = Slot::new();
        let turn = slot.begin().unwrap();
        slot.ask(turn, 1, b"one");
        assert!(slot.withdraw(turn) && !slot.withdraw(turn) && slot.take().is_none());
        for asks in [false, true] {
            let dead = slot.begin().unwrap();
            if asks {
                slot.ask(dead, 1, b"of the dead");
            }
            let turn = slot.begin().expect("the lock is free");
            slot.ask(dead, 1, b"it is dead");
            assert_eq!((slot.take(), slot.phase(dead)), (None, None));
            slot.ask(turn, 2, b"two");
            let taken = slot.take().unwrap();
            slot.answer(&taken, b"");
            assert_eq!(slot.take_answer(turn).unwrap(), b"");
        }
    }

    #[test]
    fn long_texts_are_cut_and_lengths_are_not_believed() {
        let slot = Slot::new();
        let turn = slot.begin().unwrap();
        slot.ask(turn, 1, &[b'x'; QUESTION_BYTES + 1]);
        slot.question.bytes.store(u32::MAX, Ordering::Relaxed);
        let taken = slot.take().unwrap();
        assert_eq!(taken.question, [b'x'; QUESTION_BYTES]);
        slot.answer(&taken, &[b'y'; ANSWER_BYTES + 9]);
        slot.answer.bytes.store(u32::MAX, Ordering::Relaxed);
        assert_eq!(slot.take_answer(turn).unwrap(), [b'y'; ANSWER_BYTES]);
        slot.state.store(u64::MAX, Ordering::Relaxed);
        assert_eq!((slot.take(), slot.phase(turn)), (None, None));
        assert!(slot.begin().is_some(), "a phase that is none");
    }
}
