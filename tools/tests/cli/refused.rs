//! Names and files that the tool does not read, with a message that says why.

use super::segments::{Ours, begin, of_no_participant, write_at};
use super::tool::{code, complaint, listed, shmtool};
use ringmill_shm::segment::Location;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

#[test]
fn a_segment_of_another_version_is_listed_and_not_read() {
    let ours = Ours::new();
    ours.create_stale();
    write_at(&ours.path(), 8, &99_u32.to_le_bytes());
    let one = listed(&ours.name()).unwrap();
    assert_eq!(one["state"], "stale");
    assert!(
        one["note"].as_str().unwrap().starts_with("it has layout version 99, this program reads "),
        "{one}"
    );
    let line = complaint(&shmtool(&["show", &ours.name()]));
    assert!(line.contains("layout version 99"), "{line}");
    assert_eq!(code(&shmtool(&["clean", &ours.name()])), 0, "its lease is free, and that is enough");
    assert!(ours.is_gone());
}

#[test]
fn a_missing_name_is_told_in_one_line_that_helps() {
    let ours = Ours::new();
    for command in ["show", "requests", "stats", "top", "trace", "check"] {
        for json in [&[][..], &["--json"]] {
            let output = shmtool(&[&[command, &ours.name()], json].concat());
            let line = complaint(&output);
            assert!(line.contains(&ours.name()) && line.contains("'shmtool list'"), "{line}");
        }
    }
    let line = complaint(&shmtool(&["show", "no/such/file"]));
    assert!(line.contains("no/such/file"), "{line}");
    let line = complaint(&shmtool(&["show", "a b"]));
    assert!(line.contains("cannot name a segment"), "{line}");
}

#[test]
fn a_file_that_is_no_segment_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let ours = Ours::new();
    let _segment = ours.create();
    let (notes, link) = (directory.path().join("notes"), directory.path().join("link"));
    std::fs::write(&notes, [b'x'; 8192]).unwrap();
    std::os::unix::fs::symlink(ours.path(), &link).unwrap();
    for (path, why) in [
        (&notes, "its first bytes are another program's"),
        (&link, "it is a symbolic link"),
        (&directory.path().to_path_buf(), "it is a directory"),
    ] {
        for command in ["show", "requests", "stats", "top", "trace", "check"] {
            let line = complaint(&shmtool(&[command, path.to_str().unwrap()]));
            assert!(line.contains(path.to_str().unwrap()) && line.contains(why), "{line}");
        }
    }
}

#[test]
fn a_file_that_others_may_read_is_not_read() {
    let ours = Ours::new();
    let _segment = ours.create();
    for (path, what) in
        [(ours.path(), "it has mode 0644"), (ours.0.lease_path(), "its lease file has mode 0644")]
    {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        for command in ["show", "requests", "stats", "top", "trace", "check"] {
            let line = complaint(&shmtool(&[command, &ours.name()]));
            assert!(line.contains(what), "{line}");
        }
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    }
}

/// Only the file's owner can do that; the tool ends with a message.
#[test]
fn a_file_made_shorter_while_it_is_read_is_a_message() {
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..100 {
        // In a file of its own: `shmtool list`, which other tests run, must not meet it.
        let path = directory.path().join("segment");
        let ours = Ours(Location::parse(path.to_str().unwrap()).unwrap());
        let segment = ours.create();
        // With a problem, so that it looks several times, with a pause in between.
        let _ = begin(&segment, 5, of_no_participant());
        let mut command = Command::new(env!("CARGO_BIN_EXE_shmtool"));
        command.args(["check", &ours.name()]).stdin(Stdio::null());
        let mut tool = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let maps = format!("/proc/{}/maps", tool.id());
        while !std::fs::read_to_string(&maps).unwrap_or_default().contains(path.to_str().unwrap())
            && tool.try_wait().unwrap().is_none()
        {
            std::thread::yield_now(); // no event reports that a file was mapped
        }
        std::fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        let output = tool.wait_with_output().unwrap();
        drop(segment);
        if code(&output) == 2 {
            let told = String::from_utf8(output.stderr).unwrap();
            assert_eq!(told, "shmtool: the segment's file was made shorter while it was read\n");
            return;
        }
        assert_eq!(code(&output), 1, "the tool was faster: {output:?}");
    }
    panic!("the tool was always faster");
}
