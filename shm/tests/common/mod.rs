//! The library of the tests of segments.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(unreachable_pub, reason = "a module of several test programs")]

mod left;

use ringmill_shm::arena::{Claimed, Done, Filling, Task};
use ringmill_shm::layout::{Class, INLINE_BYTES, LINE, NodeFacts};
use ringmill_shm::participant::{Entry, Life, Role};
use ringmill_shm::party::{Participant, Reader};
use ringmill_shm::plan::{Fork, ForkMember, Target};
use ringmill_shm::repair::{Orphan, Summary};
use ringmill_shm::segment::{AttachError, Location, NodeSpec, Segment, Spec};
use ringmill_shm::token::Token;
use ringmill_shm::word::Phase;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub const FORMAT: u64 = 42;

/// Bytes of a task.
const TASK_BYTES: u64 = LINE as u64;
/// Where its in-line buffer, its payload's length and its block begin; [`Fixture::of`] compares them with a task.
const BUFFER: u64 = TASK_BYTES - INLINE_BYTES as u64;
const LENGTH: u64 = 8;
const BLOCK: u64 = 12;

/// A test that waits longer hangs.
const GUARD: Duration = Duration::from_secs(60);

/// Waits until something is true that can only be looked at.
///
/// # Panics
/// If it has not become true after [`GUARD`].
#[track_caller]
pub fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_true() {
        assert!(begun.elapsed() < GUARD, "this never happened: {what}");
        std::thread::yield_now();
    }
}

/// A name that no other test, in this process or another, has.
pub fn unique_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("shmtest-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A location, of which the test removes all files in the end.
pub struct TestLocation {
    pub location: Location,
    _directory: Option<tempfile::TempDir>,
}

impl TestLocation {
    pub fn named() -> Self {
        Self { location: Location::named(&unique_name()).unwrap(), _directory: None }
    }

    pub fn file() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { location: Location::File(directory.path().join("segment")), _directory: Some(directory) }
    }

    pub fn anonymous() -> Self {
        Self { location: Location::anonymous(&unique_name()).unwrap(), _directory: None }
    }

    pub fn path(&self) -> PathBuf {
        self.location.path()
    }

    pub fn lease_path(&self) -> PathBuf {
        self.location.lease_path()
    }

    pub fn is_clean(&self) -> bool {
        // Not `exists`, which follows links.
        [self.path(), self.lease_path()].iter().all(|path| path.symlink_metadata().is_err())
    }
}

impl Drop for TestLocation {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.path());
        let _ = std::fs::remove_file(self.lease_path());
    }
}

pub fn node(name: &str, next: Target, workers: usize) -> NodeSpec {
    NodeSpec {
        name: name.into(),
        worker_type: format!("test::{name}"),
        payloads: Default::default(),
        config: b"configuration".to_vec(),
        facts: NodeFacts { type_hash: 7, batch_size: 4, ..NodeFacts::default() },
        next,
        role: Role::ProcessWorker,
        workers: vec![Default::default(); workers],
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
        ..Spec::default()
    }
}

/// A fork whose members begin there.
pub fn fork(parent: u32, first: u32, end: u32, entries: &[Target], next: Target) -> Fork {
    let member = |&entry| ForkMember { entry, root_bytes: 1, root_align: 1 };
    let members = entries.iter().map(member).collect();
    Fork { name: "fork".into(), fail_fast: true, form: 0, parent, first, end, next, members }
}

/// The token of this row in that incarnation.
pub fn token(index: u32, epoch: u32) -> Token {
    Token::from_raw(epoch * Token::INDEX_LIMIT + index).unwrap()
}

/// An orphan that is a task.
pub fn task_of(orphan: Orphan<'_>) -> Claimed<'_> {
    match orphan {
        Orphan::Task(task) => task,
        Orphan::Join(join) => panic!("{join:?}"),
    }
}

/// A segment, and access to its bytes.
pub struct Fixture {
    pub segment: Segment,
    bytes: File,
    location: TestLocation,
    /// Where the tasks begin.
    tasks: u64,
}

impl Fixture {
    pub fn new() -> Self {
        Self::of(&spec())
    }

    pub fn of(spec: &Spec) -> Self {
        let location = TestLocation::file();
        let segment = Segment::create(location.location.clone(), spec).unwrap();
        let bytes = File::options().read(true).write(true).open(location.path()).unwrap();
        let mut f = Self { segment, bytes, location, tasks: 0 };
        // Found by a payload; then as if nothing had been there.
        const PAYLOAD: &[u8] = b"where the tasks begin";
        let mut filling = f.begin(0, f.client());
        assert!(filling.inline_buffer().write(0, PAYLOAD));
        filling.set_length(PAYLOAD.len());
        f.tasks = f.find(PAYLOAD) - BUFFER;
        let line = f.line_of(PAYLOAD);
        assert_eq!((line.length() as usize, line.block()), (PAYLOAD.len(), 0));
        let mut filling = f.resume_filling(0, f.client()).expect("it was begun");
        if filling.block_buffer(1).is_ok() {
            assert_ne!(line.block(), 0);
        }
        filling.abandon();
        f.write(f.tasks, &[0; TASK_BYTES as usize]);
        f
    }

    /// The task as its owner leaves it that dies after a transition, and before what must follow.
    pub fn write_word(&self, task: Task<'_>, phase: Phase, owner: Token, error: bool) {
        let before = task.word().load().raw();
        self.set_word(task, left::after(before, phase as u64, owner.raw(), error));
    }

    /// Its caller has gone as well.
    pub fn write_cancelled(&self, task: Task<'_>) {
        self.set_word(task, left::cancelled(task.word().load().raw()));
    }

    fn set_word(&self, task: Task<'_>, word: u64) {
        let start = self.tasks + TASK_BYTES * u64::from(task.id());
        TaskLine { fixture: self, start }.set_word(word);
    }

    pub fn attach(&self) -> Result<Segment, AttachError> {
        Segment::attach(self.location.location.clone(), FORMAT)
    }

    pub fn location(&self) -> Location {
        self.location.location.clone()
    }

    pub fn client(&self) -> Token {
        Token::SERVER
    }

    #[expect(unsafe_code, reason = "the contract of guards")]
    pub fn act(&self, token: Token) -> Participant<'_> {
        // SAFETY: each test has one guard of a task at a time, and uses none of whom it buries.
        unsafe { self.segment.take_part(token) }
    }

    #[expect(unsafe_code, reason = "the contract of guards")]
    pub fn begin(&self, id: u32, client: Token) -> Filling<'_> {
        // SAFETY: as in `act`.
        unsafe { self.act(client).client().begin(self.task(id)) }
    }

    #[expect(unsafe_code, reason = "the contract of guards")]
    pub fn resume_filling(&self, id: u32, client: Token) -> Option<Filling<'_>> {
        // SAFETY: as in `act`.
        unsafe { self.act(client).client().resume_filling(self.task(id)) }
    }

    #[expect(unsafe_code, reason = "the contract of guards")]
    pub fn outcome<'s>(&self, task: Task<'s>) -> Option<Done<'s>> {
        // SAFETY: as in `act`.
        unsafe { task.segment().take_part(Token::SERVER).client().outcome(task) }
    }

    #[expect(unsafe_code, reason = "the contract of guards")]
    pub fn cancel(&self, task: Task<'_>) -> bool {
        // SAFETY: as in `act`.
        unsafe { task.segment().take_part(Token::SERVER).client().cancel(task) }
    }

    #[expect(unsafe_code, reason = "the contract of guards")]
    pub fn repair<'s>(&'s self, dead: Token, me: Token, orphan: impl FnMut(Orphan<'s>)) -> Summary {
        // SAFETY: as in `act`.
        unsafe { self.act(me).repairer().repair(dead, orphan) }
    }

    /// With the lock, which is free or of the dead.
    pub fn read(&self, node: u32, me: Token) -> Reader<'_> {
        self.act(me)
            .read(self.segment.node(node).unwrap(), 0, || panic!("another participant has the lock"))
            .unwrap()
    }

    /// It has the lock, and will not give it back.
    pub fn lock_for_ever(&self, node: u32, me: Token) {
        std::mem::forget(self.read(node, me));
    }

    /// Claims a task whatever ring it is in.
    pub fn claim(&self, id: u32, me: Token) -> Option<Claimed<'_>> {
        self.read(0, me).claim(id)
    }

    pub fn task(&self, id: u32) -> Task<'_> {
        Task::new(&self.segment, id).unwrap()
    }

    /// A participant that lives: it holds its byte of the lease.
    #[expect(unsafe_code, reason = "the contract of a row")]
    pub fn arrive(&self, index: u32) -> Token {
        let entry = self.entry(index);
        // SAFETY: its row; a test lets no participant arrive whose former incarnation it still uses.
        let token = unsafe { entry.prepare(index) };
        self.segment.lease().hold(token).unwrap();
        entry.set_life(Life::Ready);
        token
    }

    /// Its byte is free.
    #[expect(unsafe_code, reason = "the contract of guards")]
    pub fn leave(&self, token: Token) {
        // SAFETY: as in `act`.
        unsafe { self.segment.lease().release(token) };
    }

    /// It dies: its byte is free and its row is marked.
    #[expect(unsafe_code, reason = "the contract of a row")]
    pub fn bury(&self, token: Token) {
        self.leave(token);
        // SAFETY: as in `act`.
        unsafe { self.entry(token.index()).bury() };
    }

    fn entry(&self, index: u32) -> &Entry {
        &self.segment.participants()[index as usize]
    }

    /// A request of `client` with this payload in line, as it is before its push.
    pub fn queue(&self, id: u32, client: Token, node: u32, payload: &[u8]) -> Task<'_> {
        let mut filling = self.begin(id, client);
        assert!(filling.inline_buffer().write(0, payload));
        filling.set_length(payload.len());
        filling.queue(node)
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
        let mut reader = self.read(node, me);
        let ring = reader.ring();
        let head = ring.head();
        let count = ring.published(head, u64::MAX);
        let claimed = (head..head + count).filter_map(|p| reader.claim(ring.get(p).unwrap())).collect();
        reader.set_head(head + count);
        claimed
    }

    /// Ends a task that is no branch, or one that is not joined yet.
    pub fn finish(&self, task: Claimed<'_>, error: bool) {
        assert!(task.finish(error).is_none());
    }

    /// Ends a request of another client than the server.
    #[expect(unsafe_code, reason = "the contract of guards")]
    pub fn finish_for(&self, task: Claimed<'_>, client: Token) {
        // SAFETY: as in `act`.
        let join = unsafe { task.finish_for(client, false) };
        assert!(join.is_none());
    }

    /// Where the row of a participant lies that has arrived: token │ state │ pid │ …. A token alone may be another number too.
    pub fn find_row(&self, token: Token) -> u64 {
        let words = [token.raw(), Life::Ready as u32];
        self.find(words.map(u32::to_le_bytes).as_flattened())
    }

    /// Where `pattern`, which is there once, lies.
    pub fn find(&self, pattern: &[u8]) -> u64 {
        let mut all = vec![0; self.segment.total_bytes() as usize];
        self.bytes.read_exact_at(&mut all, 0).unwrap();
        let mut found = all.windows(pattern.len()).enumerate().filter(|(_, w)| *w == pattern);
        let (at, _) = found.next().expect("it is there");
        assert!(found.next().is_none(), "it is there once");
        at as u64
    }

    pub fn bytes<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.bytes.read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    pub fn write(&self, at: u64, bytes: &[u8]) {
        self.bytes.write_all_at(bytes, at).unwrap();
    }

    /// The line of a task whose in-line buffer begins with `payload`.
    pub fn line_of(&self, payload: &[u8]) -> TaskLine<'_> {
        TaskLine { fixture: self, start: self.find(payload) - BUFFER }
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

    pub fn length(&self) -> u32 {
        u32::from_le_bytes(self.fixture.bytes(self.start + LENGTH))
    }

    pub fn set_length(&self, bytes: u32) {
        self.fixture.write(self.start + LENGTH, &bytes.to_le_bytes());
    }

    pub fn block(&self) -> u32 {
        u32::from_le_bytes(self.fixture.bytes(self.start + BLOCK))
    }

    pub fn set_block(&self, handle: u32) {
        self.fixture.write(self.start + BLOCK, &handle.to_le_bytes());
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
        true => claimed.requeue(node, now_ns, true, 0)?,
    };
    segment.node(node).unwrap().push(&[id]).unwrap();
    Ok(())
}
