//! Segments are created whole or not at all, are trusted only after a check, and go with their server.

mod common;

use common::{FORMAT, TestLocation, node, spec, wait_until};
use ringmill_shm::arena::{Filling, Task};
use ringmill_shm::layout::{Class, LAYOUT_VERSION};
use ringmill_shm::participant::{Entry, Role};
use ringmill_shm::placed::{Placed, Why};
use ringmill_shm::plan::{PlanError, Target};
use ringmill_shm::pool::{backed, in_use};
use ringmill_shm::segment::{
    AttachError, CreateError, Location, NAMED_DIRECTORY, NotASegment, Removed, Reserve, Run, Segment, Spec,
    is_live, list, list_anonymous, remove_if_stale,
};
use ringmill_shm::sys::file::reserve;
use ringmill_shm::sys::process::user_id;
use ringmill_shm::token::Token;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::process::{Command, Stdio};
use std::sync::mpsc::TryRecvError;

fn both(body: impl Fn(TestLocation)) {
    body(TestLocation::named());
    body(TestLocation::file());
}

fn all_kinds(body: impl Fn(TestLocation)) {
    both(&body);
    body(TestLocation::anonymous());
}

/// A segment whose server has gone, with its files.
fn stale(location: &Location) {
    let mut segment = Segment::create(location.clone(), &spec()).unwrap();
    segment.keep_files();
}

fn patch(location: &Location, at: u64, bytes: &[u8]) {
    File::options().write(true).open(location.path()).unwrap().write_all_at(bytes, at).unwrap();
}

#[test]
fn a_created_segment_can_be_attached() {
    all_kinds(|at| {
        let ours = Segment::create(at.location.clone(), &spec()).unwrap();
        let theirs = Segment::attach(at.location.clone(), FORMAT).unwrap();
        assert_eq!(theirs.shape(), ours.shape());
        assert_eq!(theirs.total_bytes(), spec().size().unwrap().total_bytes);
        assert_eq!(theirs.run(), Run::Running);
        assert_eq!(theirs.participants()[0].token(), Some(Token::SERVER));
        assert!(!theirs.is_dead(Token::SERVER));
        assert_eq!(theirs.participants().len(), 5);
        let info = &theirs.nodes()[1];
        assert_eq!((info.name.as_str(), info.worker_type.as_str()), ("last", "test::last"));
        assert_eq!((info.first_participant, info.rows, info.next), (3, 2, Target::End));
        assert_eq!(theirs.config(info), b"configuration");
        assert_eq!(theirs.identity().name, at.location.server_name());
        assert_eq!(theirs.identity().layout_version, LAYOUT_VERSION);
        // One memory, two mappings.
        ours.node(0).unwrap().ring().push(17).unwrap();
        assert_eq!(theirs.node(0).unwrap().ring().get(0), Some(17));
        drop(theirs);
        assert!(ours.path().exists(), "a process that only attached removes nothing");
    });
}

#[test]
fn each_thread_of_each_worker_has_a_row() {
    all_kinds(|at| {
        let mut spec = spec();
        spec.nodes[0].facts.threads = 3;
        spec.nodes[0].workers[1] = Placed { cpus: vec![0], node: Some(3), why: Why::OnNode };
        spec.nodes[1].facts.log_batches_every = 1 << 40;
        let _ours = Segment::create(at.location.clone(), &spec).unwrap();
        let theirs = Segment::attach(at.location.clone(), FORMAT).unwrap();
        assert_eq!(theirs.participants().len(), 1 + 6 + 2);
        let info = theirs.nodes();
        assert_eq!((info[0].rows, info[0].facts.threads, info[0].facts.log_batches_every), (6, 3, 0));
        assert_eq!((info[1].rows, info[1].facts.threads, info[1].facts.log_batches_every), (2, 1, 1 << 40));
        let worker = |row| theirs.worker_of(row).map(|(info, worker, thread)| (&*info.name, worker, thread));
        let first: Vec<_> = (1..7).map(worker).collect();
        assert_eq!(first, (0..6).map(|n| Some(("first", n / 3, n % 3))).collect::<Vec<_>>());
        assert_eq!([0, 7, 8, 9].map(worker), [None, Some(("last", 0, 0)), Some(("last", 1, 0)), None]);
        let placed: Vec<_> = theirs.participants().iter().map(Entry::placed).collect();
        let planned = |row: usize| {
            if (4..7).contains(&row) { spec.nodes[0].workers[1].clone() } else { Placed::default() }
        };
        assert_eq!(placed, (0..9).map(planned).collect::<Vec<_>>());
        assert_eq!(theirs.participants()[4].cpus(), [0]);
        let roles = [0, 1, 9].map(|row| theirs.role_of(row));
        assert_eq!(roles, [Some(Role::Server), Some(Role::ProcessWorker), None]);
    });
}

#[test]
fn workers_have_no_more_threads_than_a_doorbell_has_bits() {
    all_kinds(|at| {
        for (threads, least) in [(0, 1), (33, 0)] {
            let mut spec = spec();
            spec.nodes[0].facts.threads = threads;
            match Segment::create(at.location.clone(), &spec) {
                Err(CreateError::Shape(error)) => assert_eq!((error.least, error.most), (least, 64)),
                other => panic!("{other:?}"),
            }
            assert!(at.is_clean());
        }
    });
}

#[test]
fn its_files_are_private_and_go_with_it() {
    both(|at| {
        let segment = Segment::create(at.location.clone(), &spec()).unwrap();
        for path in [at.path(), at.lease_path()] {
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{path:?}");
        }
        assert_eq!(at.path().metadata().unwrap().len(), segment.total_bytes());
        drop(segment);
        assert!(at.is_clean());
    });
}

#[test]
fn a_name_in_use_is_refused_with_the_pid() {
    both(|at| {
        let _live = Segment::create(at.location.clone(), &spec()).unwrap();
        match Segment::create(at.location.clone(), &spec()) {
            Err(CreateError::InUse { path, pid }) => {
                assert_eq!((path, pid), (at.path(), Some(std::process::id())));
            }
            other => panic!("{other:?}"),
        }
        assert!(at.path().exists() && at.lease_path().exists(), "the live one is untouched");
    });
}

#[test]
fn a_dead_servers_files_are_replaced() {
    both(|at| {
        stale(&at.location);
        assert!(!is_live(&at.location));
        let left = Segment::inspect(at.location.clone()).unwrap();
        assert!(left.is_dead(Token::SERVER));
        let anew = Segment::create(at.location.clone(), &spec()).unwrap();
        assert!(is_live(&at.location));
        drop(anew);
        assert!(at.is_clean());
    });
}

/// Not a test: the process that `a_killed_server_leaves_a_stale_segment` starts and kills.
#[test]
fn the_server_to_be_killed() {
    let Some(name) = std::env::var_os("RINGMILL_TEST_SEGMENT") else { return };
    let location = Location::named(name.to_str().unwrap()).unwrap();
    let _segment = Segment::create(location, &spec()).unwrap();
    println!("\nready");
    let _ = std::io::stdin().read_line(&mut String::new()); // until the test kills us, or ends
}

#[test]
fn a_killed_server_leaves_a_stale_segment() {
    let at = TestLocation::named();
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_server_to_be_killed", "--nocapture"])
        .env("RINGMILL_TEST_SEGMENT", at.location.to_text())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "ready"));
    match Segment::create(at.location.clone(), &spec()) {
        Err(CreateError::InUse { pid, .. }) => assert_eq!(pid, Some(server.id())),
        other => panic!("{other:?}"),
    }
    assert_eq!(remove_if_stale(&at.location, false).unwrap(), Removed::Live);
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(at.path().exists());
    assert_eq!(remove_if_stale(&at.location, true).unwrap(), Removed::Stale);
    drop(Segment::create(at.location.clone(), &spec()).unwrap());
    assert!(at.is_clean());
}

#[test]
fn a_creator_that_died_half_way_is_replaced() {
    both(|at| {
        std::fs::write(at.path(), vec![0; 8192]).unwrap(); // pages reserved, nothing written
        let ours = PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(at.path(), ours).unwrap();
        drop(Segment::create(at.location.clone(), &spec()).unwrap());
        let mut begun = vec![0; 8192];
        begun[8..12].copy_from_slice(&LAYOUT_VERSION.to_le_bytes()); // all but the magic
        std::fs::write(at.path(), begun).unwrap();
        let ours = PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(at.path(), ours).unwrap();
        match Segment::attach(at.location.clone(), FORMAT) {
            Err(AttachError::Foreign { why, .. }) => assert_eq!(why, NotASegment::Unfinished),
            other => panic!("{other:?}"),
        }
        drop(Segment::create(at.location.clone(), &spec()).unwrap());
    });
}

#[test]
fn a_foreign_file_is_left_alone() {
    both(|at| {
        for precious in ["", &"a letter, longer than a magic number".repeat(200)] {
            std::fs::write(at.path(), precious).unwrap();
            assert!(matches!(
                Segment::create(at.location.clone(), &spec()),
                Err(CreateError::Foreign { .. })
            ));
            assert!(matches!(Segment::attach(at.location.clone(), FORMAT), Err(AttachError::Foreign { .. })));
            assert_eq!(remove_if_stale(&at.location, false).unwrap(), Removed::Foreign);
            assert_eq!(std::fs::read_to_string(at.path()).unwrap(), precious);
            assert!(!at.lease_path().exists());
        }
    });
}

#[test]
fn neither_a_link_nor_a_pipe_is_followed() {
    let at = TestLocation::file();
    let target = at.path().with_extension("target");
    std::fs::write(&target, "precious").unwrap();
    symlink(&target, at.path()).unwrap();
    assert!(matches!(Segment::create(at.location.clone(), &spec()), Err(CreateError::Foreign { .. })));
    assert!(matches!(Segment::attach(at.location.clone(), FORMAT), Err(AttachError::System { .. })));
    assert_eq!(remove_if_stale(&at.location, false).unwrap(), Removed::Foreign);
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious");

    // A pipe without a writer would block a process that opens it to read.
    std::fs::remove_file(at.path()).unwrap();
    assert!(Command::new("mkfifo").arg(at.path()).status().unwrap().success());
    assert!(matches!(Segment::create(at.location.clone(), &spec()), Err(CreateError::Foreign { .. })));
    assert!(matches!(Segment::inspect(at.location.clone()), Err(AttachError::Foreign { .. })));
    assert_eq!(remove_if_stale(&at.location, false).unwrap(), Removed::Foreign);
}

#[test]
fn another_version_is_an_error() {
    both(|at| {
        stale(&at.location);
        patch(&at.location, 8, &(LAYOUT_VERSION + 1).to_le_bytes());
        for result in [Segment::attach(at.location.clone(), FORMAT), Segment::inspect(at.location.clone())] {
            match result {
                Err(AttachError::Version { found, expected, .. }) => {
                    assert_eq!((found, expected), (LAYOUT_VERSION + 1, LAYOUT_VERSION));
                }
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn another_payload_format_is_an_error() {
    both(|at| {
        let ours = Segment::create(at.location.clone(), &spec()).unwrap();
        match Segment::attach(at.location.clone(), FORMAT + 1) {
            Err(AttachError::Fingerprint { found, expected, .. }) => {
                assert_eq!(found, ours.identity().fingerprint);
                assert_ne!(found, expected);
            }
            other => panic!("{other:?}"),
        }
        assert!(Segment::inspect(at.location.clone()).is_ok(), "a process that only looks needs no payloads");
    });
}

#[test]
fn a_false_header_is_not_trusted() {
    // Fingerprint, total size, participants, requests, one after the other.
    for offset in [16, 24, 32, 40] {
        let at = TestLocation::file();
        stale(&at.location);
        patch(&at.location, offset, &[0xFF; 4]);
        match Segment::attach(at.location.clone(), FORMAT) {
            Err(AttachError::Fingerprint { .. } | AttachError::Foreign { .. } | AttachError::Size { .. }) => {
            }
            other => panic!("bytes at {offset}: {other:?}"),
        }
    }
}

#[test]
fn a_file_of_another_size_is_refused_with_all_sizes() {
    both(|at| {
        let whole = spec().size().unwrap().total_bytes;
        for bytes in [whole + 4096, whole - 1, 4096, 4095, 0] {
            stale(&at.location);
            let file = File::options().write(true).open(at.path()).unwrap();
            file.set_len(bytes).unwrap();
            reserve(&file, 0..bytes.max(1)).unwrap();
            file.set_len(bytes).unwrap();
            for result in
                [Segment::attach(at.location.clone(), FORMAT), Segment::inspect(at.location.clone())]
            {
                match result {
                    Err(AttachError::Size { path, found, stated, needed }) if bytes >= 4096 => {
                        assert_eq!((path, found, stated, needed), (at.path(), bytes, whole, whole));
                    }
                    Err(AttachError::Foreign { why, .. }) if bytes < 4096 => {
                        assert_eq!(why, NotASegment::Short { bytes });
                    }
                    other => panic!("{bytes} bytes: {other:?}"),
                }
            }
        }
    });
}

/// A missing page may find the file system full when it is touched.
/// Blocks of whole pages: the file system counts those.
fn with_large_blocks(reserve: Reserve) -> Spec {
    Spec { classes: vec![Class { block_bytes: 1 << 16, count: 4 }], reserve, ..spec() }
}

#[expect(unsafe_code, reason = "the contract of guards")]
fn begin(segment: &Segment) -> Filling<'_> {
    // SAFETY: there is one guard of the task at a time.
    unsafe { segment.take_part(Token::SERVER).client().begin(Task::new(segment, 0).unwrap()) }
}

#[test]
fn a_block_takes_memory_from_its_first_use_on() {
    all_kinds(|at| {
        let spec = with_large_blocks(Reserve::AsUsed);
        let segment = Segment::create(at.location.clone(), &spec).unwrap();
        let size = spec.size().unwrap();
        assert_eq!(size.total_bytes - size.reserved_bytes, 4 << 16);
        let to_come = || segment.demand().to_come_bytes;
        assert_eq!((to_come(), backed(&segment), in_use(&segment)), (4 << 16, vec![0], vec![0]));
        // A second use of the same block, and another participant, find it as it is.
        let other = Segment::attach(segment.location().clone(), FORMAT).unwrap();
        for segment in [&segment, &segment, &other] {
            let mut filling = begin(segment);
            filling.block_buffer(40_000).unwrap().write(0, &[7; 40_000]);
            assert_eq!((to_come(), backed(segment), in_use(segment)), (3 << 16, vec![1], vec![1]));
            filling.abandon();
            assert_eq!((to_come(), backed(segment), in_use(segment)), (3 << 16, vec![1], vec![0]));
        }
        assert_eq!(ringmill_shm::check::check(&segment), []);
    });
}

#[test]
fn the_first_use_of_a_small_block_reserves_its_neighbours_within_64_kib() {
    both(|at| {
        let classes = vec![Class { block_bytes: 4096, count: 40 }];
        let spec = Spec { classes, reserve: Reserve::AsUsed, ..spec() };
        let segment = Segment::create(at.location.clone(), &spec).unwrap();
        let mut filling = begin(&segment);
        filling.block_buffer(4000).unwrap().write(0, &[7; 4000]);
        let to_come = (40 - 16) * 4096;
        assert_eq!(
            (segment.demand().to_come_bytes, backed(&segment), in_use(&segment)),
            (to_come, vec![16], vec![1])
        );
        filling.abandon();
        assert_eq!(ringmill_shm::check::check(&segment), []);
    });
}

#[test]
fn all_blocks_have_their_memory_if_everything_is_reserved() {
    all_kinds(|at| {
        let spec = with_large_blocks(Reserve::Everything);
        let segment = Segment::create(at.location.clone(), &spec).unwrap();
        let size = spec.size().unwrap();
        assert_eq!(size.total_bytes, size.reserved_bytes);
        assert_eq!((segment.demand().to_come_bytes, backed(&segment)), (0, vec![4]));
    });
}

#[test]
fn a_file_with_holes_is_refused() {
    both(|at| {
        stale(&at.location);
        let whole = std::fs::read(at.path()).unwrap();
        std::fs::remove_file(at.path()).unwrap();
        let file = File::options().write(true).create_new(true).mode(0o600).open(at.path()).unwrap();
        file.set_len(whole.len() as u64).unwrap();
        file.write_all_at(&whole[..8192], 0).unwrap();
        for result in [Segment::attach(at.location.clone(), FORMAT), Segment::inspect(at.location.clone())] {
            match result {
                Err(AttachError::Foreign { why, .. }) => {
                    assert!(matches!(why, NotASegment::Holes { .. }), "{why}")
                }
                other => panic!("{other:?}"),
            }
        }
        reserve(&file, 0..whole.len() as u64).unwrap();
        file.write_all_at(&whole, 0).unwrap();
        Segment::attach(at.location.clone(), FORMAT).unwrap();
    });
}

/// Symptom: such a file was attached. Cause: the pages of payload blocks were counted in the place of the one that is missing.
#[test]
fn a_file_with_payload_blocks_and_a_hole_before_them_is_refused() {
    both(|at| {
        let spec = with_large_blocks(Reserve::Everything);
        let mut segment = Segment::create(at.location.clone(), &spec).unwrap();
        segment.keep_files();
        drop(segment);
        let whole = std::fs::read(at.path()).unwrap();
        std::fs::remove_file(at.path()).unwrap();
        let file = File::options().write(true).create_new(true).mode(0o600).open(at.path()).unwrap();
        file.set_len(whole.len() as u64).unwrap();
        let pages = || (0..).zip(whole.chunks(4096));
        let is_empty = |page: &[u8]| page.iter().all(|&byte| byte == 0);
        let hole = pages().find(|(_, page)| is_empty(page)).unwrap().0 * 4096;
        for (index, page) in pages().filter(|(index, _)| index * 4096 != hole) {
            file.write_all_at(page, index * 4096).unwrap();
        }
        for result in [Segment::attach(at.location.clone(), FORMAT), Segment::inspect(at.location.clone())] {
            let bytes = whole.len() as u64;
            match result {
                Err(AttachError::Foreign { why, .. }) => {
                    assert_eq!(why, NotASegment::Holes { there: bytes - 4096, bytes });
                }
                other => panic!("{other:?}"),
            }
        }
        reserve(&file, hole..hole + 4096).unwrap();
        Segment::attach(at.location.clone(), FORMAT).unwrap();
    });
}

#[test]
fn a_file_that_others_may_read_or_write_is_refused_with_its_mode() {
    both(|at| {
        stale(&at.location);
        for path in [at.path(), at.lease_path()] {
            for mode in [0o640, 0o620, 0o604, 0o602, 0o666, 0o2600] {
                std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
                for result in
                    [Segment::attach(at.location.clone(), FORMAT), Segment::inspect(at.location.clone())]
                {
                    match result {
                        Err(AttachError::Mode { path: told, mode: found }) => {
                            assert_eq!((&told, found), (&path, mode));
                        }
                        other => panic!("{mode:o}: {other:?}"),
                    }
                }
            }
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        }
        Segment::attach(at.location.clone(), FORMAT).unwrap();
    });
}

/// Only root can give a file away, and may inspect every user's. No user takes part in another user's segment.
#[test]
fn another_users_segment_is_refused() {
    if user_id() != 0 {
        return;
    }
    both(|at| {
        for path in [at.path(), at.lease_path()] {
            stale(&at.location);
            std::os::unix::fs::chown(&path, Some(4_000_000), None).unwrap();
            match Segment::attach(at.location.clone(), FORMAT) {
                Err(AttachError::Owner { path: told, owner: 4_000_000, user: 0 }) => assert_eq!(told, path),
                other => panic!("{other:?}"),
            }
            Segment::inspect(at.location.clone()).unwrap();
            std::fs::remove_file(at.path()).unwrap();
            std::fs::remove_file(at.lease_path()).unwrap();
        }
    });
}

/// Under its other name it would have another lease, by which all its participants are dead.
#[test]
fn a_file_with_two_names_is_refused() {
    both(|at| {
        for path in [at.path(), at.lease_path()] {
            stale(&at.location);
            let other = path.with_extension("other");
            std::fs::hard_link(&path, &other).unwrap();
            let result = Segment::attach(at.location.clone(), FORMAT);
            std::fs::remove_file(other).unwrap();
            match result {
                Err(AttachError::Foreign { path: told, why }) => {
                    assert_eq!(told, path);
                    assert_eq!(why, NotASegment::Names { names: 2 });
                }
                other => panic!("{other:?}"),
            }
            Segment::attach(at.location.clone(), FORMAT).unwrap();
        }
    });
}

/// Puts something at a path that is no plain file.
type Put = fn(&std::path::Path);

/// A link to a plain file, a directory, a pipe without a process at its other end, a socket, a device.
fn what_is_no_plain_file() -> Vec<(&'static str, Put)> {
    let mut kinds: Vec<(&str, Put)> = vec![
        ("link", |path| {
            let target = path.with_extension("target");
            std::fs::write(&target, vec![0; 1 << 20]).unwrap();
            symlink(target, path).unwrap();
        }),
        ("directory", |path| std::fs::create_dir(path).unwrap()),
        ("pipe", |path| {
            assert!(Command::new("mkfifo").args(["-m", "600"]).arg(path).status().unwrap().success())
        }),
        ("socket", |path| drop(std::os::unix::net::UnixListener::bind(path).unwrap())),
    ];
    if user_id() == 0 {
        kinds.push(("device", |path| {
            let made = Command::new("mknod").args(["-m", "600"]).arg(path).args(["c", "1", "5"]).status();
            assert!(made.unwrap().success());
        }));
    }
    kinds
}

fn remove_whatever(path: &std::path::Path) {
    let _ = std::fs::remove_file(path.with_extension("target"));
    let _ = std::fs::remove_file(path).or_else(|_| std::fs::remove_dir(path));
}

#[test]
fn a_file_that_is_not_plain_is_refused_as_segment_and_as_lease() {
    both(|at| {
        for (kind, put) in what_is_no_plain_file() {
            for path in [at.path(), at.lease_path()] {
                stale(&at.location);
                std::fs::remove_file(&path).unwrap();
                put(&path);
                for result in
                    [Segment::attach(at.location.clone(), FORMAT), Segment::inspect(at.location.clone())]
                {
                    match result {
                        Err(
                            AttachError::System { path: told, .. } | AttachError::Foreign { path: told, .. },
                        ) => {
                            assert_eq!(told, path, "{kind}");
                        }
                        other => panic!("a {kind} at {path:?}: {other:?}"),
                    }
                }
                if path == at.path() {
                    let left = remove_if_stale(&at.location, false).unwrap();
                    assert_eq!(left, Removed::Foreign, "{kind}");
                }
                assert!(std::fs::symlink_metadata(&path).is_ok(), "the {kind} was left alone");
                remove_whatever(&path);
                let _ = std::fs::remove_file(at.path());
                let _ = std::fs::remove_file(at.lease_path());
            }
        }
    });
}

#[test]
fn a_segment_without_its_lease_is_refused() {
    both(|at| {
        stale(&at.location);
        std::fs::remove_file(at.lease_path()).unwrap();
        for result in [Segment::attach(at.location.clone(), FORMAT), Segment::inspect(at.location.clone())] {
            match result {
                Err(AttachError::System { path, error, .. }) => {
                    assert_eq!((path, error.kind()), (at.lease_path(), ErrorKind::NotFound));
                }
                other => panic!("{other:?}"),
            }
        }
        std::fs::write(at.lease_path(), "").unwrap();
        std::fs::set_permissions(at.lease_path(), PermissionsExt::from_mode(0o600)).unwrap();
        Segment::attach(at.location.clone(), FORMAT).unwrap();
    });
}

/// The attached mapping is of the file that was checked, not of the file that has its name since.
#[test]
fn a_file_that_is_replaced_while_it_is_attached_is_whole_or_refused() {
    both(|at| {
        let (good, bad) = (at.path().with_extension("good"), at.path().with_extension("bad"));
        stale(&at.location);
        let whole = std::fs::read(at.path()).unwrap();
        let put = |to: &std::path::Path, bytes: &[u8]| {
            let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(to).unwrap();
            file.write_all_at(bytes, 0).unwrap();
        };
        let location = &at.location;
        // The exchange ends when this thread drops `goes_on`, also by a panic.
        let (goes_on, ended) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let _goes_on = goes_on;
            scope.spawn(|| {
                let ended = ended;
                while ended.try_recv() == Err(TryRecvError::Empty) {
                    put(&bad, &[0xFF; 64]);
                    std::fs::rename(&bad, at.path()).unwrap();
                    put(&good, &whole);
                    std::fs::rename(&good, at.path()).unwrap();
                }
            });
            let attaches = || match Segment::attach(location.clone(), FORMAT) {
                Ok(segment) => {
                    assert_eq!(segment.total_bytes(), whole.len() as u64);
                    assert!(segment.participants().iter().all(|entry| entry.message().is_empty()));
                    true
                }
                // Opened just before another took its name.
                Err(AttachError::Foreign { .. } | AttachError::Size { .. }) => false,
                Err(other) => panic!("{other:?}"),
            };
            let attached = (0..2_000).filter(|_| attaches()).count();
            // Under load the other thread may sleep for all of them with the bad one in place.
            wait_until("the whole one is attached", || attached > 0 || attaches());
        });
        let _ = (std::fs::remove_file(good), std::fs::remove_file(bad));
    });
}

#[test]
fn a_segment_that_does_not_exist_is_an_error() {
    both(|at| match Segment::attach(at.location.clone(), FORMAT) {
        Err(AttachError::System { error, path, .. }) => {
            assert_eq!((error.kind(), path), (ErrorKind::NotFound, at.path()));
        }
        other => panic!("{other:?}"),
    });
}

#[test]
fn a_file_system_that_is_too_small_is_an_error_with_both_sizes() {
    both(|at| {
        let mut huge = spec();
        huge.classes[1] = Class { block_bytes: 1 << 20, count: 1 << 25 };
        huge.reserve = Reserve::Everything;
        match Segment::create(at.location.clone(), &huge) {
            Err(CreateError::NoSpace { path, needed_bytes, available_bytes }) => {
                assert_eq!(Some(path.as_path()), at.path().parent());
                assert_eq!(needed_bytes, huge.size().unwrap().total_bytes);
                assert!(needed_bytes > 1 << 45 && available_bytes < needed_bytes);
            }
            other => panic!("{other:?}"),
        }
        assert!(at.is_clean());
    });
}

#[test]
fn numbers_out_of_range_are_errors() {
    type Break = fn(&mut Spec);
    let cases: [(&str, Break); 4] = [
        ("capacity", |s| s.requests = 0),
        ("number of nodes", |s| s.nodes.clear()),
        ("number of workers of a node, threads included", |s| s.nodes[0] = node("first", Target::End, 65)),
        ("block size of a class", |s| s.classes[1].block_bytes = 128),
    ];
    for (what, break_it) in cases {
        let at = TestLocation::file();
        let mut broken = spec();
        break_it(&mut broken);
        match Segment::create(at.location.clone(), &broken) {
            Err(CreateError::Shape(error)) => assert_eq!(error.what, what),
            other => panic!("{what}: {other:?}"),
        }
        assert!(at.is_clean());
    }
}

#[test]
fn a_node_with_an_invalid_next_is_an_error() {
    let at = TestLocation::file();
    let mut broken = spec();
    broken.nodes[0].next = Target::Node(2);
    match Segment::create(at.location.clone(), &broken) {
        Err(CreateError::Plan(why)) => {
            assert_eq!(why, PlanError::ToNowhere { part: Target::Node(0), to: Target::Node(2) })
        }
        other => panic!("{other:?}"),
    }
    assert!(at.is_clean());
}

#[test]
fn invalid_names_are_errors() {
    let long = "n".repeat(56);
    for name in ["", ".hidden", "a/b", "a b", "ä", "x.lease", "..", &long] {
        assert!(Location::named(name).is_err(), "{name:?}");
    }
    for name in ["a", "A-b_c.9", &long[..55]] {
        let location = Location::named(name).unwrap();
        assert_eq!(Location::parse(&location.to_text()).unwrap(), location);
        assert!(location.path().starts_with(NAMED_DIRECTORY));
    }
    assert_eq!(Location::parse("./x").unwrap(), Location::File("./x".into()));
    assert!(Location::parse("").is_err());
}

#[test]
fn an_inspecting_process_cannot_write() {
    both(|at| {
        let ours = Segment::create(at.location.clone(), &spec()).unwrap();
        let maps = || std::fs::read_to_string("/proc/self/maps").unwrap();
        let path = at.path();
        let rights = |maps: &str| -> Vec<String> {
            let ours = maps.lines().filter(|line| line.ends_with(path.to_str().unwrap()));
            ours.map(|line| line.split_whitespace().nth(1).unwrap().into()).collect()
        };
        assert_eq!(rights(&maps()), ["rw-s"]);
        let looking = Segment::inspect(at.location.clone()).unwrap();
        let mut both = rights(&maps());
        both.sort_unstable();
        assert_eq!(both, ["r--s", "rw-s"]);
        ours.node(0).unwrap().ring().push(3).unwrap();
        assert_eq!(looking.node(0).unwrap().ring().depth(), 1, "and sees what happens");
        assert!(Task::new(&looking, 0).unwrap().is_free());
    });
}

#[test]
fn the_list_tells_live_segments_from_stale_ones() {
    let (live, dead) = (TestLocation::named(), TestLocation::named());
    let _live = Segment::create(live.location.clone(), &spec()).unwrap();
    stale(&dead.location);
    // Of a server that died between its files and their removal.
    let lease_only = TestLocation::named();
    std::fs::write(lease_only.lease_path(), "").unwrap();
    let all = list().unwrap();
    for (at, is_live) in [(&live, true), (&dead, false), (&lease_only, false)] {
        let found: Vec<_> = all.iter().filter(|f| f.location == at.location).collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].live, is_live);
    }
    assert_eq!(remove_if_stale(&lease_only.location, false).unwrap(), Removed::Stale);
    assert!(lease_only.is_clean());
}

#[test]
fn only_stale_segments_are_removed() {
    both(|at| {
        let live = Segment::create(at.location.clone(), &spec()).unwrap();
        for dry_run in [true, false] {
            assert_eq!(remove_if_stale(&at.location, dry_run).unwrap(), Removed::Live);
            assert!(at.path().exists() && at.lease_path().exists());
        }
        drop(live);
        stale(&at.location);
        assert_eq!(remove_if_stale(&at.location, true).unwrap(), Removed::Stale);
        assert!(at.path().exists() && at.lease_path().exists(), "a rehearsal");
        assert_eq!(remove_if_stale(&at.location, false).unwrap(), Removed::Stale);
        assert!(at.is_clean());
    });
}

/// The files of memory that this process has open, by name, of the segments with this label.
fn memory_of(label: &str) -> Vec<String> {
    let links = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| {
        let link = std::fs::read_link(entry.ok()?.path()).ok()?;
        Some(link.to_str()?.strip_prefix("/memfd:")?.to_owned())
    });
    let mut found: Vec<String> = links.filter(|name| name.contains(label)).collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn mapped(label: &str) -> bool {
    std::fs::read_to_string("/proc/self/maps").unwrap().contains(label)
}

#[test]
fn an_anonymous_segment_is_memory_and_nothing_else() {
    let at = TestLocation::anonymous();
    let label = at.location.server_name();
    let segment = Segment::create(at.location.clone(), &spec()).unwrap();
    let lease = segment.lease().file_number().unwrap();
    assert_eq!(segment.location().to_text(), format!("{label}@{}:{lease}", std::process::id()));
    let (of_lease, of_segment) =
        (format!("ringmill-{label}.lease (deleted)"), format!("ringmill-{label}.{lease} (deleted)"));
    assert_eq!(memory_of(&label), [of_segment, of_lease]);
    assert!(
        std::fs::read_dir(NAMED_DIRECTORY).unwrap().all(|entry| !entry
            .unwrap()
            .file_name()
            .to_string_lossy()
            .contains(&label))
    );
    for file in [segment.file(), segment.lease().probe()] {
        let meta = file.metadata().unwrap();
        assert_eq!((meta.permissions().mode() & 0o7777, meta.nlink()), (0o600, 0));
    }
    assert_eq!(segment.path().metadata().unwrap().len(), segment.total_bytes());
    assert!(is_live(segment.location()));
    assert_eq!(remove_if_stale(segment.location(), false).unwrap(), Removed::Live);
    let location = segment.location().clone();
    drop(segment);
    assert!(memory_of(&label).is_empty() && !mapped(&label), "nothing is left");
    assert!(!is_live(&location));
    assert_eq!(remove_if_stale(&location, false).unwrap(), Removed::Nothing);
    match Segment::inspect(location) {
        Err(AttachError::System { error, .. }) => assert_eq!(error.kind(), ErrorKind::NotFound),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_anonymous_segment_cannot_be_made_shorter() {
    let at = TestLocation::anonymous();
    let segment = Segment::create(at.location.clone(), &spec()).unwrap();
    let file = File::options().write(true).open(segment.path()).unwrap();
    for bytes in [0, segment.total_bytes() - 1, segment.total_bytes() + 1] {
        assert_eq!(file.set_len(bytes).unwrap_err().kind(), ErrorKind::PermissionDenied, "{bytes}");
    }
    Segment::attach(segment.location().clone(), FORMAT).unwrap();
}

/// Two of one label in one process: each is found by its lease, and the label alone does not say which is meant.
#[test]
fn segments_of_one_label_are_told_apart() {
    let at = TestLocation::anonymous();
    let [one, other] = [1_u32, 2].map(|id| {
        let segment = Segment::create(at.location.clone(), &spec()).unwrap();
        segment.node(0).unwrap().ring().push(id).unwrap();
        segment
    });
    let id_of = |location: &Location| {
        let segment = Segment::inspect(location.clone()).unwrap();
        assert!(!segment.is_dead(Token::SERVER));
        segment.node(0).unwrap().ring().get(0)
    };
    assert_eq!([&one, &other].map(|segment| id_of(segment.location())), [Some(1), Some(2)]);
    match Segment::inspect(at.location.clone()) {
        Err(AttachError::Several { address, all }) => {
            assert_eq!(address, at.location.to_text());
            for segment in [&one, &other] {
                assert!(all.split(", ").any(|one| one == segment.location().to_text()), "{all}");
            }
        }
        result => panic!("{result:?}"),
    }
    drop(one);
    assert_eq!(id_of(&at.location), Some(2), "it is the only one now");
}

#[test]
fn anonymous_segments_of_living_processes_are_listed() {
    let at = TestLocation::anonymous();
    let segments = [(); 2].map(|()| Segment::create(at.location.clone(), &spec()).unwrap());
    let listed = || {
        let all = list_anonymous().unwrap().into_iter();
        let ours = all.filter(|found| found.location.server_name() == at.location.server_name());
        ours.collect::<Vec<_>>()
    };
    let found = listed();
    assert_eq!(found.len(), 2);
    for segment in &segments {
        let found = found.iter().find(|found| found.location == *segment.location()).unwrap();
        assert!(found.live && found.held_by.contains(&std::process::id()));
    }
    drop(segments);
    // A process that another test is just starting has copies of all descriptors until it execs.
    wait_until("none is listed", || listed().is_empty());
}

/// Its bytes are checked as those of a file are.
#[test]
fn an_anonymous_segment_is_trusted_only_after_a_check() {
    let at = TestLocation::anonymous();
    let segment = Segment::create(at.location.clone(), &spec()).unwrap();
    let location = segment.location().clone();
    match Segment::attach(location.clone(), FORMAT + 1) {
        Err(AttachError::Fingerprint { path, .. }) => assert_eq!(path, location.path()),
        other => panic!("{other:?}"),
    }
    segment.file().set_permissions(PermissionsExt::from_mode(0o640)).unwrap();
    match Segment::attach(location.clone(), FORMAT) {
        Err(AttachError::Mode { mode: 0o640, .. }) => {}
        other => panic!("{other:?}"),
    }
    segment.file().set_permissions(PermissionsExt::from_mode(0o600)).unwrap();
    File::options().write(true).open(segment.path()).unwrap().write_all_at(&[1], 0).unwrap();
    match Segment::attach(location, FORMAT) {
        Err(AttachError::Foreign { why: NotASegment::Magic, .. }) => {}
        other => panic!("{other:?}"),
    }
}

/// More than this machine has: no file system bounds such a segment, and the kernel would kill processes instead.
#[test]
fn an_anonymous_segment_that_memory_cannot_hold_is_refused() {
    let mut spec = spec();
    spec.classes = vec![Class { block_bytes: 1 << 30, count: 1 << 15 }];
    spec.reserve = Reserve::Everything;
    let location = Location::anonymous(&common::unique_name()).unwrap();
    match Segment::create(location, &spec) {
        Err(CreateError::NoMemory { needed_bytes, available_bytes, .. }) => {
            assert!(needed_bytes > 1 << 45 && available_bytes < needed_bytes);
        }
        Err(CreateError::MemoryLimit { needed_bytes, .. }) => assert!(needed_bytes > 1 << 45),
        other => panic!("{other:?}"),
    }
}
