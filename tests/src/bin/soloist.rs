//! A program that runs a server and lists no worker types: threads need no list.

use ringmill::{BoxError, PassThrough, Server, ThreadServlet};

fn main() -> Result<(), BoxError> {
    println!("main");
    let name = format!("soloist-{}", std::process::id());
    let server = Server::builder(name).start(ThreadServlet::<PassThrough<u32>>::new(()))?;
    assert_eq!(*server.call(&7)?, 7);
    Ok(())
}
