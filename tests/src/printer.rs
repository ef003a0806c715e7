//! A worker whose outcomes have any size.

use ringmill::{BoxError, Context, Worker};
use rkyv::string::ArchivedString;

/// Answers with as many letters as the first word of its input says; the rest of the input only makes that large.
#[derive(Debug)]
pub struct Printer;

impl Worker for Printer {
    type Config = ();
    type In = String;
    type Out = String;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, input: &ArchivedString) -> Result<String, BoxError> {
        let letters = input.split(' ').next().unwrap_or_default();
        Ok("x".repeat(letters.parse()?))
    }
}
