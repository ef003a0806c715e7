//! Segments on huge pages: where there are enough, where there are too few, and where there can be none.

use ringmill::{HugePages, PassThrough, ProcessServlet, Server, ServerBuilder, StartError, ThreadServlet};
use ringmill_shm::segment::{CreateError, Lying};
use ringmill_tests::name::Name;
use std::sync::Mutex;

type Echo = PassThrough<Vec<u8>>;

/// Only one test at a time counts on the pool.
static TURN: Mutex<()> = Mutex::new(());

const NUMBER: &str = "/proc/sys/vm/nr_hugepages";

/// Huge pages that the system has set aside for this test; they are given back when it ends.
struct Pool(u64);

impl Pool {
    fn number() -> u64 {
        std::fs::read_to_string(NUMBER).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// This many more; `None` if the system has no memory in one piece for them, or this process may not ask.
    fn take(pages: u64) -> Option<Self> {
        let pool = Self(Self::number());
        std::fs::write(NUMBER, (pool.0 + pages).to_string()).ok()?;
        (Self::number() == pool.0 + pages).then_some(pool)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = std::fs::write(NUMBER, self.0.to_string());
    }
}

/// Of 22 MiB with 8 requests.
fn sized(builder: ServerBuilder, requests: usize, pages: HugePages) -> ServerBuilder {
    builder.capacity(requests).max_payload(1 << 20).huge_pages(pages).handle_signals(false)
}

#[test]
fn an_anonymous_segment_lies_on_huge_pages_if_enough_are_free() {
    let _turn = TURN.lock();
    let Some(_pool) = Pool::take(20) else { return eprintln!("skipped: huge pages cannot be had") };
    for pages in [HugePages::Preferred, HugePages::Required] {
        let name = Name::label("huge");
        let builder = sized(name.builder(), 8, pages);
        let server = builder.start(ProcessServlet::<Echo>::new(()).name("echo")).expect("enough are free");
        assert!(server.warnings().is_empty(), "{:?}", server.warnings());
        assert_eq!(server.call(&vec![7; 1_000_000]).expect("it answers").len(), 1_000_000);
        // A successor maps them too.
        ringmill::testing::kill(&server, "echo", 0).expect("it lives");
        assert_eq!(server.call(&vec![8; 1_000_000]).expect("its successor answers")[999_999], 8);
        let segment = name.inspect();
        assert!(segment.page_bytes() >= 2 << 20 && segment.page_bytes().is_power_of_two());
        let lying = segment.lying(true);
        assert!(lying.is_err() || lying.is_ok_and(|all| all.iter().all(Lying::is_as_asked)));
        drop(server);
    }
    // Too few for 256 requests.
    let error =
        sized(Server::anonymous("huge"), 256, HugePages::Required).start(ThreadServlet::<Echo>::new(()));
    let error = error.map(drop).expect_err("too few are free");
    let StartError::Segment(CreateError::HugePages { needed_bytes, available_bytes, .. }) = error else {
        panic!("{error}");
    };
    assert!(available_bytes < needed_bytes);
}

#[test]
fn without_huge_pages_preferred_ones_are_a_warning_and_required_ones_an_error() {
    let _turn = TURN.lock();
    let start = |builder: ServerBuilder, pages| {
        sized(builder, 4096, pages).payload_classes([(1 << 12, 8192)]).start(ThreadServlet::<Echo>::new(()))
    };
    let few = (Pool::number() == 0).then(|| Name::label("huge"));
    for name in few.into_iter().chain([Name::new("huge")]) {
        let builder = name.builder();
        let server = start(builder.clone(), HugePages::Preferred).expect("it starts on ordinary pages");
        let [warning] = server.warnings() else { panic!("{:?}", server.warnings()) };
        assert!(warning.contains("huge pages") && warning.lines().count() == 1, "{warning}");
        assert_eq!(name.inspect().page_bytes(), 4096);
        assert_eq!(server.call(&vec![7; 2000]).expect("it answers").len(), 2000);
        drop(server);
        let error = start(builder.clone(), HugePages::Required).map(drop).expect_err("there are none");
        assert!(
            matches!(
                error,
                StartError::Segment(
                    CreateError::HugePages { .. }
                        | CreateError::NoHugePages { .. }
                        | CreateError::System { .. }
                )
            ),
            "{error}"
        );
        let server = start(builder, HugePages::No).expect("it is not asked for any");
        assert!(server.warnings().is_empty(), "{:?}", server.warnings());
    }
}
