//! A small call allocates nothing, on either side.
#![expect(unsafe_code, reason = "an allocator that counts")]

use ringmill::{Server, ThreadServlet};
use ringmill_tests::fresh_name;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Whether this thread takes part in the call: the harness's own allocate when they like.
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

// SAFETY: the system's allocator, called with what we are called with.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(u64::from(COUNTED.get()), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

ringmill::make_worker!(Next: [u64; 8] => [u64; 8], |x| {
    COUNTED.set(true);
    x.map(|n| n.to_native() + 1)
});

#[test]
fn a_small_call_allocates_nothing() {
    // The worker is a thread, so that both sides are counted.
    let server = Server::builder(fresh_name("hot")).start(ThreadServlet::<Next>::new(())).unwrap();
    let call = |n: u64| assert_eq!(server.call(&[n; 8]).unwrap()[7].to_native(), n + 1);
    COUNTED.set(true);
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), 1, "the count counts");
    (0..100).for_each(call); // one-time allocations happen now
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    (0..20_000).for_each(call);
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0);
}
