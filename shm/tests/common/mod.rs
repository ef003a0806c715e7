//! What the tests of segments share.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(unreachable_pub, reason = "a module of several test programs")]

use ringmill_shm::arena::{Claimed, Task};
use ringmill_shm::layout::{Class, NodeFacts};
use ringmill_shm::participant::{Entry, Life, Role};
use ringmill_shm::plan::{Fork, Member, Target};
use ringmill_shm::repair::Orphan;
use ringmill_shm::segment::{AttachError, NodeSpec, Place, Segment, Spec};
use ringmill_shm::token::Token;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

pub const FORMAT: u64 = 42;

/// A name that no other test, in this process or another, has.
pub fn unique_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("shmtest-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A place, and nothing left at it in the end.
pub struct TestPlace {
    pub place: Place,
    _directory: Option<tempfile::TempDir>,
}

impl TestPlace {
    pub fn named() -> Self {
        Self { place: Place::named(&unique_name()).unwrap(), _directory: None }
    }

    pub fn file() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { place: Place::File(directory.path().join("segment")), _directory: Some(directory) }
    }

    pub fn path(&self) -> PathBuf {
        self.place.path()
    }

    pub fn lease_path(&self) -> PathBuf {
        self.place.lease_path()
    }

    pub fn is_clean(&self) -> bool {
        !self.path().exists() && !self.lease_path().exists()
    }
}

impl Drop for TestPlace {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.path());
        let _ = std::fs::remove_file(self.lease_path());
    }
}

pub fn node(name: &str, next: Target, workers: usize) -> NodeSpec {
    NodeSpec {
        name: name.into(),
        worker_type: format!("test::{name}"),
        config: b"configuration".to_vec(),
        facts: NodeFacts { type_hash: 7, batch_size: 4, ..NodeFacts::default() },
        next,
        role: Role::ProcessWorker,
        workers: vec![Vec::new(); workers],
    }
}

/// Two nodes, one after the other, with two workers each; 40 requests; two size classes.
pub fn spec() -> Spec {
    Spec {
        requests: 40,
        tasks_per_request: 1,
        classes: vec![Class { block_bytes: 256, count: 3 }, Class { block_bytes: 1024, count: 2 }],
        payload_format: FORMAT,
        nodes: vec![node("first", Target::Node(1), 2), node("last", Target::End, 2)],
        forks: Vec::new(),
        switches: Vec::new(),
    }
}

/// A fork whose members begin there.
pub fn fork(parent: u32, first: u32, end: u32, entries: &[Target], next: Target) -> Fork {
    let member = |&entry| Member { entry, root_bytes: 1, root_align: 1 };
    let members = entries.iter().map(member).collect();
    Fork { name: "fork".into(), fail_fast: true, form: 0, parent, first, end, next, members }
}

/// An orphan that is a task.
pub fn task_of(orphan: Orphan<'_>) -> Claimed<'_> {
    match orphan {
        Orphan::Task(task) => task,
        Orphan::Join(join) => panic!("{join:?}"),
    }
}

#[expect(unsafe_code, reason = "the contract of guards")]
pub fn take_part(segment: Segment) -> Segment {
    // SAFETY: each test has one guard of a task at a time.
    unsafe { segment.take_part() }
}

/// A segment with hands on its bytes.
pub struct Fixture {
    pub segment: Segment,
    bytes: File,
    place: TestPlace,
}

impl Fixture {
    pub fn new() -> Self {
        Self::of(&spec())
    }

    pub fn of(spec: &Spec) -> Self {
        let place = TestPlace::file();
        let segment = take_part(Segment::create(place.place.clone(), spec).unwrap());
        let bytes = File::options().read(true).write(true).open(place.path()).unwrap();
        Self { segment, bytes, place }
    }

    pub fn attach(&self) -> Result<Segment, AttachError> {
        Segment::attach(self.place.place.clone(), FORMAT).map(take_part)
    }

    pub fn place(&self) -> Place {
        self.place.place.clone()
    }

    pub fn client(&self) -> Token {
        self.segment.server_token().unwrap()
    }

    pub fn task(&self, id: u32) -> Task<'_> {
        Task::new(&self.segment, id).unwrap()
    }

    /// A participant that lives: it holds its byte of the lease.
    pub fn arrive(&self, index: u32) -> Token {
        let entry = self.entry(index);
        let token = entry.prepare(index);
        self.segment.lease().hold(token).unwrap();
        entry.set_life(Life::Ready);
        token
    }

    /// It dies: its byte is free and its place is marked.
    pub fn bury(&self, token: Token) {
        self.segment.lease().release(token);
        self.entry(token.index()).set_life(Life::Dead);
    }

    fn entry(&self, index: u32) -> &Entry {
        &self.segment.participants()[index as usize]
    }

    /// A request of `client` with this payload in line, as it is before its push.
    pub fn queue(&self, id: u32, client: Token, node: u32, payload: &[u8]) -> Task<'_> {
        let mut filling = self.task(id).begin(client);
        assert!(filling.inline_place().write(0, payload));
        filling.set_length(payload.len());
        filling.queue(client, node)
    }

    pub fn push(&self, id: u32, node: u32) {
        self.segment.node(node).unwrap().ring().push(id).unwrap();
    }

    pub fn send(&self, id: u32, client: Token, payload: &[u8]) -> Task<'_> {
        let task = self.queue(id, client, 0, payload);
        self.push(id, 0);
        task
    }

    /// All that waits at a node, claimed; `head` moves.
    pub fn drain(&self, node: u32, me: Token) -> Vec<Claimed<'_>> {
        let ring = self.segment.node(node).unwrap().ring();
        let head = ring.head();
        let count = ring.published(head, u64::MAX);
        let claimed = (head..head + count)
            .filter_map(|p| self.task(ring.get(p).unwrap()).claim(me, |t| self.segment.is_dead(t)))
            .collect();
        ring.set_head(head + count);
        claimed
    }

    /// Ends a task that is no branch, or one that is joined by nobody yet.
    pub fn finish(&self, task: Claimed<'_>, error: bool) {
        assert!(task.finish(self.client(), error).is_none());
    }

    /// Where `pattern`, which is there once, lies.
    pub fn find(&self, pattern: &[u8]) -> u64 {
        let mut all = vec![0; self.segment.total_bytes() as usize];
        self.bytes.read_exact_at(&mut all, 0).unwrap();
        let mut places = all.windows(pattern.len()).enumerate().filter(|(_, w)| *w == pattern);
        let (place, _) = places.next().expect("it is there");
        assert!(places.next().is_none(), "it is there once");
        place as u64
    }

    pub fn read<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.bytes.read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    pub fn write(&self, at: u64, bytes: &[u8]) {
        self.bytes.write_all_at(bytes, at).unwrap();
    }

    /// The line of a task whose in-line place begins with `payload`.
    pub fn line_of(&self, payload: &[u8]) -> TaskLine<'_> {
        TaskLine { fixture: self, start: self.find(payload) - 32 }
    }
}

/// The header of a task, as bytes.
pub struct TaskLine<'a> {
    fixture: &'a Fixture,
    start: u64,
}

impl TaskLine<'_> {
    pub fn set_word(&self, word: u64) {
        self.fixture.write(self.start, &word.to_le_bytes());
    }

    pub fn set_length(&self, bytes: u32) {
        self.fixture.write(self.start + 8, &bytes.to_le_bytes());
    }

    pub fn block(&self) -> u32 {
        u32::from_le_bytes(self.fixture.read(self.start + 12))
    }

    pub fn set_block(&self, handle: u32) {
        self.fixture.write(self.start + 12, &handle.to_le_bytes());
    }
}

/// → QUEUED for `node`, and into its ring.
pub fn forward(
    claimed: Claimed<'_>,
    node: u32,
    now_ns: impl FnOnce() -> u64,
    another_attempt: bool,
) -> Result<(), Claimed<'_>> {
    let segment = claimed.task().segment();
    let id = match another_attempt {
        false => claimed.queue(node, now_ns)?,
        true => claimed.queue_again(node, now_ns, true, 0)?,
    };
    segment.node(node).unwrap().push(&[id]).unwrap();
    Ok(())
}
