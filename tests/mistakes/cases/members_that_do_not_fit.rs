//! An ensemble whose members take different types.

use ringmill::{Ensemble, ThreadServlet};

ringmill::make_worker!(Length: String => u64, |text| text.len() as u64);
ringmill::make_worker!(Half: u64 => u64, |x| x.to_native() / 2);

fn main() {
    let _ = Ensemble::of((ThreadServlet::<Length>::new(()), ThreadServlet::<Half>::new(())));
}
