//! A segment lies on any file system that can map files; too little room in a file system, in the system's huge pages or in a
//! control group is an error at start, with the sizes there and needed, and nothing is left behind.
//!
//! Root mounts the file systems in a mount namespace; otherwise a test says that it skips.

use ringmill::error::{RemoteCause, RemoteError};
use ringmill::{BoxError, CallError, PassThrough, ProcessServlet, Reserve, Server};
use ringmill_tests::alone::arguments;
use ringmill_tests::guard::guarded;
use ringmill_tests::printer::Printer;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

/// Tells the child of this test its segment's location (a name, or a path), and its capacity.
const WHERE: &str = "RINGMILL_TESTS_SEGMENT";

/// Not a test but a service, when the environment says so: starts, calls, and reports how that ended; with all its pages, and
/// if that went well, with blocks that are reserved when they are used.
#[test]
fn a_service_where_the_environment_says() {
    let Ok(told) = std::env::var(WHERE) else { return };
    let (location, capacity) = told.rsplit_once(' ').expect("a location and a number");
    let capacity = capacity.parse().expect("a number");
    let call = |reserve: Reserve| -> Result<bool, BoxError> {
        let builder = Server::builder(location).capacity(capacity).max_payload(1 << 16).reserve(reserve);
        let builder = if location.contains('/') { builder.file(location) } else { builder };
        let server = builder.start(ProcessServlet::<PassThrough<String>>::new(()).cpus(2))?;
        let long = "large ".repeat(10_000);
        Ok(server.call(&long)?.as_str() == long)
    };
    match call(Reserve::Everything).and_then(|all| Ok(all && call(Reserve::AsUsed)?)) {
        Ok(answer) => println!("OUTCOME Ok({answer})"),
        Err(error) => println!("OUTCOME {error}"),
    }
}

ringmill::init!(Printer, PassThrough<String>);

/// Not a test but a service, when the environment says so: its file system fills up, and gets room again.
#[test]
fn a_service_whose_file_system_fills_up() {
    let Ok(told) = std::env::var(WHERE) else { return };
    let (location, capacity) = told.rsplit_once(' ').expect("a location and a number");
    let builder =
        Server::builder(location).capacity(capacity.parse().expect("a number")).max_payload(1 << 16);
    let server = builder.file(location).start(ProcessServlet::<Printer>::new(())).expect("it starts");
    let filler = Path::new(location).with_file_name("filler");
    let fill_up = || {
        let mut file = fs::File::create(&filler).expect("a file");
        while file.write_all(&[1; 4096]).is_ok() {}
    };
    fill_up();
    let call = |letters: usize, tail: usize| {
        let answer = server.call(&format!("{letters} {}", "y".repeat(tail)));
        answer.map(|reply| reply.as_str() == "x".repeat(letters))
    };
    let input = call(1, 50_000);
    assert!(matches!(input, Err(CallError::NoMemory { bytes: 50_000.., error: libc::ENOSPC })), "{input:?}");
    let outcome = call(50_000, 1);
    let is_told = |error: &RemoteError| {
        matches!(error.cause, RemoteCause::NoMemory { bytes: 50_000.., error: libc::ENOSPC })
    };
    assert!(matches!(&outcome, Err(CallError::Remote(error)) if is_told(error)), "{outcome:?}");
    assert!(matches!(call(10, 1), Ok(true)), "what fits in line needs no block");
    fs::remove_file(&filler).expect("it is there");
    for (letters, tail) in [(1, 50_000), (50_000, 1), (50_000, 50_000)] {
        let answer = call(letters, tail);
        assert!(matches!(answer, Ok(true)), "{letters} {tail}: {answer:?}");
    }
    // Blocks that were used stay, whatever comes.
    fill_up();
    assert!(matches!(call(50_000, 50_000), Ok(true)));
    fs::remove_file(&filler).expect("it is there");
    println!("OUTCOME {} warnings", server.warnings().len());
}

/// Runs shell commands as root of a new mount namespace, in which `$SERVICE` starts the service; returns the output.
fn within(commands: &str, location: &str, capacity: usize) -> Option<String> {
    service_within("a_service_where_the_environment_says", commands, location, capacity)
}

/// [`within`] for the service that is this test.
fn service_within(service: &str, commands: &str, location: &str, capacity: usize) -> Option<String> {
    let test = std::env::current_exe().expect("this program");
    let test_name = format!("file_systems::{service}");
    let arguments = arguments(&test_name);
    let service = format!("{} {}", test.display(), arguments.join(" "));
    let output = Command::new("unshare")
        .args(["-m", "sh", "-ec", commands])
        .env("SERVICE", service)
        .env(WHERE, format!("{location} {capacity}"))
        .output()
        .ok()?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    match out.lines().find_map(|line| line.split_once("OUTCOME ")) {
        Some((_, outcome)) => {
            assert!(!out.contains("LEFT"), "nothing is left: {out}");
            Some(outcome.to_owned())
        }
        None => {
            assert!(!out.contains("MOUNTED"), "the service ended without a word: {out}{err}");
            eprintln!("skipped: {commands}: {}", err.trim());
            None
        }
    }
}

/// Mounts a file system on a directory of its own, and has the service put its segment there.
fn mounted(kind: &str, options: &str, capacity: usize) -> Option<String> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().display();
    let commands = format!(
        "mount -t {kind} -o {options} none {path}; echo MOUNTED; $SERVICE; ls -A {path} | sed 's/^/LEFT /'"
    );
    within(&commands, &format!("{path}/segment"), capacity)
}

#[track_caller]
fn assert_works(outcome: Option<String>) {
    if let Some(outcome) = outcome {
        assert_eq!(outcome, "Ok(true)");
    }
}

/// Texts that the error must contain.
#[track_caller]
fn assert_says(outcome: Option<String>, words: &[&str]) {
    if let Some(outcome) = outcome {
        assert!(words.iter().all(|word| outcome.contains(word)), "{words:?}: {outcome}");
    }
}

const SMALL: usize = 8;
/// About 200 MB.
const LARGE: usize = 1024;

#[test]
fn memory_that_runs_out_costs_the_requests_that_need_it() {
    guarded(|| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().display();
        let commands = format!(
            "mount -t tmpfs -o size=2m none {path}; echo MOUNTED; $SERVICE; ls -A {path} | sed 's/^/LEFT /'"
        );
        let service = "a_service_whose_file_system_fills_up";
        if let Some(outcome) = service_within(service, &commands, &format!("{path}/segment"), 8 * SMALL) {
            assert_eq!(outcome, "1 warnings", "there is not room for all blocks");
        }
    });
}

#[test]
fn on_a_tmpfs() {
    guarded(|| {
        assert_works(mounted("tmpfs", "size=64m", SMALL));
        assert_works(mounted("tmpfs", "size=64m,noexec,nosuid,nodev", SMALL));
        let refused = mounted("tmpfs", "size=64m", LARGE);
        assert_says(refused, &[" free, the segment needs", "lower capacity"]);
        assert_says(mounted("tmpfs", "size=64m,ro", SMALL), &["segment"]);
    });
}

/// Symptom: on ramfs, as `/dev/shm` of an initramfs is, no server started. Cause: statvfs says 0 there, which means no limit,
/// and pages cannot be reserved. Fix: both are known; pages are written instead.
#[test]
fn on_a_ramfs() {
    guarded(|| {
        assert_works(mounted("ramfs", "mode=700", SMALL));
        let commands =
            "mount -t ramfs none /dev/shm; echo MOUNTED; $SERVICE; ls -A /dev/shm | sed 's/^/LEFT /'";
        assert_works(within(commands, "worldramfs", SMALL));
    });
}

#[test]
fn on_an_overlay_and_a_disk() {
    guarded(|| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().display();
        // Its parts on a tmpfs: an overlay cannot lie on another one.
        let commands = format!(
            "mount -t tmpfs none {path}; cd {path}; mkdir upper work lower merged; \
             mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work none merged; \
             echo MOUNTED; $SERVICE; ls -A merged | sed 's/^/LEFT /'"
        );
        assert_works(within(&commands, &format!("{path}/merged/segment"), SMALL));
        // Whatever this program lies on: a disk, or a container's overlay.
        let target = tempfile::tempdir_in(
            std::env::current_exe().expect("this program").parent().expect("a directory"),
        );
        let target = target.expect("a directory beside this program");
        let path = target.path().display();
        let commands = format!("echo MOUNTED; $SERVICE; ls -A {path} | sed 's/^/LEFT /'");
        assert_works(within(&commands, &format!("{path}/segment"), SMALL));
    });
}

/// A file system in a file, on a loop device, which is on a tmpfs so that nothing is written to a disk.
fn in_a_file(make: &str, megabytes: usize, then: &str, capacity: usize) -> Option<String> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().display();
    let commands = format!(
        "mount -t tmpfs none {path}; cd {path}; mkdir disk; truncate -s {megabytes}M image; \
         {make} image; mount -o loop image disk; cd disk; {then} echo MOUNTED; $SERVICE; \
         ls | sed -n 's/^segment/LEFT segment/p'; cd /; umount {path}/disk"
    );
    within(&commands, &format!("{path}/disk/segment"), capacity)
}

#[test]
fn on_a_disk_of_each_kind() {
    guarded(|| {
        for (make, megabytes) in [
            ("mkfs.ext4 -q -F", 64),
            ("mkfs.ext4 -q -F -b 1024", 64),
            ("mkfs.ext2 -q -F", 64),
            ("mkfs.xfs -q -f", 512),
            ("mkfs.btrfs -q -f", 512),
            ("mkfs.f2fs -q -f", 128),
        ] {
            assert_works(in_a_file(make, megabytes, "", SMALL));
        }
        let refused = in_a_file("mkfs.ext4 -q -F", 64, "", LARGE);
        assert_says(refused, &[" free, the segment needs", "lower capacity"]);
    });
}

/// As many bytes as the segment needs are free, but in pieces, so that the file system has no room for its own notes of
/// where they are.
///
/// Symptom: "16777216 bytes free, the segment needs 16773120". Cause: the error gave the bytes that had been free before.
#[test]
fn on_a_disk_that_is_full_while_pages_are_reserved() {
    guarded(|| {
        // The first start says how much it needs. Single blocks are freed until there is that much, and a little more.
        let pieces = "head -c 100M /dev/zero | split -a 5 -b 1024 - piece 2>/dev/null || true; \
            $SERVICE > ../said; needs=$(sed -n 's/.*the segment needs \\([0-9]*\\).*/\\1/p' ../said); \
            test -n \"$needs\"; free=$(( $(stat -f -c '%a * %S' .) )); \
            ls -f | grep '^piece....[acegikmoqsuwy]' | head -n $(( (needs - free) / 1024 + 4 )) | xargs rm; ";
        let full = in_a_file("mkfs.ext4 -q -F -b 1024 -m 0 -O ^has_journal -N 65536", 64, pieces, SMALL);
        assert_says(full, &["cannot reserve the pages of", "No space left"]);
    });
}

#[test]
fn without_dev_shm() {
    guarded(|| {
        let commands = "mount -t tmpfs none /dev; mknod -m 666 /dev/null c 1 3; echo MOUNTED; $SERVICE";
        assert_says(within(commands, "worldnowhere", SMALL), &["/dev/shm/ringmill-worldnowhere"]);
    });
}

/// Takes huge pages from the system, and gives them back.
struct HugePages(u64);

const NUMBER: &str = "/proc/sys/vm/nr_hugepages";

impl HugePages {
    fn take(count: u64) -> Option<Self> {
        let number = || fs::read_to_string(NUMBER).ok()?.trim().parse::<u64>().ok();
        let before = number()?;
        let taken = Self(before);
        fs::write(NUMBER, (before + count).to_string()).ok()?;
        (number()? == before + count).then_some(taken)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = fs::write(NUMBER, self.0.to_string());
    }
}

/// Symptom: no server started on a hugetlbfs, which the documentation offers. Cause: sizes were no multiples of its pages, and
/// free blocks were counted that it does not count. Fix: whole huge pages; the system is asked how many are free.
#[test]
fn on_huge_pages() {
    guarded(|| {
        {
            let Some(_pages) = HugePages::take(20) else {
                return eprintln!("skipped: huge pages cannot be had");
            };
            assert_works(mounted("hugetlbfs", "pagesize=2M", SMALL));
            assert_works(mounted("hugetlbfs", "pagesize=2M,size=40M", SMALL));
            let few = mounted("hugetlbfs", "pagesize=2M,size=2M", 4 * SMALL);
            assert_says(
                few,
                &["huge pages of 2097152 bytes", "2097152 bytes (2.0 MiB) of them are free", "nr_hugepages"],
            );
            let few = mounted("hugetlbfs", "pagesize=2M", LARGE);
            assert_says(few, &["huge pages of 2097152 bytes", "the segment needs", "nr_hugepages"]);
        }
        let none = mounted("hugetlbfs", "pagesize=2M", SMALL);
        assert_says(none, &["huge pages of 2097152 bytes", "nr_hugepages"]);
    });
}

/// Symptom: in a container with little memory the service was killed while its segment was made, without a word. Cause: the
/// pages of a tmpfs count as the memory of its control group. Fix: the group is asked first.
#[test]
fn in_a_control_group_without_the_memory() {
    guarded(|| {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let of = |controller: &str| {
            own.lines().find_map(|line| line.split_once(':')?.1.strip_prefix(controller)).map(str::to_owned)
        };
        let (parent, limit) = match of("memory:") {
            Some(path) => (format!("/sys/fs/cgroup/memory{path}"), "memory.limit_in_bytes"),
            None => (format!("/sys/fs/cgroup{}", of(":").unwrap_or_default()), "memory.max"),
        };
        let group = Path::new(&parent).join(format!("ringmill-world-{}", std::process::id()));
        let made =
            fs::create_dir(&group).and_then(|()| fs::write(group.join(limit), (100 << 20).to_string()));
        if made.is_ok() {
            let commands = format!("echo $$ > {}/cgroup.procs; echo MOUNTED; $SERVICE", group.display());
            assert_says(
                within(&commands, "worldgroup", LARGE),
                &["control group", "104857600 bytes", "needs"],
            );
            assert_works(within(&commands, "worldgroup", SMALL));
        } else {
            eprintln!("skipped: no control group with a limit can be made: {made:?}");
        }
        let _ = fs::remove_dir(&group);
    });
}
