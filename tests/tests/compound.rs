//! Servlets made of servlets: sequences, ensembles, switches, nested, over processes and threads alike.

use ringmill::{BoxError, Ensemble, ProcessServlet, Server, Servlet, ThreadServlet};
use ringmill_tests::fresh_name;
use rkyv::Archived;

type Three = (Box<String>, Box<String>, Box<u64>);

ringmill::make_worker!(Head: String => String, |s: &Archived<String>| s.chars().next().map(String::from).unwrap_or_default());
ringmill::make_worker!(Tail: String => String, |s: &Archived<String>| s.chars().last().map(String::from).unwrap_or_default());
ringmill::make_worker!(Length: String => u64, |s: &Archived<String>| s.len() as u64);
ringmill::make_worker!(Combine: Three => String, |three: &Archived<Three>| {
    format!("{}{}", three.0.as_str(), three.1.as_str()).repeat(three.2.to_native() as usize)
});
ringmill::make_worker!(Greet: String => String, |s: &Archived<String>| format!("Hello, {}!", s.as_str()));

ringmill::init!(Head, Tail, Length, Combine, Greet);

/// The example of the reference library's documentation: three members that take the head, the tail and the
/// length of a string, a thread stage that combines them, a last process stage.
#[test]
fn hello_wdwdwdwdwd() -> Result<(), BoxError> {
    let members = Ensemble::of((
        ProcessServlet::<Head>::new(()),
        ProcessServlet::<Tail>::new(()),
        ProcessServlet::<Length>::new(()),
    ));
    let servlet = members.then(ThreadServlet::<Combine>::new(())).then(ProcessServlet::<Greet>::new(()));
    let server = Server::builder(fresh_name("hello")).capacity(16).start(servlet)?;
    assert_eq!(server.call(&"world".to_string())?.as_str(), "Hello, wdwdwdwdwd!");
    for (index, outcome) in server.stream((0..1000).map(|i| format!("w{}d", "x".repeat(i % 5)))).enumerate() {
        assert_eq!(outcome?, format!("Hello, {}!", "wd".repeat(index % 5 + 2)));
    }
    Ok(())
}
