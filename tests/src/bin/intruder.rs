//! Another user, for tests of what that user can do to a server: only take a name first.
//!
//! `intruder attack NAME` tries everything on the segment of that name, and says `WHAT: done` or `WHAT: refused WHY`, a line
//! each; `intruder join NAME` tries only to take part, or to take over. `intruder squat PATH KIND [TARGET]` creates PATH, says
//! `there`, and removes PATH when its standard input ends. Kinds: `private`, `public` (a file with these rights), `held` (a
//! public file whose locks are those of a server), `fifo`, `directory`, `link` (to TARGET), `hard-link` (of TARGET).
#![expect(unsafe_code, reason = "mkfifo")]

use ringmill_shm::participant::{Lease, SERVER};
use ringmill_shm::segment::{Location, Removed, Segment, remove_if_stale};
use ringmill_shm::sys::file::try_lock_byte;
use std::fmt::Display;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

fn say<T, E: Display>(what: &str, outcome: Result<T, E>) {
    match outcome {
        Ok(_) => println!("{what}: done"),
        Err(error) => println!("{what}: refused {error}"),
    }
}

fn attack(name: &str) {
    let location = Location::named(name).expect("a name");
    let mine = std::env::temp_dir().join(format!("intruder-{}", std::process::id()));
    for (what, path) in [("segment", location.path()), ("lease", location.lease_path())] {
        say(&format!("read the {what}"), File::open(&path));
        say(&format!("write the {what}"), File::options().write(true).open(&path));
        say(&format!("truncate the {what}"), File::options().write(true).truncate(true).open(&path));
        say(&format!("create the {what}"), File::create(&path));
        say(&format!("change the rights of the {what}"), fs::set_permissions(&path, rights(0o666)));
        let lock =
            |kind: &mut fs::OpenOptions| kind.open(&path).and_then(|file| try_lock_byte(&file, SERVER));
        say(&format!("lock the {what}"), lock(File::options().read(true).write(true)));
        fs::write(&mine, "mine").expect("a file of our own");
        say(&format!("put a file in the place of the {what}"), fs::rename(&mine, &path));
        say(&format!("take the name of the {what} away"), fs::rename(&path, path.with_extension("away")));
        say(&format!("remove the {what}"), fs::remove_file(&path));
    }
    let _ = fs::remove_file(&mine);
    join(name);
}

/// Tries to take part, or to take over.
fn join(name: &str) {
    let location = Location::named(name).expect("a name");
    say("attach", Segment::attach(location.clone(), 0));
    say("inspect", Segment::inspect(location.clone()));
    say("ask for the lease", Lease::open(&location.lease_path()));
    say("take the lease", Lease::acquire_to_serve(&location.lease_path()));
    let cleaned = match remove_if_stale(&location, false) {
        Ok(Removed::Stale) => Ok(()),
        Ok(other) => Err(format!("{other:?}")),
        Err(error) => Err(error.to_string()),
    };
    say("clean", cleaned);
}

fn rights(mode: u32) -> Permissions {
    Permissions::from_mode(mode)
}

fn squat(path: &Path, kind: &str, target: Option<PathBuf>) -> std::io::Result<()> {
    let public = || {
        let file = File::options().read(true).write(true).create_new(true).open(path)?;
        file.set_permissions(rights(0o666))?;
        Ok::<_, std::io::Error>(file)
    };
    let mut held = None;
    match (kind, target) {
        ("private", _) => public()?.set_permissions(rights(0o600))?,
        ("public", _) => drop(public()?),
        ("held", _) => {
            let file = public()?;
            [SERVER, u32::MAX].into_iter().try_for_each(|byte| try_lock_byte(&file, byte))?;
            held = Some(file);
        }
        ("fifo", _) => {
            let name = std::ffi::CString::new(path.to_str().expect("text"))?;
            // SAFETY: a live C string and an integer.
            assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o666) }, 0);
            fs::set_permissions(path, rights(0o666))?;
        }
        ("directory", _) => fs::create_dir(path)?,
        ("link", Some(target)) => std::os::unix::fs::symlink(target, path)?,
        ("hard-link", Some(target)) => fs::hard_link(target, path)?,
        other => panic!("{other:?}"),
    }
    println!("there");
    let _ = std::io::stdin().read_line(&mut String::new());
    drop(held);
    if kind == "directory" { fs::remove_dir(path) } else { fs::remove_file(path) }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["attack", name] => attack(name),
        ["join", name] => join(name),
        ["squat", path, kind, ref target @ ..] => {
            let target = target.first().map(PathBuf::from);
            squat(Path::new(path), kind, target).expect("it can make and remove what is its own");
        }
        _ => panic!("intruder attack NAME | intruder join NAME | intruder squat PATH KIND [TARGET]"),
    }
}
