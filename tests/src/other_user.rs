//! Programs run as another user, where the tests run as root.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The user `nobody`, to whom no file of a sane machine belongs, and its group.
pub const NOBODY: u32 = 65_534;
/// A user without a name and without processes, and its group.
pub const NAMELESS: u32 = 61_407;

/// Whether programs can be run as another user. If not, prints to standard error what the test skips: not to the test's own
/// output, which the harness does not show when it passes.
#[must_use]
pub fn can_be_another_user(not_tried: &str) -> bool {
    let root = ringmill_shm::sys::process::user_id() == 0;
    if !root {
        let _ = writeln!(std::io::stderr(), "NOT ROOT, SO NOT TRIED: {not_tried}");
    }
    root
}

/// A program where every user can run it.
#[derive(Debug)]
pub struct PublicProgram {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

impl PublicProgram {
    /// A copy of this program: the directory it is built in may be closed to other users.
    ///
    /// # Panics
    /// If there is no room for it.
    #[must_use]
    pub fn of(program: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        open_to_all(directory.path());
        let path = directory.path().join(Path::new(program).file_name().expect("a program"));
        // By a process of its own: if it were open for writing here, a process that another test starts just then would have
        // it open too, and a file that is open for writing cannot be run.
        let copied = Command::new("cp").arg(program).arg(&path).status();
        assert!(copied.expect("it runs").success(), "room for a copy");
        open_to_all(&path);
        Self { _directory: directory, path }
    }

    /// To run it as that user, with no other group than the user's own.
    #[must_use]
    pub fn run_as(&self, user: u32) -> Command {
        let mut command = Command::new(&self.path);
        command.uid(user).gid(user); // std drops root's other groups then
        command
    }
}

/// Lets every user in.
///
/// # Panics
/// If it is not ours.
pub fn open_to_all(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
}
