//! Panics of user code, caught with their message, place and stack.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::{Cell, RefCell};
use std::panic::{UnwindSafe, catch_unwind};
use std::sync::Once;

use crate::error::RemoteCause;

thread_local! {
    /// Whether this thread is a worker's, whose panics we catch and report.
    static WATCHED: Cell<bool> = const { Cell::new(false) };
    /// What the hook saw: message and place, stack.
    static SEEN: RefCell<Option<(String, Option<String>)>> = const { RefCell::new(None) };
}

/// Makes the panic hook record, and not print, panics of this thread; those of others go to the hook that
/// was there before.
pub(crate) fn watch_this_thread() {
    WATCHED.set(true);
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let former = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !WATCHED.get() {
                return former(info);
            }
            let place = info.location().map_or(String::new(), |l| format!(" at {l}"));
            let message = format!("{}{place}", text_of(info.payload()));
            let stack = Backtrace::capture();
            let stack = (stack.status() == BacktraceStatus::Captured).then(|| stack.to_string());
            SEEN.set(Some((message, stack)));
        }));
    });
}

fn text_of(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("a value that is no text")
}

/// Runs user code on a watched thread; a panic becomes an error value.
#[inline]
pub(crate) fn caught<T>(code: impl FnOnce() -> T + UnwindSafe) -> Result<T, RemoteCause> {
    catch_unwind(code).map_err(|payload| seen(&*payload))
}

#[cold]
fn seen(payload: &(dyn Any + Send)) -> RemoteCause {
    let (message, backtrace) = SEEN.take().unwrap_or_else(|| (text_of(payload).into(), None));
    RemoteCause::Panicked { message, backtrace }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_with_its_place() {
        watch_this_thread();
        let Err(RemoteCause::Panicked { message, .. }) = caught(|| panic!("number {}", 7)) else { panic!() };
        assert!(message.starts_with("number 7 at ") && message.contains("panics.rs"), "{message}");
        assert_eq!(caught(|| 5), Ok(5));
    }
}
