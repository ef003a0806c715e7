//! A server belongs to the process that started it. Every call in a child of that process, made in any way at any moment,
//! returns `CallError::Forked` at once, and the child drops inherited values without a trace; the parent notices nothing.
//!
//! Symptom: a child and its parent called one server; up to 5% of the answers were another process's. A child's `drop`
//! set the parent's segment to draining, a daemon waited out every timeout and kept the name. Cause: the engine did not ask
//! which process it was in. Fix: `ringmill_shm::sys::birth`.
#![expect(unsafe_code, reason = "fork and bare clone")]

use futures_util::StreamExt;
use ringmill::call::{Loan, Pending};
use ringmill::error::DrainError;
use ringmill::rkyv::rancor::Fallible;
use ringmill::rkyv::with::{ArchiveWith, DeserializeWith, SerializeWith};
use ringmill::rkyv::{Archive, Archived, Deserialize, Place, Serialize};
use ringmill::{
    Batch, BatchWorker, BoxError, CallError, CallOptions, Context, PassThrough, ProcessServlet, Reply,
    Server, StartError, ThreadServlet, Worker,
};
use ringmill_tests::alone::alone;
use ringmill_tests::name::Name;
use ringmill_tests::{fresh_name, wait_until};
use std::cell::Cell;
use std::fmt::Debug;
use std::future::Future;
use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context as Task, Poll, Waker};
use std::time::Duration;

/// Adds one; a big number takes long.
struct Successor;

impl Worker for Successor {
    type Config = ();
    type In = u64;
    type Out = u64;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, number: &Archived<u64>) -> Result<u64, BoxError> {
        Ok(number.to_native() + 1)
    }
}

/// Holds its item until the file of that name is gone.
pub(crate) struct Holder;

impl BatchWorker for Holder {
    type Config = ();
    type In = String;
    type Out = u32;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        for item in batch {
            let path = std::path::PathBuf::from(item.input().as_str());
            while path.exists() {
                std::thread::sleep(Duration::from_millis(1)); // a look, not a measure
            }
            item.reply(std::process::id());
        }
        Ok(())
    }
}

ringmill::init!(Successor, Holder, PassThrough<Vec<f32>>, PassThrough<Forking>);

/// How a child is made.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    /// `fork`, as C libraries and Rust have it.
    Fork,
    /// The system call alone, as `_Fork` and sandboxes make it: no handlers run.
    Bare,
}

pub(crate) const WAYS: [Way; 2] = [Way::Fork, Way::Bare];

impl Way {
    /// 0 in the child.
    pub(crate) fn make(self) -> i32 {
        // SAFETY: a child with one thread, which runs its test's code and ends by `_exit`; glibc's allocator may be used
        // after `fork`, and after a bare clone unless another thread is in it, which the tests of clones prevent.
        unsafe {
            match self {
                Way::Fork => libc::fork(),
                Way::Bare => libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) as i32,
            }
        }
    }
}

/// A child, which ends with this.
pub(crate) struct Child {
    pid: i32,
    words: std::fs::File,
}

impl Child {
    /// Runs `code` in a child, whose message is the result, or the panic.
    pub(crate) fn start(way: Way, code: impl FnOnce() -> String) -> Self {
        let (words, mut say) = std::io::pipe().expect("a pipe");
        match way.make() {
            0 => {
                drop(words);
                let said = catch_unwind(AssertUnwindSafe(code)).unwrap_or_else(|panic| {
                    let text = panic.downcast_ref::<String>().cloned();
                    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
                    format!("panic: {}", text.unwrap_or_default())
                });
                let _ = say.write_all(said.as_bytes());
                // SAFETY: ends the child.
                unsafe { libc::_exit(0) }
            }
            pid => {
                assert!(pid > 0, "{way:?}: {}", std::io::Error::last_os_error());
                Self { pid, words: std::fs::File::from(std::os::fd::OwnedFd::from(words)) }
            }
        }
    }

    /// Its message, once it has ended.
    #[track_caller]
    pub(crate) fn said(mut self) -> String {
        let mut said = String::new();
        self.words.read_to_string(&mut said).expect("words");
        let mut status = 0;
        // SAFETY: a child of ours, and a live integer to fill.
        assert_eq!(unsafe { libc::waitpid(self.pid, &raw mut status, 0) }, self.pid);
        self.pid = 0;
        assert_eq!(status, 0, "{said}");
        said
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.pid > 0 {
            // SAFETY: a child of ours that has not been waited for.
            unsafe {
                libc::kill(self.pid, libc::SIGKILL);
                libc::waitpid(self.pid, std::ptr::null_mut(), 0);
            }
        }
    }
}

/// The message of a child of each way.
#[track_caller]
fn children_say(code: impl Fn() -> String) -> [String; 2] {
    WAYS.map(|way| Child::start(way, &code).said())
}

fn start(name: &Name) -> Server<u64, u64> {
    Server::builder(name.text()).start(ProcessServlet::<Successor>::new(())).expect("a server")
}

/// "told" if an error names both processes.
pub(crate) fn is_told<T: Debug>(outcome: Result<T, CallError>, server: u32) -> String {
    match outcome {
        Err(CallError::Forked { server_pid, pid }) if server_pid == server && pid == std::process::id() => {
            "told".into()
        }
        other => format!("{other:?}"),
    }
}

/// A future that is ready at once.
fn polled<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Task::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("pending"),
    }
}

#[test]
fn every_use_in_a_child_is_an_error_at_once_and_touches_nothing() {
    alone("fork::every_use_in_a_child_is_an_error_at_once_and_touches_nothing", || {
        let name = Name::new("uses");
        let server = start(&name);
        let us = std::process::id();
        let before = name.inspect().run();
        let told = |outcome| is_told(outcome, us);
        let said = children_say(|| {
            let mut said = vec![
                told(server.call(&1).map(|_| ())),
                told(server.call_with(&1, CallOptions::new().timeout(Duration::MAX)).map(|_| ())),
                told(
                    server
                        .call_with(
                            &1,
                            CallOptions::new().deadline(std::time::Instant::now() + Duration::from_secs(60)),
                        )
                        .map(|_| ()),
                ),
                told(server.submit(&1).map(|_| ())),
                told(polled(server.call_async(&1)).map(|_| ())),
                told(server.handle().call(&1).map(|_| ())),
                told(server.handle().submit(&1).map(|_| ())),
                told(polled(server.handle().call_async(1)).map(|_| ())),
                told(server.stream(0..10).next().expect("an error").map(|_| ())),
                told(server.stream(0..10).next_reply().expect("an error").map(|_| ())),
                told(
                    server
                        .stream_prepared(["1"], |text| text.parse::<u64>())
                        .next()
                        .expect("an error")
                        .map(|_| ()),
                ),
                told(
                    polled(server.stream_async(futures_util::stream::iter(0..10)).next())
                        .expect("an error")
                        .map(|_| ()),
                ),
            ];
            for stream in STREAMS {
                let outcomes = stream.outcomes(&server, 0..10);
                let as_ever = outcomes.iter().map(|(tag, _)| *tag).eq(0..10);
                let all_told = outcomes.into_iter().all(|(_, outcome)| told(outcome.map(|_| ())) == "told");
                said.push(if as_ever && all_told { "told".into() } else { format!("{stream:?}") });
            }
            said.push(match server.drain(Duration::MAX) {
                Err(DrainError::Forked { server_pid, .. }) if server_pid == us => "told".into(),
                other => format!("{other:?}"),
            });
            server.shutdown();
            let info = server.debug_info();
            said.push(format!(
                "{} {} {}",
                server.backlog(),
                server.stats().servlets.len(),
                info.servlets.len()
            ));
            said.push(format!("{}", server.segment_path().exists()));
            said.retain(|said| said != "told");
            said.join("; ")
        });
        assert_eq!(said, ["0 1 1; true"; 2]);
        assert_eq!(name.inspect().run(), before);
        assert_eq!(server.backlog(), 0);
        let error = children_say(|| server.call(&1).expect_err("forked").to_string());
        assert!(
            error[0].contains(&format!("belongs to process {us}")) && error[0].contains("start a server"),
            "{error:?}"
        );
        assert_eq!(*server.call(&1).expect("ours"), 2);
        name.assert_consistent();
        drop(server);
        name.assert_nothing_left();
    });
}

/// A worker type that no `init!` lists.
struct Unlisted;

impl Worker for Unlisted {
    type Config = ();
    type In = u64;
    type Out = u64;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, _: &Archived<u64>) -> Result<u64, BoxError> {
        Err(BoxError::msg("it is never started"))
    }
}

/// Symptom: a child that was forked while another thread of its parent started a server hung at its own start. Cause: locks of
/// the whole program, around the list of `init!` say, which that thread had at the fork. Fix: there are none.
#[test]
fn a_child_forked_beside_threads_that_start_servers_starts_its_own() {
    alone("fork::a_child_forked_beside_threads_that_start_servers_starts_its_own", || {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                // Looked for among all that are listed, and refused: the shortest start there is.
                scope.spawn(|| {
                    while !over.load(Ordering::SeqCst) {
                        let refused = Server::builder(fresh_name("unlisted"))
                            .start(ProcessServlet::<Unlisted>::new(()));
                        assert!(matches!(refused, Err(StartError::NotListed { .. })));
                    }
                });
            }
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    assert_eq!(*start(&Name::new("beside")).call(&1).expect("an answer"), 2);
                }
            });
            let _over = Finally(|| over.store(true, Ordering::SeqCst));
            for number in 0..40 {
                let child = Child::start(Way::Fork, || {
                    let name = Name::new("child");
                    let server = start(&name);
                    let answer = *server.call(&number).expect("an answer");
                    drop(server);
                    name.assert_nothing_left();
                    answer.to_string()
                });
                assert_eq!(child.said(), (number + 1).to_string());
            }
        });
    });
}

/// Does this when it is dropped, however that comes about.
struct Finally<F: FnMut()>(F);

impl<F: FnMut()> Drop for Finally<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[test]
fn guards_of_every_state_are_dropped_without_a_trace() {
    alone("fork::guards_of_every_state_are_dropped_without_a_trace", || {
        let (name, large) = (Name::new("guards"), Name::new("large"));
        let server = start(&name);
        let loans = Server::builder(large.text())
            .max_payload(1 << 16)
            .start(ProcessServlet::<PassThrough<Vec<f32>>>::new(()))
            .expect("a server");
        for way in WAYS {
            let reply: Reply<'_, u64> = server.call(&1).expect("an answer");
            let pending: Pending<'_, u64> = server.submit(&2).expect("a permit");
            let input = 3;
            let future = loop {
                let mut future = Box::pin(server.call_async(&input));
                if future.as_mut().poll(&mut Task::from_waker(Waker::noop())).is_pending() {
                    break future;
                }
            };
            let few = || ringmill::StreamOptions::new().window(8);
            let mut stream = server.stream_with(10.., few());
            assert_eq!(stream.next().expect("one").expect("an answer"), 11);
            let mut unordered = server.stream_with(20..60, few()).unordered();
            assert!(unordered.next().expect("one").is_ok());
            let mut tasks = server.stream_async_with(futures_util::stream::iter(70..), few());
            let _ = tasks.poll_next_unpin(&mut Task::from_waker(Waker::noop()));
            // What a handle gives, which keeps the server's memory.
            let handle = server.handle();
            let own: Pending<'static, u64> = handle.submit(&4).expect("a permit");
            let own_reply = handle.submit(&5).expect("a permit").wait().expect("an answer");
            let mut any_order = handle.stream_async_with(futures_util::stream::iter(80..), few()).unordered();
            let _ = any_order.poll_next_unpin(&mut Task::from_waker(Waker::noop()));
            let mut loan: Loan<'_, f32> = loans.loan(1000).expect("a permit");
            loan.as_mut_slice().fill(0.5);
            let us = std::process::id();
            let (server, loans) = (&server, &loans);
            // The child uses and drops all of its copies, the server last.
            let mut kept = Some((reply, pending, future, stream, unordered, tasks, loan));
            let mut of_handle = Some((handle, own, own_reply, any_order));
            let child = Child::start(way, || {
                let (reply, mut pending, mut future, mut stream, mut unordered, mut tasks, mut loan) =
                    kept.take().expect("all");
                let (handle, mut own, own_reply, mut any_order) = of_handle.take().expect("all");
                let shown = catch_unwind(AssertUnwindSafe(|| *reply));
                let filled = catch_unwind(AssertUnwindSafe(|| loan.as_mut_slice().fill(0.0)));
                let printed = format!("{reply:?}").contains("belongs to process");
                let ready = pending.is_ready();
                let mut said = vec![
                    is_told(pending.try_take().expect("an error").map(|_| ()), us),
                    format!("{:?}", pending.try_take().is_none()),
                    is_told(polled(future.as_mut()).map(|_| ()), us),
                    is_told(stream.next().expect("an error").map(|_| ()), us),
                    is_told(stream.next().expect("an endless source has endless errors").map(|_| ()), us),
                    is_told(unordered.next().expect("one").expect("of an input").1.map(|_| ()), us),
                    is_told(polled(tasks.next()).expect("an error").map(|_| ()), us),
                    is_told(loans.call_loan(loan).map(|_| ()), us),
                    is_told(handle.call(&1).map(|_| ()), us),
                    is_told(polled(handle.call_async(1)).map(|_| ()), us),
                    is_told(own.try_take().expect("an error").map(|_| ()), us),
                    is_told(own_reply.into_owned().map(|_| ()), us),
                    is_told(polled(any_order.next()).expect("one").expect("of an input").1.map(|_| ()), us),
                ];
                said.push(format!("{} {} {printed} {ready}", shown.is_err(), filled.is_err()));
                drop((reply, pending, future, stream, unordered, tasks, handle, own, any_order));
                said.join(" ")
            });
            assert_eq!(
                child.said(),
                "told true told told told told told told told told told told told true true true true",
                "{way:?}"
            );
            let (reply, pending, future, mut stream, mut unordered, mut tasks, loan) =
                kept.take().expect("the parent's");
            assert_eq!((*reply, *pending.wait().expect("an answer")), (2.into(), 3.into()));
            assert_eq!(*pollster::block_on(future).expect("an answer"), 4);
            assert_eq!(stream.next().expect("one").expect("an answer"), 12);
            let mut rest: Vec<u64> =
                unordered.by_ref().map(|item| item.expect("an item").1.expect("an answer")).collect();
            rest.sort_unstable();
            assert_eq!(rest.len(), 39);
            let next = pollster::block_on(tasks.next()).expect("one").expect("an answer");
            assert!((71..=72).contains(&next), "{next}: the first may have been there at once");
            assert!(loans.call_loan(loan).expect("an answer").iter().all(|&number| number == 0.5));
            let (handle, own, own_reply, mut any_order) = of_handle.take().expect("the parent's");
            assert_eq!((*own_reply, *own.wait().expect("an answer")), (6.into(), 5.into()));
            let (index, outcome) = pollster::block_on(any_order.next()).expect("one").expect("of an input");
            assert_eq!(outcome.expect("an answer"), 81 + index as u64);
            assert_eq!(*handle.call(&1).expect("an answer"), 2);
            drop((reply, stream, unordered, tasks, handle, own_reply, any_order));
            wait_until("all permits are free", || server.backlog() == 0 && loans.backlog() == 0);
            name.assert_consistent();
        }
        // As the end of a child's `main`: the server itself is dropped, and so is all it has.
        for way in WAYS {
            let (mut server, mut loans) =
                (Some(std::ptr::from_ref(&server)), Some(std::ptr::from_ref(&loans)));
            let child = Child::start(way, || {
                // SAFETY: the child's copies, which nothing else in the child uses.
                let servers =
                    unsafe { (server.take().expect("one").read(), loans.take().expect("one").read()) };
                drop(servers);
                "dropped".into()
            });
            assert_eq!(child.said(), "dropped");
        }
        assert_eq!(*server.call(&1).expect("ours"), 2);
        drop((server, loans));
        name.assert_nothing_left();
        large.assert_nothing_left();
    });
}

#[test]
fn many_children_call_while_the_parent_calls() {
    alone("fork::many_children_call_while_the_parent_calls", || {
        let name = Name::new("many");
        let server = start(&name);
        let (us, over) = (std::process::id(), AtomicBool::new(false));
        let answers = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for caller in 0..2_u64 {
                let (server, over, answers) = (&server, &over, &answers);
                scope.spawn(move || {
                    let mut number = caller << 32;
                    while !over.load(Ordering::SeqCst) {
                        assert_eq!(*server.call(&number).expect("an answer"), number + 1, "another's answer");
                        number += 1;
                        answers.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            for round in 0..20 {
                let children: Vec<Child> = (0..4)
                    .map(|_| {
                        Child::start(Way::Fork, || {
                            let wrong = (0..50)
                                .map(|n| is_told(server.call(&n).map(|reply| *reply), us))
                                .find(|said| said != "told");
                            let outcomes: Vec<_> = server.stream(0..50).collect();
                            assert_eq!(outcomes.len(), 50);
                            let stream = outcomes.into_iter().map(|outcome| is_told(outcome, us));
                            wrong.or({ stream }.find(|said| said != "told")).unwrap_or_default()
                        })
                    })
                    .collect();
                for child in children {
                    assert_eq!(child.said(), "", "round {round}");
                }
            }
            over.store(true, Ordering::SeqCst);
        });
        assert!(answers.load(Ordering::SeqCst) > 0);
        assert_eq!(server.backlog(), 0);
        name.assert_consistent();
    });
}

/// Every lock of the engine's may be held by a thread that does not exist in the child.
#[test]
fn a_child_waits_for_no_lock_of_the_parents_threads() {
    alone("fork::a_child_waits_for_no_lock_of_the_parents_threads", || {
        let name = Name::new("locks");
        let server = Server::builder(name.text())
            .capacity(4)
            .start(ThreadServlet::<Successor>::new(()))
            .expect("a server");
        let (us, over) = (std::process::id(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let (server, over) = (&server, &over);
            // Cancels, waits for permits, the reactor's line and watches, sweeps: all at once.
            for _ in 0..2 {
                scope.spawn(move || {
                    while !over.load(Ordering::SeqCst) {
                        drop(server.submit(&1));
                        let mut future = Box::pin(server.call_async(&2));
                        let _ = future.as_mut().poll(&mut Task::from_waker(Waker::noop()));
                        drop(future);
                        let _ = (server.backlog(), server.debug_info());
                        for outcome in server
                            .stream_with(
                                0..8,
                                ringmill::StreamOptions::new().timeout(Duration::from_secs(60)),
                            )
                            .unordered()
                        {
                            let _ = outcome;
                        }
                    }
                });
            }
            for _ in 0..100 {
                let child = Child::start(Way::Fork, || {
                    let mut said = vec![
                        is_told(server.call(&1).map(|_| ()), us),
                        is_told(server.submit(&1).map(|_| ()), us),
                        is_told(polled(server.call_async(&1)).map(|_| ()), us),
                    ];
                    for (_, outcome) in Streamed::Unordered.outcomes(server, 0..9) {
                        said.push(is_told(outcome, us));
                    }
                    said.retain(|said| said != "told");
                    let _ = (server.backlog(), server.debug_info(), server.stats());
                    server.shutdown();
                    said.join(" ")
                });
                assert_eq!(child.said(), "");
            }
            over.store(true, Ordering::SeqCst);
        });
    });
}

#[test]
fn a_child_can_have_a_server_of_its_own() {
    alone("fork::a_child_can_have_a_server_of_its_own", || {
        let (name, other) = (Name::new("parents"), Name::new("childs"));
        let server = start(&name);
        for way in WAYS {
            let child = Child::start(way, || {
                let taken = Server::builder(name.text()).start(ProcessServlet::<Successor>::new(()));
                let taken = taken.map(|_| ()).expect_err("it is the parent's").to_string();
                let own = start(&other);
                let mut said = vec![
                    format!("{}", taken.contains(&std::os::unix::process::parent_id().to_string())),
                    format!("{}", *own.call(&1).expect("an answer")),
                    format!("{}", *pollster::block_on(own.call_async(&2)).expect("an answer")),
                    is_told(server.call(&1).map(|_| ()), std::os::unix::process::parent_id()),
                ];
                // A grandchild belongs to neither.
                let grandchild = Child::start(way, || {
                    let asked = is_told(own.call(&1).map(|_| ()), std::os::unix::process::parent_id());
                    format!("{asked} {}", server.call(&1).is_err())
                });
                said.push(grandchild.said());
                said.push(format!("{}", *own.call(&3).expect("an answer")));
                drop(own);
                said.join(" ")
            });
            assert_eq!(child.said(), "true 2 3 told told true 4", "{way:?}");
            other.assert_nothing_left();
        }
        assert_eq!(*server.call(&1).expect("ours"), 2);
        drop(server);
        name.assert_nothing_left();
    });
}

/// A service that starts its server and then becomes a daemon: the parent leaves.
#[test]
fn a_daemon_gets_the_error_and_keeps_neither_name_nor_files() {
    alone("fork::a_daemon_gets_the_error_and_keeps_neither_name_nor_files", || {
        let name = Name::new("daemon");
        let (held, hold) = std::io::pipe().expect("a pipe");
        let (mut told, tell) = std::io::pipe().expect("a pipe");
        let parent = Way::Fork.make();
        if parent == 0 {
            let server = start(&name);
            let us = std::process::id();
            if Way::Fork.make() == 0 {
                drop(hold);
                let said = is_told(server.call(&1).map(|_| ()), us);
                let _ = { tell }.write_all(said.as_bytes());
                let _ = { held }.read(&mut [0]); // it lives on
            }
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) }
        }
        let mut status = 0;
        // SAFETY: a child of ours, and a live integer to fill.
        assert_eq!(unsafe { libc::waitpid(parent, &raw mut status, 0) }, parent);
        assert_eq!(status, 0);
        drop(tell);
        let mut said = [0; 4];
        told.read_exact(&mut said).expect("words");
        assert_eq!(&said, b"told");
        // The daemon lives. Its workers have left, and the last one has removed the files; or a start does.
        wait_until("the name is free", || {
            match Server::builder(name.text()).start(ProcessServlet::<Successor>::new(())) {
                Ok(again) => *again.call(&1).expect("an answer") == 2,
                Err(StartError::Segment(_)) => false,
                Err(other) => panic!("{other}"),
            }
        });
        name.assert_nothing_left();
        drop(hold); // now it may end
    });
}

/// A child that lives on has the memory of its parent's anonymous server, and none of its leases; it ends with the child.
#[test]
fn a_child_of_an_anonymous_server_keeps_its_memory_alone() {
    alone("fork::a_child_of_an_anonymous_server_keeps_its_memory_alone", || {
        let name = Name::label("memory");
        let server = name.builder().start(ProcessServlet::<Successor>::new(())).expect("it starts");
        assert_eq!(*server.call(&1).expect("an answer"), 2);
        let (held, hold) = std::io::pipe().expect("a pipe");
        let us = std::process::id();
        let child = Child::start(Way::Fork, || {
            let said = is_told(server.call(&1).map(|_| ()), us);
            let _ = (&held).read(&mut [0]); // until the parent lets go
            said
        });
        assert!(name.is_live());
        assert_eq!(*server.call(&2).expect("the parent goes on"), 3);
        drop(server);
        wait_until("the child to have closed the lease", || !name.is_live());
        assert!(!name.is_clean(), "the child alone has it");
        (&hold).write_all(&[1]).expect("it waits");
        assert_eq!(child.said(), "told");
        name.assert_nothing_left();
    });
}

/// `Command` makes children that share memory (`posix_spawn`) until they exec; nothing is noticed.
#[test]
fn programs_are_started_as_ever() {
    alone("fork::programs_are_started_as_ever", || {
        let name = Name::new("spawns");
        let server = start(&name);
        for _ in 0..5 {
            let status = std::process::Command::new("true").status().expect("true");
            assert!(status.success());
            assert_eq!(*server.call(&1).expect("an answer"), 2);
        }
    });
}

/// The ways to consume a stream.
#[derive(Debug, Clone, Copy)]
enum Streamed {
    Plain,
    WithInputs,
    Unordered,
    UnorderedWithInputs,
    Asynchronous,
    AsynchronousWithInputs,
    AsynchronousUnordered,
}

const STREAMS: [Streamed; 7] = [
    Streamed::Plain,
    Streamed::WithInputs,
    Streamed::Unordered,
    Streamed::UnorderedWithInputs,
    Streamed::Asynchronous,
    Streamed::AsynchronousWithInputs,
    Streamed::AsynchronousUnordered,
];

/// A number that is sent, and its outcome.
type Numbered = (u64, Result<u64, CallError>);

fn of_input<T>(item: Result<T, CallError>) -> T {
    item.expect("it befalls inputs, not the stream")
}

fn of_index<T>(item: Result<(usize, T), CallError>) -> (u64, T) {
    let (index, outcome) = of_input(item);
    (index as u64, outcome)
}

impl Streamed {
    /// A stream of the numbers from 0 on, with a few in progress.
    fn begin<'s, I>(self, server: &'s Server<u64, u64>, numbers: I) -> Box<dyn Iterator<Item = Numbered> + 's>
    where
        I: Iterator<Item = u64> + 's,
    {
        let few = ringmill::StreamOptions::new().window(8);
        match self {
            Self::Plain => Box::new((0..).zip(server.stream_with(numbers, few))),
            Self::WithInputs => Box::new(server.stream_with(numbers, few).with_inputs().map(of_input)),
            Self::Unordered => Box::new(server.stream_with(numbers, few).unordered().map(of_index)),
            Self::UnorderedWithInputs => {
                Box::new(server.stream_with(numbers, few).with_inputs().unordered().map(of_input))
            }
            Self::Asynchronous => {
                let mut outcomes = server.stream_async_with(futures_util::stream::iter(numbers), few);
                Box::new((0..).zip(std::iter::from_fn(move || pollster::block_on(outcomes.next()))))
            }
            Self::AsynchronousWithInputs => {
                let outcomes = server.stream_async_with(futures_util::stream::iter(numbers), few);
                let mut items = outcomes.with_inputs();
                Box::new(std::iter::from_fn(move || pollster::block_on(items.next())).map(of_input))
            }
            Self::AsynchronousUnordered => {
                let outcomes = server.stream_async_with(futures_util::stream::iter(numbers), few);
                let mut items = outcomes.unordered();
                Box::new(std::iter::from_fn(move || pollster::block_on(items.next())).map(of_index))
            }
        }
    }

    /// All of it, in the order of the inputs.
    fn outcomes(self, server: &Server<u64, u64>, numbers: impl Iterator<Item = u64>) -> Vec<Numbered> {
        self.rest(&mut self.begin(server, numbers))
    }

    fn rest(self, stream: &mut dyn Iterator<Item = Numbered>) -> Vec<Numbered> {
        let mut all: Vec<_> = stream.collect();
        assert!(stream.next().is_none(), "{self:?} is over");
        all.sort_by_key(|(number, _)| *number);
        all
    }
}

/// Symptom: a stream that a forked child went on reading gave one error and then `None`, which looked complete: `collect` and
/// `zip` lost the other inputs in silence. Cause: the error was the stream's. Fix: it is each input's.
#[test]
fn a_child_has_an_error_for_each_input_of_a_stream() {
    alone("fork::a_child_has_an_error_for_each_input_of_a_stream", || {
        let name = Name::new("each");
        let server = start(&name);
        let us = std::process::id();
        for (way, streamed) in WAYS.into_iter().flat_map(|way| STREAMS.map(|streamed| (way, streamed))) {
            let mut stream = streamed.begin(&server, 0..40);
            let mut taken: Vec<u64> = (0..3)
                .map(|_| {
                    let (number, outcome) = stream.next().expect("one");
                    assert_eq!(outcome.expect("an answer"), number + 1);
                    number
                })
                .collect();
            let child = Child::start(way, || {
                let rest = streamed.rest(&mut stream);
                taken.extend(rest.iter().map(|(number, _)| number));
                taken.sort_unstable();
                assert!(taken.iter().copied().eq(0..40), "{taken:?}");
                let untold = rest.into_iter().map(|(_, outcome)| is_told(outcome, us));
                { untold }.find(|said| said != "told").unwrap_or_default()
            });
            assert_eq!(child.said(), "", "{way:?} {streamed:?}");
            for (number, outcome) in streamed.rest(&mut stream) {
                assert_eq!(outcome.expect("an answer"), number + 1, "{way:?} {streamed:?}");
            }
            drop(stream);
            assert_eq!(server.backlog(), 0, "{way:?} {streamed:?}");
        }
        // An input that had failed before the fork keeps its own error. Inputs 2 and 3 have: while the stream waits for one, it has
        // pulled at least two more.
        let refuse =
            |&number: &u64| if [0, 2, 3].contains(&number) { Err(BoxError::msg("no")) } else { Ok(number) };
        let few = ringmill::StreamOptions::new().window(8);
        let mut stream = server.stream_prepared_with(0..20, refuse, few);
        assert!(matches!(stream.next(), Some(Err(CallError::Refused(_)))));
        assert!(matches!(stream.next(), Some(Ok(2))));
        for way in WAYS {
            let said = Child::start(way, || {
                let told = |outcome| match outcome {
                    Err(CallError::Refused(error)) => error.to_string(),
                    other => is_told(other, us),
                };
                stream.by_ref().map(told).collect::<Vec<_>>().join(" ")
            });
            assert_eq!(said.said(), format!("no no{}", " told".repeat(16)), "{way:?}");
        }
        assert_eq!(stream.filter(Result::is_ok).count(), 16);
        assert_eq!(server.backlog(), 0);
        name.assert_consistent();
    });
}

/// Where the caller forks, of its own code that a stream runs, and at which number.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Within {
    Source,
    Prepare,
    Serialise,
}

thread_local! {
    /// The number whose serialisation forks.
    static FORKS_AT: Cell<Option<u64>> = const { Cell::new(None) };
    /// The child that was forked, or 0 in it; -1 before.
    static FORKED: Cell<i32> = const { Cell::new(-1) };
    /// The event that the child waits for before it goes on.
    static WAITS: Cell<Option<std::io::PipeReader>> = const { Cell::new(None) };
}

fn fork_once() {
    if FORKED.get() == -1 {
        FORKED.set(Way::Fork.make());
    }
}

/// A number whose serialisation may fork.
#[derive(Debug, Archive, Serialize, Deserialize)]
struct Forking(#[rkyv(with = Splits)] u64);

struct Splits;

impl ArchiveWith<u64> for Splits {
    type Archived = Archived<u64>;
    type Resolver = ();

    fn resolve_with(number: &u64, (): (), out: Place<Archived<u64>>) {
        number.resolve((), out);
    }
}

impl<S: Fallible + ?Sized> SerializeWith<u64, S> for Splits {
    fn serialize_with(number: &u64, _: &mut S) -> Result<(), S::Error> {
        if FORKS_AT.get() == Some(*number) {
            fork_once();
            if let Some(mut until) = WAITS.take().filter(|_| FORKED.get() == 0) {
                until.read_exact(&mut [0]).expect("its parent lets it go on");
            }
        }
        Ok(())
    }
}

impl<D: Fallible + ?Sized> DeserializeWith<Archived<u64>, u64, D> for Splits {
    fn deserialize_with(number: &Archived<u64>, _: &mut D) -> Result<u64, D::Error> {
        Ok(number.to_native())
    }
}

/// Symptom: answers of the parent were another request's. Cause: a child that was forked within `Serialize` returned, and wrote
/// its root into a request that the parent had reused by then. Fix: the writer asks which process it is in.
#[test]
fn a_child_forked_within_serialize_writes_nothing() {
    alone("fork::a_child_forked_within_serialize_writes_nothing", || {
        let name = Name::new("serialise");
        let server: Server<Forking, Forking> = Server::builder(name.text())
            .capacity(1)
            .start(ProcessServlet::<PassThrough<Forking>>::new(()))
            .expect("a server");
        let us = std::process::id();
        let (until, mut go_on) = std::io::pipe().expect("a pipe");
        WAITS.set(Some(until));
        FORKED.set(-1);
        FORKS_AT.set(Some(1));
        let first = server.call(&Forking(1));
        if FORKED.get() == 0 {
            let told = is_told(first.map(drop), us) == "told";
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(!told)) }
        }
        assert_eq!(first.expect("an answer").0.to_native(), 1);
        let second = server.call(&Forking(2)).expect("the same permit again");
        go_on.write_all(&[1]).expect("the child waits");
        let mut status = 0;
        // SAFETY: a child of ours, and a live integer to fill.
        unsafe { libc::waitpid(FORKED.get(), &raw mut status, 0) };
        assert_eq!((status, second.0.to_native()), (0, 2));
        drop(second);
        assert_eq!(server.backlog(), 0);
        name.assert_consistent();
    });
}

/// A child of the caller, forked in user code that a stream runs: it has an outcome for each input, but no value that came
/// after the fork, and the parent's stream goes on.
#[test]
fn a_child_forked_within_a_stream_gets_the_error() {
    alone("fork::a_child_forked_within_a_stream_gets_the_error", || {
        let name = Name::new("within");
        let server: Server<Forking, Forking> = Server::builder(name.text())
            .start(ProcessServlet::<PassThrough<Forking>>::new(()))
            .expect("a server");
        let us = std::process::id();
        const ALL: u64 = 40;
        for (within, at) in [Within::Source, Within::Prepare, Within::Serialise]
            .into_iter()
            .flat_map(|within| [0, 7, 20, ALL - 1].map(|at| (within, at)))
        {
            for streamed in STREAMS {
                let what = format!("{within:?} {at} {streamed:?}");
                FORKED.set(-1);
                FORKS_AT.set((within == Within::Serialise).then_some(at));
                let numbers = (0..ALL).inspect(move |&number| {
                    if within == Within::Source && number == at {
                        fork_once();
                    }
                });
                let prepare = move |&number: &u64| {
                    if within == Within::Prepare && number == at {
                        fork_once();
                    }
                    Ok::<_, BoxError>(Forking(number))
                };
                let stream = server.stream_prepared(numbers.clone(), prepare);
                let (mut said, say) = std::io::pipe().expect("a pipe");
                let mut outcomes: Vec<(u64, Result<Forking, CallError>)> = match streamed {
                    Streamed::Plain => (0..).zip(stream).collect(),
                    Streamed::WithInputs => stream.with_inputs().map(of_input).collect(),
                    Streamed::Unordered => stream.unordered().map(of_index).collect(),
                    Streamed::UnorderedWithInputs => stream.with_inputs().unordered().map(of_input).collect(),
                    // Nothing is prepared there; the source does it.
                    asynchronous => {
                        let inputs = numbers.map(|number| prepare(&number).expect("an input"));
                        let stream = server.stream_async(futures_util::stream::iter(inputs));
                        pollster::block_on(async {
                            match asynchronous {
                                Streamed::AsynchronousWithInputs => {
                                    let items = stream.with_inputs().map(of_input);
                                    items.map(|(input, outcome)| (input.0, outcome)).collect::<Vec<_>>().await
                                }
                                Streamed::AsynchronousUnordered => {
                                    stream.unordered().map(of_index).collect().await
                                }
                                _ => (0..).zip(stream.collect::<Vec<_>>().await).collect(),
                            }
                        })
                    }
                };
                outcomes.sort_by_key(|(number, _)| *number);
                let complete = outcomes.iter().map(|(number, _)| *number).eq(0..ALL);
                if FORKED.get() == 0 {
                    let told = |outcome: Result<Forking, CallError>| is_told(outcome, us) == "told";
                    let (mut own, mut others, mut wrong) = (0, 0, 0);
                    for (number, outcome) in outcomes {
                        match outcome {
                            Ok(value) if value.0 == number => own += 1,
                            other => *(if told(other) { &mut others } else { &mut wrong }) += 1,
                        }
                    }
                    let text = if complete && wrong == 0 && others > 0 {
                        String::new()
                    } else {
                        format!("complete {complete}, own {own}, told {others}, wrong {wrong}")
                    };
                    let _ = { say }.write_all(text.as_bytes());
                    // SAFETY: ends the child.
                    unsafe { libc::_exit(0) }
                }
                assert!(FORKED.get() > 0, "{what}");
                // SAFETY: a child of ours.
                unsafe { libc::waitpid(FORKED.get(), std::ptr::null_mut(), 0) };
                drop(say);
                let mut text = String::new();
                said.read_to_string(&mut text).expect("words");
                assert_eq!(text, "", "{what}: the child");
                assert!(complete, "{what}");
                for (number, outcome) in outcomes {
                    assert_eq!(outcome.expect("an answer").0, number, "{what}");
                }
                assert_eq!(server.backlog(), 0, "{what}");
            }
        }
        name.assert_consistent();
    });
}

/// A child forked by another thread while a call waits asleep: the call is answered.
#[test]
fn a_call_in_flight_is_answered_in_the_parent_alone() {
    alone("fork::a_call_in_flight_is_answered_in_the_parent_alone", || {
        let (name, directory) = (Name::new("flight"), tempfile::tempdir().expect("a directory"));
        let path = directory.path().join("held");
        std::fs::write(&path, "").expect("a file");
        let server = Server::builder(name.text()).start(ProcessServlet::<Holder>::new(())).expect("a server");
        let us = std::process::id();
        let text = path.to_str().expect("text").to_owned();
        std::thread::scope(|scope| {
            let (server, text) = (&server, &text);
            let call = scope.spawn(move || *server.call(text).expect("an answer"));
            wait_until("it is at work", || server.debug_info().requests.iter().any(|r| r.phase == "claimed"));
            for way in WAYS {
                let said = Child::start(way, || {
                    server.shutdown();
                    is_told(server.call(text).map(|_| ()), us)
                });
                assert_eq!(said.said(), "told");
            }
            std::fs::remove_file(&path).expect("it is there");
            assert!(call.join().expect("no panic").to_native() > 0);
        });
        name.assert_consistent();
    });
}
