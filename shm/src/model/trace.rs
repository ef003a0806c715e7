//! Traces: a reader never takes parts of two requests for one, whoever dies, and a record has one request at a time.

use super::{explore_deaths_within, explore_within, spawn, token};
use crate::layout::{HopLine, TraceHead, TraceRing};
use crate::sync::{AtomicU64, Ordering};
use crate::trace::{Context, HopEnd, Record, RequestEnd, Start, Taken, Trace, begin};
use std::sync::Arc;

const WORKER: u32 = 1;

/// A record of one hop, and the state words of the requests that have it in turn: 1 if it is over.
struct Scene {
    ring: TraceRing,
    head: TraceHead,
    hop: [HopLine; 1],
    over: [AtomicU64; 3],
}

/// All numbers of a request follow from its id.
fn number(request: u32) -> u64 {
    10 * (u64::from(request) + 1)
}

impl Scene {
    fn new() -> Arc<Self> {
        let over = || AtomicU64::new(0);
        let (ring, head, hop) = (TraceRing::new(), TraceHead::new(), [HopLine::new()]);
        Arc::new(Self { ring, head, hop, over: [over(), over(), over()] })
    }

    fn record(&self) -> Record<'_> {
        Record { head: &self.head, hops: &self.hop }
    }

    /// A caller sends a request; the number of its trace, if it gets the record.
    fn send(&self, request: u32) -> Option<u64> {
        let number = number(request);
        let context = Context { trace_id: number.into(), parent: number, flags: 1 };
        let start = Start { sent_ns: number, weight: None, span: number, context };
        let is_over = |request: u32, _| self.over[request as usize].load(Ordering::Acquire) == 1;
        begin(&self.ring, 1, |_| Some(self.record()), (request, 0), &start, is_over).map(|seq| seq.get())
    }

    fn take(&self, seq: u64, request: u32) {
        let number = number(request);
        let taken = Taken { node: request, pid: request, queued_ns: number + 1, taken_ns: number + 2 };
        self.record().begin_hop(seq, 0, token(WORKER), 0, &taken);
    }

    /// The worker answers, and the request is over.
    fn answer(&self, seq: u64, request: u32) {
        self.record().end_hop(seq, 0, token(WORKER), number(request) + 3, HopEnd::Answered);
        self.over[request as usize].store(1, Ordering::Release);
    }

    /// What is seen is of one request.
    fn look(&self) -> Option<Trace> {
        let trace = self.record().look()?;
        let number = number(trace.request);
        // The words that loom watches; the others are written and read beside them.
        assert_eq!(trace.sent_ns, number, "{trace:?}");
        assert!(trace.told.is_none_or(|(told_ns, _)| told_ns == number + 4), "{trace:?}");
        for hop in &trace.hops {
            assert_eq!(hop.pid, trace.request, "{trace:?}");
            assert!(hop.ended.is_none_or(|(ended_ns, _)| ended_ns == number + 3), "{trace:?}");
        }
        Some(trace)
    }
}

/// The worker of a request ends while the next caller wants the record, and a reader looks.
#[test]
fn a_reader_sees_one_request() {
    explore_within(2, || {
        let scene = Scene::new();
        let seq = scene.send(0).expect("it is free");
        scene.take(seq, 0);
        let worker = scene.clone();
        let worker = spawn(move || worker.answer(seq, 0));
        let caller = scene.clone();
        let caller = spawn(move || {
            let seq = caller.send(1);
            if let Some(seq) = seq {
                caller.take(seq, 1);
                caller.record().tell(number(1) + 4, RequestEnd::Answered);
            }
            seq.is_some()
        });
        scene.look();
        worker.join().unwrap();
        let again = caller.join().unwrap();
        let trace = scene.look().expect("no participant writes it");
        assert_eq!((trace.request, trace.hops.len()), (u32::from(again), 1));
        assert_eq!(trace.told.is_some(), again);
        assert!(again || trace.hops[0].ended.is_some());
    });
}

/// Two callers want a record whose request is over: one gets it.
#[test]
fn a_record_has_one_request_at_a_time() {
    explore_within(3, || {
        let scene = Scene::new();
        let seq = scene.send(0).expect("it is free");
        scene.answer(seq, 0);
        let other = scene.clone();
        let other = spawn(move || other.send(1).is_some());
        let mine = scene.send(2).is_some();
        let others = other.join().unwrap();
        assert!(mine ^ others, "the loser finds it in progress");
        assert_eq!(scene.look().expect("it is written").request, if mine { 2 } else { 1 });
    });
}

/// A worker dies over its hop: its repairer ends it, and the next request begins without it.
#[test]
fn a_worker_dies() {
    explore_deaths_within(2, |death| {
        let scene = Scene::new();
        let seq = scene.send(0).expect("it is free");
        let (victim, dies) = (scene.clone(), death.clone());
        let victim = spawn(move || {
            dies.strikes(|| {
                victim.take(seq, 0);
                victim.answer(seq, 0);
            })
        });
        scene.look();
        if victim.join().unwrap() {
            // The repairer: the request goes on, and ends.
            scene.record().end_hop(seq, 0, token(WORKER), number(0) + 3, HopEnd::Answered);
            scene.over[0].store(1, Ordering::Release);
        }
        let trace = scene.look().expect("no participant writes it");
        assert!(trace.hops.len() as u64 + trace.hops_missing <= 1, "{trace:?}");
        assert!(trace.hops.iter().all(|hop| hop.ended.is_some()), "{trace:?}");
        let seq = scene.send(1).expect("the last request is over");
        assert_eq!(scene.look().map(|trace| (trace.request, trace.hops.len())), Some((1, 0)));
        scene.take(seq, 1);
        assert_eq!(scene.look().map(|trace| (trace.request, trace.hops.len())), Some((1, 1)));
    });
}
