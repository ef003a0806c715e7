//! Each check: what it looks at, why that matters to a server, and when it is fine.

use super::Level;
use super::host::{Host, count_of};
use crate::survey::{Liveness, Survey};
use crate::units;
use ringmill_shm::segment;
use ringmill_shm::sys::{file, probe};
use ringmill_shm::text::size;
use std::os::unix::fs::MetadataExt;

/// A check of a host.
pub(super) struct Check {
    pub(super) name: &'static str,
    /// What it means for a server.
    pub(super) why: &'static str,
    /// `None`: unknown.
    pub(super) look: fn(&Host) -> Option<Look>,
}

/// What a check saw.
pub(super) struct Look {
    pub(super) level: Level,
    pub(super) saw: String,
    pub(super) mend: Option<String>,
}

fn fine(saw: impl Into<String>) -> Option<Look> {
    Some(Look { level: Level::Fine, saw: saw.into(), mend: None })
}

fn note(saw: impl Into<String>, mend: &str) -> Option<Look> {
    Some(Look { level: Level::Note, saw: saw.into(), mend: Some(mend.into()) })
}

fn warning(saw: impl Into<String>, mend: &str) -> Option<Look> {
    Some(Look { level: Level::Warning, saw: saw.into(), mend: Some(mend.into()) })
}

/// `fine` if it is, else a note.
fn fine_if(is_fine: bool, saw: impl Into<String>, mend: &str) -> Option<Look> {
    if is_fine { fine(saw) } else { note(saw, mend) }
}

/// A container's usual `/dev/shm`.
const SMALL_BYTES: u64 = 64 << 20;
/// Where a server with small payloads needs about this much.
const LITTLE_BYTES: u64 = 16 << 20;

/// All checks, in the order of the report.
pub(super) const ALL: &[Check] = &[
    Check {
        name: "shm_mount",
        why: "The segments of named servers are files in /dev/shm; it must be memory, and writable. noexec does no harm.",
        look: shm_mount,
    },
    Check {
        name: "shm_size",
        why: "A segment's pages are reserved at the start, which fails if they do not fit; those of blocks for large payloads when \
              they are first used. Servers of Server::anonymous do not need /dev/shm.",
        look: shm_size,
    },
    Check {
        name: "shm_mode",
        why: "Each user's servers make files there, and only the sticky bit keeps other users from removing them.",
        look: shm_mode,
    },
    Check {
        name: "segments",
        why: "What a dead server left keeps its memory until the next start under that name, or until it is cleaned.",
        look: segments,
    },
    Check {
        name: "remove_ipc",
        why: "At the log-out of an ordinary user systemd removes that user's files in /dev/shm: a server goes on, but its name is \
              free and shmtool finds it no more.",
        look: remove_ipc,
    },
    Check {
        name: "memory_limit",
        why: "The segment counts as memory of the group that first touches it; over the limit the kernel kills a worker, or the \
              server.",
        look: memory_limit,
    },
    Check {
        name: "swap",
        why: "Pages of segments can be swapped out: the first access afterwards takes milliseconds, perhaps under a lock.",
        look: swap,
    },
    Check {
        name: "overcommit",
        why: "With strict accounting a start may fail for memory that would never be used.",
        look: |host| {
            let mode = host.number("/proc/sys/vm/overcommit_memory")?;
            let saw = format!("vm.overcommit_memory = {mode}");
            fine_if(mode != 2, saw, "sysctl -w vm.overcommit_memory=0")
        },
    },
    Check {
        name: "shmem_huge_pages",
        why: "Large payloads pay for many TLB misses where /dev/shm has small pages only; small ones do not.",
        look: |host| {
            let choice = host.choice("/sys/kernel/mm/transparent_hugepage/shmem_enabled")?;
            fine(format!(
                "shmem_enabled: {choice}; mounted with {}",
                huge_option(host).unwrap_or("huge=never".into())
            ))
        },
    },
    Check {
        name: "huge_pages",
        why: "With transparent huge pages for all memory, the kernel may stop a thread to make one where /dev/shm has them too.",
        look: |host| {
            let choice = host.choice("/sys/kernel/mm/transparent_hugepage/enabled")?;
            let is_fine = choice != "always" || huge_option(host).is_none_or(|huge| huge == "huge=never");
            fine_if(is_fine, choice, "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled")
        },
    },
    Check {
        name: "static_huge_pages",
        why: "A segment in a file on hugetlbfs, or an anonymous one with huge_pages, takes its pages from this pool; others need none.",
        look: |host| {
            let total = host.number("/proc/sys/vm/nr_hugepages")?;
            let page = host.field("/proc/meminfo", "Hugepagesize:").unwrap_or_else(|| "? kB".into());
            fine(format!("{total} of {page}"))
        },
    },
    Check {
        name: "cpus",
        why: "Caller and worker that share one CPU take turns by sleeping, some 50 times slower than two that spin.",
        look: cpus,
    },
    Check {
        name: "cpu_quota",
        why: "A group that has used up its quota stands still for the rest of the period, tens of milliseconds, with whatever locks \
              its threads hold. Give it whole CPUs (a cpuset) instead.",
        look: cpu_quota,
    },
    Check {
        name: "isolated_cpus",
        why: "Workers pinned to isolated CPUs are not interrupted; no other thread goes there by itself.",
        look: |host| {
            let list = |name: &str| {
                let text = host.text(format!("/sys/devices/system/cpu/{name}"))?;
                Some(if text.is_empty() || text == "(null)" { "none".to_owned() } else { text })
            };
            fine(format!(
                "isolated: {}, nohz_full: {}",
                list("isolated")?,
                list("nohz_full").unwrap_or("none".into())
            ))
        },
    },
    Check {
        name: "numa_nodes",
        why: "Memory of another node is slower: pin each servlet's workers and its callers to one node (Cpus::per_numa_node, Cpus::auto).",
        look: |host| {
            let nodes = host.numbered("/sys/devices/system/node", "node").len();
            let balancing = host.number("/proc/sys/kernel/numa_balancing").unwrap_or(0);
            match nodes {
                0 => None,
                1 => fine("1 node"),
                _ if balancing != 0 => note(
                    format!(
                        "{nodes} nodes, kernel.numa_balancing = {balancing}, which moves pages under way"
                    ),
                    "sysctl -w kernel.numa_balancing=0",
                ),
                _ => fine(format!("{nodes} nodes, no balancing")),
            }
        },
    },
    Check {
        name: "governor",
        why: "A CPU that has slowed down while its worker slept answers the next call slowly.",
        look: governor,
    },
    Check {
        name: "clock",
        why: "Batch windows and timeouts read the clock; without a counter of the CPU each look is a system call of a microsecond.",
        look: |host| {
            let clock = host.text("/sys/devices/system/clocksource/clocksource0/current_clocksource")?;
            let fast = [
                "tsc",
                "kvm-clock",
                "arch_sys_counter",
                "hyperv_clocksource_tsc_page",
                "riscv_clocksource",
                "timebase",
            ];
            match fast.contains(&&*clock) {
                true => fine(clock),
                false => {
                    warning(clock, "cat /sys/devices/system/clocksource/clocksource0/available_clocksource")
                }
            }
        },
    },
    Check {
        name: "open_files",
        why: "For each worker the server holds a process descriptor, a socket, and one more if it forwards events.",
        look: |host| {
            let limit = host.limit("Max open files")?;
            let saw = limit_text(limit);
            if limit < 256 { warning(saw, "ulimit -n 4096") } else { fine(saw) }
        },
    },
    Check {
        name: "processes",
        why: "Each worker of a ProcessServlet is a process, and each of their threads counts.",
        look: |host| {
            let limits = [
                host.limit("Max processes"),
                host.group_texts("pids", "pids.max", "pids.max")
                    .iter()
                    .filter_map(|text| text.parse().ok())
                    .min(),
            ];
            let limit = limits.into_iter().flatten().min()?;
            let saw = limit_text(limit);
            if limit < 64 { warning(saw, "ulimit -u 4096") } else { fine(saw) }
        },
    },
    Check {
        name: "file_size",
        why: "A segment larger than the limit cannot be made.",
        look: |host| {
            let limit = host.limit("Max file size")?;
            let saw = if limit == u64::MAX { "unlimited".into() } else { size(limit) };
            if limit < SMALL_BYTES { warning(saw, "ulimit -f unlimited") } else { fine(saw) }
        },
    },
    Check {
        name: "locked_memory",
        why: "ringmill locks no memory; user code that does (mlock, io_uring, GPUs) needs it.",
        look: |host| {
            let limit = host.limit("Max locked memory")?;
            fine(if limit == u64::MAX { "unlimited".into() } else { size(limit) })
        },
    },
    Check {
        name: "realtime",
        why: "ringmill asks for no real-time priority; user code that does needs the limit.",
        look: |host| fine(limit_text(host.limit("Max realtime priority")?)),
    },
    Check {
        name: "core_dumps",
        why: "A worker that crashes ends only when its core has been written, or its handler has read it all; until then its items \
              wait for the error, and its CPU for the successor.",
        look: core_dumps,
    },
    Check {
        name: "system_calls",
        why: "A filter (seccomp) or an old kernel that refuses one of these makes starts fail, or leaves a slower or weaker way.",
        look: system_calls,
    },
    Check {
        name: "filters",
        why: "A filter of system calls costs each call some of its time; ringmill makes none while both sides spin.",
        look: |host| match &*host.field("/proc/self/status", "Seccomp:")? {
            "0" => fine("no filter"),
            "1" => warning("strict: read, write and exit only", "grep Seccomp /proc/self/status"),
            _ => fine("filtered"),
        },
    },
    Check {
        name: "ptrace",
        why: "Debuggers attach to workers by ptrace; shmtool does not.",
        look: |host| {
            let scope = host.number("/proc/sys/kernel/yama/ptrace_scope")?;
            let who = ["any process of the user", "parents only", "root only", "no process"];
            fine(format!("{scope}: {}", who.get(scope as usize).unwrap_or(&"?")))
        },
    },
    Check {
        name: "init",
        why: "Programs that workers started and left go to process 1; if it does not reap them, they stay as zombies.",
        look: init,
    },
];

/// The mount of `/dev/shm`: the kind of its file system, and its options.
fn shm(host: &Host) -> Option<(String, String)> {
    let mounts = host.text("/proc/self/mountinfo")?;
    // id parent device root mount-point options … - type source super-options; the last one lies on top.
    let of_shm = |line: &str| {
        let (place, kind) = line.split_once(" - ")?;
        let (place, kind): (Vec<_>, Vec<_>) = (place.split(' ').collect(), kind.split(' ').collect());
        let (&[_, _, _, _, "/dev/shm", options, ..], &[kind, .., more]) = (&place[..], &kind[..]) else {
            return None;
        };
        Some((kind.to_owned(), format!("{options},{more}")))
    };
    mounts.lines().filter_map(of_shm).next_back()
}

fn shm_mount(host: &Host) -> Option<Look> {
    host.text("/proc/self/mountinfo")?;
    const MOUNT: &str = "mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs /dev/shm";
    let Some((kind, options)) = shm(host) else { return warning("nothing is mounted there", MOUNT) };
    let mut once: Vec<&str> = Vec::new();
    for option in options.split(',') {
        if !once.contains(&option) {
            once.push(option);
        }
    }
    let saw = format!("{kind}, {}", once.join(","));
    match () {
        () if once.contains(&"ro") => warning(saw, "mount -o remount,rw /dev/shm"),
        () if kind != "tmpfs" => warning(saw, MOUNT),
        () => fine(saw),
    }
}

/// The bytes that an option like `size=65536k` says.
fn size_option(options: &str) -> Option<u64> {
    let text = options.split(',').find_map(|option| option.strip_prefix("size="))?;
    let (number, shift) = match text.strip_suffix(['k', 'm', 'g']) {
        Some(number) => (
            number,
            match text.as_bytes()[number.len()] {
                b'k' => 10,
                b'm' => 20,
                _ => 30,
            },
        ),
        None => (text, 0),
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn huge_option(host: &Host) -> Option<String> {
    let (_, options) = shm(host)?;
    options.split(',').find(|option| option.starts_with("huge=")).map(str::to_owned)
}

fn shm_size(host: &Host) -> Option<Look> {
    let here = host.is_here().then(|| file::room(&host.path("/dev/shm")).ok()).flatten();
    let (total, free) = match here {
        Some(None) => return fine("without a limit of its own"),
        Some(Some((total, free))) => (total, Some(free)),
        None => (size_option(&shm(host)?.1)?, None),
    };
    let saw = match free {
        Some(free) => format!("{}, {} free", size(total), size(free)),
        None => size(total),
    };
    match () {
        () if total <= SMALL_BYTES => {
            warning(saw, "docker run --shm-size=1g ... # on a host: mount -o remount,size=1g /dev/shm")
        }
        () if free.is_some_and(|free| free < LITTLE_BYTES) => warning(saw, "ls -lS /dev/shm"),
        () if free.is_some_and(|free| free < total / 10) => note(saw, "ls -lS /dev/shm"),
        () => fine(saw),
    }
}

fn shm_mode(host: &Host) -> Option<Look> {
    let mode = host.metadata("/dev/shm")?.mode() & 0o7777;
    match mode {
        0o1777 => fine("1777"),
        _ => warning(format!("{mode:04o}"), "chmod 1777 /dev/shm"),
    }
}

fn segments(host: &Host) -> Option<Look> {
    if !host.is_here() {
        return None;
    }
    let (mut live, mut stale, mut others) = (0, 0, 0);
    for found in segment::list().ok()? {
        match Survey::of(found.location) {
            Ok(Some(survey)) if survey.state == Liveness::Live => live += 1,
            Ok(Some(survey)) if survey.state == Liveness::Stale => stale += 1,
            Ok(Some(_)) => others += 1,
            _ => {}
        }
    }
    let saw = format!("{live} live, {stale} stale, {others} of other users or foreign");
    fine_if(stale == 0, saw, "shmtool clean --dry-run")
}

fn remove_ipc(host: &Host) -> Option<Look> {
    let uid: u32 = host.field("/proc/self/status", "Uid:")?.split_whitespace().next()?.parse().ok()?;
    if !host.exists("/run/systemd/system") {
        return fine("no systemd");
    }
    let mut said = String::from("yes, by default");
    let drop_ins = host.path("/etc/systemd/logind.conf.d");
    let mut files: Vec<_> = std::fs::read_dir(drop_ins)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|e| e.file_name())
        .collect();
    files.sort_unstable();
    let names =
        files.iter().filter_map(|name| Some(format!("/etc/systemd/logind.conf.d/{}", name.to_str()?)));
    for name in std::iter::once("/etc/systemd/logind.conf".to_owned()).chain(names) {
        if let Some(value) = host.field(&name, "RemoveIPC=") {
            said = value;
        }
    }
    let keeps = ["no", "false", "0", "off"].contains(&&*said);
    // Users below are the system's, whom logind leaves alone.
    let saw = format!("RemoveIPC: {said}; this is user {uid}");
    fine_if(keeps || uid < 1000, saw, "loginctl enable-linger # or RemoveIPC=no in /etc/systemd/logind.conf")
}

fn memory_limit(host: &Host) -> Option<Look> {
    host.text("/proc/self/cgroup")?;
    let limits = host.group_texts("memory", "memory.max", "memory.limit_in_bytes");
    let limit =
        limits.iter().filter_map(|text| text.parse::<u64>().ok()).filter(|&limit| limit < 1 << 62).min();
    let Some(limit) = limit else { return fine("none") };
    fine_if(limit >= 4 * SMALL_BYTES, size(limit), "docker update --memory 1g ... # systemd: MemoryMax=")
}

fn swap(host: &Host) -> Option<Look> {
    let total = host.field("/proc/meminfo", "SwapTotal:")?;
    let kib: u64 = total.split_whitespace().next()?.parse().ok()?;
    let denied = host.group_texts("memory", "memory.swap.max", "-").iter().any(|text| text == "0");
    match (kib, denied) {
        (0, _) => fine("none"),
        (_, true) => fine(format!("{}, not for this group", size(kib * 1024))),
        _ => note(size(kib.saturating_mul(1024)), "swapoff -a # systemd: MemorySwapMax=0"),
    }
}

/// How many CPUs this process may use.
fn allowed(host: &Host) -> Option<(String, u64)> {
    let list = host.field("/proc/self/status", "Cpus_allowed_list:")?;
    let count = count_of(&list)?;
    Some((list, count))
}

fn cpus(host: &Host) -> Option<Look> {
    let (list, count) = allowed(host)?;
    let online = host.text("/sys/devices/system/cpu/online");
    let of = online.as_deref().and_then(count_of).map_or_else(String::new, |n| format!(" of {n} online"));
    let saw = format!("{count}{of}: {list}");
    if count < 2 {
        warning(saw, "taskset -pc 0-3 $$ # docker run --cpuset-cpus=0-3; systemd: AllowedCPUs=")
    } else {
        fine(saw)
    }
}

fn cpu_quota(host: &Host) -> Option<Look> {
    host.text("/proc/self/cgroup")?;
    let whole = |text: &String| -> Option<f64> {
        let mut words = text.split_whitespace();
        let (quota, period): (f64, f64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        (quota > 0.0 && period > 0.0).then(|| quota / period)
    };
    let mut quotas: Vec<f64> = host.group_texts("cpu", "cpu.max", "-").iter().filter_map(whole).collect();
    // Of version 1 the two numbers stand in two files.
    let former = |name| host.group_texts("cpu", "-", name).first()?.parse::<f64>().ok();
    if let (Some(quota), Some(period)) = (former("cpu.cfs_quota_us"), former("cpu.cfs_period_us"))
        && quota > 0.0
        && period > 0.0
    {
        quotas.push(quota / period);
    }
    let Some(cpus) = quotas.into_iter().reduce(f64::min) else { return fine("none") };
    let saw = format!("{cpus:.2} CPUs");
    let enough = allowed(host).is_some_and(|(_, count)| cpus >= count as f64);
    match () {
        () if enough => fine(saw),
        () if cpus < 2.0 => {
            warning(saw, "docker run --cpuset-cpus=0-3 ... # systemd: AllowedCPUs=, not CPUQuota=")
        }
        () => note(saw, "docker run --cpuset-cpus=0-3 ... # systemd: AllowedCPUs=, not CPUQuota="),
    }
}

fn governor(host: &Host) -> Option<Look> {
    let mut all: Vec<String> = Vec::new();
    let cpus = host.numbered("/sys/devices/system/cpu", "cpu");
    if cpus.is_empty() {
        return None;
    }
    for cpu in cpus {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor");
        if let Some(governor) = host.text(path).filter(|governor| !all.contains(governor)) {
            all.push(governor);
        }
    }
    match all.is_empty() {
        true => fine("none: the hardware, or the host of this machine, decides"),
        false => fine_if(all == ["performance"], all.join(", "), "cpupower frequency-set -g performance"),
    }
}

fn limit_text(limit: u64) -> String {
    if limit == u64::MAX { "unlimited".into() } else { limit.to_string() }
}

fn core_dumps(host: &Host) -> Option<Look> {
    let pattern = host.text("/proc/sys/kernel/core_pattern")?;
    let limit = host.limit("Max core file size")?;
    let saw =
        format!("limit {}, {pattern}", if limit == u64::MAX { "unlimited".into() } else { size(limit) });
    match () {
        // The limit does not hold for a handler.
        () if pattern.starts_with('|') => note(saw, "sysctl -w kernel.core_pattern=core; ulimit -c 0"),
        () if limit > 0 => note(saw, "ulimit -c 0"),
        () => fine(saw),
    }
}

fn system_calls(host: &Host) -> Option<Look> {
    if !host.is_here() {
        return None;
    }
    let all = probe::features();
    let refused = |used: bool| -> Vec<String> {
        let of = all.iter().filter(|feature| feature.user.is_some() == used);
        of.filter_map(|feature| Some(format!("{} ({})", feature.name, feature.refused.as_ref()?))).collect()
    };
    let (needed, others) = (refused(true), refused(false));
    let unused =
        if others.is_empty() { String::new() } else { format!("; no {}, not needed", others.join(", ")) };
    match needed.is_empty() {
        true => fine(format!("{} work{unused}", units::count(all.len() - others.len(), "call"))),
        false => warning(
            format!("refused: {}{unused}", needed.join(", ")),
            "docker run --security-opt seccomp=profile.json ... # systemd: SystemCallFilter=",
        ),
    }
}

fn init(host: &Host) -> Option<Look> {
    let name = host.text("/proc/1/comm")?;
    let is_container = ["/.dockerenv", "/run/.containerenv"].iter().any(|sign| host.exists(sign));
    const REAPERS: [&str; 9] = [
        "systemd",
        "init",
        "tini",
        "docker-init",
        "dumb-init",
        "catatonit",
        "s6-svscan",
        "runit",
        "openrc-init",
    ];
    let saw = format!("process 1 is {name}{}", if is_container { ", in a container" } else { "" });
    fine_if(!is_container || REAPERS.contains(&&*name), saw, "docker run --init ...")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_mounts_are_read() {
        assert_eq!(size_option("rw,size=65536k"), Some(64 << 20));
        assert_eq!(size_option("size=2g,mode=1777"), Some(2 << 30));
        assert_eq!(size_option("size=4096"), Some(4096));
        assert_eq!(size_option("rw,nosuid"), None);
        assert_eq!(size_option("size=k"), None);
        assert_eq!(size_option("size=99999999999999999999g"), None);
    }

    #[test]
    fn no_two_checks_have_one_name() {
        let mut names: Vec<_> = ALL.iter().map(|check| check.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    }
}
