//! The pages of a segment: mapped before they are needed, locked where that is asked for.
#![expect(unsafe_code, reason = "setrlimit and setresuid, in a process of the test's own")]

use ringmill::{PassThrough, Prefault, ProcessServlet, Server, StartError, ThreadServlet};
use ringmill_shm::segment::{Segment, Use};
use ringmill_tests::alone::alone;
use ringmill_tests::name::Name;
use ringmill_tests::stats::{segment_of, workers};

ringmill::init!(PassThrough<Vec<u8>>);

const PAYLOAD: usize = 4096;

fn kib(text: &str) -> u64 {
    text.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

/// How many bytes of a server's segment a process has mapped to work with it, not only to look.
fn mapped_bytes(pid: u32, segment: &Segment) -> u64 {
    let path = segment.path().display().to_string();
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps")).expect("it lives");
    let mut lines = text.lines().skip_while(|line| !(line.ends_with(&path) && line.contains(" rw-s ")));
    kib(lines.find_map(|line| line.strip_prefix("Rss:")).expect("it is mapped"))
}

fn bytes_of(segment: &Segment, takes: impl Fn(Use) -> bool) -> u64 {
    segment.rooms().iter().filter(|room| takes(room.of)).map(|room| room.bytes).sum()
}

#[test]
fn each_process_has_the_pages_that_it_is_to_have_before_the_first_request() {
    for (pages, is_had) in [
        (Prefault::Nothing, None),
        (Prefault::Hot, Some((|of| !matches!(of, Use::Blocks(_))) as fn(Use) -> bool)),
        (Prefault::Everything, Some(|_| true)),
    ] {
        let builder = Server::builder(Name::new("pages").text()).capacity(2048).max_payload(PAYLOAD);
        let servlet = ProcessServlet::<PassThrough<Vec<u8>>>::new(()).name("pages");
        let server = builder.prefault(pages).start(servlet);
        let server = server.expect("it starts");
        let segment = segment_of(&server);
        let first = workers(&server)[0].pid;
        ringmill::testing::kill(&server, "pages", 0).expect("it lives");
        server.call(&vec![]).expect("its successor answers");
        let second = workers(&server)[0].pid;
        assert_ne!(first, second);
        for pid in [std::process::id(), second] {
            let mapped = mapped_bytes(pid, &segment);
            match is_had {
                Some(is_had) => assert!(mapped >= bytes_of(&segment, is_had), "{pages:?}: {mapped}"),
                None => assert!(mapped < bytes_of(&segment, |of| !matches!(of, Use::Blocks(_))), "{mapped}"),
            }
            if pages != Prefault::Everything {
                assert!(
                    mapped < bytes_of(&segment, |of| matches!(of, Use::Blocks(_))),
                    "{pages:?}: {mapped}"
                );
            }
        }
        assert_eq!(server.call(&vec![7; PAYLOAD / 2]).expect("it answers").len(), PAYLOAD / 2);
    }
}

#[test]
fn a_lock_that_is_refused_is_an_error_with_the_limit() {
    alone("pages::a_lock_that_is_refused_is_an_error_with_the_limit", || {
        let few = libc::rlimit { rlim_cur: 65_536, rlim_max: 65_536 };
        // SAFETY: a live structure, and integers. Whoever is not root is nobody in particular already.
        unsafe {
            assert_eq!(libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const few), 0);
            libc::setresuid(65_534, 65_534, 65_534);
        }
        let start = |locks| {
            let builder = Server::anonymous("pages").capacity(8).handle_signals(false).lock_memory(locks);
            builder.start(ThreadServlet::<PassThrough<u64>>::new(()))
        };
        let error = start(true).map(drop).expect_err("it may not lock so much");
        assert!(matches!(error, StartError::LockMemory { limit_bytes: Some(65_536), .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("(the limit on locked memory is 65536 bytes (64.0 KiB))"), "{text}");
        assert!(start(false).is_ok());
    });
}

#[test]
fn a_lock_locks_all_of_it() {
    alone("pages::a_lock_locks_all_of_it", || {
        let locked = || {
            let status = std::fs::read_to_string("/proc/self/status").expect("this process");
            let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).expect("the kernel tells");
            kib(line)
        };
        let before = locked();
        let builder =
            Server::builder(Name::new("pages").text()).capacity(8).max_payload(1024).lock_memory(true);
        // By default each process may lock 64 KiB to 8 MiB.
        match builder.start(ThreadServlet::<PassThrough<u64>>::new(())) {
            Ok(server) => assert!(locked() - before >= segment_of(&server).total_bytes()),
            Err(error) => assert!(matches!(error, StartError::LockMemory { .. }), "{error:?}"),
        }
    });
}
