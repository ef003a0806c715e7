//! The short form of the soak (`ringmill_tests::soak`, program `soak`).

use ringmill_tests::alone::has_run_alone;
use ringmill_tests::fresh_name;
use ringmill_tests::soak::{Clerk, run};
use std::sync::atomic::AtomicU64;

ringmill::init!(Clerk);

#[test]
fn nothing_grows_and_nothing_is_left() {
    // Growth is measured of the whole process.
    if has_run_alone("soak::nothing_grows_and_nothing_is_left") {
        return;
    }
    let outcome = run(&fresh_name("soak"), 400_000, &AtomicU64::new(0)).expect("every value");
    assert_eq!(outcome.problems, Vec::<String>::new());
    assert_eq!(outcome.tenths.len(), 10);
}
