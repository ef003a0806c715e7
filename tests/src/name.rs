//! A server's name or label, and what a server of that name has left.

use crate::fresh_name;
use ringmill::{Server, ServerBuilder};
use ringmill_shm::segment::{Location, Segment, is_live, list_anonymous};
use std::path::PathBuf;

/// A server's name, or an anonymous server's label, that no other test and no other process has; dropping it removes the
/// server's files.
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

    /// A new label of an anonymous server for a test.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    #[must_use]
    pub fn label(test: &str) -> Self {
        Self(Location::anonymous(&fresh_name(test)).expect("a label"))
    }

    /// Runs a test body with a name, then with a label.
    pub fn each(test: &str, body: impl Fn(Self)) {
        for name in [Self::new(test), Self::label(test)] {
            eprintln!("with {name:?}"); // shown only if the test fails
            body(name);
        }
    }

    /// The name, or the label, that a server is given.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.server_name()
    }

    /// Whether it is the label of an anonymous server.
    #[must_use]
    pub fn is_label(&self) -> bool {
        matches!(self.0, Location::Anonymous(_))
    }

    /// Options for a server of this name or label.
    #[must_use]
    pub fn builder(&self) -> ServerBuilder {
        if self.is_label() { Server::anonymous(self.text()) } else { Server::builder(self.text()) }
    }

    /// The option by which the programs `actors` and `resident` start a server of this name or label.
    #[must_use]
    pub fn option(&self) -> Option<&'static str> {
        self.is_label().then_some("anonymous")
    }

    /// Where the segment lies; of an anonymous server, which may be in any process, as if it were in this one.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.0
    }

    /// Where the segment is now, if it is anywhere.
    fn found(&self) -> Option<Location> {
        match &self.0 {
            Location::Anonymous(of) => {
                let mut all = list_anonymous().expect("there is a /proc").into_iter();
                all.find(|found| found.location.server_name() == of.label()).map(|found| found.location)
            }
            location => Some(location.clone()),
        }
    }

    /// By which another process connects to the server.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    #[track_caller]
    pub fn address(&self) -> String {
        self.found().expect("the server is running").to_text()
    }

    /// Whether its server lives.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.found().is_some_and(|location| is_live(&location))
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
        Segment::inspect(self.found().expect("the server is running")).expect("the server is running")
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

    /// The files of this name that are there, and, of a label, the descriptors of memory that processes have.
    fn left(&self) -> Vec<PathBuf> {
        let memory = self.is_label().then(|| memory_of(&self.text()));
        files_at(&self.0).into_iter().chain(memory.into_iter().flatten()).collect()
    }

    /// Whether no file is left.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.left().is_empty()
    }

    /// No file is left, and no process has the memory of an anonymous server.
    ///
    /// # Panics
    /// If one is.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        if self.is_label() {
            // A process that another thread is just starting has copies of all descriptors until it execs.
            crate::wait_until("its memory is gone", || self.is_clean());
        }
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

/// The descriptors of all processes that are of memory whose name begins with this label.
fn memory_of(label: &str) -> Vec<PathBuf> {
    let begin = format!("/memfd:ringmill-{label}.");
    let descriptors = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let all = crate::namespace::processes().into_iter().flat_map(descriptors).map(|entry| entry.path());
    let is_of_it = |path: &PathBuf| {
        std::fs::read_link(path).is_ok_and(|link| link.to_string_lossy().starts_with(&begin))
    };
    all.filter(is_of_it).collect()
}

impl Drop for Name {
    fn drop(&mut self) {
        for path in files_at(&self.0) {
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
