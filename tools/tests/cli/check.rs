//! `shmtool check`.

use super::segments::{Ours, begin, busy, of_no_participant, read};
use super::tool::{code, parsed, shmtool, text};
use serde_json::json;

#[test]
fn finds_a_segment_at_work_consistent() {
    let ours = Ours::new();
    let _segment = busy(&ours);
    let output = shmtool(&["check", &ours.name()]);
    assert_eq!(code(&output), 0, "{output:?}");
    assert_eq!(text(&output), format!("{}: consistent\n", ours.name()));
    let checked = parsed(&shmtool(&["check", "--json", &ours.name()]));
    assert_eq!((&checked["consistent"], &checked["problems"]), (&json!(true), &json!([])));
}

#[test]
fn prints_each_problem_and_exits_with_1() {
    let ours = Ours::new();
    let segment = ours.create();
    // A client that never lived writes a request, and holds the lock of the second node.
    let _ = begin(&segment, 5, of_no_participant());
    std::mem::forget(read(&segment, 1, of_no_participant()));
    let output = shmtool(&["check", &ours.name()]);
    assert_eq!(code(&output), 1);
    let output = text(&output);
    assert!(output.starts_with(&format!("{}: 2 problems\n", ours.name())), "{output}");
    assert!(output.contains("task 5: its owner is dead"), "{output}");

    let output = shmtool(&["check", &ours.name(), "--json"]);
    assert_eq!(code(&output), 1);
    let checked = parsed(&output);
    assert_eq!(checked["consistent"], false);
    assert_eq!(
        (&checked["problems"][0]["kind"], &checked["problems"][0]["task"]),
        (&json!("dead_owner"), &json!(5))
    );
    let holder = &checked["problems"][1];
    assert_eq!(
        (&holder["kind"], &holder["token"]),
        (&json!("dead_holder"), &json!(of_no_participant().raw()))
    );
    assert!(holder["message"].as_str().unwrap().contains("reader lock"), "{holder}");
    let shown = parsed(&shmtool(&["show", &ours.name(), "--json"]));
    assert_eq!(shown["nodes"][1]["lock_holder"]["alive"], false);
}
