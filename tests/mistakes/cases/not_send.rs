//! A switch whose function has an `Rc`: several threads call it.

use ringmill::rkyv::Archived;
use ringmill::{PassThrough, Switch, ThreadServlet};
use std::rc::Rc;

fn main() {
    let limit = Rc::new(10);
    let echo = || ThreadServlet::<PassThrough<u32>>::new(());
    let _ = Switch::new(move |x: &Archived<u32>| usize::from(x.to_native() > *limit), (echo(), echo()));
}
