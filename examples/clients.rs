//! Shows one engine under several processes: a server, and two client processes that share its workers.
//!
//! ```sh
//! cargo run --release --example clients
//! ```
//!
//! The clients are this program again, with the server's name as an argument. Any other program that has the same payload
//! types could be one.

use ringmill::rkyv::Archived;
use ringmill::{BoxError, Client, Context, ProcessServlet, Server, Worker};
use std::process::Command;

/// Requests of each client.
const REQUESTS: u64 = 1000;

/// Squares a number.
struct Square;

impl Worker for Square {
    type Config = ();
    type In = u64;
    type Out = u64;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, number: &Archived<u64>) -> Result<u64, BoxError> {
        Ok(number.to_native() * number.to_native())
    }
}

/// What a client process does: a call, then a stream.
fn be_a_client(server: &str) -> Result<(), BoxError> {
    let squares = Client::<u64, u64>::connect(server)?;
    assert_eq!(*squares.call(&12)?, 144);
    for (number, square) in (0..REQUESTS).zip(squares.stream(0..REQUESTS)) {
        assert_eq!(square?, number * number);
    }
    println!("process {} had {REQUESTS} answers of process {}", std::process::id(), squares.server_pid());
    Ok(())
}

fn main() -> Result<(), BoxError> {
    ringmill::init!(Square);
    if let Some(server) = std::env::args().nth(1) {
        return be_a_client(&server);
    }
    let name = format!("clients-example-{}", std::process::id()); // so that two runs do not meet
    let server =
        Server::builder(&name).clients(2).client_requests(64).start(ProcessServlet::<Square>::new(()))?;
    let program = std::env::current_exe()?;
    let clients: Vec<_> =
        (0..2).map(|_| Command::new(&program).arg(&name).spawn()).collect::<Result<_, _>>()?;
    for mut client in clients {
        assert!(client.wait()?.success());
    }
    assert_eq!(*server.call(&3)?, 9); // the server's own process has requests too
    Ok(())
}
