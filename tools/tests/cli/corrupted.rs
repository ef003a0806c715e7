//! Segments whose bytes another process has written over.

use super::segments::{Ours, busy, write_at};
use ringmill_shm::stats::{CallerCounter, ServerCounter};
use ringmill_shm::text::is_unruly;
use ringmill_shm::watch::{End, Exit, Item};
use shmtool::Top;

/// Wherever the bytes are, each report is a text, or a message; none ends the tool, and none reaches a terminal raw.
#[test]
fn reports_of_bytes_that_nobody_should_have_written_end() {
    let ours = Ours::new();
    let segment = busy(&ours);
    segment.participants()[1].counters().begin_call();
    segment.participants()[1].see_call(5);
    segment.node(0).unwrap().see_lock(5);
    segment.participants()[2].note_exit(&Exit {
        at_ns: 5,
        pid: 1,
        end: End::Signal(9),
        why: None,
        count: 1,
        items: vec![Item { task: 1, generation: 1, attempt: 1 }],
        payload_bytes: 3,
        payload: vec![1, 2, 3],
    });
    segment.caller_row(1).count(CallerCounter::Answered);
    segment.server_counters().count(ServerCounter::Deaths);
    let whole = std::fs::read(ours.path()).unwrap();
    let name = ours.name();
    let reports = || {
        let top = || {
            let mut top = Top::open(&name)?;
            top.look()?;
            Ok(top.screen(80, 24).join("\n"))
        };
        let told =
            [shmtool::show(&name, false), shmtool::stats(&name, false), shmtool::stats(&name, true), top()];
        for told in told.map(|told| told.unwrap_or_else(|message| message)) {
            assert_eq!(told.chars().find(|&c| c != '\n' && is_unruly(c)), None, "{told}");
        }
    };
    reports();
    // Participants, statistics, nodes and tasks lie before the blocks, which no report reads.
    let read = whole.len() / 2;
    for (number, at) in (0..read).step_by(1003).enumerate() {
        let bytes = [[0xFF; 8], [0; 8], *b"\x1b[2J\x07\n\xC2\x9B", (at as u64).to_le_bytes()][number % 4];
        write_at(&ours.path(), at as u64, &bytes);
        reports();
        write_at(&ours.path(), at as u64, &whole[at..at + 8]);
    }
}
