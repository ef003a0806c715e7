//! What the host says of itself in files, under any directory: tests bring hosts of their own.

use ringmill_shm::sys::cgroup;
use std::fs::{File, Metadata};
use std::io::Read;
use std::path::{Path, PathBuf};

/// The most that is read of a file.
const TEXT_LIMIT: u64 = 1 << 20;

/// A host, of which anything may be unreadable.
#[derive(Debug)]
pub(super) struct Host {
    root: PathBuf,
}

impl Host {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.into() }
    }

    /// Whether it is the one that this process runs on, so that the kernel may be asked.
    pub(super) fn is_here(&self) -> bool {
        self.root == Path::new("/")
    }

    /// A file's place under the directory.
    pub(super) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    pub(super) fn metadata(&self, path: &str) -> Option<Metadata> {
        self.path(path).metadata().ok()
    }

    /// A file's text, without spaces around it.
    pub(super) fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        let path = self.path(path);
        // To open a pipe could block for ever.
        if !path.metadata().ok()?.is_file() {
            return None;
        }
        let mut bytes = Vec::new();
        File::open(path).ok()?.take(TEXT_LIMIT).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    pub(super) fn number(&self, path: impl AsRef<Path>) -> Option<u64> {
        self.text(path)?.parse().ok()
    }

    /// The names in a directory that are this word and a number, by number.
    pub(super) fn numbered(&self, directory: &str, word: &str) -> Vec<u64> {
        let entries = std::fs::read_dir(self.path(directory)).into_iter().flatten().filter_map(Result::ok);
        let number = |name: &str| name.strip_prefix(word)?.parse().ok();
        let mut all: Vec<u64> = entries.filter_map(|entry| number(entry.file_name().to_str()?)).collect();
        all.sort_unstable();
        all
    }

    /// What stands behind a word at the beginning of a line.
    pub(super) fn field(&self, path: &str, name: &str) -> Option<String> {
        self.text(path)?.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
    }

    /// The choice that a file of alternatives has in brackets.
    pub(super) fn choice(&self, path: &str) -> Option<String> {
        Some(self.text(path)?.split_once('[')?.1.split_once(']')?.0.to_owned())
    }

    /// What the files of the process's control groups say, the own one's first: of version 2, or else of version 1.
    pub(super) fn group_texts(&self, controller: &str, unified: &str, former: &str) -> Vec<String> {
        let texts = (self.text("/proc/self/mountinfo"), self.text("/proc/self/cgroup"));
        let (Some(mounts), Some(groups)) = texts else { return Vec::new() };
        let groups = cgroup::groups_of(&mounts, &groups, controller);
        let file =
            |group: &cgroup::Group| group.directory.join(if group.is_unified { unified } else { former });
        groups.iter().filter_map(|group| self.text(file(group))).collect()
    }

    /// The soft limit of this process, as `/proc/self/limits` names it; `u64::MAX`: none.
    pub(super) fn limit(&self, name: &str) -> Option<u64> {
        let text = self.field("/proc/self/limits", name)?;
        match text.split_whitespace().next()? {
            "unlimited" => Some(u64::MAX),
            number => number.parse().ok(),
        }
    }
}

/// How many numbers a list of ranges has: `0-3,8` has 5.
pub(super) fn count_of(list: &str) -> Option<u64> {
    list.split(',').filter(|range| !range.trim().is_empty()).try_fold(0_u64, |sum, range| {
        let (first, last) = range.trim().split_once('-').unwrap_or((range.trim(), range.trim()));
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_counted() {
        for (list, count) in [("0-3,8", Some(5)), ("7", Some(1)), ("", Some(0)), ("3-1", None), ("x", None)] {
            assert_eq!(count_of(list), count, "{list}");
        }
    }
}
