//! The executable that worker processes are started from: found once, held open from then on.
//!
//! # Protocol
//!
//! A name that is looked up again may lead to another program: the next version was deployed in place, the file was
//! removed, the working directory, `PATH` or the root directory has changed. So the server opens the file at its start,
//! and starts each process from that descriptor:
//!
//! | Way | Works |
//! |---|---|
//! | `execveat` on the descriptor | wherever the file, even if removed, may be run |
//! | the same, back in the root directory of the start | where the linker's files are not in the present one, for root |
//! | `/proc/self/fd/N` | where a filter refuses `execveat` |
//! | the absolute path | where `/proc` is missing too; only if it still is that file |
//!
//! A script (anything but ELF) is run by its path as long as that is still the file: the script may use its path. After
//! that its interpreter gets the held file as `/dev/fd/N`.
//!
//! All of that happens between fork and exec, so memory is prepared before; there are only system calls.
#![expect(unsafe_code, reason = "execveat and what else is called between fork and exec")]

use super::build_id::BuildId;
use super::child::{self, Child};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The running program, where `/proc` is mounted.
const OWN: &str = "/proc/self/exe";

/// An executable, held open.
#[derive(Debug)]
pub struct Image {
    /// Opened with `O_PATH`: it may be run, also where it may not be read.
    file: File,
    /// Absolute.
    path: PathBuf,
    /// Device and number.
    identity: (u64, u64),
    is_script: bool,
    build: Option<BuildId>,
}

/// How a process was started, if not in the first way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Fallback {
    /// See the table of the module.
    RootOfTheStart = 1,
    /// See the table of the module.
    Proc = 2,
    /// See the table of the module.
    Path = 3,
    /// A script whose path leads to another file now.
    HeldScript = 4,
}

impl fmt::Display for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RootOfTheStart => {
                "its linker is not in the present root directory; it runs in that of the server's start"
            }
            Self::Proc => "execveat is refused; it was started through /proc",
            Self::Path => "execveat and /proc are refused; it was started by its path",
            Self::HeldScript => {
                "its path is another file's now; the script was run as it was found at the server's start"
            }
        })
    }
}

impl Image {
    /// The program that runs.
    ///
    /// # Errors
    /// Where there is no `/proc`, and the program is no longer at its path.
    pub fn own() -> io::Result<Self> {
        let build = BuildId::of_this_process();
        match open_to_run(Path::new(OWN)) {
            Ok(file) => {
                let path = std::env::current_exe().unwrap_or_else(|_| OWN.into());
                Self::of(file, path, build)
            }
            Err(error) => {
                // SAFETY: a lookup; the text that it points to is the kernel's, and stays.
                let name = unsafe {
                    let name = libc::getauxval(libc::AT_EXECFN) as *const libc::c_char;
                    if name.is_null() { return Err(error) } else { CStr::from_ptr(name) }
                };
                let path = std::path::absolute(OsStr::from_bytes(name.to_bytes()))?;
                let image = Self::open(&path)?;
                // A build id of a file's facts needs /proc: nothing is known then.
                if build.is_some() && image.build != build {
                    let why = format!("/proc is not mounted, and {} is another program now", path.display());
                    return Err(io::Error::new(io::ErrorKind::NotFound, why));
                }
                Ok(image)
            }
        }
    }

    /// A program as a shell would find it: a name without a slash is looked for in `PATH`.
    ///
    /// # Errors
    /// There is none, or this process may not run it.
    pub fn open(program: &Path) -> io::Result<Self> {
        let path = std::path::absolute(locate(program)?)?;
        let file = open_to_run(&path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no plain file"));
        }
        may_run(&path)?;
        Self::of(file, path, None)
    }

    fn of(file: File, path: PathBuf, build: Option<BuildId>) -> io::Result<Self> {
        let meta = file.metadata()?;
        // An executable need not be readable: then it is no script, since an interpreter could not read it either.
        let readable = open_to_read(&file, &path).ok();
        let mut magic = Vec::new();
        let is_script = readable
            .as_ref()
            .is_some_and(|file| file.take(4).read_to_end(&mut magic).is_ok() && magic != b"\x7fELF");
        let build = build.or_else(|| match &readable {
            _ if is_script => None, // which program it runs in the end is its own affair
            Some(file) => BuildId::of_executable(file).ok(),
            None => Some(BuildId::of_file_facts(&meta)),
        });
        Ok(Self { identity: identity(&meta), file, path, is_script, build })
    }

    /// Opens it for reading.
    ///
    /// # Errors
    /// It may be run, and not read; or there is no `/proc`, and its path leads to another file by now.
    pub fn read(&self) -> io::Result<File> {
        open_to_read(&self.file, &self.path)
    }

    /// Whether both are one file.
    #[must_use]
    pub fn is_same_file(&self, other: &Self) -> bool {
        self.identity == other.identity
    }

    /// Its path at the start.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which build it is; `None` of a script.
    #[must_use]
    pub fn build(&self) -> Option<&BuildId> {
        self.build.as_ref()
    }

    /// The name of its processes in process lists; empty for a script, which its interpreter names.
    #[must_use]
    pub fn name(&self) -> &OsStr {
        let name = self.path.file_name().filter(|_| !self.is_script).unwrap_or_default();
        OsStr::from_bytes(name.as_bytes().strip_suffix(b" (deleted)").unwrap_or(name.as_bytes()))
    }

    /// A command for [`spawn`](Self::spawn).
    #[must_use]
    pub fn command(&self) -> Command {
        Command::new(&self.path)
    }

    /// Starts a process of it, with the arguments after the first, `argv[0]`, and the environment of the command. Of the
    /// descriptors of this process it has `input` as standard input, standard output and error, and those of `kept`, under
    /// the same numbers; the signals of `blocked` are blocked in it. `root` is the root directory of the start, if this
    /// process has another one by now and may return to it.
    ///
    /// # Errors
    /// The system's error in the first way.
    pub fn spawn(
        &self,
        command: &Command,
        name: impl AsRef<OsStr>,
        input: RawFd,
        kept: &[RawFd],
        blocked: &[i32],
        root: Option<&File>,
    ) -> io::Result<(Child, Option<Fallback>)> {
        debug_assert!(
            kept.iter().all(|&fd| fd >= super::process::FIRST_OTHER),
            "those below are the command's"
        );
        let strings = |texts: Vec<OsString>| -> io::Result<Vec<CString>> {
            texts.into_iter().map(|text| Ok(CString::new(text.into_vec())?)).collect()
        };
        let mut arguments = vec![name.as_ref().to_owned()];
        arguments.extend(command.get_args().map(OsStr::to_owned));
        let ways = Ways {
            image: self.file.as_raw_fd(),
            root: root.map(AsRawFd::as_raw_fd),
            identity: self.identity,
            is_script: self.is_script,
            path: CString::new(self.path.as_os_str().as_bytes())?,
            proc: CString::new(format!("/proc/self/fd/{}", self.file.as_raw_fd()))?,
            arguments: Texts::new(strings(arguments)?),
            environment: Texts::new(strings(environment_of(command))?),
        };
        let (child, ways) = child::start(input, |tell| {
            super::process::close_others_on_exec();
            for &fd in kept {
                // SAFETY: integers.
                unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
            }
            super::process::block_signals(blocked);
            ways.run(tell)
        })?;
        let fallback = ways.last().and_then(|way| match way {
            1 => Some(Fallback::RootOfTheStart),
            2 => Some(Fallback::Proc),
            3 => Some(Fallback::Path),
            4 => Some(Fallback::HeldScript),
            _ => None,
        });
        Ok((child, fallback))
    }
}

fn identity(meta: &Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

fn open_to_run(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path)?;
    super::file::beyond_standard(file)
}

/// What was opened with `O_PATH`, for reading.
fn open_to_read(file: &File, path: &Path) -> io::Result<File> {
    let read = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).or_else(|_| File::open(path))?;
    match identity(&read.metadata()?) == identity(&file.metadata()?) {
        true => Ok(read),
        false => Err(io::Error::new(io::ErrorKind::NotFound, "its path is another file's now")),
    }
}

/// The root directory of this process, for a later [`has_changed`](Self::has_changed).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootDirectory(u64, u64);

impl RootDirectory {
    /// The present one.
    ///
    /// # Errors
    /// What `stat` says.
    pub fn present() -> io::Result<Self> {
        let (device, number) = identity(&std::fs::metadata("/")?);
        Ok(Self(device, number))
    }

    /// Whether this process has another one by now.
    #[must_use]
    pub fn has_changed(self) -> bool {
        Self::present().is_ok_and(|present| present != self)
    }
}

/// Opens a directory only to name what is in it.
///
/// # Errors
/// What `open` says.
pub fn open_directory(path: impl AsRef<Path>) -> io::Result<File> {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    super::file::beyond_standard(OpenOptions::new().read(true).custom_flags(flags).open(path)?)
}

/// Whether this process's effective user may run it.
fn may_run(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a live C string, and integers.
    match unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::X_OK, libc::AT_EACCESS) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// As `execvp` finds it.
fn locate(program: &Path) -> io::Result<PathBuf> {
    if program.as_os_str().is_empty() || program.as_os_str().as_bytes().contains(&b'/') {
        return Ok(program.into());
    }
    let directories = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    std::env::split_paths(&directories)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file() && may_run(path).is_ok())
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
}

/// All variables that the command's process will have, as `NAME=value`.
fn environment_of(command: &Command) -> Vec<OsString> {
    let mut all: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => all.insert(name.into(), value.into()),
            None => all.remove(name),
        };
    }
    let line = |(mut name, value): (OsString, OsString)| {
        name.push("=");
        name.push(value);
        name
    };
    all.into_iter().map(line).collect()
}

/// C strings, and the array of pointers to them that ends with a null.
struct Texts {
    pointers: Vec<*const libc::c_char>,
    _owned: Vec<CString>,
}

impl Texts {
    fn new(owned: Vec<CString>) -> Self {
        let pointers = owned.iter().map(|text| text.as_ptr()).chain([core::ptr::null()]).collect();
        Self { pointers, _owned: owned }
    }
}

/// What is needed between fork and exec.
struct Ways {
    image: RawFd,
    root: Option<RawFd>,
    identity: (u64, u64),
    is_script: bool,
    path: CString,
    proc: CString,
    arguments: Texts,
    environment: Texts,
}

impl Ways {
    /// Tries one way after the other, and reports which; returns with the error of the first.
    fn run(&self, tell: RawFd) -> io::Error {
        if self.is_script {
            if self.is_still_there() {
                return self.run_path();
            }
            say(tell, Fallback::HeldScript);
            // SAFETY: integers.
            unsafe { libc::fcntl(self.image, libc::F_SETFD, 0) }; // for its interpreter
            return self.run_held();
        }
        let error = self.run_held();
        if error.raw_os_error() == Some(libc::ENOENT) && self.return_to_root() {
            say(tell, Fallback::RootOfTheStart);
            return self.run_held();
        }
        if !matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOMEM | libc::EAGAIN | libc::ENOEXEC)) {
            say(tell, Fallback::Proc);
            // SAFETY: live C strings, and arrays of such that end with a null.
            unsafe {
                libc::execve(
                    self.proc.as_ptr(),
                    self.arguments.pointers.as_ptr(),
                    self.environment.pointers.as_ptr(),
                );
            }
            if self.is_still_there() {
                say(tell, Fallback::Path);
                return self.run_path();
            }
        }
        error
    }

    /// As a shell would: runs `sh` with a file that is neither a program nor names its interpreter.
    fn run_path(&self) -> io::Error {
        // SAFETY: live C strings, and arrays of such that end with a null.
        unsafe {
            libc::execvpe(
                self.path.as_ptr(),
                self.arguments.pointers.as_ptr(),
                self.environment.pointers.as_ptr(),
            );
        }
        io::Error::last_os_error()
    }

    fn run_held(&self) -> io::Error {
        // SAFETY: a descriptor, C strings, and arrays of such that end with a null, all of them live.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                self.image,
                c"".as_ptr(),
                self.arguments.pointers.as_ptr(),
                self.environment.pointers.as_ptr(),
                libc::AT_EMPTY_PATH,
            );
        }
        io::Error::last_os_error()
    }

    /// Whether the path still is that file.
    fn is_still_there(&self) -> bool {
        // SAFETY: an all-zero stat is valid to be overwritten.
        let mut stat: libc::stat = unsafe { core::mem::zeroed() };
        // SAFETY: a live C string, and a live structure to fill.
        let found = unsafe { libc::stat(self.path.as_ptr(), &raw mut stat) } == 0;
        found && (stat.st_dev, stat.st_ino) == self.identity
    }

    /// To the root directory of the start, if there is another one now; the working directory stays.
    fn return_to_root(&self) -> bool {
        let Some(root) = self.root else { return false };
        // SAFETY: all-zero structures to be filled, live C strings, integers; this process has one thread.
        unsafe {
            let (mut then, mut now): (libc::stat, libc::stat) = core::mem::zeroed();
            if libc::fstat(root, &raw mut then) != 0 || libc::stat(c"/".as_ptr(), &raw mut now) != 0 {
                return false;
            }
            if (then.st_dev, then.st_ino) == (now.st_dev, now.st_ino) {
                return false;
            }
            let here = libc::open(c".".as_ptr(), libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC);
            let returned = libc::fchdir(root) == 0 && libc::chroot(c".".as_ptr()) == 0;
            libc::fchdir(here);
            returned
        }
    }
}

fn say(tell: RawFd, way: Fallback) {
    let byte = way as u8;
    // SAFETY: one readable byte.
    unsafe { libc::write(tell, (&raw const byte).cast(), 1) };
}
