//! The ring: no id is lost or doubled, whichever participant dies.

use super::{explore, explore_deaths, spawn, take_part};
use crate::ring::Ring;
use crate::sync::{AtomicU64, Ordering};
use std::sync::Arc;

pub(super) struct Parts {
    tail: AtomicU64,
    head: AtomicU64,
    cells: Vec<AtomicU64>,
}

impl Parts {
    /// An empty ring about to publish at `position`.
    pub(super) fn at(cells: u64, position: u64) -> Self {
        let lap_before = |index| ((position + cells - 1 - index) / cells) << 32;
        Self {
            tail: AtomicU64::new(position),
            head: AtomicU64::new(position),
            cells: (0..cells).map(|index| AtomicU64::new(lap_before(index))).collect(),
        }
    }

    pub(super) fn ring(&self) -> Ring<'_> {
        Ring::new(&self.tail, &self.head, &self.cells)
    }

    /// All ids from `head` on; with the ring at rest.
    pub(super) fn ids(&self) -> Vec<u32> {
        let head = self.ring().head();
        (head..head + self.cells.len() as u64).map_while(|position| self.ring().get(position)).collect()
    }
}

/// Takes up to `max` ids, as the holder of the reader lock.
fn drain(ring: Ring<'_>, max: u64) -> Vec<u32> {
    let head = ring.head();
    let count = ring.published(head, max);
    let ids = (head..head + count).map(|position| ring.get(position).unwrap()).collect();
    ring.set_head(head + count);
    ids
}

fn sorted(mut ids: Vec<u32>) -> Vec<u32> {
    ids.sort_unstable();
    ids
}

/// Two producers, from the last position of a lap, and a reader that looks meanwhile.
#[test]
fn producers_and_a_reader() {
    explore(|| {
        let parts = Arc::new(Parts::at(4, 3));
        let producers = [0, 1].map(|id| {
            let parts = parts.clone();
            spawn(move || parts.ring().push(id).unwrap())
        });
        take_part();
        let mut got = drain(parts.ring(), 4);
        let positions = producers.map(|p| p.join().unwrap());
        assert_ne!(positions[0], positions[1]);
        got.extend(drain(parts.ring(), 4));
        assert_eq!(sorted(got), [0, 1]);
        assert_eq!(parts.ring().tail(), 5, "all helped");
    });
}

/// A batch of ids against a single one: the batch stays in order.
#[test]
fn a_batch_and_a_single_id() {
    explore(|| {
        let parts = Arc::new(Parts::at(4, 2));
        let batch = {
            let parts = parts.clone();
            spawn(move || parts.ring().push_many(&[0, 1]).unwrap())
        };
        take_part();
        parts.ring().push(2).unwrap();
        batch.join().unwrap();
        let ids = parts.ids();
        assert!([[0, 1, 2], [0, 2, 1], [2, 0, 1]].contains(&[ids[0], ids[1], ids[2]]), "{ids:?}");
        assert_eq!((ids.len(), parts.ring().tail()), (3, 5));
    });
}

/// Ids go round through the smallest ring that can hold them, while a producer that has slept for laps pushes its own:
/// it never reports a corruption of a sound ring.
#[test]
fn a_slow_producer_is_overtaken() {
    explore(|| {
        let parts = Arc::new(Parts::at(4, 0));
        let slow = {
            let parts = parts.clone();
            spawn(move || parts.ring().push(9).unwrap())
        };
        take_part();
        let mut got = Vec::new();
        for round in 0..5 {
            parts.ring().push(round).unwrap();
            got.extend(drain(parts.ring(), 1));
        }
        slow.join().unwrap();
        got.extend(drain(parts.ring(), 4));
        assert_eq!(sorted(got), [0, 1, 2, 3, 4, 9]);
    });
}

/// An id that lies in the ring throughout is seen by a scan, while others go before it and come after it
/// until they lie where the scan began.
#[test]
fn a_scan_sees_what_stays() {
    explore(|| {
        let parts = Arc::new(Parts::at(4, 2));
        parts.ring().push_many(&[0, 1, 7]).unwrap();
        let busy = {
            let parts = parts.clone();
            spawn(move || {
                // What a drain of the first two and a push of both writes, see the header of `model`.
                parts.ring().set_head(4);
                parts.cells[1].store(2 << 32, Ordering::Release);
                parts.cells[2].store(2 << 32 | 1, Ordering::Release);
            })
        };
        take_part();
        let mut seen = 0;
        parts.ring().scan(|_, id| seen += u32::from(id == 7));
        assert_eq!(seen, 1);
        busy.join().unwrap();
    });
}

/// A producer dies anywhere: its id is in the ring once or not at all, as its last step says; another
/// producer's id is there, and nothing blocks the next.
#[test]
fn a_producer_dies() {
    explore_deaths(|death| {
        let parts = Arc::new(Parts::at(4, 3));
        let victim = {
            let (parts, death) = (parts.clone(), death.clone());
            spawn(move || death.strikes(|| assert!(parts.ring().push(0).is_ok())))
        };
        take_part();
        parts.ring().push(1).unwrap();
        let mut got = drain(parts.ring(), 4);
        let died = victim.join().unwrap();
        parts.ring().push(2).unwrap();
        got.extend(drain(parts.ring(), 4));
        let got = sorted(got);
        assert!(got == [0, 1, 2] || died && got == [1, 2], "died: {died}, got {got:?}");
    });
}

/// A producer of a batch dies anywhere: the ids in the ring are the first ones of the batch.
#[test]
fn a_producer_of_a_batch_dies() {
    explore_deaths(|death| {
        let parts = Arc::new(Parts::at(4, 2));
        let victim = {
            let (parts, death) = (parts.clone(), death.clone());
            spawn(move || death.strikes(|| assert!(parts.ring().push_many(&[0, 1]).is_ok())))
        };
        take_part();
        parts.ring().push(2).unwrap();
        victim.join().unwrap();
        let ids = parts.ids();
        assert_eq!(ids.iter().filter(|&&id| id == 2).count(), 1, "{ids:?}");
        let batch: Vec<u32> = ids.into_iter().filter(|&id| id != 2).collect();
        assert!([0, 1].starts_with(&batch), "{batch:?}");
    });
}
