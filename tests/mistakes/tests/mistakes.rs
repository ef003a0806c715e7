//! What the compiler says of the likeliest mistakes. The messages beside the programs of `cases/` are stored, so that the
//! review of a change shows what it makes of them. `TRYBUILD=overwrite` in the environment of this test stores them anew.
//!
//! One of the likeliest is not among them, since the compiler cannot see it: a worker type that no `init!` lists. That is an
//! error of the start, `StartError::NotListed`.

use std::process::Command;

/// The compiler that wrote the stored messages. Each version words some in its own way, so those of others are not compared.
const COMPILER: &str = "rustc 1.95.";

#[test]
fn the_compiler_names_each_mistake() {
    let version = Command::new("rustc").arg("--version").output().expect("the compiler");
    let version = String::from_utf8_lossy(&version.stdout);
    if !version.starts_with(COMPILER) {
        let version = version.trim();
        eprintln!(
            "messages are not compared: those that are stored are of {COMPILER}x, and this is {version}"
        );
        return;
    }
    trybuild::TestCases::new().compile_fail("cases/*.rs");
}
