//! The bytes of a joined value: what a fork's branches gave, side by side.
//!
//! # Layout
//!
//! A fork's branches refer to the input of the forked task; nothing is copied. The participant that joins copies the
//! members' outcomes side by side into one payload, without knowing their types: each outcome ends with its root, whose
//! size is in the plan, and rkyv reaches all else from there. So a joined value is made of boxes:
//!
//! ```text
//! tuple   outcome 0 │ outcome 1 │ … │ pointer 0, pointer 1, …            (Box<A>, Box<B>, …)
//! list    outcome 0 │ outcome 1 │ … │ pointer 0, pointer 1, … │ vector   Vec<Box<T>>
//! with errors kept: a tag before each pointer                            Result<Box<T>, Box<RemoteError>>
//! ```
//!
//! # Source
//!
//! The layout is that of rkyv 0.8 with little-endian, aligned, 64-bit relative pointers; the `tests` below check it
//! against rkyv itself.

use super::Mover;
use crate::error::{Member, MemberOutcome, RemoteCause, RemoteError};
use crate::wire::{EncodeError, from_bytes, to_bytes};
use ringmill_shm::arena::{Arrived, Corrupt, Join};
use ringmill_shm::layout::{INLINE_BYTES, PAYLOAD_ALIGN};
use ringmill_shm::plan::{self, Routes, Target};
use ringmill_shm::pool::PoolError;
use ringmill_shm::segment::Segment;
use rkyv::Archived;
use rkyv::primitive::ArchivedUsize;
use std::cell::RefCell;

/// How a fork's outcomes are joined; bits of a fork's `form`.
pub(crate) const LIST: u32 = 1;
pub(crate) const KEEPS_ERRORS: u32 = 2;

/// A thread's buffer for a joined value, which is then written over the input and outcomes from which it was made.
struct Table {
    bytes: Vec<u8>,
    /// The position of each member's root, and whether it is an error.
    roots: Vec<(usize, bool)>,
}

thread_local! {
    static TABLE: RefCell<Table> = const { RefCell::new(Table { bytes: Vec::new(), roots: Vec::new() }) };
}

impl Mover<'_> {
    /// Writes the joined value. If it is too large, its errors are shortened.
    pub(super) fn put_together(&self, join: &mut Join<'_>) -> Result<(), RemoteCause> {
        let too_large = match self.put_together_with(join, &[]) {
            Err(error @ RemoteCause::OutcomeTooLarge { .. }) => error,
            put => return put,
        };
        let mut errors = self.errors(join);
        while errors.iter_mut().flatten().map(RemoteError::shorten).filter(|shorter| *shorter).count() > 0 {
            match self.put_together_with(join, &errors) {
                Err(RemoteCause::OutcomeTooLarge { .. }) => {}
                put => return put,
            }
        }
        Err(too_large)
    }

    /// By member: its error, if it gave one that can be read.
    fn errors(&self, join: &Join<'_>) -> Vec<Option<RemoteError>> {
        let error = |index| match join.member(index) {
            Ok(Arrived::Error(bytes)) => from_bytes::<RemoteError>(bytes).ok(),
            _ => None,
        };
        (0..join.fork().1.members.len()).map(error).collect()
    }

    /// Writes the joined value, with `errors` instead of the members' own.
    fn put_together_with(
        &self,
        join: &mut Join<'_>,
        shorter: &[Option<RemoteError>],
    ) -> Result<(), RemoteCause> {
        let fork = join.fork().1;
        let keeps_errors = fork.form & KEEPS_ERRORS != 0;
        let corrupt = |e: Corrupt| RemoteCause::Payload { message: e.to_string() };
        TABLE.with_borrow_mut(|Table { bytes: joined, roots }| {
            joined.clear();
            roots.clear();
            let (mut errors, mut hopeless) = (0, false);
            // Bytes beyond the largest payload are only counted: in a corrupted segment all branches may name one large
            // payload as theirs.
            let (largest, mut excess) = (self.segment().shape().largest_payload(), 0);
            for (index, member) in fork.members.iter().enumerate() {
                match join.member(index).map_err(corrupt)? {
                    Arrived::Value(bytes) if (joined.len() + bytes.len()) as u64 > largest => {
                        excess += bytes.len() as u64;
                    }
                    Arrived::Value(bytes) => {
                        let root = append(joined, bytes, member.root_bytes, member.root_align);
                        roots.push((root.ok_or_else(|| too_short(index))?, false));
                    }
                    Arrived::Error(bytes) if keeps_errors => {
                        errors += 1;
                        let (size, align) = root_of::<RemoteError>();
                        let cut = shorter.get(index).and_then(|error| to_bytes(error.as_ref()?).ok());
                        let bytes = cut.as_deref().unwrap_or(bytes);
                        if (joined.len() + bytes.len()) as u64 > largest {
                            excess += bytes.len() as u64;
                            continue;
                        }
                        let root = append(joined, bytes, size, align);
                        roots.push((root.ok_or_else(|| too_short(index))?, true));
                    }
                    _ => hopeless = true,
                }
            }
            if hopeless || errors == fork.members.len() {
                return Err(RemoteCause::Ensemble { members: self.members(join).map_err(corrupt)? });
            }
            if excess > 0 {
                return Err(RemoteCause::OutcomeTooLarge { bytes: joined.len() as u64 + excess, largest });
            }
            finish_joined(joined, roots, fork.form);
            let Some(mut buffer) = join.value_buffer() else {
                return Err(RemoteCause::Payload {
                    message: "branches within its members are not finished: the segment is corrupted".into(),
                });
            };
            let written = match joined.len() {
                n if n <= INLINE_BYTES => buffer.inline_buffer().write(0, joined),
                n => buffer.block_buffer(n as u64).map_err(refused)?.write(0, joined),
            };
            crash_point!("route.join_value");
            debug_assert!(written, "the buffer has this size");
            buffer.set_length(joined.len());
            Ok(())
        })
    }

    /// The outcome of each member, for the ensemble's error.
    fn members(&self, join: &Join<'_>) -> Result<Vec<Member>, Corrupt> {
        let fork = join.fork().1;
        // The bytes left for the members' values: the error must fit into one payload.
        let mut room = self.segment().shape().largest_payload();
        let mut outcome = |index| {
            Ok(match join.member(index)? {
                Arrived::Not | Arrived::Skipped => MemberOutcome::Unfinished,
                Arrived::Value(bytes) => {
                    let left = room.checked_sub(bytes.len() as u64);
                    room = left.unwrap_or(room);
                    MemberOutcome::Value { payload: left.map(|_| bytes.to_vec()) }
                }
                Arrived::Error(bytes) => match from_bytes::<RemoteError>(bytes) {
                    Ok(error) => MemberOutcome::Failed { error },
                    Err(e) => MemberOutcome::Failed {
                        error: self.error("", 0, RemoteCause::Payload { message: e.to_string() }),
                    },
                },
            })
        };
        let named = |(index, member): (usize, &plan::ForkMember)| {
            let name = name_of(member.entry, self.segment());
            Ok(Member { name, outcome: outcome(index)? })
        };
        fork.members.iter().enumerate().map(named).collect()
    }
}

fn too_short(index: usize) -> RemoteCause {
    RemoteCause::Payload { message: format!("the outcome of member {index} is shorter than its type") }
}

fn refused(error: PoolError) -> RemoteCause {
    EncodeError::Pool(error).into()
}

/// The name of the servlet whose entry is this target.
fn name_of(target: Target, segment: &Segment) -> String {
    let Routes { forks, switches, .. } = segment.routes();
    let name = match target {
        Target::Node(index) => segment.nodes().get(index as usize).map(|node| &node.name),
        Target::Fork(index) => forks.get(index as usize).map(|fork| &fork.name),
        Target::Switch(index) => switches.get(index as usize).map(|switch| &switch.name),
        Target::End => None,
    };
    name.cloned().unwrap_or_default()
}

// A record with some text fits in line, if there is no room elsewhere.
const _: () = assert!(size_of::<Archived<RemoteError>>() + 24 <= INLINE_BYTES);

/// The size and alignment of a type's root.
pub(crate) fn root_of<T: rkyv::Archive>() -> (u32, u32) {
    (size_of::<Archived<T>>() as u32, align_of::<Archived<T>>() as u32)
}

/// Appends an outcome; returns the position of its root.
fn append(joined: &mut Vec<u8>, bytes: &[u8], root_bytes: u32, root_align: u32) -> Option<usize> {
    let before_root = bytes.len().checked_sub(root_bytes as usize)?;
    // The bytes before a root may need any alignment, and so does an empty list, whose pointer names an address where
    // its elements could lie. A root that is aligned to less than a pointer has no pointers.
    let has_pointers = root_align as usize >= align_of::<ArchivedUsize>();
    let align = if before_root == 0 && !has_pointers { root_align as usize } else { PAYLOAD_ALIGN };
    joined.resize(joined.len().next_multiple_of(align), 0);
    let root = joined.len() + before_root;
    joined.extend_from_slice(bytes);
    Some(root)
}

/// Appends the pointers to the outcomes, whose roots lie at these positions and are errors or not.
fn finish_joined(joined: &mut Vec<u8>, roots: &[(usize, bool)], form: u32) {
    fn point(joined: &mut Vec<u8>, to: usize) {
        let offset = to as i64 - joined.len() as i64;
        joined.extend_from_slice(&offset.to_le_bytes());
    }
    joined.resize(joined.len().next_multiple_of(8), 0);
    let first = joined.len();
    for &(root, is_error) in roots {
        if form & KEEPS_ERRORS != 0 {
            joined.extend_from_slice(&u64::from(is_error).to_le_bytes());
        }
        point(joined, root);
    }
    if form & LIST != 0 {
        point(joined, first);
        joined.extend_from_slice(&(roots.len() as u64).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::payload::Payload;

    /// Outcomes joined as a join does it, and the joined value read back.
    #[derive(Default)]
    struct Joined {
        bytes: Vec<u8>,
        roots: Vec<(usize, bool)>,
    }

    impl Joined {
        fn with<T: Payload>(mut self, outcome: &T, is_error: bool) -> Self {
            let (size, align) = root_of::<T>();
            let root = append(&mut self.bytes, &to_bytes(outcome).unwrap(), size, align).unwrap();
            self.roots.push((root, is_error));
            self
        }

        fn value<T: Payload>(self, outcome: T) -> Self {
            self.with(&outcome, false)
        }

        fn read<Whole: Payload>(mut self, form: u32) -> Whole {
            finish_joined(&mut self.bytes, &self.roots, form);
            from_bytes(&self.bytes).unwrap()
        }
    }

    fn error() -> RemoteError {
        let cause = RemoteCause::Payload { message: "a message that does not lie in line".into() };
        RemoteError { servlet: "member".into(), worker: 1, pid: 2, attempt: 3, cause }
    }

    #[test]
    fn outcomes_of_any_size_and_alignment_read_as_a_tuple_of_boxes() {
        type Whole = (Box<u8>, Box<String>, Box<()>, Box<u128>, Box<Vec<u64>>, Box<u16>);
        let long = "a text that does not lie in line".to_string();
        let joined = Joined::default().value(7_u8).value(long.clone()).value(()).value(u128::MAX);
        let joined = joined.value(vec![1_u64, 2, 3]).value(9_u16);
        let expected = (7, long, (), u128::MAX, vec![1, 2, 3], 9);
        let (a, b, c, d, e, f) = joined.read::<Whole>(0);
        assert_eq!((*a, *b, *c, *d, *e, *f), expected);
        assert_eq!(*Joined::default().value(5_u32).read::<(Box<u32>,)>(0).0, 5);
    }

    /// Symptom: a member that answered with an empty list of numbers made the whole outcome unreadable. Cause: a root
    /// with no bytes before it was put where its own alignment allows, and an empty list points to an address for its
    /// elements, whose alignment may be larger. Fix: roots that may have pointers are aligned for any type.
    #[test]
    fn empty_lists_of_any_alignment_read_as_empty_lists() {
        type Whole = (Box<u8>, Box<Vec<u64>>, Box<u32>, Box<Vec<u128>>, Box<Box<[u128]>>);
        let joined = Joined::default().value(1_u8).value(Vec::<u64>::new()).value(2_u32);
        let joined = joined.value(Vec::<u128>::new()).value(Box::<[u128]>::default());
        let (a, b, c, d, e) = joined.read::<Whole>(0);
        assert_eq!((*a, b.len(), *c, d.len(), e.len()), (1, 0, 2, 0, 0));
    }

    #[test]
    fn outcomes_of_one_type_read_as_a_list_of_boxes() {
        for count in [1, 2, 100] {
            let texts: Vec<String> = (0..count).map(|i| "x".repeat(i)).collect();
            let joined = texts.iter().fold(Joined::default(), |joined, text| joined.value(text.clone()));
            let read: Vec<Box<String>> = joined.read(LIST);
            assert_eq!(read.into_iter().map(|text| *text).collect::<Vec<_>>(), texts);
        }
    }

    #[test]
    fn kept_errors_read_as_results() {
        type Results = Vec<Result<Box<u64>, Box<RemoteError>>>;
        let of = || Joined::default().value(1_u64).with(&error(), true).value(3_u64);
        let expected: Results = vec![Ok(Box::new(1)), Err(Box::new(error())), Ok(Box::new(3))];
        assert_eq!(of().read::<Results>(KEEPS_ERRORS | LIST), expected);
        type Pair = (Result<Box<String>, Box<RemoteError>>, Result<Box<u8>, Box<RemoteError>>);
        let pair: Pair = Joined::default().with(&error(), true).value(4_u8).read(KEEPS_ERRORS);
        assert_eq!(pair, (Err(Box::new(error())), Ok(Box::new(4))));
    }

    #[test]
    fn an_outcome_shorter_than_its_type_is_refused() {
        let mut joined = vec![1];
        assert_eq!(append(&mut joined, &[0; 7], 8, 8), None);
        assert_eq!(joined, [1], "nothing was added");
    }
}
