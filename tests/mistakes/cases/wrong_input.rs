//! Inputs of another type than the server takes.

use ringmill::{BoxError, Server, ThreadServlet};

ringmill::make_worker!(Length: String => u64, |text| text.len() as u64);

const NAME: &str = "mistakes";

fn main() -> Result<(), BoxError> {
    let server = Server::builder(NAME).start(ThreadServlet::<Length>::new(()))?;
    server.call(&7)?;
    server.call("seven")?;
    server.call_ref(&7)?;
    server.handle().call_async(7);
    Ok(())
}
