//! How much memory a control group lets this process use: the kernel kills a process that uses more, without an error
//! first.

use std::io;
use std::path::{Path, PathBuf};

/// The group, this process's own or one above it, that has the least memory left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemoryLimit {
    /// The group's directory.
    pub group: PathBuf,
    /// What all its processes may use together.
    pub limit_bytes: u64,
    /// What is left of that, with what the kernel can reclaim by itself.
    pub available_bytes: u64,
}

/// The tightest limit on this process's memory; `None` if there is none, or it is unknown.
#[must_use]
pub(crate) fn memory_limit() -> Option<MemoryLimit> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let (mounts, groups) = (read("/proc/self/mountinfo")?, read("/proc/self/cgroup")?);
    let swap_bytes = read("/proc/meminfo").and_then(|text| field(&text, "SwapFree:")).unwrap_or(0) * 1024;
    let look = |group: &Path, names: &Names| limit_of(group, names, swap_bytes);
    groups_of(&mounts, &groups, "memory")
        .into_iter()
        .filter_map(|group| look(&group.directory, if group.is_unified { &V2 } else { &V1 }))
        .min_by_key(|l| l.available_bytes)
}

/// The files of a group.
#[derive(Debug, PartialEq, Eq)]
struct Names {
    limit: &'static str,
    usage: &'static str,
    swap_limit: &'static str,
    swap_usage: &'static str,
    /// In `memory.stat`: pages of files, which can be written back or dropped.
    files: [&'static str; 2],
}

const V1: Names = Names {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    swap_limit: "",
    swap_usage: "",
    files: ["total_inactive_file", "total_active_file"],
};
const V2: Names = Names {
    limit: "memory.max",
    usage: "memory.current",
    swap_limit: "memory.swap.max",
    swap_usage: "memory.swap.current",
    files: ["inactive_file", "active_file"],
};

/// The number after a word at the beginning of a line.
pub(super) fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == name).then(|| words.next()?.parse().ok())?
    })
}

/// A control group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Group {
    /// Its directory.
    pub directory: PathBuf,
    /// It is of the unified hierarchy (version 2), which has other files.
    pub is_unified: bool,
}

/// A process's group of this controller and those above it, as far as they are mounted, from the texts of `mountinfo` and
/// `cgroup` in its directory of `/proc`.
#[must_use]
pub fn groups_of(mounts: &str, groups: &str, controller: &str) -> Vec<Group> {
    let mut found = Vec::new();
    for line in mounts.lines() {
        // id parent device root mount-point options … - type source super-options
        let Some((place, kind)) = line.split_once(" - ") else { continue };
        let (place, kind): (Vec<_>, Vec<_>) = (place.split(' ').collect(), kind.split(' ').collect());
        let (&[_, _, _, root, mounted, ..], &[kind, .., options]) = (&place[..], &kind[..]) else { continue };
        let (is_unified, controller) = match kind {
            "cgroup2" => (true, ""),
            "cgroup" if options.split(',').any(|option| option == controller) => (false, controller),
            _ => continue,
        };
        let own = groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let controllers = parts.nth(1)?;
            controllers.split(',').any(|name| name == controller).then(|| parts.next())?
        });
        // Seen from a name space of groups, ours may lie outside of what is mounted: then the mount is what there is.
        let below = Path::new(own.unwrap_or("/")).strip_prefix(root).unwrap_or(Path::new(""));
        let leaf: PathBuf = Path::new(mounted).join(below).components().collect(); // no slash last
        found.extend(
            leaf.ancestors()
                .take_while(|group| group.starts_with(mounted))
                .map(|group| Group { directory: group.into(), is_unified }),
        );
    }
    found
}

fn limit_of(group: &Path, names: &Names, swap_bytes: u64) -> Option<MemoryLimit> {
    let read = |name: &str| -> io::Result<String> { std::fs::read_to_string(group.join(name)) };
    let number = |name: &str| read(name).ok()?.trim().parse::<u64>().ok();
    let limit_bytes = number(names.limit).filter(|&limit| limit < 1 << 62)?; // "max" is no number, or a huge one
    let stat = read("memory.stat").unwrap_or_default();
    let files = names.files.iter().filter_map(|name| field(&stat, name)).fold(0, u64::saturating_add);
    let usage = number(names.usage)?.saturating_sub(files);
    // Pages of shared memory can be swapped out, where there is something to swap to.
    let swap = match (read(names.swap_limit).map(|text| text.trim() == "max"), number(names.swap_limit)) {
        (Ok(true), _) => swap_bytes,
        (_, Some(limit)) => swap_bytes.min(limit.saturating_sub(number(names.swap_usage).unwrap_or(0))),
        _ => 0,
    };
    let available_bytes = limit_bytes.saturating_sub(usage).saturating_add(swap);
    Some(MemoryLimit { group: group.into(), limit_bytes, available_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_from_the_own_one_up() {
        let two = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = |mounts, groups| -> Vec<String> {
            groups_of(mounts, groups, "memory")
                .iter()
                .map(|group| group.directory.display().to_string())
                .collect()
        };
        assert_eq!(found(two, "0::/a/b\n"), ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a", "/sys/fs/cgroup"]);
        let one = "40 30 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                   41 30 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        assert_eq!(
            found(one, "4:memory:/x\n1:cpu:/y\n0::/\n"),
            ["/sys/fs/cgroup/memory/x", "/sys/fs/cgroup/memory"]
        );
        let inside = "40 30 0:30 /docker/1 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        assert_eq!(
            found(inside, "4:memory:/docker/1/z\n"),
            ["/sys/fs/cgroup/memory/z", "/sys/fs/cgroup/memory"]
        );
        assert_eq!(found(inside, "4:memory:/\n"), ["/sys/fs/cgroup/memory"]);
        assert_eq!(found("nonsense\n- -\n", "nonsense"), Vec::<String>::new());
    }

    #[test]
    fn a_limit_is_what_is_left_with_files_and_swap() {
        let group = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(group.path().join(name), text).unwrap();
        let left =
            |swap| limit_of(group.path(), &V2, swap).map(|limit| (limit.limit_bytes, limit.available_bytes));
        assert_eq!(left(0), None);
        write("memory.max", "max\n");
        write("memory.current", "700\n");
        assert_eq!(left(0), None);
        write("memory.max", "1000\n");
        assert_eq!(left(0), Some((1000, 300)));
        write("memory.stat", "anon 100\ninactive_file 50\nactive_file 50\nshmem 500\n");
        assert_eq!(left(0), Some((1000, 400)));
        write("memory.swap.max", "max\n");
        assert_eq!(left(70), Some((1000, 470)));
        write("memory.swap.max", "60\n");
        write("memory.swap.current", "20\n");
        assert_eq!(left(70), Some((1000, 440)));
    }
}
