//! `shmtool doctor`, on this host and on hosts made of files.

use super::segments::Ours;
use super::tool::{code, parsed, shmtool, text};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A host of files: a machine on which nothing will hurt.
const SOUND: &[(&str, &str)] = &[
    (
        "proc/self/mountinfo",
        "29 1 0:25 / /dev/shm rw,nosuid,nodev shared:4 - tmpfs tmpfs rw,size=8g\n30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
    ),
    ("proc/self/cgroup", "0::/service\n"),
    (
        "proc/self/status",
        "Name:\tshmtool\nUid:\t998\t998\t998\t998\nSeccomp:\t0\nSeccomp_filters:\t0\nCpus_allowed_list:\t0-7\n",
    ),
    (
        "proc/self/limits",
        "Limit                     Soft Limit           Hard Limit           Units\n\
         Max file size             unlimited            unlimited            bytes\n\
         Max core file size        0                    unlimited            bytes\n\
         Max processes             63000                63000                processes\n\
         Max open files            1024                 524288               files\n\
         Max locked memory         8388608              8388608              bytes\n\
         Max realtime priority     0                    0\n",
    ),
    (
        "proc/meminfo",
        "MemTotal:       16000000 kB\nSwapTotal:             0 kB\nHugepagesize:       2048 kB\n",
    ),
    ("proc/1/comm", "systemd\n"),
    ("proc/sys/vm/overcommit_memory", "0\n"),
    ("proc/sys/vm/nr_hugepages", "0\n"),
    ("proc/sys/kernel/core_pattern", "core\n"),
    ("proc/sys/kernel/yama/ptrace_scope", "1\n"),
    ("proc/sys/kernel/numa_balancing", "1\n"),
    ("run/systemd/system/.keep", ""),
    ("sys/fs/cgroup/service/cpu.max", "max 100000\n"),
    ("sys/fs/cgroup/service/memory.max", "max\n"),
    ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
    ("sys/kernel/mm/transparent_hugepage/shmem_enabled", "always within_size advise [never] deny force\n"),
    ("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n"),
    ("sys/devices/system/cpu/online", "0-7\n"),
    ("sys/devices/system/cpu/isolated", "\n"),
    ("sys/devices/system/cpu/nohz_full", "(null)\n"),
    ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n"),
    ("sys/devices/system/node/node0/cpulist", "0-7\n"),
];

/// What differs in a small container on a busy machine.
const POOR: &[(&str, &str)] = &[
    (
        "proc/self/mountinfo",
        "29 1 0:25 / /dev/shm rw,nosuid,nodev,noexec - tmpfs shm rw,size=65536k,huge=always\n30 1 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n",
    ),
    ("proc/self/cgroup", "0::/\n"),
    ("proc/self/status", "Uid:\t1000\t1000\t1000\t1000\nSeccomp:\t2\nCpus_allowed_list:\t3\n"),
    (
        "proc/self/limits",
        "Max file size             1048576              1048576              bytes\n\
         Max core file size        unlimited            unlimited            bytes\n\
         Max processes             63000                63000                processes\n\
         Max open files            64                   64                   files\n",
    ),
    ("proc/meminfo", "SwapTotal:       2097152 kB\n"),
    ("proc/1/comm", "service\x1b[31m\n"),
    (".dockerenv", ""),
    ("proc/sys/vm/overcommit_memory", "2\n"),
    ("proc/sys/kernel/core_pattern", "|/usr/lib/systemd/systemd-coredump %P\n"),
    ("etc/systemd/logind.conf.d/10-ipc.conf", "[Login]\nRemoveIPC=yes\n"),
    ("sys/fs/cgroup/cpu.max", "50000 100000\n"),
    ("sys/fs/cgroup/memory.max", "134217728\n"),
    ("sys/fs/cgroup/pids.max", "20\n"),
    ("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n"),
    ("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n"),
    ("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave\n"),
    ("sys/devices/system/node/node1/cpulist", "8-15\n"),
];

fn write(root: &Path, files: &[(&str, &str)], shm_mode: u32) {
    for (path, text) in files {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let shm = root.join("dev/shm");
    std::fs::create_dir_all(&shm).unwrap();
    std::fs::set_permissions(shm, std::fs::Permissions::from_mode(shm_mode)).unwrap();
}

fn examined(root: &Path, status: i32) -> Value {
    let output = shmtool(&["doctor", "--json", "--root", root.to_str().unwrap()]);
    assert_eq!(code(&output), status, "{output:?}");
    parsed(&output)
}

/// Level and value of each check, with its command.
fn found<'r>(report: &'r Value, check: &str) -> (&'r str, &'r str, Option<&'r str>) {
    let all = report["findings"].as_array().unwrap();
    let one = all.iter().find(|one| one["check"] == check).unwrap_or_else(|| panic!("no {check}: {report}"));
    (one["level"].as_str().unwrap(), one["saw"].as_str().unwrap_or("?"), one["mend"].as_str())
}

#[test]
fn a_sound_host_is_fine() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), SOUND, 0o1777);
    let report = examined(root.path(), 0);
    for (check, saw) in [
        ("shm_mount", "tmpfs, rw,nosuid,nodev,size=8g"),
        ("shm_size", "8.0 GiB"),
        ("shm_mode", "1777"),
        ("remove_ipc", "RemoveIPC: yes, by default; this is user 998"),
        ("memory_limit", "none"),
        ("swap", "none"),
        ("overcommit", "vm.overcommit_memory = 0"),
        ("shmem_huge_pages", "shmem_enabled: never; mounted with huge=never"),
        ("huge_pages", "madvise"),
        ("static_huge_pages", "0 of 2048 kB"),
        ("cpus", "8 of 8 online: 0-7"),
        ("cpu_quota", "none"),
        ("isolated_cpus", "isolated: none, nohz_full: none"),
        ("numa_nodes", "1 node"),
        ("governor", "performance"),
        ("clock", "tsc"),
        ("open_files", "1024"),
        ("processes", "63000"),
        ("file_size", "unlimited"),
        ("locked_memory", "8.0 MiB"),
        ("realtime", "0"),
        ("core_dumps", "limit 0 B, core"),
        ("filters", "no filter"),
        ("ptrace", "1: parents only"),
        ("init", "process 1 is systemd"),
    ] {
        assert_eq!(found(&report, check), ("fine", saw, None), "{check}");
    }
    // Only a kernel that runs knows.
    for check in ["segments", "system_calls"] {
        assert_eq!(found(&report, check), ("unknown", "?", None));
    }
    let page = text(&shmtool(&["doctor", "--root", root.path().to_str().unwrap()]));
    assert!(page.starts_with("verdict  check "), "no warning before: {page}");
    assert!(page.ends_with("\n0 warning, 0 note, 2 unknown, 25 fine\n"), "{page}");
}

#[test]
fn a_poor_container_is_told_what_hurts_and_what_mends_it() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), SOUND, 0o777);
    write(root.path(), POOR, 0o777);
    let report = examined(root.path(), 1);
    for (check, level, saw) in [
        ("shm_mount", "fine", "tmpfs, rw,nosuid,nodev,noexec,size=65536k,huge=always"),
        ("shm_size", "warning", "64.0 MiB"),
        ("shm_mode", "warning", "0777"),
        ("remove_ipc", "note", "RemoveIPC: yes; this is user 1000"),
        ("memory_limit", "note", "128.0 MiB"),
        ("swap", "note", "2.0 GiB"),
        ("overcommit", "note", "vm.overcommit_memory = 2"),
        ("huge_pages", "note", "always"),
        ("cpus", "warning", "1 of 8 online: 3"),
        ("cpu_quota", "warning", "0.50 CPUs"),
        ("numa_nodes", "note", "2 nodes, kernel.numa_balancing = 1, which moves pages under way"),
        ("governor", "note", "performance, powersave"),
        ("clock", "warning", "hpet"),
        ("open_files", "warning", "64"),
        ("processes", "warning", "20"),
        ("file_size", "warning", "1.0 MiB"),
        ("locked_memory", "unknown", "?"),
        ("core_dumps", "note", "limit unlimited, |/usr/lib/systemd/systemd-coredump %P"),
        ("filters", "fine", "filtered"),
        ("init", "note", "process 1 is service\\u{1b}[31m, in a container"),
    ] {
        let (found_level, found_saw, mend) = found(&report, check);
        assert_eq!((found_level, found_saw), (level, saw), "{check}");
        assert_eq!(mend.is_some(), ["warning", "note"].contains(&level), "{check}: {mend:?}");
    }
    let page = text(&shmtool(&["doctor", "--root", root.path().to_str().unwrap()]));
    let first = "warning  shm_size: 64.0 MiB\n         A segment's pages are reserved at the start, which fails if they do";
    assert!(page.starts_with(first), "{page}");
    assert!(page.contains("\n         $ docker run --shm-size=1g "), "{page}");
    let (warnings, notes) = (page.rfind("\nwarning ").unwrap(), page.find("\nnote ").unwrap());
    assert!(warnings < notes, "the worst first: {page}");
}

#[test]
fn a_quota_is_compared_with_the_cpus_that_there_are() {
    for (quota, level, saw) in [
        ("50000 100000", "warning", "0.50 CPUs"),
        ("250000 100000", "note", "2.50 CPUs"),
        ("800000 100000", "fine", "8.00 CPUs"),
        ("max 100000", "fine", "none"),
        ("nonsense", "fine", "none"),
    ] {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), SOUND, 0o1777);
        write(root.path(), &[("sys/fs/cgroup/service/cpu.max", quota)], 0o1777);
        let report = examined(root.path(), i32::from(level == "warning"));
        let (found_level, found_saw, _) = found(&report, "cpu_quota");
        assert_eq!((found_level, found_saw), (level, saw), "{quota}");
    }
}

/// The host of version 1 of control groups, with a quota in two files.
#[test]
fn a_quota_of_former_control_groups_is_read() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), SOUND, 0o1777);
    let files = [
        ("proc/self/mountinfo", "30 1 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"),
        ("proc/self/cgroup", "4:cpu,cpuacct:/x\n"),
        ("sys/fs/cgroup/cpu/x/cpu.cfs_quota_us", "150000\n"),
        ("sys/fs/cgroup/cpu/x/cpu.cfs_period_us", "100000\n"),
    ];
    write(root.path(), &files, 0o1777);
    let report = examined(root.path(), 1);
    assert_eq!(found(&report, "cpu_quota").1, "1.50 CPUs");
    assert_eq!(found(&report, "shm_mount").1, "nothing is mounted there");
}

/// Nothing can be read: nothing is wrong.
#[test]
fn an_empty_host_is_unknown() {
    let root = tempfile::tempdir().unwrap();
    let report = examined(root.path(), 0);
    let all = report["findings"].as_array().unwrap();
    assert!(all.iter().all(|one| one["level"] == "unknown" && one["saw"] == Value::Null), "{report}");
    assert_eq!(report["root"], json!(root.path().to_str().unwrap()));
}

/// Whatever this host is like, the tool says so and changes nothing.
#[test]
fn this_host_is_examined() {
    let stale = Ours::new();
    stale.create_stale();
    let output = shmtool(&["doctor", "--json"]);
    let report = parsed(&output);
    let warns = report["findings"].as_array().unwrap().iter().any(|one| one["level"] == "warning");
    assert_eq!(code(&output), i32::from(warns));
    assert_eq!(report["root"], "/");
    let (level, saw, mend) = found(&report, "segments");
    assert_eq!((level, mend), ("note", Some("shmtool clean --dry-run")), "{saw}");
    assert!(!saw.contains(" 0 stale"), "{saw}");
    assert!(stale.path().exists());
    assert_eq!(found(&report, "system_calls").0, "fine", "{:?}", found(&report, "system_calls"));
    assert_ne!(found(&report, "shm_size").0, "unknown");
}
