//! A spawned thread that borrows its server.

use ringmill::{BoxError, PassThrough, Server, ThreadServlet};

const NAME: &str = "mistakes";

fn main() -> Result<(), BoxError> {
    let server = Server::builder(NAME).start(ThreadServlet::<PassThrough<u32>>::new(()))?;
    let pending = server.submit(&1)?;
    std::thread::spawn(move || pending.wait().is_ok());
    Ok(())
}
