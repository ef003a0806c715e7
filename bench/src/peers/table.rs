//! The peers that `compare` can measure: a row each, with all its facts.

use super::*;
use crate::raw::Raw;

/// Starts a contestant for the peer of this name, at rest.
pub(super) type Start = fn(&'static str, Point, CpuPair) -> Result<Box<dyn Contestant>, Error>;

/// Starts a peer for requests that arrive at a rate, at rest.
pub(super) type StartOpenLoop =
    fn(u32, &'static str, Point, CpuPair) -> Result<Vec<Box<dyn OpenLoop>>, Error>;

/// Starts a peer whose workers work on batches, at rest.
pub(super) type StartBatching = fn(Plan, CpuPair) -> Result<Box<dyn Batching>, Error>;

/// A peer.
pub(super) struct Row {
    /// Its name in reports and on the command line.
    pub(super) name: &'static str,
    /// What it is.
    pub(super) what: &'static str,
    /// What it needs beside this package's ordinary build.
    pub(super) needs: Needs,
    /// At which points, of the jobs that it can be started for, there is anything to see of it.
    pub(super) points: fn(Job, Point) -> bool,
    /// How it is started, by job.
    pub(super) starts: Starts,
}

/// What a peer needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    Nothing,
    /// The feature `rivals`, which brings those that are heavy to build.
    Rivals,
    /// The feature `aeron`, which needs tools that not every machine has.
    Aeron,
    /// [`mpservice::Environment`]; so it takes part only if it is named.
    Python,
}

/// How a peer is started, where it has a part in a job.
pub(super) struct Starts {
    /// In `call` and `stream`.
    pub(super) items: Option<Start>,
    /// In `latency`: one that a thread can drive without waiting for an answer, item by item.
    pub(super) open_loop: Option<StartOpenLoop>,
    /// In `bulk`.
    pub(super) bulk: Option<Start>,
    /// In `batch`.
    pub(super) batching: Option<StartBatching>,
}

impl Starts {
    const NONE: Self = Self { items: None, open_loop: None, bulk: None, batching: None };
}

/// Starts something, with the number of words that its payloads have as a constant.
macro_rules! sized {
    ($made:ty, $rate:pat_param, |$who:pat_param, $point:pat_param, $cpus:pat_param, $words:ident| $start:expr) => {{
        fn start<const $words: usize>(
            $rate: u32,
            $who: &'static str,
            $point: Point,
            $cpus: CpuPair,
        ) -> Result<$made, Error> {
            $start
        }
        |rate, who, point: Point, cpus| match point.payload_bytes {
            8 => start::<1>(rate, who, point, cpus),
            64 => start::<8>(rate, who, point, cpus),
            1024 => start::<128>(rate, who, point, cpus),
            bytes => Err(Error::PayloadSize { bytes }),
        }
    }};
}

/// In `call` and `stream`.
macro_rules! items {
    (|$who:pat_param, $point:pat_param, $cpus:pat_param, $words:ident| $start:expr) => {
        Starts {
            items: Some(|who, point, cpus| {
                let start =
                    sized!(Box<dyn Contestant>, _, |$who, $point, $cpus, $words| Ok(Box::new($start?)));
                start(0, who, point, cpus)
            }),
            ..Starts::NONE
        }
    };
}

/// In `latency`.
macro_rules! open_loop {
    (|$who:pat_param, $point:pat_param, $cpus:pat_param, $words:ident| $start:expr) => {
        Some(sized!(Vec<Box<dyn OpenLoop>>, _, |$who, $point, $cpus, $words| Ok(vec![Box::new($start?)])))
    };
}

/// In `call`, `stream` and `latency`.
macro_rules! polled {
    (|$who:pat_param, $point:pat_param, $cpus:pat_param, $words:ident| $start:expr) => {
        Starts {
            open_loop: open_loop!(|$who, $point, $cpus, $words| $start),
            ..items!(|$who, $point, $cpus, $words| $start)
        }
    };
}

/// Of a peer that comes with a feature: nothing without it.
macro_rules! with {
    ($feature:literal, $starts:expr) => {{
        #[cfg(feature = $feature)]
        {
            $starts
        }
        #[cfg(not(feature = $feature))]
        {
            Starts::NONE
        }
    }};
}

/// Between one thread and one other.
fn one_to_one(job: Job, point: Point) -> bool {
    job != Job::Stream || point.threads <= 1 && point.workers <= 1
}

/// As [`one_to_one`]; with windows in `stream` up to this one.
fn window_up_to(widest: u32, job: Job, point: Point) -> bool {
    one_to_one(job, point) && (job != Job::Stream || point.window <= widest)
}

/// As [`one_to_one`], in `stream` only.
fn streams_only(job: Job, point: Point) -> bool {
    job != Job::Call && one_to_one(job, point)
}

/// In the order of reports.
pub(super) static PEERS: [Row; 23] = [
    Row {
        name: "raw",
        what: "The bare ping-pong once more: how steady the yardstick itself is",
        needs: Needs::Nothing,
        // It moves one word, one at a time.
        points: |job, point| job == Job::Call && point.payload_bytes == 8,
        starts: items!(|_, _, cpus, WORDS| Raw::start(cpus)),
    },
    Row {
        name: OURS,
        what: "ringmill, through its public API, with a worker process",
        needs: Needs::Nothing,
        points: |_, _| true,
        starts: Starts {
            items: Some(|who, point, cpus| {
                let start = sized!(Box<dyn Contestant>, _, |_, point, cpus, WORDS| match point.threads {
                    1 => Ok(Box::new(ringmill::Ringmill::<WORDS>::start(point, cpus)?)),
                    _ => Ok(Box::new(ringmill::RingmillCallers::<WORDS>::start(point, cpus)?)),
                });
                start(0, who, point, cpus)
            }),
            open_loop: Some(sized!(Vec<Box<dyn OpenLoop>>, rate_per_s, |_, point, cpus, WORDS| Ok(vec![
                Box::new(OpenRingmill::<WORDS>::adaptive(point, cpus)?),
                Box::new(OpenRingmill::<WORDS>::spinning(rate_per_s, point, cpus)?),
            ]))),
            bulk: Some(|_, point, cpus| Ok(Box::new(ringmill_bulk::Copied::start(point, cpus)?))),
            batching: Some(|plan, cpus| Ok(Box::new(ringmill_batch::RingmillBatch::start(plan, cpus)?))),
        },
    },
    Row {
        name: "ringmill-loan",
        what: "ringmill with inputs that are written into the segment, not copied there; in `bulk`",
        needs: Needs::Nothing,
        points: |_, _| true,
        starts: Starts {
            bulk: Some(|_, point, cpus| Ok(Box::new(ringmill_bulk::Lent::start(point, cpus)?))),
            ..Starts::NONE
        },
    },
    Row {
        name: "rtrb",
        what: "A pair of rtrb rings between two threads",
        needs: Needs::Nothing,
        points: one_to_one,
        starts: polled!(|_, point, cpus, WORDS| rtrb::start::<WORDS>(point, cpus)),
    },
    Row {
        name: "rtrb-chunks",
        what: "rtrb's rings with their batching interface, in chunks; nothing to gain in `call`",
        needs: Needs::Nothing,
        points: streams_only,
        starts: items!(|_, point, cpus, WORDS| rtrb_chunks::RtrbChunks::<WORDS>::start(point, cpus)),
    },
    Row {
        name: "crossbeam",
        what: "A pair of crossbeam channels between two threads, spinning",
        needs: Needs::Nothing,
        points: one_to_one,
        starts: polled!(|_, point, cpus, WORDS| crossbeam::start::<WORDS>(point, cpus)),
    },
    Row {
        name: "crossbeam-blocking",
        what: "Crossbeam channels between any number of threads, which sleep while there is nothing to receive",
        needs: Needs::Nothing,
        points: |job, _| job != Job::Call,
        starts: Starts {
            batching: Some(|plan, cpus| Ok(Box::new(crossbeam_batch::CrossbeamBatch::start(plan, cpus)?))),
            ..items!(|_, point, cpus, WORDS| {
                crossbeam_blocking::CrossbeamBlocking::start::<WORDS>(point, cpus)
            })
        },
    },
    Row {
        name: "moved-vec",
        what: "A vector that is moved between two threads; in `bulk`",
        needs: Needs::Nothing,
        points: |_, _| true,
        starts: Starts {
            bulk: Some(|_, point, cpus| Ok(Box::new(moved_vec::MovedVec::start(point, cpus)?))),
            ..Starts::NONE
        },
    },
    Row {
        name: "disruptor",
        what: "A pair of disruptors between two threads, polled",
        needs: Needs::Rivals,
        points: one_to_one,
        starts: with!(
            "rivals",
            polled!(|who, point, cpus, WORDS| disruptor::start::<WORDS>(who, point, cpus))
        ),
    },
    Row {
        name: "amate",
        what: "amate, which brings batches to a thread",
        needs: Needs::Rivals,
        points: one_to_one,
        starts: with!("rivals", polled!(|who, point, cpus, WORDS| amate::start::<WORDS>(who, point, cpus))),
    },
    Row {
        name: "mutex-ring",
        what: "A pair of rings in shared memory between two processes, each with a pthread mutex, polled",
        needs: Needs::Nothing,
        points: one_to_one,
        starts: polled!(|who, point, cpus, WORDS| mutex_ring::start::<WORDS>(who, point, cpus)),
    },
    Row {
        name: "pipe",
        what: "Two pipes between two processes that sleep until something comes",
        needs: Needs::Nothing,
        points: one_to_one,
        starts: items!(|who, point, cpus, WORDS| bytes::start_pipes::<WORDS, true>(who, point, cpus)),
    },
    Row {
        name: "pipe-polled",
        what: "Pipes between two processes that poll",
        needs: Needs::Nothing,
        points: one_to_one,
        starts: polled!(|who, point, cpus, WORDS| bytes::start_pipes::<WORDS, false>(who, point, cpus)),
    },
    Row {
        name: "unix-socket",
        what: "A pair of Unix stream sockets between two processes that sleep until something comes",
        needs: Needs::Nothing,
        points: one_to_one,
        starts: items!(|who, point, cpus, WORDS| bytes::start_sockets::<WORDS, true>(who, point, cpus)),
    },
    Row {
        name: "unix-socket-polled",
        what: "Unix stream sockets between two processes that poll",
        needs: Needs::Nothing,
        points: one_to_one,
        starts: polled!(|who, point, cpus, WORDS| bytes::start_sockets::<WORDS, false>(who, point, cpus)),
    },
    Row {
        name: "iceoryx2-rr",
        what: "iceoryx2's request-response between two processes, polled, with the four active requests that it allows by itself",
        needs: Needs::Rivals,
        // Its window is its own, whatever is asked for.
        points: |job, point| {
            one_to_one(job, point) && (job != Job::Stream || point.window == Point::STANDARD.window)
        },
        starts: with!(
            "rivals",
            polled!(|who, _, cpus, WORDS| iceoryx2::start_rr::<WORDS>(who, iceoryx2::DEFAULT_ACTIVE, cpus))
        ),
    },
    Row {
        name: "iceoryx2-rr-wide",
        what: "iceoryx2's request-response with as many active requests as the window has; nothing to gain in `call`",
        needs: Needs::Rivals,
        // The time an item takes grows with the window, to 17 µs with this one.
        points: |job, point| streams_only(job, point) && window_up_to(1024, job, point),
        starts: with!(
            "rivals",
            items!(|who, point, cpus, WORDS| iceoryx2::start_rr::<WORDS>(who, point.window, cpus))
        ),
    },
    Row {
        name: "iceoryx2-ps",
        what: "iceoryx2's publish-subscribe, once each way, between two processes, polled",
        needs: Needs::Rivals,
        points: one_to_one,
        starts: with!(
            "rivals",
            polled!(|who, point, cpus, WORDS| iceoryx2::start_ps::<WORDS>(who, point, cpus))
        ),
    },
    Row {
        name: "aeron",
        what: "Aeron IPC, a log in each direction between two processes, polled",
        needs: Needs::Aeron,
        points: one_to_one,
        starts: with!(
            "aeron",
            Starts {
                open_loop: Some(sized!(Vec<Box<dyn OpenLoop>>, _, |who, point, cpus, WORDS| Ok(vec![
                    Box::new(aeron::Aeron::<WORDS>::start(who, point, cpus)?.one_by_one())
                ]))),
                ..items!(|who, point, cpus, WORDS| aeron::Aeron::<WORDS>::start(who, point, cpus))
            }
        ),
    },
    Row {
        name: "tonic",
        what: "tonic, gRPC over a pair of Unix sockets between two processes, with a call for each item",
        needs: Needs::Rivals,
        // Each item is a call of its own.
        points: |job, point| window_up_to(4096, job, point),
        starts: with!("rivals", items!(|who, _, cpus, WORDS| tonic::Unary::<WORDS>::start(who, cpus))),
    },
    Row {
        name: "tonic-bidi",
        what: "tonic with one call that streams in both directions",
        needs: Needs::Rivals,
        points: one_to_one,
        starts: with!("rivals", items!(|who, _, cpus, WORDS| tonic::Bidi::<WORDS>::start(who, cpus))),
    },
    Row {
        name: "mpservice",
        what: "mpservice, which starts workers for Python programs, with one worker process that gets single items. Only if it is named: it is installed from its package, into an environment that is thrown away",
        needs: Needs::Python,
        points: |job, point| window_up_to(mpservice::WIDEST_WINDOW, job, point),
        starts: items!(|who, point, cpus, WORDS| mpservice::Mpservice::start(who, 0, point, cpus)),
    },
    Row {
        name: "mpservice-batch",
        what: "mpservice with batches of up to 100",
        needs: Needs::Python,
        points: |job, point| window_up_to(mpservice::WIDEST_WINDOW, job, point),
        starts: items!(|who, point, cpus, WORDS| mpservice::Mpservice::start(who, 100, point, cpus)),
    },
];
