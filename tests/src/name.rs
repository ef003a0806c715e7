//! A server's name, and the files that a server of that name has left.

use ringmill_shm::segment::{Location, Segment};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A server's name that no other test and no other process has; dropping it removes the server's files.
#[derive(Debug)]
pub struct Name(Location);

impl Name {
    /// A new name for a test.
    ///
    /// # Panics
    /// If the test's name has characters that a server's name has not.
    #[must_use]
    pub fn new(test: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed); // Relaxed: only has to differ
        Self(Location::named(&format!("t-{test}-{}-{count}", std::process::id())).expect("a name"))
    }

    /// The name that a server is given.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.to_text()
    }

    /// Where the segment lies.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.0
    }

    /// Whether the segment is there.
    #[must_use]
    pub fn segment_exists(&self) -> bool {
        self.0.path().exists()
    }

    /// The segment, to read.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn inspect(&self) -> Segment {
        Segment::inspect(self.0.clone()).expect("the server is running")
    }

    /// The segment is consistent.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    pub fn assert_consistent(&self) {
        let problems = ringmill_shm::check::check(&self.inspect());
        assert!(problems.is_empty(), "{}: {problems:?}", self.text());
    }

    fn left(&self) -> Vec<PathBuf> {
        [self.0.path(), self.0.lease_path()].into_iter().filter(|path| path.exists()).collect()
    }

    /// Whether no file is left.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.left().is_empty()
    }

    /// No file is left.
    ///
    /// # Panics
    /// If one is.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        assert_eq!(self.left(), Vec::<PathBuf>::new());
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        for path in self.left() {
            let _ = std::fs::remove_file(path); // a failed test's
        }
    }
}
