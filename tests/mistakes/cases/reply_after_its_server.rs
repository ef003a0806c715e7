//! A reply that is used when its server is gone: `Server` lends it, a `Handle` would not.

use ringmill::{BoxError, PassThrough, Server, ThreadServlet};

const NAME: &str = "mistakes";

fn main() -> Result<(), BoxError> {
    let server = Server::builder(NAME).start(ThreadServlet::<PassThrough<u32>>::new(()))?;
    let reply = server.call(&1)?;
    drop(server);
    assert_eq!(*reply, 1);
    Ok(())
}
