//! Waiting for an instant without using a CPU all the time, and without being late.

use std::hint;
use std::thread;
use std::time::{Duration, Instant};

/// How long before the instant the sleep ends and the spin begins: longer than a timer needs to wake a CPU that has
/// halted.
const EARLY: Duration = Duration::from_micros(100);

/// Returns at `due`, or at once if it is over.
pub fn until(due: Instant) {
    let left = due.saturating_duration_since(Instant::now());
    // A much shorter nap would only measure falling asleep.
    if left > 2 * EARLY {
        thread::sleep(left - EARLY); // the wait itself is the point
    }
    while Instant::now() < due {
        hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_never_early() {
        for left in [0, 50, 500] {
            let due = Instant::now() + Duration::from_micros(left);
            until(due);
            assert!(Instant::now() >= due);
        }
    }
}
