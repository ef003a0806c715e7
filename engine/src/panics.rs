//! User code that the engine calls: where it runs, and why its panic costs nothing but its own item.
//!
//! # Where user code runs
//!
//! *Caught*: the engine catches the panic, and it becomes what the table says. *Goes through*: it unwinds into the
//! user's code that called the engine; the engine's state was put in order before, or a guard does so when it is
//! dropped.
//!
//! | User code | Runs in | Its panic |
//! |---|---|---|
//! | the set-up of an `init!` | the first thread of a worker's process | caught: the worker could not be built |
//! | `new`, `warm_up`, `terms`; the configuration's `CheckBytes`, `Deserialize` | the worker's thread | caught: the worker could not be built |
//! | `call` of a `BatchWorker` | the worker's thread | caught: the error of each item that has no answer |
//! | `call` of a `Worker`, `preprocess` and the `Into<BoxError>` of its error | the worker's thread | caught: its item's error |
//! | an outcome's `Serialize`, `resolve`, `Drop` in `reply_all` and of a `Worker` | the worker's thread | caught: its item's error, unless that has its answer |
//! | the same in `Item::reply`; the outcomes' iterator; an input's `Deserialize` in `input_owned` | within `call` | goes through `call`, see there |
//! | an input's `CheckBytes` | the worker's thread | caught: its item's error |
//! | an error's `Display`, `source` | the worker's thread, or the thread that prints the error | caught: its message says so |
//! | an error's `Drop` | the worker's thread | caught: nothing |
//! | `cleanup`, the worker's `Drop` | the worker's thread | caught: logged by the service |
//! | a listener of the log | any thread of the engine, that of its workers' events among them | caught: nothing ([`say`]) |
//! | a function that is told the progress of a start | the thread that starts the server | goes through; the start is undone |
//! | a switch's function; its input's `CheckBytes` | the thread that moves the item on | caught: its item's error |
//! | the `Drop` of a switch's function | the last thread that drops the server, unless the servlet lives longer | caught: nothing |
//! | a waker's `wake` and `drop` | the [`reactor`](crate::client::reactor), the thread of an asynchronous start; `drop` also where a future is polled or dropped | caught: logged, or nothing |
//! | a waker's `clone` | where a future is polled | goes through the poll, before the poll has changed anything |
//! | an input's `Serialize`, and its `Drop` where it is passed by value | `call`, `submit` and the like, a future's poll | goes through; [`Filled`](crate::client::Filled) gives the request back |
//! | a stream's source: `next`, `poll_next`, `Drop` | where the stream is asked for the next outcome | goes through; the stream has taken nothing from the source |
//! | a stream's `prepare`, its inputs' `Serialize` and `Drop` | the same | goes through at once; the input keeps its turn ([`stream`](crate::client::stream)) |
//! | an outcome's `CheckBytes`, `Deserialize` | where it is read | goes through, in the outcome's turn; its request is given back |
//! | the `Drop` of a panic's payload | the thread that catches the panic | caught: the payload is forgotten |
//! | the panic hook | the thread that panics | the standard library aborts the process, and the engine cannot prevent it |
//!
//! A panic that is caught is not printed: the error of its items has its message and location. A panic hook that a set-up
//! has installed sees it, as it was installed for worker processes alone. The service logs the first
//! one of each worker, of its `call`, its inputs or its outcomes, since callers may keep their errors to themselves.
//!
//! A panic while the same thread unwinds from another one (a `Drop` that panics, say) aborts the process, as everywhere
//! in Rust; so does a panic in a thread-local variable's `Drop`. To the engine that is the death of a process.
//!
//! User code may call this server, or any other: the engine holds no lock and borrows no `RefCell` while user code
//! runs. It may be slow where only its own caller waits for it. On the supervisor's thread it must be quick: listeners
//! of the log, and switch functions when a worker has died. Wakers may block: see the
//! [`reactor`](crate::client::reactor).

use crate::text::OneLine;
use ringmill_shm::sys::birth::Birth;
use ringmill_shm::sys::process::end_with;
use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, PanicHookInfo, UnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

thread_local! {
    /// Whether this thread is a worker's, whose panics the engine catches and reports.
    static WATCHED: Cell<bool> = const { Cell::new(false) };
    /// What the hook recorded: message with location, stack.
    static SEEN: RefCell<Option<(String, Option<String>)>> = const { RefCell::new(None) };
}

/// A panic hook.
type Hook = Box<dyn Fn(&PanicHookInfo<'_>) + Send + Sync>;

/// The address of the hook that was installed last; 0: none was.
static OURS: AtomicUsize = AtomicUsize::new(0);

fn address_of(hook: &Hook) -> usize {
    (&raw const **hook).addr()
}

/// Makes the panic hook record panics of this thread instead of printing them; panics of other threads go to the
/// previous hook.
pub(crate) fn watch_this_thread() {
    WATCHED.set(true);
    // No `Once`: in a child that was forked meanwhile, there is no thread that would complete it.
    static DONE: AtomicBool = AtomicBool::new(false);
    if !DONE.swap(true, Ordering::SeqCst) {
        record_before(std::panic::take_hook(), false);
    }
}

/// Runs code during which this thread is watched as a worker's thread is.
pub(crate) fn watched<T>(code: impl FnOnce() -> T) -> T {
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            WATCHED.set(self.0);
        }
    }
    let _before = Before(WATCHED.get());
    watch_this_thread();
    code()
}

/// After a set-up: if that has installed a panic hook, panics of watched threads are recorded again, and go to that hook
/// too.
pub(crate) fn keep_watching() {
    let hook = std::panic::take_hook();
    match address_of(&hook) == OURS.load(Ordering::SeqCst) {
        true => std::panic::set_hook(hook),
        false => record_before(hook, true),
    }
}

/// Installs a hook that records panics of watched threads. Those of other threads go to `former`, and if `former_sees_all`
/// those of watched threads do so too.
fn record_before(former: Hook, former_sees_all: bool) {
    let hook: Hook = Box::new(move |info| {
        if WATCHED.get() {
            record(info);
        }
        if former_sees_all || !WATCHED.get() {
            former(info);
        }
    });
    OURS.store(address_of(&hook), Ordering::SeqCst); // its own, since it has captures
    std::panic::set_hook(hook);
}

fn record(info: &PanicHookInfo<'_>) {
    let location = info.location().map_or(String::new(), |l| format!(" at {l}"));
    let message = format!("{}{location}", text_of(info.payload()));
    let stack = Backtrace::capture();
    let stack = (stack.status() == BacktraceStatus::Captured).then(|| text_of_stack(&stack));
    // A thread that is about to end has nowhere to record it, and a panic here would abort.
    let _ = SEEN.try_with(|seen| seen.try_borrow_mut().map(|mut seen| *seen = Some((message, stack))));
}

/// A panic's stack as the standard library prints it: whole for `RUST_BACKTRACE=full`, else without the frames of the panic
/// itself, and without those that called the user's code.
fn text_of_stack(stack: &Backtrace) -> String {
    if std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value == "full") {
        return format!("{stack:#}");
    }
    let whole = stack.to_string();
    Some(short(&whole)).filter(|short| !short.is_empty()).unwrap_or(whole)
}

/// The frames between the marks that the standard library looks for, up to the engine's that called the user's code, counted
/// from 0. None are left where the program has no symbols.
fn short(stack: &str) -> String {
    let mut shown = String::new();
    let (mut is_shown, mut is_of_mark, mut frames) = (false, false, 0);
    for line in stack.lines() {
        // A function that was inlined into the next one has no number.
        let (number, name) = match line.split_once(": ") {
            Some((number, name)) if number.trim_start().parse::<u32>().is_ok() => (Some(frames), name),
            _ => (None, line.trim_start()),
        };
        if !name.starts_with("at ") {
            let is_end = name.contains("__rust_end_short_backtrace");
            is_of_mark = is_end || begins_below(name);
            is_shown = is_end || (is_shown && !is_of_mark);
        }
        if !is_shown || is_of_mark {
            continue;
        }
        if !shown.is_empty() {
            shown.push('\n');
        }
        match number {
            Some(number) => shown.push_str(&format!("{number:4}: {name}")),
            None => shown.push_str(line),
        }
        frames += u32::from(number.is_some());
    }
    shown
}

/// Whether a function of this name calls user code. A mark of our own would cost 2% of each call: a function that is not
/// inlined.
fn begins_below(name: &str) -> bool {
    let callers = ["ringmill::worker::collect::", "ringmill::worker::life::"];
    let path = name.trim_start_matches('<');
    name.contains("__rust_begin_short_backtrace") || callers.iter().any(|caller| path.starts_with(caller))
}

fn text_of(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("a value that is no text")
}

/// A panic that was caught.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Panic {
    /// Its message and location.
    pub(crate) message: String,
    /// The stack, if `RUST_BACKTRACE` asked for it.
    pub(crate) backtrace: Option<String>,
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "panicked: {}", OneLine(&self.message))
    }
}

/// Runs user code; its panic becomes an error value, on a watched thread with location and stack. If the code forks,
/// the child ends here.
#[inline]
pub(crate) fn caught<T>(code: impl FnOnce() -> T + UnwindSafe) -> Result<T, Panic> {
    let birth = Birth::here();
    let outcome = catch_unwind(code);
    end_if_forked(birth);
    outcome.map_err(seen)
}

/// Ends this process if it is not the process of `birth` but was forked from it, by user code that a thread of the
/// engine called: the parent does what this thread would do next.
#[inline(always)]
pub(crate) fn end_if_forked(birth: Birth) {
    if !birth.is_here() {
        end_forked();
    }
}

#[cold]
#[inline(never)]
fn end_forked() -> ! {
    end_with(format_args!(
        "ringmill: user code that the engine called has forked, and its child, process {}, has returned from it, which \
         only its parent can: the child ends here. Let it exec a program, or end it with _exit\n",
        std::process::id(),
    ))
}

/// Runs user code whose panic is of no consequence.
pub(crate) fn quietly(code: impl FnOnce()) {
    let _ = caught(AssertUnwindSafe(code));
}

/// Drops what user code has made.
#[inline]
pub(crate) fn let_go<T>(value: T) {
    if const { std::mem::needs_drop::<T>() } {
        quietly(|| drop(value));
    }
}

/// Writes to the log. Its listeners are user code, so their panics are caught.
pub(crate) fn say(log: impl FnOnce()) {
    quietly(log);
}

/// The result of a thread that has ended; `None` if it panicked.
pub(crate) fn joined<T>(thread: JoinHandle<T>) -> Option<T> {
    thread.join().map_err(seen).ok()
}

#[cold]
fn seen(payload: Box<dyn Any + Send>) -> Panic {
    let text = text_of(&*payload);
    // The record may be of an earlier panic, which user code caught itself.
    let is_of_this = |(message, _): &(String, _)| message.starts_with(text);
    let recorded = SEEN.try_with(|seen| seen.try_borrow_mut().ok()?.take()).ok().flatten();
    let (message, backtrace) = recorded.filter(is_of_this).unwrap_or_else(|| (text.into(), None));
    // The payload may panic when it is dropped; the payload of that panic is forgotten.
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(another);
    }
    Panic { message, backtrace }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_reported_with_its_location() {
        watch_this_thread();
        let caught_one: Result<(), _> = caught(|| panic!("number {}", 7));
        let Panic { message, .. } = caught_one.expect_err("it panics");
        assert!(message.starts_with("number 7 at ") && message.contains("panics.rs"), "{message}");
        assert_eq!(caught(|| 5), Ok(5));
    }

    #[test]
    fn a_short_stack_is_what_lies_between_the_marks() {
        let stack = "   0: std::backtrace::Backtrace::create
   1: ringmill::panics::record
             at ./src/panics.rs:1:2
   2: std::sys::backtrace::__rust_end_short_backtrace
             at /rustc/0/library/std/src/sys/backtrace.rs:174:18
   3: core::panicking::panic_fmt
   4: app::inner
      app::outer
             at ./src/main.rs:7:9
   5: <ringmill::worker::collect::Loop<app::Model>>::work
             at ./src/worker/collect.rs:3:4
   6: app::main
   7: std::sys::backtrace::__rust_begin_short_backtrace";
        let shown = "   0: core::panicking::panic_fmt
   1: app::inner
      app::outer
             at ./src/main.rs:7:9";
        assert_eq!(short(stack), shown);
        assert_eq!(short("   0: <unknown>\n   1: <unknown>"), "");
        assert_eq!(short(""), "");
    }

    #[test]
    fn a_thread_is_watched_for_a_while() {
        let panics = || caught::<()>(|| panic!("of code")).expect_err("it panics").message;
        assert!(watched(|| watched(panics) + &panics()).matches("panics.rs").count() == 2);
        assert_eq!(panics(), "of code", "printed, and not recorded");
        assert!(catch_unwind(|| watched(|| panic!("through"))).is_err());
        assert_eq!(panics(), "of code");
    }

    /// Panics when it is dropped, and so does the payload of that panic.
    struct Stubborn(u32);

    impl Drop for Stubborn {
        fn drop(&mut self) {
            if self.0 > 0 {
                std::panic::panic_any(Self(self.0 - 1));
            }
        }
    }

    /// Symptom: a panic whose payload panics when it is dropped ended the thread that had caught it. Cause: the payload
    /// was dropped outside of `catch_unwind`. Fix: it is dropped inside, and the payload of a second panic is
    /// forgotten.
    #[test]
    fn a_panic_whose_payload_panics_ends_no_thread() {
        watch_this_thread();
        for depth in [1, 2, 5] {
            let panic = caught(|| std::panic::panic_any(Stubborn(depth))).expect_err("it panics");
            assert!(panic.to_string().contains("a value that is no text at "), "{panic}");
            assert_eq!(
                joined(std::thread::spawn(move || std::panic::panic_any(Stubborn(depth)))),
                None::<()>
            );
        }
        assert_eq!(caught(|| 5), Ok(5));
        let_go(Stubborn(2));
    }

    #[test]
    fn a_panic_that_user_code_caught_is_not_reported_as_another() {
        watch_this_thread();
        let _ = catch_unwind(|| panic!("the first"));
        let other = caught(|| std::panic::resume_unwind(Box::new("the second"))).expect_err("it panics");
        assert_eq!(other, Panic { message: "the second".into(), backtrace: None });
    }
}
