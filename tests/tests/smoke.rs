//! Smoke.
use ringmill::*;
use std::time::Duration;
ringmill::make_worker!(Double: u32 => u64, |x| u64::from(x.to_native()) * 2);
ringmill::init!(Double, PassThrough<String>);

#[test]
fn process_echo() {
    let server = Server::builder("smoke").start(ProcessServlet::<Double>::new(()).cpus(2)).unwrap();
    assert_eq!(*server.call(&21).unwrap(), 42);
    let out: Vec<u64> = server.stream(0..10_000).map(Result::unwrap).collect();
    assert!(out.iter().enumerate().all(|(i, &x)| x == 2 * i as u64));
    println!("{:?}", server.stats());
    assert_eq!(server.backlog(), 0);
    server.shutdown();
    assert!(server.call(&1).is_err());
}

#[test]
fn thread_echo() {
    let server = Server::builder("smoke2").start(ThreadServlet::<PassThrough<String>>::new(()).batch_size(8).batch_wait_time(Duration::ZERO)).unwrap();
    let long = "x".repeat(5000);
    assert_eq!(server.call(&long).unwrap().as_str(), long);
    assert_eq!(server.backlog(), 0);
}
