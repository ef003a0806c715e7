//! Shows workers that wait more than they compute: many in threads, or many threads in one process.
//!
//! ```sh
//! cargo run --release --example threads
//! ```

use ringmill::rkyv::Archived;
use ringmill::{BoxError, Context, ProcessServlet, Server, Servlet, ThreadServlet, Worker};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

const ITEMS: u64 = 400;
const ANSWER_AFTER: Duration = Duration::from_millis(2);

/// Asks a service over the network, with a connection of its own.
struct Ask {
    service: TcpStream,
}

impl Worker for Ask {
    type Config = u16; // the service's port
    type In = u64;
    type Out = u64;

    fn new(port: u16, _: &Context) -> Result<Self, BoxError> {
        let service = TcpStream::connect(("127.0.0.1", port))?;
        service.set_nodelay(true)?;
        Ok(Self { service })
    }

    fn call(&mut self, question: &Archived<u64>) -> Result<u64, BoxError> {
        self.service.write_all(&question.to_native().to_le_bytes())?;
        let mut answer = [0; 8];
        self.service.read_exact(&mut answer)?;
        Ok(u64::from_le_bytes(answer))
    }
}

/// The service: answers each question with its double, two milliseconds later, on any number of connections.
fn serve(listener: TcpListener) {
    for connection in listener.incoming() {
        let Ok(mut connection) = connection else { return };
        std::thread::spawn(move || {
            let mut question = [0; 8];
            while connection.read_exact(&mut question).is_ok() {
                std::thread::sleep(ANSWER_AFTER); // stands for the wait
                let double = 2 * u64::from_le_bytes(question);
                if connection.write_all(&double.to_le_bytes()).is_err() {
                    return;
                }
            }
        });
    }
}

fn measure(what: &str, servlet: impl Servlet<In = u64, Out = u64>) -> Result<(), BoxError> {
    let server = Server::builder("threads").capacity(64).start(servlet)?;
    let begun = Instant::now();
    for (question, answer) in (0..).zip(server.stream(0..ITEMS)) {
        assert_eq!(answer?, 2 * question);
    }
    let took = begun.elapsed();
    let a_second = ITEMS as f64 / took.as_secs_f64();
    println!("{what:36} {:>7.0} ms {a_second:>9.0} a second", took.as_secs_f64() * 1e3);
    Ok(())
}

fn main() -> Result<(), BoxError> {
    ringmill::init!(Ask);
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(|| serve(listener));

    println!("{ITEMS} questions to a service that answers after {} ms:\n", ANSWER_AFTER.as_millis());
    measure("1 thread", ThreadServlet::<Ask>::new(port))?;
    measure("16 threads", ThreadServlet::<Ask>::new(port).cpus(16))?;
    measure("1 process with 16 stream threads", ProcessServlet::<Ask>::new(port).stream_threads(16))?;
    println!("\nall {} answers were right", 3 * ITEMS);
    Ok(())
}
