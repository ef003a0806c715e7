//! `shmtool clean`. Without names it would remove every stale segment of the machine, so here that is only a dry run.

use super::child::serve_in_a_child;
use super::segments::Ours;
use super::tool::{code, complaint, listed, parsed, shmtool, text, words};
use ringmill_shm::participant::Lease;
use ringmill_shm::segment::Location;
use ringmill_shm::sys::process::user_id;

#[test]
fn removes_a_killed_servers_files_and_a_dry_run_does_not() {
    let ours = Ours::new();
    let mut server = serve_in_a_child(&ours.name());
    assert_eq!(listed(&ours.name()).unwrap()["state"], "live");
    assert_eq!(listed(&ours.name()).unwrap()["server_pid"], server.id());
    let output = shmtool(&["clean", "--json", &ours.name()]);
    assert_eq!(code(&output), 1, "a segment that was named is left alone");
    assert_eq!(parsed(&output)["segments"][0]["outcome"], "live");
    server.kill().unwrap();
    server.wait().unwrap();

    for arguments in [&["clean", "--dry-run", "--json"][..], &["clean", "--dry-run", "--json", &ours.name()]]
    {
        let output = shmtool(arguments);
        assert_eq!(code(&output), 0);
        let dry_run = parsed(&output);
        assert_eq!(dry_run["dry_run"], true);
        let all = dry_run["segments"].as_array().unwrap();
        let one = all.iter().find(|s| s["name"] == ours.name()).unwrap();
        assert_eq!(one["outcome"], "would_remove");
        assert!(ours.path().exists() && ours.0.lease_path().exists());
    }
    let output = text(&shmtool(&["clean", "--dry-run", &ours.name()]));
    assert!(output.contains("would remove") && output.contains("its server has died"), "{output}");

    let output = shmtool(&["clean", &ours.name()]);
    assert_eq!(code(&output), 0);
    let output = text(&output);
    assert_eq!(words(&output, "removed")[1], ours.name());
    assert!(output.lines().last().unwrap().starts_with("Removed 1 segment, "), "{output}");
    assert!(ours.is_gone());
    assert_eq!(listed(&ours.name()), None);
}

#[test]
fn leaves_live_segments_and_foreign_files_alone() {
    let (live, foreign, link, stale) = (Ours::new(), Ours::new(), Ours::new(), Ours::new());
    let segment = live.create();
    std::fs::write(foreign.path(), "another program's notes").unwrap();
    std::os::unix::fs::symlink(live.path(), link.path()).unwrap();
    stale.create_stale();
    let names = [live.name(), foreign.name(), link.name(), stale.name()];
    let mut arguments = vec!["clean"];
    arguments.extend(names.iter().map(String::as_str));
    arguments.push("--json");
    let output = shmtool(&arguments);
    assert_eq!(code(&output), 1);
    let cleaned = parsed(&output);
    let outcomes: Vec<_> = cleaned["segments"].as_array().unwrap().iter().map(|s| &s["outcome"]).collect();
    assert_eq!(outcomes, ["live", "foreign", "foreign", "removed"]);
    assert!(live.path().exists() && live.0.lease_path().exists());
    assert_eq!(std::fs::read_to_string(foreign.path()).unwrap(), "another program's notes");
    assert!(link.path().is_symlink());
    assert!(
        !foreign.0.lease_path().exists() && !link.0.lease_path().exists(),
        "and no lease file is created"
    );
    assert!(stale.is_gone());

    let output = text(&shmtool(&["clean", &foreign.name(), &live.name()]));
    assert!(output.contains("left alone") && output.contains("not a ringmill segment"), "{output}");
    assert!(output.contains("its server lives") && output.contains("Nothing is stale."), "{output}");
    drop(segment);
}

#[test]
fn does_not_take_an_empty_file_for_an_unfinished_segment() {
    let directory = tempfile::tempdir().unwrap();
    let (empty, zeros) = (directory.path().join("empty"), directory.path().join("zeros"));
    std::fs::write(&empty, "").unwrap();
    std::fs::write(&zeros, [0; 8192]).unwrap();
    for path in [&empty, &zeros] {
        let output = shmtool(&["clean", path.to_str().unwrap(), "--json"]);
        assert_eq!(code(&output), 1);
        assert_eq!(parsed(&output)["segments"][0]["outcome"], "foreign");
        assert!(path.exists());
    }
    // With mode 0600 and a free lease beside it, it looks like the file of a creator that died early.
    std::fs::set_permissions(&zeros, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    drop(Lease::acquire(&Location::File(zeros.clone()).lease_path(), user_id()).unwrap().unwrap());
    assert_eq!(code(&shmtool(&["clean", zeros.to_str().unwrap()])), 0);
    assert!(!zeros.exists());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "the empty file is left");
}

#[test]
fn does_not_take_a_file_with_content_for_a_lease() {
    let ours = Ours::new();
    std::fs::write(ours.0.lease_path(), "a contract").unwrap();
    let output = shmtool(&["clean", &ours.name(), "--json"]);
    assert_eq!(parsed(&output)["segments"][0]["outcome"], "foreign");
    assert_eq!(std::fs::read_to_string(ours.0.lease_path()).unwrap(), "a contract");
}

#[test]
fn of_a_missing_name_fails_and_does_the_others() {
    let (missing, stale) = (Ours::new(), Ours::new());
    stale.create_stale();
    let output = shmtool(&["clean", &missing.name(), &stale.name(), "--json"]);
    assert_eq!(code(&output), 2);
    let cleaned = parsed(&output);
    assert_eq!(cleaned["segments"][0]["outcome"], "missing");
    assert_eq!(cleaned["segments"][1]["outcome"], "removed");
    assert!(missing.is_gone() && stale.is_gone());

    stale.create_stale();
    complaint(&shmtool(&["clean", &stale.name(), "a b"]));
    assert!(stale.path().exists(), "an invalid name is found before the first segment is removed");
}
