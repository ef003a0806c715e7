//! A stage that takes another type than the one before gives.

use ringmill::{Servlet, ThreadServlet};

ringmill::make_worker!(Length: String => u64, |text| text.len() as u64);
ringmill::make_worker!(Shout: String => String, |text| text.to_uppercase());

fn main() {
    let _ = ThreadServlet::<Length>::new(()).then(ThreadServlet::<Shout>::new(()));
}
