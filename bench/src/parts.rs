//! A segment of one node without workers: for benches of single parts.

use std::time::{Duration, Instant};

use ringmill_shm::arena::{Done, Filling, Task};
use ringmill_shm::layout::{Class, NodeFacts};
use ringmill_shm::participant::Role;
use ringmill_shm::party::{Client, Participant, Reader};
use ringmill_shm::plan::Target;
use ringmill_shm::segment::{Location, NodeSpec, Segment, Spec};
use ringmill_shm::token::Token;

use crate::Error;

/// Tasks of the segment.
pub const TASKS: u32 = 1024;

/// The side that asks.
#[inline]
pub fn client(segment: &Segment) -> Client<'_> {
    act(segment, Token::SERVER).client()
}

/// The side that answers.
///
/// # Panics
/// Not.
#[inline]
pub fn worker(segment: &Segment) -> Participant<'_> {
    act(segment, Token::from_raw(1 << 10 | 1).expect("it is one"))
}

#[inline]
fn act(segment: &Segment, token: Token) -> Participant<'_> {
    // SAFETY: only the bench's one thread has the segment.
    #[expect(unsafe_code, reason = "the contract of guards")]
    unsafe {
        segment.take_part(token)
    }
}

/// Request `id`, which is FREE, as its client begins it.
///
/// # Panics
/// If there is none.
#[inline]
pub fn begin(segment: &Segment, id: u32) -> Filling<'_> {
    let request = Task::new(segment, id).expect("it has as many");
    // SAFETY: the bench's one thread has one guard of a request at a time.
    #[expect(unsafe_code, reason = "the contract of guards")]
    unsafe {
        client(segment).begin(request)
    }
}

/// The outcome of a request, which is there, taken.
///
/// # Panics
/// If it is not there.
#[inline]
pub fn take(request: Task<'_>) -> Done<'_> {
    // SAFETY: as in `begin`.
    #[expect(unsafe_code, reason = "the contract of guards")]
    let outcome = unsafe { client(request.segment()).outcome(request) };
    outcome.expect("it is done")
}

/// As the only worker, with the lock.
///
/// # Panics
/// If another participant has it.
#[inline]
pub fn read(segment: &Segment) -> Reader<'_> {
    let node = segment.node(0).expect("it has one node");
    worker(segment).read(node, 0, || true).expect("it is free")
}

/// Creates the segment; its name holds this process's id, and its files go when it is dropped.
///
/// # Errors
///
/// [`Error::Segment`] if it cannot be made.
pub fn segment(name: &str) -> Result<Segment, Error> {
    segment_with(name, Vec::new())
}

/// A segment as of [`segment`], with blocks of these classes.
///
/// # Errors
///
/// [`Error::Segment`] if it cannot be made.
pub fn segment_with(name: &str, classes: Vec<Class>) -> Result<Segment, Error> {
    let node = NodeSpec {
        name: "bench".into(),
        worker_type: String::new(),
        payloads: Default::default(),
        config: Vec::new(),
        facts: NodeFacts::default(),
        next: Target::End,
        role: Role::ThreadWorker,
        workers: vec![Default::default()],
    };
    let spec = Spec { requests: TASKS, tasks_per_request: 1, classes, nodes: vec![node], ..Spec::default() };
    let name = format!("bench-{name}-{}", std::process::id());
    let location = Location::named(&name).map_err(ringmill_shm::segment::CreateError::from)?;
    Ok(Segment::create(location, &spec)?)
}

/// What `work` takes for `items` items, without what `before` and `after` take: for steps of a few nanoseconds that
/// cannot be repeated on the same thing at once. Each of the three is done with all of `things` before the next one's
/// turn comes.
#[inline]
pub fn timed<Thing>(
    items: u64,
    things: &[Thing],
    mut before: impl FnMut(&Thing),
    mut work: impl FnMut(&Thing),
    mut after: impl FnMut(&Thing),
) -> Duration {
    let mut spent = Duration::ZERO;
    let mut left = items;
    while left > 0 {
        let turn = &things[..things.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        turn.iter().for_each(&mut before);
        let start = Instant::now();
        turn.iter().for_each(&mut work);
        spent += start.elapsed();
        turn.iter().for_each(&mut after);
        left -= turn.len() as u64;
    }
    spent
}
