//! Segments of the tests, without a server.

use ringmill_shm::arena::{Filling, Task};
use ringmill_shm::layout::{Class, NodeFacts};
use ringmill_shm::lock::Acquired;
use ringmill_shm::participant::{Life, Role};
use ringmill_shm::party::{Participant, Reader};
use ringmill_shm::placed::Placed;
use ringmill_shm::plan::{Fork, ForkMember, Target};
use ringmill_shm::segment::{Location, NodeSpec, Segment, Spec};
use ringmill_shm::stats::{Closed, Counter};
use ringmill_shm::sys::time::now_ns;
use ringmill_shm::token::Token;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

#[expect(unsafe_code, reason = "the contract of guards")]
pub(crate) fn act(segment: &Segment, token: Token) -> Participant<'_> {
    // SAFETY: each test has one guard of a task at a time, and uses none of the dead.
    unsafe { segment.take_part(token) }
}

#[expect(unsafe_code, reason = "the contract of guards")]
pub(crate) fn begin(segment: &Segment, id: u32, client: Token) -> Filling<'_> {
    // SAFETY: as in `act`.
    unsafe { act(segment, client).client().begin(Task::new(segment, id).unwrap()) }
}

/// The next incarnation of a row.
#[expect(unsafe_code, reason = "the contract of a row")]
pub(crate) fn prepare(segment: &Segment, row: u32) -> Token {
    // SAFETY: its row; no test prepares a row twice.
    unsafe { segment.participants()[row as usize].prepare(row) }
}

pub(crate) fn read(segment: &Segment, node: u32, me: Token) -> Reader<'_> {
    let reader = act(segment, me).read(segment.node(node).unwrap(), 0, || true).unwrap();
    assert_eq!(reader.acquired(), Acquired::Free);
    reader
}

/// The token of an incarnation that there never was.
pub(crate) fn of_no_participant() -> Token {
    Token::from_raw(77 << 10 | 2).unwrap()
}

/// A segment's location of our own; dropping it removes the files.
pub(crate) struct Ours(pub(crate) Location);

impl Ours {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(Location::named(&format!("shmtool-test-{}-{n}", std::process::id())).unwrap())
    }

    pub(crate) fn name(&self) -> String {
        self.0.to_text()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.path()
    }

    pub(crate) fn create(&self) -> Segment {
        Segment::create(self.0.clone(), &spec()).unwrap()
    }

    /// A segment whose server has died.
    pub(crate) fn create_stale(&self) {
        self.create().keep_files();
        assert!(self.path().exists() && self.0.lease_path().exists());
    }

    pub(crate) fn is_gone(&self) -> bool {
        // Not `exists`, which follows links.
        [self.path(), self.0.lease_path()].iter().all(|path| path.symlink_metadata().is_err())
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.path());
        let _ = std::fs::remove_file(self.0.lease_path());
    }
}

/// Two nodes: two pinned worker processes that feed one worker thread.
pub(crate) fn spec() -> Spec {
    Spec {
        requests: 8,
        tasks_per_request: 1,
        classes: vec![Class { block_bytes: 1024, count: 4 }, Class { block_bytes: 65_536, count: 2 }],
        payload_format: 7,
        nodes: vec![
            NodeSpec {
                name: "split".into(),
                worker_type: "Splitter".into(),
                payloads: Default::default(),
                config: Vec::new(),
                facts: NodeFacts {
                    type_hash: 1,
                    batch_size: 32,
                    batch_wait_ns: 200_000,
                    wait_is_stated: true.into(),
                    ..NodeFacts::default()
                },
                next: Target::Node(1),
                role: Role::ProcessWorker,
                workers: vec![Placed::listed(vec![0, 1]), Placed::listed(vec![2])],
            },
            NodeSpec {
                name: "classify".into(),
                worker_type: "Classifier".into(),
                payloads: Default::default(),
                config: Vec::new(),
                facts: NodeFacts { type_hash: 2, ..NodeFacts::default() },
                next: Target::End,
                role: Role::ThreadWorker,
                workers: vec![Placed::default()],
            },
        ],
        ..Spec::default()
    }
}

/// A segment at work, as its participants would leave it.
pub(crate) fn busy(ours: &Ours) -> Segment {
    let segment = ours.create();
    let server = Token::SERVER;
    let entries = segment.participants();
    let ready = |row: u32| {
        let token = prepare(&segment, row);
        segment.lease().hold(token).unwrap();
        entries[row as usize].arrive();
        entries[row as usize].set_life(Life::Ready);
        token
    };
    let first = ready(1);
    let second = ready(2);
    // The second has died unnoticed; the third could not be constructed.
    #[expect(unsafe_code, reason = "the contract of a lease")]
    // SAFETY: nothing has acted under it.
    unsafe {
        segment.lease().release(second);
    }
    prepare(&segment, 3);
    entries[3].fail(b"no model at ./weights");

    let counters = entries[1].counters();
    counters.count_batch(32, Closed::Full);
    counters.count_batch(7, Closed::Window);
    counters.count(Counter::Errors);
    entries[2].counters().count_batch(3, Closed::Empty);

    let split = segment.node(0).unwrap();
    let mut reader = read(&segment, 0, first);
    split.doorbell().announce(1);
    for id in 0..4 {
        let mut filling = begin(&segment, id, server);
        match id {
            0 => {
                let bytes = filling.block_buffer(1000).unwrap().room();
                filling.set_length(bytes);
            }
            3 => continue, // still being written
            _ => filling.set_length(0),
        }
        filling.queue(0);
        split.ring().push(id).unwrap();
    }
    let _ = reader.claim(0).unwrap();
    reader.set_head(1);
    std::mem::forget(reader); // it has the lock
    segment
}

/// [`spec`] with an ensemble of these two members, by where each begins, in place of the sequence.
pub(crate) fn forked_spec(members: [Target; 2]) -> Spec {
    let member = |entry| ForkMember { entry, root_bytes: 4, root_align: 4 };
    let mut spec = spec();
    spec.tasks_per_request = 3;
    spec.nodes[0].next = Target::End;
    spec.forks = vec![Fork {
        name: "both".into(),
        fail_fast: true,
        form: 0,
        parent: 0,
        first: 0,
        end: 2,
        next: Target::End,
        members: members.map(member).to_vec(),
    }];
    spec
}

/// A segment whose request 2 is forked: one branch waits, the other is being worked on.
pub(crate) fn forked(ours: &Ours) -> Segment {
    let segment = Segment::create(ours.0.clone(), &forked_spec([0, 1].map(Target::Node))).unwrap();
    let mut filling = begin(&segment, 2, Token::SERVER);
    assert!(filling.inline_buffer().write(0, b"shared"));
    filling.set_length(6);
    for (branch, node) in filling.keep().fork(0).unwrap().zip([0, 1]) {
        let id = branch.queue(node, now_ns).unwrap();
        segment.node(node).unwrap().ring().push(id).unwrap();
    }
    let worker = prepare(&segment, 3);
    let id = segment.node(1).unwrap().ring().get(0).unwrap();
    read(&segment, 1, worker).claim(id).unwrap().begin_work(1);
    segment
}

pub(crate) fn write_at(path: &Path, offset: u64, bytes: &[u8]) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}
