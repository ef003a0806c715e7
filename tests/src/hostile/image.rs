//! A segment's file with bytes changed: the target attaches it, inspects it, and plays every part in it.
//!
//! An input is a list of patches to an image that real code has made, and then a list of deeds:
//!
//! ```text
//! which image │ flags │ bytes cut off or added │ how many patches │ patches … │ deeds, patches among them …
//! ```
//!
//! So inputs are small, each patch lands amid real work, and a patched shape can be made to fit its sizes and its
//! fingerprint again.

use super::{Input, Numbers};
use ringmill_shm::arena::{Arrived, Claimed, Done, Filling, Join, Task};
use ringmill_shm::check::{self, PhaseCounts};
use ringmill_shm::layout::{Class, NodeFacts};
use ringmill_shm::participant::{Lease, Life, Role, SERVER};
use ringmill_shm::party::{Client, Participant};
use ringmill_shm::placed::Placed;
use ringmill_shm::plan::{Fork, ForkMember, Switch, Target};
use ringmill_shm::repair::{Orphan, wake_everyone};
use ringmill_shm::segment::{AttachError, Location, NodeSpec, Segment, Spec, Use};
use ringmill_shm::stats::{Closed, Counter, Snapshot, Stamp, Weight};
use ringmill_shm::token::Token;
use ringmill_shm::word::Phase;
use ringmill_shm::{plan, pool};
use std::cell::RefCell;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::OnceLock;
use tempfile::TempDir;

const FORMAT: u64 = 11;
/// No image is larger, whatever its shape says.
const LARGEST: u64 = 1 << 20;
/// Flags: the sizes and the fingerprint are made to fit; worker 1 lives; worker 2 lives; the server is dead; shown as
/// JSON.
const FITS: u8 = 1;
const FIRST_LIVES: u8 = 2;
const SECOND_LIVES: u8 = 4;
const SERVER_IS_DEAD: u8 = 8;
const AS_JSON: u8 = 16;
/// Deeds of one input.
const DEEDS: usize = 80;

fn node(name: &str, next: Target) -> NodeSpec {
    NodeSpec {
        name: name.into(),
        worker_type: "hostile::Worker".into(),
        payloads: Default::default(),
        config: b"configuration".to_vec(),
        facts: NodeFacts {
            type_hash: 7,
            batch_size: 4,
            batch_wait_ns: 1_000_000,
            keeps_inputs: true.into(),
            keeps_apart: true.into(),
            ..NodeFacts::default()
        },
        next,
        role: Role::ProcessWorker,
        workers: vec![Placed::listed(vec![0])],
    }
}

/// An outcome beside the input, in line or in a block.
fn keep_and_write(task: Claimed<'_>, node: u32, number: u8) -> Claimed<'_> {
    task.begin_work(node);
    let mut keeping = task.keep_input_for_error(node);
    if !keeping.inline_buffer().write(0, &[number; 50]) && keeping.block_buffer(50).is_err() {
        keeping.give_up_input();
        keeping.inline_buffer();
    }
    keeping.set_length(50);
    keeping.done()
}

/// Two nodes, one after the other.
fn plain() -> Spec {
    Spec {
        requests: 3,
        tasks_per_request: 1,
        classes: vec![Class { block_bytes: 128, count: 3 }, Class { block_bytes: 256, count: 2 }],
        payload_format: FORMAT,
        nodes: vec![node("first", Target::Node(1)), node("last", Target::End)],
        ..Spec::default()
    }
}

/// A fork whose second member is another fork, with a switch in it.
fn forked() -> Spec {
    let fork = |name: &str, parent, first, end, entries: [Target; 2], next| {
        let member = |entry| ForkMember { entry, root_bytes: 8, root_align: 8 };
        let members = entries.map(member).to_vec();
        Fork { name: name.into(), fail_fast: parent != 0, form: 2, parent, first, end, next, members }
    };
    let (node_at, fork_at) = (Target::Node, Target::Fork);
    Spec {
        requests: 2,
        tasks_per_request: 5,
        classes: vec![Class { block_bytes: 128, count: 4 }],
        nodes: vec![node("left", Target::End), node("right", Target::End), node("joined", Target::End)],
        forks: vec![
            fork("outer", 0, 0, 4, [node_at(0), fork_at(1)], node_at(2)),
            fork("inner", 2, 2, 4, [node_at(1), Target::Switch(0)], Target::End),
        ],
        switches: vec![Switch { name: "way".into(), node: None, members: vec![node_at(1)] }],
        ..plain()
    }
}

/// Images of segments amid their work.
///
/// # Panics
/// If there is no room for them.
#[must_use]
pub fn images() -> &'static [Vec<u8>] {
    static IMAGES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    // In the ring, done, claimed in a block; forked, its branches on their way; and with a join that is due.
    let busy = [0, 0, 0, 9, 2, 0, 0, 1, 200, 3, 0, 2, 1, 0, 0, 2, 30];
    let forking = [1, 0, 0, 2, 0, 3, 0, 1, 1, 0, 5, 0];
    let joining = [1, 0, 0, 2, 1, 4, 1];
    IMAGES.get_or_init(|| {
        vec![image_of(&plain(), &busy), image_of(&forked(), &forking), image_of(&forked(), &joining)]
    })
}

/// Where the statistics lie in each of the images: counts, of which any value is one.
pub fn statistics() -> [Range<usize>; 3] {
    let of = |spec: &Spec| {
        let directory = room();
        let location = Location::File(directory.path().join("segment"));
        let segment = Segment::create(location, spec).expect("there is room");
        // By the order of their first bytes, one beside the next.
        let mut end = 0;
        for room in segment.rooms() {
            let start = end;
            end += room.bytes as usize;
            if room.of == Use::Statistics {
                return start..end;
            }
        }
        0..0
    };
    let forked = of(&forked());
    [of(&plain()), forked.clone(), forked]
}

fn image_of(spec: &Spec, deeds: &[u8]) -> Vec<u8> {
    let directory = room();
    let location = Location::File(directory.path().join("segment"));
    let mut segment = Segment::create(location.clone(), spec).expect("there is room");
    segment.keep_files();
    for (index, entry) in (0..).zip(segment.participants()).skip(1) {
        #[expect(unsafe_code, reason = "the contract of a row")]
        // SAFETY: its row, which no incarnation has had.
        unsafe {
            entry.prepare(index);
        }
        entry.set_life(Life::Ready);
    }
    let mut actor = Actor::new(&segment);
    actor.act_all(&mut Input(deeds));
    drop(actor);
    drop(segment);
    std::fs::read(location.path()).expect("it is there")
}

fn room() -> TempDir {
    let wished = std::env::var_os("RINGMILL_HOSTILE_DIR").map(PathBuf::from);
    let directory = wished.unwrap_or_else(|| "/dev/shm".into());
    tempfile::Builder::new().prefix(".ringmill-hostile-").tempdir_in(directory).expect("a directory")
}

/// Where images are put to be attached; its files go with it.
#[derive(Debug)]
struct Stage {
    file: File,
    location: Location,
    /// By which participants live, and which do.
    lives: Lease,
    living: RefCell<Vec<Token>>,
    _directory: TempDir,
}

impl Stage {
    fn new() -> Self {
        let directory = room();
        let location = Location::File(directory.path().join("segment"));
        let new = |path| File::options().read(true).write(true).create_new(true).mode(0o600).open(path);
        let file = new(location.path()).expect("a new file");
        new(location.lease_path()).expect("a new file");
        let lives = Lease::open(&location.lease_path()).expect("it is there");
        Self { file, location, lives, living: RefCell::default(), _directory: directory }
    }

    fn put(&self, image: &[u8]) {
        self.file.set_len(image.len() as u64).expect("a file of ours");
        self.file.write_all_at(image, 0).expect("there is room");
    }

    /// Makes the participants of the first rows live or not, as the flags say.
    fn let_live(&self, segment: Option<&Segment>, flags: u8) {
        let mut living = self.living.borrow_mut();
        for token in living.drain(..) {
            #[expect(unsafe_code, reason = "the contract of a lease")]
            // SAFETY: the actor of the image before is gone.
            unsafe {
                self.lives.release(token);
            }
        }
        let lives = [flags & SERVER_IS_DEAD == 0, flags & FIRST_LIVES != 0, flags & SECOND_LIVES != 0];
        let entries = segment.map_or(&[][..], Segment::participants);
        let tokens =
            entries.iter().zip(lives).filter(|(_, lives)| *lives).filter_map(|(entry, _)| entry.token());
        living.extend(tokens);
        living.iter().for_each(|&token| self.lives.hold(token).expect("it is ours"));
    }

    /// Attaches the patched image, made to fit if the flags say so.
    fn attach(&self, image: &mut Vec<u8>, flags: u8) -> Result<Segment, AttachError> {
        for _ in 0..3 {
            match Segment::attach(self.location.clone(), FORMAT) {
                Err(AttachError::Size { needed, .. }) if flags & FITS != 0 && needed <= LARGEST => {
                    image.resize(needed as usize, 0);
                    image[24..32].copy_from_slice(&needed.to_le_bytes());
                }
                Err(AttachError::Fingerprint { expected, .. }) if flags & FITS != 0 => {
                    image[16..24].copy_from_slice(&expected.to_le_bytes());
                }
                other => return other,
            }
            self.put(image);
        }
        Segment::attach(self.location.clone(), FORMAT)
    }
}

thread_local! {
    static STAGE: Stage = Stage::new();
}

/// See the module.
///
/// # Panics
/// Never.
pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let (which, flags) = (input.byte() as usize, input.byte());
    let mut image = images()[which % images().len()].clone();
    let more = input.byte().cast_signed();
    let length = (image.len() as i64 + i64::from(more) * 128).max(0) as usize;
    image.resize(length, 0);
    for _ in 0..input.byte() % 32 {
        let (at, bytes) = input.patch();
        patch(&mut image, at, bytes);
    }
    examine(&mut image, flags, input.0);
}

fn patch(image: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(last) = image.len().checked_sub(1) {
        let at = at % (last + 1);
        let count = bytes.len().min(image.len() - at);
        image[at..at + count].copy_from_slice(&bytes[..count]);
    }
}

/// The deeds for an image with one change: each once.
pub const TOUR: &[u8] = &[
    12, 14, 2, 0, 2, 1, 3, 0, 3, 0, 9, 1, 9, 0, 9, 2, 7, 0, 7, 1, 7, 2, 15, 1, 0, 0, 10, 2, 0, 3, 0, 3, 1, 5,
    0, 2, 1, 2, 2, 4, 0, 3, 0, 3, 0, 6, 0, 6, 0, 7, 0, 7, 1, 0, 1, 200, 11, 2, 0, 8, 1, 11, 9, 1, 9, 2, 1, 0,
    0, 2, 0, 9, 1, 10, 6, 0, 7, 0, 12,
];

/// Whether an image with one change is refused, or how it ended after each deed once.
pub fn tour(image: &mut Vec<u8>, flags: u8) {
    examine(image, flags, TOUR);
}

fn examine(image: &mut Vec<u8>, flags: u8, deeds: &[u8]) {
    STAGE.with(|stage| {
        stage.put(image);
        let segment = stage.attach(image, flags);
        stage.let_live(segment.as_ref().ok(), flags);
        if let Ok(segment) = segment {
            let mut actor = Actor::new(&segment);
            actor.file = Some(&stage.file);
            actor.act_all(&mut Input(deeds));
        }
        if let Ok(segment) = Segment::inspect(stage.location.clone()) {
            let _ = (look(&segment), segment.identity(), pool::in_use(&segment));
        }
        let path = stage.location.path();
        let path = path.to_str().expect("text");
        for report in [shmtool::show, shmtool::requests] {
            let told = report(path, flags & AS_JSON != 0).unwrap_or_else(|complaint| complaint);
            assert!(!told.is_empty());
        }
    });
}

fn look(segment: &Segment) -> usize {
    let counts = PhaseCounts::of(segment);
    assert!(counts[Phase::Free] <= segment.shape().requests);
    check::look(segment).iter().map(|problem| problem.to_string().len()).sum()
}

/// Plays client, workers and supervisor of a segment, one deed after the other, by `shm`'s interface.
struct Actor<'s> {
    segment: &'s Segment,
    hands: Vec<Claimed<'s>>,
    joins: Vec<Join<'s>>,
    /// To patch it meanwhile.
    file: Option<&'s File>,
}

impl<'s> Actor<'s> {
    fn new(segment: &'s Segment) -> Self {
        Self { segment, hands: Vec::new(), joins: Vec::new(), file: None }
    }

    #[expect(unsafe_code, reason = "the contract of guards")]
    fn as_(&self, token: Token) -> Participant<'s> {
        // SAFETY: an actor is the only one, and no two of its guards are used at a time: what it does by one it has done
        // when it turns to the next.
        unsafe { self.segment.take_part(token) }
    }

    fn client(&self) -> Client<'s> {
        self.as_(Token::SERVER).client()
    }

    #[expect(unsafe_code, reason = "the contract of guards")]
    fn begin(&self, number: u8) -> Filling<'s> {
        // SAFETY: as in `as_`.
        unsafe { self.client().begin(self.request(number)) }
    }

    #[expect(unsafe_code, reason = "the contract of guards")]
    fn outcome(&self, number: u8) -> Option<Done<'s>> {
        // SAFETY: as in `as_`.
        unsafe { self.client().outcome(self.request(number)) }
    }

    #[expect(unsafe_code, reason = "the contract of guards")]
    fn cancel(&self, number: u8) -> bool {
        // SAFETY: as in `as_`.
        unsafe { self.client().cancel(self.request(number)) }
    }

    fn act_all(&mut self, deeds: &mut Input<'_>) {
        for _ in 0..DEEDS {
            if deeds.is_over() {
                return;
            }
            self.act(deeds);
        }
    }

    /// Every byte of a payload, which must fit where payloads lie.
    fn read(&self, bytes: &[u8]) -> u64 {
        let largest = self.segment.shape().largest_payload();
        assert!(bytes.len() as u64 <= largest, "a payload of {} bytes, where {largest} fit", bytes.len());
        std::hint::black_box(bytes.iter().map(|&byte| u64::from(byte)).sum())
    }

    fn request(&self, number: u8) -> Task<'s> {
        Task::new(self.segment, u32::from(number) % self.segment.shape().requests).expect("it is one")
    }

    /// The token in a worker's row, or the one that should be there.
    fn worker(&self, number: u8) -> Token {
        let row = 1 + u32::from(number) % self.segment.shape().participants.max(2).saturating_sub(1);
        let entry = self.segment.participants().get(row as usize);
        entry
            .and_then(|entry| entry.token())
            .unwrap_or_else(|| Token::from_raw(1 << 10 | row).expect("in its first incarnation"))
    }

    fn node(&self, number: u8) -> u32 {
        u32::from(number) % self.segment.shape().nodes
    }

    /// A hand that is emptied.
    fn hand(&mut self, number: u8) -> Option<Claimed<'s>> {
        let count = self.hands.len();
        (count > 0).then(|| self.hands.swap_remove(number as usize % count))
    }

    fn act(&mut self, input: &mut Input<'_>) {
        match input.byte() % 16 {
            0 => self.send(input),
            1 => self.fork(input),
            2 => self.drain(input.byte()),
            3 => self.finish(input.byte(), false),
            4 => self.finish(input.byte(), true),
            5 => {
                let number = input.byte();
                if let Some(task) = self.hand(number) {
                    let node = self.node(number);
                    let queued = match number % 3 {
                        0 => task.queue(node, || 7),
                        1 => task.requeue(node, || 7, true, number.into()),
                        _ => keep_and_write(task, node, number).queue(node, || 7),
                    };
                    let _ = queued.map(|id| self.push(node, id));
                }
            }
            6 => self.join(input.byte()),
            7 => {
                if let Some(done) = self.outcome(input.byte()) {
                    let _ = (done.payload().map(|bytes| self.read(bytes)), done.is_error());
                    match done.may_have_branches() {
                        true => drop(done.cancel()),
                        false => drop(done.free()),
                    }
                }
            }
            8 => drop(self.cancel(input.byte())),
            9 => self.repair(input.byte()),
            10 => {
                wake_everyone(self.segment);
                self.segment.take_completions(drop);
                let _ = (self.segment.run(), self.client().ask_for_notice(self.request(0)));
            }
            11 => {
                if let Some(task) = self.hand(0) {
                    match task.is_abandoned() {
                        true => self.joins.extend(task.discard()),
                        false => self.hands.extend(task.park().resume(self.segment)),
                    }
                }
            }
            12 => drop(look(self.segment)),
            13 => {
                let (at, bytes) = input.patch();
                if let Some(file) = self.file {
                    let at = at as u64 % self.segment.total_bytes();
                    let room = (self.segment.total_bytes() - at) as usize;
                    file.write_all_at(&bytes[..bytes.len().min(room)], at).expect("a file of ours");
                }
            }
            14 => self.read_all(),
            _ => self.count(input.byte()),
        }
    }

    fn send(&mut self, input: &mut Input<'_>) {
        let (number, bytes) = (input.byte(), input.byte() as usize);
        let mut filling = self.begin(number);
        filling.stamp(Stamp::at(16, Some(Weight::ONE)));
        filling.limit(u64::from(number));
        let written = match bytes {
            0..=96 => Some(filling.inline_buffer().write(0, &[number; 256][..bytes])),
            _ => filling
                .block_buffer(bytes as u64)
                .ok()
                .map(|mut buffer| buffer.write(0, &[number; 256][..bytes])),
        };
        filling.set_length(bytes);
        match written {
            Some(true) => {
                let node = self.node(number / 4);
                let id = filling.queue(node).id();
                self.push(node, id);
            }
            Some(false) => panic!("a buffer of {bytes} bytes has no room for them"),
            None => drop(filling.abandon()),
        }
    }

    fn push(&self, node: u32, id: u32) {
        let _ = self.segment.node(node).expect("it exists").push(&[id]); // it may be overrun
    }

    fn fork(&mut self, input: &mut Input<'_>) {
        let number = input.byte();
        let fork = u32::from(input.byte()) % self.segment.shape().forks.max(1);
        let mut filling = self.begin(number);
        assert!(filling.inline_buffer().write(0, &[number; 8]));
        filling.set_length(8);
        self.split(filling.keep(), fork);
    }

    /// Forks a task; its branches go where they begin, forks within at once.
    fn split(&mut self, task: Claimed<'s>, fork: u32) {
        let segment = self.segment;
        match task.fork(fork) {
            Ok(branches) => {
                let members = segment.routes().forks[fork as usize].members.iter();
                for (branch, member) in branches.zip(members) {
                    match member.entry {
                        Target::Node(node) => {
                            let _ = branch.queue(node, || 7).map(|id| self.push(node, id));
                        }
                        Target::Fork(inner) => self.split(branch, inner),
                        Target::Switch(_) | Target::End => self.hands.push(branch),
                    }
                }
            }
            Err(task) => self.hands.push(task),
        }
    }

    /// As a worker does, but that it does not wait.
    fn drain(&mut self, number: u8) {
        let node = self.segment.node(self.node(number)).expect("it exists");
        let Some(mut reader) = self.as_(self.worker(number)).read(node, 1, || true) else { return };
        let ring = reader.ring();
        let number = u32::from(number) % 64;
        node.doorbell().announce(number);
        node.doorbell().retract(number);
        let mut head = ring.head();
        let count = ring.published(head, 8);
        for _ in 0..count {
            let id = ring.get(head).expect("it was published, and no other process is here");
            self.hands.extend(reader.claim(id));
            head = head.wrapping_add(1);
        }
        reader.set_head(head);
        drop(reader);
        node.doorbell().wake_one(|worker| node.bell(worker));
    }

    fn finish(&mut self, number: u8, error: bool) {
        let Some(mut task) = self.hand(number) else { return };
        let _ = (
            task.payload().map(|bytes| self.read(bytes)),
            task.is_abandoned(),
            task.deadline_ns(),
            task.is_elsewhere(),
        );
        let bytes = if number > 100 { 128 } else { 8 };
        let room = match bytes {
            8 => Some(task.inline_buffer().write(0, &[number; 8])),
            _ => task.block_buffer(bytes).ok().map(|mut buffer| buffer.write(0, &[number; 128])),
        };
        assert_ne!(room, Some(false), "a buffer of {bytes} bytes has no room for them");
        task.set_length(bytes as usize);
        self.joins.extend(task.finish(error));
    }

    fn join(&mut self, number: u8) {
        let Some(mut join) = self.joins.pop() else { return };
        let members = join.fork().1.members.len();
        let arrived = |index| match join.member(index) {
            Ok(Arrived::Value(bytes) | Arrived::Error(bytes)) => self.read(bytes),
            Ok(_) | Err(_) => 0,
        };
        let _ = (
            (0..members).map(arrived).fold(0, u64::wrapping_add),
            join.is_abandoned(),
            join.attempt(),
            join.is_spoilt(),
        );
        if !number.is_multiple_of(4)
            && let Some(mut buffer) = join.value_buffer()
        {
            assert!(buffer.inline_buffer().write(0, &[number; 8]));
            buffer.set_length(8);
            self.hands.extend(join.with_value());
            return;
        }
        let mut buffer = join.error_buffer();
        assert!(buffer.inline_buffer().write(0, &[number; 8]));
        buffer.set_length(8);
        if let Some(task) = join.with_error() {
            self.joins.extend(task.finish(true));
        }
    }

    fn repair(&mut self, number: u8) {
        let dead = self.worker(number);
        let mut left = Vec::new();
        let settle = |orphan: Orphan<'s>| match orphan {
            Orphan::Task(task) => {
                let _ = task.payload().map(|bytes| self.read(bytes));
                left.push(task.id());
                drop(task.finish(true));
            }
            Orphan::Join(mut join) => {
                join.error_buffer().set_length(0);
                left.push(join.task().id());
                drop(join.with_error());
            }
        };
        let repairer = self.as_(Token::SERVER).repairer();
        #[expect(unsafe_code, reason = "the contract of a repair")]
        // SAFETY: as in `as_`.
        let summary = unsafe { repairer.repair(dead, settle) };
        assert!(summary.pushed <= self.segment.shape().tasks());
        assert!(left.iter().all(|&id| Task::new(self.segment, id).is_some()));
    }

    fn read_all(&self) {
        let segment = self.segment;
        for id in 0..segment.shape().tasks() {
            let task = Task::new(segment, id).expect("it is one");
            let _ = (task.at(), task.stamp(), task.sent_ns(), task.begun_ns(), task.slot(), task.is_branch());
            assert!(!format!("{:?}", task.word()).is_empty());
        }
        for index in 0..segment.shape().nodes {
            let node = segment.node(index).expect("it exists");
            assert!(node.ring().depth() <= node.ring().cells() as u64);
            let mut ids = 0;
            node.ring().scan(|_, _| ids += 1);
            assert!(ids <= node.ring().cells());
            let _ = (node.doorbell().sleepers(), node.doorbell().is_down(), segment.config(node.info()));
        }
        let _: &plan::Routes = segment.routes();
    }

    fn count(&self, number: u8) {
        let mut all = Snapshot::default();
        for (row, entry) in (0..).zip(self.segment.participants()) {
            entry.counters().count_batch(number.into(), Closed::Full);
            entry.counters().count(Counter::Errors);
            all = all.merged(entry.counters().snapshot());
            let _ = (entry.cpus(), entry.message(), entry.life(), all.batch_mean());
            assert!(self.segment.role_of(row).is_some());
            if row != SERVER {
                entry.fail(&[number; 40]);
                #[expect(unsafe_code, reason = "the contract of a row")]
                // SAFETY: its row; what the actor did as its former incarnation it has done, see `as_`.
                let token = unsafe { entry.prepare(row) };
                assert_eq!(token.index(), row);
            }
        }
    }
}

/// A random input: patches, then deeds with patches among them.
#[must_use]
pub fn random(numbers: &mut Numbers) -> Vec<u8> {
    let which = numbers.below(images().len() as u64) as u8;
    let mut input = vec![which, numbers.below(32) as u8];
    input.push(if numbers.below(16) == 0 { numbers.below(256) as u8 } else { 0 });
    let length = images()[which as usize].len() as u64;
    let patch = |numbers: &mut Numbers, input: &mut Vec<u8>| {
        let at = numbers.below(length) as u32;
        // Most that is of interest is aligned.
        let at = if numbers.below(4) == 0 { at } else { at & !7 };
        input.extend(&at.to_le_bytes()[..3]);
        let count = 1 + numbers.below(16) as usize;
        input.push(count as u8 - 1);
        let splice = numbers.below(4) == 0;
        let from = numbers.below(length - 16) as usize;
        match splice {
            true => input.extend(&images()[which as usize][from..from + count]),
            false => input.extend(numbers.bytes(count)),
        }
    };
    let patches = numbers.below(6);
    input.push(patches as u8);
    for _ in 0..patches {
        patch(numbers, &mut input);
    }
    for _ in 0..numbers.below(DEEDS as u64) {
        if numbers.below(4) == 0 {
            input.push(13);
            patch(numbers, &mut input);
        } else {
            input.push(numbers.below(16) as u8);
            input.extend(numbers.bytes(2));
        }
    }
    input
}
