//! `shmtool completions` and `shmtool man`.

use super::tool::{code, commands, complaint, parsed, shmtool, text};
use std::process::{Command, Stdio};

#[test]
fn every_shell_has_completions_of_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = text(&shmtool(&["completions", shell]));
        let options = ["older-than", "payload-bytes", "dry-run", "root"].map(String::from);
        for word in commands().iter().chain(&options) {
            assert!(script.contains(word), "{shell} does not know {word}");
        }
        let report = parsed(&shmtool(&["completions", shell, "--json"]));
        assert_eq!((report["shell"].as_str(), report["script"].as_str()), (Some(shell), Some(&*script)));
    }
    assert_eq!(code(&shmtool(&["completions", "cmd"])), 2);
}

/// The shell itself says what it would complete.
#[test]
fn bash_completes_phases_of_requests() {
    let ask = "source <(\"$1\" completions bash)
        COMP_WORDS=(shmtool requests digits --phase ''); COMP_CWORD=4; COMP_LINE='shmtool requests digits --phase '
        _shmtool shmtool '' --phase; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let output = Command::new("bash")
        .args(["-c", ask, "bash", env!("CARGO_BIN_EXE_shmtool")])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = text(&output);
    assert_eq!(
        told.split_whitespace().collect::<Vec<_>>(),
        ["filling", "queued", "claimed", "forked", "done", "joining"]
    );
}

#[test]
fn man_writes_a_page_for_each_command() {
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("man1");
    let output = shmtool(&["man", pages.to_str().unwrap(), "--json"]);
    assert_eq!(code(&output), 0);
    let mut expected: Vec<_> = commands().iter().map(|command| format!("shmtool-{command}.1")).collect();
    expected.push("shmtool.1".into());
    let mut found: Vec<_> = std::fs::read_dir(&pages)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let mut told: Vec<_> = parsed(&output)["pages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|page| page.as_str().unwrap().rsplit('/').next().unwrap().to_owned())
        .collect();
    for all in [&mut expected, &mut found, &mut told] {
        all.sort_unstable();
    }
    assert_eq!((&found, &told), (&expected, &expected));
    let page = std::fs::read_to_string(pages.join("shmtool-requests.1")).unwrap();
    assert!(page.contains(".TH shmtool-requests 1") && page.contains("\\-\\-older\\-than"), "{page}");
    assert!(page.contains("in_progress"), "with what --help says: {page}");
    assert!(
        page.contains(".SH DETAILS\n.nf\n") && !page.contains(".SH EXTRA"),
        "lines stay as they are: {page}"
    );
    let program = std::fs::read_to_string(pages.join("shmtool.1")).unwrap();
    assert!(program.contains("shmtool\\-requests(1)"), "{program}");

    std::fs::write(directory.path().join("file"), "").unwrap();
    let line = complaint(&shmtool(&["man", directory.path().join("file").to_str().unwrap()]));
    assert!(line.contains("cannot make the directory"), "{line}");
}
