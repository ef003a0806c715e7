//! The requests of a stream in order, oldest first: a queue of ids.
//!
//! It does what a `VecDeque` does, and takes less for it: its room is a power of two, so that an index needs a mask where
//! that one compares and subtracts, several times an item.

/// A queue of ids.
#[derive(Debug)]
pub(super) struct Sent {
    /// A power of two of them.
    ids: Box<[u32]>,
    /// Where the oldest is; only the bits below the room count.
    first: usize,
    len: usize,
}

impl Sent {
    pub(super) fn new() -> Self {
        Self { ids: vec![0; 64].into(), first: 0, len: 0 }
    }

    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline(always)]
    fn at(&self, index: usize) -> usize {
        self.first.wrapping_add(index) & (self.ids.len() - 1)
    }

    /// The id at this index from the oldest.
    #[inline(always)]
    pub(super) fn get(&self, index: usize) -> Option<u32> {
        if index < self.len { self.ids.get(self.at(index)).copied() } else { None }
    }

    /// The oldest.
    #[inline(always)]
    pub(super) fn front(&self) -> Option<u32> {
        self.get(0)
    }

    #[inline(always)]
    pub(super) fn push_back(&mut self, id: u32) {
        if self.len == self.ids.len() {
            self.grow();
        }
        let at = self.at(self.len);
        self.ids[at] = id;
        self.len += 1;
    }

    /// Removes the oldest, if there is one, and returns it.
    #[inline(always)]
    pub(super) fn pop_front(&mut self) -> Option<u32> {
        let id = self.front()?;
        self.first = self.first.wrapping_add(1);
        self.len -= 1;
        Some(id)
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self) {
        let mut ids: Vec<u32> = self.iter().collect();
        ids.resize(2 * self.ids.len(), 0);
        (self.ids, self.first) = (ids.into(), 0);
    }

    /// All of them, oldest first.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = u32> {
        (0..self.len).map(|index| self.ids[self.at(index)])
    }

    /// Replaces each by what `change` makes of it, oldest first.
    pub(super) fn change(&mut self, mut change: impl FnMut(u32) -> u32) {
        for index in 0..self.len {
            let at = self.at(index);
            self.ids[at] = change(self.ids[at]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    #[test]
    fn it_does_what_a_deque_does() {
        let (mut sent, mut deque) = (Sent::new(), VecDeque::new());
        for step in 0_u32..10_000 {
            // Runs of pushes and of pops, of lengths that go on growing, so that it goes round and grows at any index.
            if step * step % 97 < 50 + step / 400 {
                sent.push_back(step);
                deque.push_back(step);
            } else {
                assert_eq!(sent.pop_front(), deque.pop_front());
            }
            assert_eq!((sent.len(), sent.is_empty()), (deque.len(), deque.is_empty()));
            assert_eq!(sent.front(), deque.front().copied());
            let index = step as usize % 80;
            assert_eq!(sent.get(index), deque.get(index).copied(), "{step}");
            if step % 100 == 0 {
                sent.change(|id| id ^ 1);
                deque.iter_mut().for_each(|id| *id ^= 1);
                assert!(sent.iter().eq(deque.iter().copied()));
                assert!(sent.iter().rev().eq(deque.iter().rev().copied()));
            }
        }
        assert!(deque.len() > 64, "it has grown");
    }
}
