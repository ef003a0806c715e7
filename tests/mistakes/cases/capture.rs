//! A function of `make_worker!` that captures.

use ringmill::{BoxError, Server, ThreadServlet};

const NAME: &str = "mistakes";

fn main() -> Result<(), BoxError> {
    let factor = 2.5;
    ringmill::make_worker!(Scale: f64 => f64, |x| x.to_native() * factor);
    Server::builder(NAME).start(ThreadServlet::<Scale>::new(()))?;
    Ok(())
}
