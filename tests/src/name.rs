//! A server's name, and the files that a server of that name has left.

use crate::fresh_name;
use ringmill_shm::segment::{Location, Segment};
use std::path::PathBuf;

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
        Self(Location::named(&fresh_name(test)).expect("a name"))
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

    /// The files of this name that are there.
    fn left(&self) -> Vec<PathBuf> {
        files_at(&self.0)
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

/// The files of a segment that are there: of any kind, also links that lead nowhere.
#[must_use]
pub fn files_at(location: &Location) -> Vec<PathBuf> {
    let both = [location.path(), location.lease_path()];
    // Not `exists`, which follows links.
    both.into_iter().filter(|path| path.symlink_metadata().is_ok()).collect()
}

impl Drop for Name {
    fn drop(&mut self) {
        for path in self.left() {
            let _ = std::fs::remove_file(path); // a failed test's
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_leads_nowhere_is_found_and_removed() {
        let name = Name::new("link");
        assert!(name.is_clean());
        let paths = [name.location().path(), name.location().lease_path()];
        for path in &paths {
            std::os::unix::fs::symlink("/nowhere", path).expect("a link");
            assert_eq!(name.left(), std::slice::from_ref(path));
            std::fs::remove_file(path).expect("it was there");
        }
        std::os::unix::fs::symlink("/nowhere", &paths[0]).expect("a link");
        drop(name);
        assert!(paths[0].symlink_metadata().is_err());
    }
}
