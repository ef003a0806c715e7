//! Shows a worker whose code another program has: it could be a script, or a program in C.
//!
//! The service knows the worker's program, the name under which that lists it, and what it takes and gives: opaque bytes, of
//! which a schema says what they mean. The program makes one call to be the worker, and goes on when the worker has ended.
//! Here both are this file; `--worker` says which it is.
//!
//! Run it with `cargo run --release --example words`.

use ringmill::payload::{Bytes, Schema};
use ringmill::program::{NamedWorker, Outside, Workers, become_worker};
use ringmill::{BoxError, CallError, ProcessServlet, Server};

/// What the bytes mean, in both programs.
fn schemas() -> (Schema, Schema) {
    (Schema::new("text in UTF-8", 1), Schema::new("number of words, u64, little-endian", 1))
}

// The worker's side. What is attached to its error only the two programs understand.
ringmill::make_worker!(CountWords: Bytes => Bytes, |bytes| match std::str::from_utf8(bytes) {
    Ok(text) => Ok(Bytes::from(text.split_whitespace().count().to_le_bytes().to_vec())),
    Err(error) => {
        let valid = error.valid_up_to().to_le_bytes().to_vec();
        Err(BoxError::from(error).invalid().with_attachment(valid))
    }
});

fn worker() -> Result<(), BoxError> {
    let (text, number) = schemas();
    let count = NamedWorker::<CountWords>::new("count words").input_schema(&text).outcome_schema(&number);
    let code = become_worker(&Workers::new().with(count))?;
    println!("the program goes on when its worker has ended, here with code {code}");
    Ok(())
}

fn main() -> Result<(), BoxError> {
    if std::env::args().any(|argument| argument == "--worker") {
        return worker();
    }
    let (text, number) = schemas();
    let words = ProcessServlet::<Outside<Bytes>>::new(())
        .program(std::env::current_exe()?)
        .program_args(["--worker"])
        .program_worker("count words")
        .input_schema(&text)
        .outcome_schema(&number);
    let server = Server::anonymous("words").start(words)?;

    let count = |text: &[u8]| -> Result<u64, CallError> {
        let reply = server.call_ref(text)?;
        Ok(u64::from_le_bytes(reply[..].try_into().expect("the schema says so")))
    };
    for (text, expected) in [("", 0), ("one", 1), ("the quick brown fox", 4)] {
        assert_eq!(count(text.as_bytes())?, expected);
        println!("{expected} words: {text:?}");
    }
    match count(b"not \xff text") {
        Err(CallError::Remote(error)) => {
            assert_eq!(error.attachment(), Some(&4_u64.to_le_bytes()[..]));
            println!("no number, but an error with an attachment: {error}");
        }
        other => panic!("{other:?}"),
    }
    Ok(())
}
