//! A book in which workers enter what they begin: how often each servlet's code has run for each request, over
//! deaths and restarts.
//!
//! It is a file of the kernel's without a name, which workers open through the server's process; so nothing of
//! it is left however they end. Each request has a cell for each servlet. User code makes an entry before anything
//! else, so a worker that dies amid a request has entered it. After the cells comes an [`Order`] to the worker
//! that makes the next entry for a servlet; then, by servlet, which [`Edition`]s its workers may have.
#![expect(unsafe_code, reason = "memory that processes share")]

use crate::deed::Order;
use memmap2::MmapRaw;
use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// How many requests a book holds between two readings.
pub const ROWS: u64 = 1 << 17;
/// How many servlets.
pub const COLUMNS: u64 = 32;
const CELLS: usize = (ROWS * COLUMNS) as usize;
const _: () = assert!(CELLS.is_multiple_of(align_of::<Rest>()));

/// Which configuration a worker was built from: 0 is the first, each replacement has the next one.
pub type Edition = u32;

/// What follows the cells.
#[repr(C)]
struct Rest {
    order: Order,
    /// By servlet, the oldest and the newest edition that may run, as the halves of a word: it changes as a whole.
    allowed: [AtomicU64; COLUMNS as usize],
    /// How many runs were of an edition that may not, and the servlet and edition of the last one.
    strays: AtomicU32,
    last_stray: AtomicU64,
}

fn halves(word: u64) -> RangeInclusive<Edition> {
    (word >> 32) as u32..=word as u32
}

/// The workers' side.
#[derive(Debug)]
pub struct Pages(MmapRaw);

impl Pages {
    /// The pages of the book at this path; none if the path is empty.
    ///
    /// # Errors
    /// If the server has gone.
    pub fn open(path: &str) -> io::Result<Option<Self>> {
        if path.is_empty() {
            return Ok(None);
        }
        let file = File::options().read(true).write(true).open(path)?;
        Ok(Some(Self(MmapRaw::map_raw(&file)?)))
    }

    fn cells(&self) -> &[AtomicU8] {
        // SAFETY: `Book::new` made the file as long as the cells and the rest; it lives as long as this borrow; a book
        // is never made shorter; and all its users, in whatever process, access it by atomics.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), CELLS) }
    }

    fn rest(&self) -> &Rest {
        // SAFETY: as above; a mapping begins at a page, and the assertion above has the rest of the alignment.
        unsafe { &*self.0.as_ptr().add(CELLS).cast() }
    }

    /// Enters that a servlet's code, of this edition, begins with a request; then obeys an order, if there is one: see
    /// [`Order::obey`].
    #[must_use]
    pub fn enter(&self, request: u64, servlet: u32, edition: Edition) -> bool {
        let rest = self.rest();
        // SeqCst, here and in `allow`: the test's own order, beside which nothing else counts.
        let allowed = rest.allowed.get(servlet as usize).map_or(0, |word| word.load(Ordering::SeqCst));
        if !halves(allowed).contains(&edition) {
            rest.last_stray.store(u64::from(servlet) << 32 | u64::from(edition), Ordering::SeqCst);
            rest.strays.fetch_add(1, Ordering::SeqCst);
        }
        let cell = request % ROWS * COLUMNS + u64::from(servlet);
        // Relaxed: a count, read while no worker runs.
        if let Some(cell) = self.cells().get(cell as usize) {
            cell.fetch_add(1, Ordering::Relaxed);
        }
        rest.order.obey(servlet)
    }
}

/// The server's side.
#[derive(Debug)]
pub struct Book {
    file: File,
    pages: Pages,
    /// Requests since the last reading.
    begun: AtomicU64,
    /// The number of the first.
    first: AtomicU64,
}

impl Book {
    /// An empty book.
    ///
    /// # Errors
    /// If the system has no memory for it.
    pub fn new() -> io::Result<Self> {
        // SAFETY: a literal that ends with a zero byte, and flags.
        let fd = unsafe { libc::memfd_create(c"test-book".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new, and ours alone.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len((CELLS + size_of::<Rest>()) as u64)?;
        let pages = Pages(MmapRaw::map_raw(&file)?);
        Ok(Self { file, pages, begun: AtomicU64::new(0), first: AtomicU64::new(0) })
    }

    /// Where workers open it.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// The order to workers.
    #[must_use]
    pub fn order(&self) -> &Order {
        &self.pages.rest().order
    }

    /// From now on workers of this servlet may have these editions only; at first they may have 0.
    pub fn allow(&self, servlet: u32, editions: RangeInclusive<Edition>) {
        let word = u64::from(*editions.start()) << 32 | u64::from(*editions.end());
        self.pages.rest().allowed[servlet as usize].store(word, Ordering::SeqCst);
    }

    /// The editions that workers of this servlet may have.
    pub fn allowed(&self, servlet: u32) -> RangeInclusive<Edition> {
        halves(self.pages.rest().allowed[servlet as usize].load(Ordering::SeqCst))
    }

    /// How many runs were of an edition that may not run, if any was; and the servlet and edition of the last one.
    pub fn strays(&self) -> Option<(u32, u32, Edition)> {
        let rest = self.pages.rest();
        let strays = rest.strays.load(Ordering::SeqCst);
        let last = halves(rest.last_stray.load(Ordering::SeqCst));
        (strays > 0).then_some((strays, *last.start(), *last.end()))
    }

    /// The number of a new request; none while the book is full.
    #[must_use]
    pub fn begin(&self) -> Option<u64> {
        // Relaxed, both: `first` changes only while no request begins.
        let row = self.begun.fetch_add(1, Ordering::Relaxed);
        (row < ROWS).then(|| self.first.load(Ordering::Relaxed) + row)
    }

    /// Whether it should be read soon.
    #[must_use]
    pub fn is_nearly_full(&self) -> bool {
        self.begun.load(Ordering::Relaxed) > ROWS / 4 * 3 // Relaxed: a hint
    }

    /// Reads the book while no worker runs: the number of entries; and which servlets' code ran for a request more
    /// often than the servlet's `most`, with the count. Then begins a new page.
    pub fn read(&self, most: &[u8]) -> (u64, Vec<(u64, usize, u8)>) {
        let begun = self.begun.load(Ordering::Relaxed).min(ROWS); // Relaxed, all: no worker runs
        let first = self.first.fetch_add(begun, Ordering::Relaxed);
        let (mut entries, mut excess) = (0, Vec::new());
        for request in first..first + begun {
            let row = (request % ROWS * COLUMNS) as usize;
            for (servlet, cell) in self.pages.cells()[row..row + COLUMNS as usize].iter().enumerate() {
                // Loaded first: most cells are 0, and then the line need not be written.
                let times = cell.load(Ordering::Relaxed);
                if times != 0 {
                    cell.store(0, Ordering::Relaxed);
                    entries += u64::from(times);
                    if times > most.get(servlet).copied().unwrap_or(0) {
                        excess.push((request, servlet, times));
                    }
                }
            }
        }
        self.begun.store(0, Ordering::Relaxed);
        (entries, excess)
    }
}
