//! Where [`Actor`]s report and wait: the test's side, and a servlet of actors for it.

use crate::actor::{Act, Actor, Answer, Rebirth, Upbringing};
use crate::other_user;
use ringmill::{CallError, CallOptions, ProcessServlet, Server, ThreadServlet, WhenFull};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

/// Where actors report and wait.
#[derive(Debug)]
pub struct ActorGate {
    listener: UnixListener,
    directory: tempfile::TempDir,
}

/// A call to actors, in a thread of its own.
pub type Call<'scope> = ScopedJoinHandle<'scope, Result<Answer, CallError>>;

/// An actor at the gate.
#[derive(Debug)]
pub struct Visit {
    /// Why it has come: `hold`, `constructor`, `cleanup-shutdown`, `cleanup-gone`, `cleanup-other`.
    pub kind: String,
    /// The number of its item, or of the worker.
    pub number: u64,
    /// Its process.
    pub pid: u32,
    stream: UnixStream,
}

impl Default for ActorGate {
    fn default() -> Self {
        Self::new()
    }
}

impl ActorGate {
    /// A gate in a directory of its own.
    ///
    /// # Panics
    /// If the system has no socket for it.
    #[must_use]
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(directory.path().join("gate")).expect("a socket");
        Self { listener, directory }
    }

    /// The socket's path, for actors.
    ///
    /// # Panics
    /// If the path is no text.
    #[must_use]
    pub fn path(&self) -> String {
        self.directory.path().join("gate").to_str().expect("text").to_owned()
    }

    /// An upbringing with nothing special in it.
    #[must_use]
    pub fn upbringing(&self) -> Upbringing {
        let rebirth = Rebirth::Lives;
        Upbringing { gate: self.path(), rebirth, hold_in_constructor: false, cleanup_panics: false }
    }

    /// Lets actors of every user reach the gate.
    pub fn open_to_all(&self) {
        other_user::open_to_all(self.directory.path());
        let all = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(self.path(), all).expect("it is ours");
    }

    /// A servlet of actors that report here.
    pub fn processes(&self, count: usize) -> ProcessServlet<Actor> {
        ProcessServlet::new(self.upbringing()).name("actor").cpus(count)
    }

    /// A servlet of actors in threads that report here.
    pub fn threads(&self, count: usize) -> ThreadServlet<Actor> {
        ThreadServlet::new(self.upbringing()).name("actor").cpus(count)
    }

    /// Waits for the next actor.
    pub fn next(&self) -> Visit {
        Visit::read(self.listener.accept().expect("an actor").0)
    }

    /// Forgets the visits since the last look.
    pub fn forget_visits(&self) {
        self.listener.set_nonblocking(true).expect("a socket");
        while self.listener.accept().is_ok() {}
        self.listener.set_nonblocking(false).expect("a socket");
    }

    /// Whether an actor has come unexpectedly.
    pub fn has_visitor(&self) -> bool {
        self.listener.set_nonblocking(true).expect("a socket");
        let visitor = self.listener.accept().is_ok();
        self.listener.set_nonblocking(false).expect("a socket");
        visitor
    }

    /// Waits for the next actor, which holds an item.
    pub fn next_hold(&self, number: u64) -> Visit {
        let visit = self.next();
        assert_eq!((visit.kind.as_str(), visit.number), ("hold", number));
        visit
    }

    /// Has a call in a thread of its own hold an actor of the server; the actor, and the call, which has no limit.
    pub fn hold<'scope>(
        &self,
        scope: &'scope Scope<'scope, '_>,
        server: &'scope Server<Act, Answer>,
        number: u64,
    ) -> (Visit, Call<'scope>) {
        const ENDLESS: Duration = Duration::from_secs(3600);
        let options = CallOptions::new().when_full(WhenFull::Wait).timeout(ENDLESS);
        let call = move || server.call_with(&Act::Hold(number), options)?.into_owned();
        let call = scope.spawn(call);
        (self.next_hold(number), call)
    }
}

impl Visit {
    fn read(stream: UnixStream) -> Self {
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).expect("a line");
        let mut words = line.split_whitespace();
        let mut word = || words.next().expect("three words");
        let (kind, number, pid) = (word().to_owned(), word(), word());
        Self { kind, number: number.parse().expect("a number"), pid: pid.parse().expect("a pid"), stream }
    }

    /// Lets it go.
    pub fn let_go(mut self) {
        self.stream.write_all(&[1]).expect("it waits");
    }

    /// Lets it go, unless it has died.
    pub fn try_let_go(mut self) {
        let _ = self.stream.write_all(&[1]);
    }

    /// Waits until it has died.
    pub fn await_death(mut self) {
        // A reset instead of an end of file is a death too.
        let _ = self.stream.read(&mut [0]);
    }
}
