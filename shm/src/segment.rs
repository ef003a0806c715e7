//! Segments: creating, attaching, removing, and finding the parts in one.
//!
//! # Layout
//!
//! See [`layout`](crate::layout). Beside the segment lies its lease file, `<path>.lease`.
//!
//! # Protocol
//!
//! Create: take the server's byte of the lease file; so no living server has the name. Remove what a
//! dead one left. Create the file exclusively, mode 0600, reserve its pages, write everything, and the
//! magic last. Attach: check owner, size, magic, version, shape and fingerprint before anything is
//! believed; compute all offsets from the shape. Remove: segment first, lease file second, then let go
//! of the lease.
//!
//! # Invariants
//!
//! * *checked*: every offset handed out was computed by [`Layout::new`] from a shape whose total size is
//!   the size of the mapping; indices are checked where they enter.
//! * *in place*: nothing in a mapping moves or ends before the [`Segment`] is dropped.
//! * No reference is made to plain bytes that another party may write at that time: parties share
//!   atomics, and payload bytes belong to the owner that the state word names.
//!
//! # Crash
//!
//! A creator killed at any point leaves a file without magic or with a free lease; both are stale.
#![expect(unsafe_code, reason = "typed views of mapped bytes")]

use crate::doorbell::{self, Bell};
use crate::layout::{
    Class, Extent, Header, LAYOUT_VERSION, Layout, MAGIC, NAME_LIMIT, NodeDescriptor, NodeLines, PAGE,
    PAYLOAD_ALIGN, Shape, ShapeError, TaskLine,
};
use crate::lock::ReaderLock;
use crate::participant::{self, Entry, Lease, Life, Role, SERVER};
use crate::ring::Ring;
use crate::sync::{AtomicU64, Ordering};
use crate::sys;
use crate::token::Token;
use core::ptr::NonNull;
use memmap2::{MmapOptions, MmapRaw};
use shared_memory::{Shmem, ShmemConf, ShmemError};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What named segments' files begin with.
pub const NAME_PREFIX: &str = "ringmill-";
/// Where named segments lie.
pub const NAMED_DIRECTORY: &str = "/dev/shm";

/// Where a segment lies.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// A POSIX shared memory object of this name (without the prefix).
    Named(String),
    /// A file at this path, on tmpfs or hugetlbfs by preference.
    File(PathBuf),
}

impl Place {
    /// A named place.
    ///
    /// # Errors
    /// A name that is empty, too long, or has other characters than `A-Z a-z 0-9 . _ -`, or begins with
    /// a dot.
    pub fn named(name: &str) -> Result<Self, NameError> {
        let fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let longest = NAME_LIMIT - NAME_PREFIX.len();
        if name.is_empty()
            || name.len() > longest
            || name.starts_with('.')
            || !name.chars().all(fine)
            || name.ends_with(".lease")
        {
            return Err(NameError { name: name.into(), longest });
        }
        Ok(Self::Named(name.into()))
    }

    /// The segment's file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Named(name) => Path::new(NAMED_DIRECTORY).join(format!("{NAME_PREFIX}{name}")),
            Self::File(path) => path.clone(),
        }
    }

    /// The lease file beside it.
    #[must_use]
    pub fn lease_path(&self) -> PathBuf {
        let mut path = self.path().into_os_string();
        path.push(".lease");
        path.into()
    }

    /// What [`parse`](Self::parse) understands.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self {
            Self::Named(name) => name.clone(),
            Self::File(path) => path.display().to_string(),
        }
    }

    /// A name, or a path if it has a slash.
    ///
    /// # Errors
    /// As [`named`](Self::named).
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.contains('/') { Ok(Self::File(text.into())) } else { Self::named(text) }
    }
}

/// A name that no segment can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} cannot name a segment: 1 to {longest} of A-Z a-z 0-9 . _ - are allowed, no dot first, no \".lease\" last"
)]
pub struct NameError {
    /// The name.
    pub name: String,
    /// The longest possible.
    pub longest: usize,
}

/// Why a segment could not be created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The name is not one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A number of the shape is out of range.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A living server has the name.
    #[error("segment {} is in use by a live server{}", path.display(), pid.map_or(String::new(), |p| format!(" (pid {p})")))]
    InUse {
        /// The segment's file.
        path: PathBuf,
        /// The server's process, if it can be told.
        pid: Option<u32>,
    },
    /// There is a file of this name that is no segment.
    #[error("{} exists and is not a ringmill segment; it was left alone", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file system is too small.
    #[error("{} has {available_bytes} bytes free, the segment needs {needed_bytes}: lower the capacity or the payload classes, or enlarge it", path.display())]
    NoSpace {
        /// The file system's directory.
        path: PathBuf,
        /// What the segment needs.
        needed_bytes: u64,
        /// What there is.
        available_bytes: u64,
    },
    /// The operating system refused.
    #[error("cannot {what} {}", path.display())]
    System {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// Why a segment could not be attached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The operating system refused.
    #[error("cannot {what} {}", path.display())]
    System {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// It is not a segment, or one that is not finished.
    #[error("{} is not a ringmill segment: {why}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// It was made by another version of this library.
    #[error("{} has layout version {found}, this program has {expected}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// Its sizes or its payload format are not those this program would give it.
    #[error("{} has fingerprint {found:#018x}, this program computes {expected:#018x}: built from other sources or settings", path.display())]
    Fingerprint {
        /// The file.
        path: PathBuf,
        /// Its fingerprint.
        found: u64,
        /// Ours.
        expected: u64,
    },
    /// It belongs to another user.
    #[error("{} belongs to user {owner}, this process acts as user {user}", path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        user: u32,
    },
}

/// What a segment is made from.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Requests that can be in progress.
    pub requests: u32,
    /// Tasks of each request.
    pub tasks_per_request: u32,
    /// Size classes of payload blocks, ascending by size.
    pub classes: Vec<Class>,
    /// Identifies how payload bytes are written: part of the fingerprint.
    pub payload_format: u64,
    /// The plan's nodes.
    pub nodes: Vec<NodeSpec>,
}

/// What a node is made from.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    /// The servlet's name.
    pub name: String,
    /// The worker type's name.
    pub worker_type: String,
    /// A number that differs if the type's payloads do.
    pub type_hash: u64,
    /// What each worker is constructed from.
    pub config: Vec<u8>,
    /// 0: item by item; n: batches of up to n.
    pub batch_size: u32,
    /// How long the oldest item of a batch may wait.
    pub batch_wait_ns: u64,
    /// Where finished tasks go: a node, or the caller.
    pub next: Option<u32>,
    /// Where the workers run.
    pub role: Role,
    /// One worker each, with the CPUs it is pinned to (none: not pinned).
    pub workers: Vec<Vec<usize>>,
}

/// A node as everybody sees it: written once, checked at attach.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NodeInfo {
    /// The servlet's name.
    pub name: String,
    /// The worker type's name.
    pub worker_type: String,
    /// A number that differs if the type's payloads do.
    pub type_hash: u64,
    /// 0: item by item; n: batches of up to n.
    pub batch_size: u32,
    /// How long the oldest item of a batch may wait.
    pub batch_wait_ns: u64,
    /// Where finished tasks go: a node, or the caller.
    pub next: Option<u32>,
    /// The place of the first worker in the participant table.
    pub first_participant: u32,
    /// How many workers.
    pub workers: u32,
    config: Extent,
}

/// What the server says of the whole segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u32)]
pub enum Run {
    /// Being built.
    Creating = 0,
    /// In service.
    Running = 1,
    /// Workers finish what is in their rings and leave.
    Stopping = 2,
    /// Over.
    Closed = 3,
}

/// In a descriptor: finished tasks go to the caller.
const REPLY: u32 = u32::MAX;

/// What keeps the bytes mapped.
enum Mapping {
    Named(Shmem),
    File(MmapRaw),
}

impl Mapping {
    fn as_ptr(&self) -> *mut u8 {
        match self {
            Self::Named(shmem) => shmem.as_ptr(),
            Self::File(map) => map.as_mut_ptr(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Named(shmem) => shmem.len(),
            Self::File(map) => map.len(),
        }
    }
}

/// A mapped segment.
pub struct Segment {
    base: NonNull<u8>,
    layout: Layout,
    nodes: Vec<NodeInfo>,
    place: Place,
    lease: Lease,
    /// Whether dropping it removes the files.
    owner: bool,
    /// Read only by `Drop`s of the mapping crates.
    _mapping: Mapping,
}

// SAFETY: the mapping may be used from any thread; what parties share in it is atomic, and payload bytes
// are handed from owner to owner by the state word.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

impl core::fmt::Debug for Segment {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Segment")
            .field("place", &self.place)
            .field("bytes", &self.layout.total_bytes)
            .finish_non_exhaustive()
    }
}

fn blob_bytes(spec: &Spec) -> u64 {
    let round = |n: usize| n.next_multiple_of(PAYLOAD_ALIGN) as u64;
    spec.nodes.iter().map(|n| round(n.name.len()) + round(n.worker_type.len()) + round(n.config.len())).sum()
}

fn shape_of(spec: &Spec) -> Shape {
    let mut shape = Shape {
        participants: 1 + spec.nodes.iter().map(|n| n.workers.len() as u32).sum::<u32>(),
        nodes: spec.nodes.len() as u32,
        requests: spec.requests,
        tasks_per_request: spec.tasks_per_request,
        blob_bytes: blob_bytes(spec),
        class_count: spec.classes.len() as u64,
        ..Shape::default()
    };
    for (to, from) in shape.classes.iter_mut().zip(&spec.classes) {
        *to = *from;
    }
    shape
}

impl Spec {
    /// How many bytes the segment will take.
    ///
    /// # Errors
    /// The first number that is out of range.
    pub fn total_bytes(&self) -> Result<u64, ShapeError> {
        Ok(Layout::new(&shape_of(self))?.total_bytes as u64)
    }
}

impl Segment {
    /// Creates a segment; its files go when it is dropped.
    ///
    /// # Errors
    /// See [`CreateError`]; nothing is left behind.
    pub fn create(place: Place, spec: &Spec) -> Result<Self, CreateError> {
        let shape = shape_of(spec);
        let layout = Layout::new(&shape)?;
        let path = place.path();
        let system = |what, path: &Path| {
            let path = path.to_path_buf();
            move |source| CreateError::System { what, path, source }
        };
        let lease_path = place.lease_path();
        let lease = match Lease::acquire(&lease_path).map_err(system("lock", &lease_path))? {
            Some(lease) => lease,
            None => return Err(CreateError::InUse { pid: server_pid(&place), path }),
        };
        let made = remove_stale(&path).and_then(|()| make_file(&place, &path, layout.total_bytes as u64));
        let mapping = match made {
            Ok(mapping) => mapping,
            Err(error) => {
                let _ = std::fs::remove_file(lease.path()); // while we hold it
                return Err(error);
            }
        };
        let base = NonNull::new(mapping.as_ptr()).expect("a mapping is not at null");
        let mut segment =
            Self { base, layout, nodes: Vec::new(), place, lease, owner: true, _mapping: mapping };
        segment.initialise(spec);
        Ok(segment)
    }

    /// Writes everything into the zeroed pages, the magic last.
    fn initialise(&mut self, spec: &Spec) {
        let mut blob = 0_u64;
        let mut put = |bytes: &[u8]| {
            let extent = Extent { offset: blob, bytes: bytes.len() as u64 };
            // SAFETY: *checked*: the blobs have room for all of these by `blob_bytes`; nobody else has
            // the segment yet.
            unsafe {
                let to = self.base.as_ptr().add(self.layout.blobs + blob as usize);
                core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
            }
            blob += bytes.len().next_multiple_of(PAYLOAD_ALIGN) as u64;
            extent
        };
        let mut first = SERVER + 1;
        let mut descriptors = Vec::with_capacity(spec.nodes.len());
        for node in &spec.nodes {
            descriptors.push(NodeDescriptor {
                name: put(node.name.as_bytes()),
                worker_type: put(node.worker_type.as_bytes()),
                config: put(&node.config),
                type_hash: node.type_hash,
                batch_wait_ns: node.batch_wait_ns,
                batch_size: node.batch_size,
                first_participant: first,
                workers: node.workers.len() as u32,
                next: node.next.unwrap_or(REPLY),
            });
            first += node.workers.len() as u32;
        }
        for (index, descriptor) in descriptors.iter().enumerate() {
            // SAFETY: *checked*: one of the layout's descriptors; nobody else has the segment yet.
            unsafe {
                let to = self.base.as_ptr().add(self.layout.node_descriptors).cast::<NodeDescriptor>();
                to.add(index).write(*descriptor);
            }
        }
        let entries = self.participants();
        entries[SERVER as usize].assign(Role::Server, 0, 0, &[]);
        for (index, (node, descriptor)) in spec.nodes.iter().zip(&descriptors).enumerate() {
            for (worker, cpus) in node.workers.iter().enumerate() {
                let entry = &entries[descriptor.first_participant as usize + worker];
                entry.assign(node.role, index as u32, worker as u32, cpus);
            }
        }
        let server = &entries[SERVER as usize];
        server.prepare(SERVER);
        server.arrive();
        server.set_life(Life::Ready);

        let name = self.place.to_text();
        let name = name.as_bytes();
        let created = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        // SAFETY: the header is at the base, page-aligned; nobody else has the segment yet.
        unsafe {
            let header = self.base.as_ptr().cast::<Header>();
            (*header).version = LAYOUT_VERSION;
            (*header).fingerprint = self.layout.fingerprint(spec.payload_format);
            (*header).total_bytes = self.layout.total_bytes as u64;
            (*header).shape = self.layout.shape;
            (*header).payload_format = spec.payload_format;
            (*header).created_unix_s = created.map_or(0, |d| d.as_secs());
            (*header).user_id = sys::process::user_id();
            let kept = name.len().min(NAME_LIMIT);
            (*header).name_len = kept as u32;
            (&mut (*header).name)[..kept].copy_from_slice(&name[..kept]);
        }
        self.set_run(Run::Running);
        // *finished*: pairs with the Acquire in `read_header`.
        self.header().magic.store(MAGIC, Ordering::Release);
        self.nodes = self.read_nodes().expect("we have just written them");
    }

    /// Maps an existing segment to take part in it.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn attach(place: Place, payload_format: u64) -> Result<Self, AttachError> {
        Self::open(place, Some(payload_format))
    }

    /// Maps an existing segment only to look at it: the pages are read-only, and whatever its payload
    /// format.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn inspect(place: Place) -> Result<Self, AttachError> {
        Self::open(place, None)
    }

    fn open(place: Place, payload_format: Option<u64>) -> Result<Self, AttachError> {
        let path = place.path();
        let system = |what| {
            let path = path.clone();
            move |source| AttachError::System { what, path, source }
        };
        let foreign = |why: String| AttachError::Foreign { path: path.clone(), why };
        let write = payload_format.is_some();
        let file = OpenOptions::new()
            .read(true)
            .write(write)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(&path)
            .map_err(system("open"))?;
        let meta = file.metadata().map_err(system("look at"))?;
        let user = sys::process::user_id();
        if meta.uid() != user && user != 0 {
            return Err(AttachError::Owner { path, owner: meta.uid(), user });
        }
        if !meta.is_file() || meta.len() < PAGE as u64 {
            return Err(foreign(format!("{} bytes, less than a header", meta.len())));
        }
        let mapping = match &place {
            Place::Named(_) if write => {
                let opened = ShmemConf::new().os_id(posix_name(&place)).open();
                Mapping::Named(opened.map_err(|e| system("map")(io::Error::other(e)))?)
            }
            _ if write => Mapping::File(MmapRaw::map_raw(&file).map_err(system("map"))?),
            _ => Mapping::File(MmapOptions::new().map_raw_read_only(&file).map_err(system("map"))?),
        };
        let base = NonNull::new(mapping.as_ptr()).expect("a mapping is not at null");
        let layout = read_header(base, mapping.len(), &path, payload_format)?;
        let lease_path = place.lease_path();
        let lease = Lease::open(&lease_path).map_err(|source| AttachError::System {
            what: "open",
            path: lease_path,
            source,
        })?;
        let mut segment =
            Self { base, layout, nodes: Vec::new(), place, lease, owner: false, _mapping: mapping };
        segment.nodes = segment.read_nodes().map_err(foreign)?;
        Ok(segment)
    }

    fn read_nodes(&self) -> Result<Vec<NodeInfo>, String> {
        let text = |extent: Extent| {
            let bytes = self.blob(extent).ok_or("a name outside the blobs")?;
            String::from_utf8(bytes.to_vec()).map_err(|_| "a name that is not UTF-8")
        };
        (0..self.layout.shape.nodes)
            .map(|index| {
                // SAFETY: *checked*: one of the layout's descriptors, written once before the magic; any
                // bytes are a valid descriptor. Copied, so that checks hold for what is used.
                let d = unsafe {
                    let from = self.base.as_ptr().add(self.layout.node_descriptors).cast::<NodeDescriptor>();
                    from.add(index as usize).read_volatile()
                };
                let next = (d.next != REPLY).then_some(d.next);
                let last = u64::from(d.first_participant) + u64::from(d.workers);
                if last > u64::from(self.layout.shape.participants)
                    || d.workers as usize > doorbell::WORKER_LIMIT
                {
                    return Err(format!("node {index} has workers outside the participant table"));
                }
                if next.is_some_and(|n| n >= self.layout.shape.nodes) {
                    return Err(format!("node {index} goes on to a node that does not exist"));
                }
                if self.blob(d.config).is_none() {
                    return Err(format!("node {index} has its configuration outside the blobs"));
                }
                Ok(NodeInfo {
                    name: text(d.name)?,
                    worker_type: text(d.worker_type)?,
                    type_hash: d.type_hash,
                    batch_size: d.batch_size,
                    batch_wait_ns: d.batch_wait_ns,
                    next,
                    first_participant: d.first_participant,
                    workers: d.workers,
                    config: d.config,
                })
            })
            .collect()
    }

    /// Bytes of the blobs; they never change after creation.
    fn blob(&self, extent: Extent) -> Option<&[u8]> {
        let end = extent.offset.checked_add(extent.bytes)?;
        if end > self.layout.shape.blob_bytes {
            return None;
        }
        // SAFETY: in range, and written once, before the magic.
        Some(unsafe {
            let from = self.base.as_ptr().add(self.layout.blobs + extent.offset as usize);
            core::slice::from_raw_parts(from, extent.bytes as usize)
        })
    }

    /// A reference to one of `count` things of type T that lie at `offset`.
    #[inline]
    fn at<T>(&self, offset: usize, index: usize) -> &T {
        // SAFETY: *checked*: callers pass an offset of the layout and an index below the count the
        // layout was computed with; offsets are aligned for their T. All T used here are made of
        // atomics (and cells that their owners guard), for which any bytes are valid.
        unsafe { self.base.as_ptr().add(offset).cast::<T>().add(index).as_ref_unchecked() }
    }

    pub(crate) fn header(&self) -> &Header {
        self.at(0, 0)
    }

    /// Where it lies.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The numbers its layout follows from.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.layout.shape
    }

    /// Its size in bytes.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.layout.total_bytes as u64
    }

    /// Facts of the header for people.
    #[must_use]
    pub fn identity(&self) -> Identity {
        let header = self.header();
        let name_bytes = (header.name_len as usize).min(NAME_LIMIT);
        Identity {
            name: String::from_utf8_lossy(&header.name[..name_bytes]).into_owned(),
            layout_version: header.version,
            fingerprint: header.fingerprint,
            created_unix_s: header.created_unix_s,
            user_id: header.user_id,
        }
    }

    /// The plan's nodes.
    #[must_use]
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    /// One node's moving parts; `None` if there is no such node.
    #[inline]
    #[must_use]
    pub fn node(&self, index: u32) -> Option<Node<'_>> {
        let info = self.nodes.get(index as usize)?;
        let cells = self.layout.shape.ring_cells() as usize;
        // SAFETY: *checked*: the layout has `cells` cells for each node.
        let ring_cells = unsafe {
            let first = self.base.as_ptr().add(self.layout.ring_cells).cast::<AtomicU64>();
            core::slice::from_raw_parts(first.add(index as usize * cells), cells)
        };
        Some(Node {
            segment: self,
            info,
            lines: self.at(self.layout.node_lines, index as usize),
            cells: ring_cells,
        })
    }

    /// The configuration that a node's workers are constructed from; 16-aligned.
    #[must_use]
    pub fn config(&self, info: &NodeInfo) -> &[u8] {
        self.blob(info.config).unwrap_or(&[])
    }

    /// The participant table.
    #[must_use]
    pub fn participants(&self) -> &[Entry] {
        // SAFETY: *checked*: the layout has this many entries; they are atomics and guarded cells.
        unsafe {
            let first = self.base.as_ptr().add(self.layout.participants).cast::<Entry>();
            core::slice::from_raw_parts(first, self.layout.shape.participants as usize)
        }
    }

    /// The lease file.
    #[must_use]
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// The token of the server, which is also the client.
    #[must_use]
    pub fn server_token(&self) -> Option<Token> {
        self.participants()[SERVER as usize].token()
    }

    /// Whether an incarnation is proven dead.
    #[must_use]
    pub fn is_dead(&self, token: Token) -> bool {
        participant::is_dead(self.participants(), &self.lease, token)
    }

    /// What the server says.
    #[inline]
    #[must_use]
    pub fn run(&self) -> Run {
        match self.header().run.state.load(Ordering::Acquire) {
            0 => Run::Creating,
            1 => Run::Running,
            2 => Run::Stopping,
            _ => Run::Closed,
        }
    }

    /// The server says so. Follow it with [`wake_everyone`](crate::repair::wake_everyone).
    pub fn set_run(&self, run: Run) {
        self.header().run.state.store(run as u32, Ordering::SeqCst);
    }

    /// The bell that workers ring when they are ready or have failed.
    #[must_use]
    pub fn startup(&self) -> SharedBell<'_> {
        SharedBell(&self.header().startup)
    }

    /// The bell that is rung when a request comes free and somebody waits for one.
    #[must_use]
    pub fn freed(&self) -> SharedBell<'_> {
        SharedBell(&self.header().freed)
    }

    #[inline]
    pub(crate) fn task_line(&self, id: u32) -> Option<&TaskLine> {
        (id < self.layout.shape.tasks()).then(|| self.at(self.layout.tasks, id as usize))
    }

    /// The owner words of one class's blocks.
    pub(crate) fn block_owners(&self, class: usize) -> &[AtomicU64] {
        let count = self.layout.shape.classes().get(class).map_or(0, |c| c.count as usize);
        // SAFETY: *checked*: the layout has `count` owner words for this class.
        unsafe {
            let first = self.base.as_ptr().add(self.layout.block_owners[class]).cast::<AtomicU64>();
            core::slice::from_raw_parts(first, count)
        }
    }

    /// The first byte of a block, and its size; `None` if there is no such block.
    pub(crate) fn block(&self, class: usize, index: u64) -> Option<(NonNull<u8>, usize)> {
        let shape = self.layout.shape.classes().get(class)?;
        if index >= shape.count {
            return None;
        }
        let offset = self.layout.blocks[class] + (index * shape.block_bytes) as usize;
        // SAFETY: *checked*: the layout has `count` blocks of this class there.
        Some((unsafe { self.base.add(offset) }, shape.block_bytes as usize))
    }

    /// From now on dropping it leaves the files.
    pub fn keep_files(&mut self) {
        self.owner = false;
        if let Mapping::Named(shmem) = &mut self._mapping {
            shmem.set_owner(false);
        }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if self.owner {
            // Segment first, lease second, both while the lease is held. `shared_memory` would unlink
            // by name too, but after we let go of the lease.
            if let Mapping::Named(shmem) = &mut self._mapping {
                shmem.set_owner(false);
            }
            let _ = std::fs::remove_file(self.place.path());
            let _ = std::fs::remove_file(self.lease.path());
        }
    }
}

/// Facts of a header.
#[derive(Debug, Clone, serde::Serialize)]
#[non_exhaustive]
pub struct Identity {
    /// The server's name, or the file's path.
    pub name: String,
    /// The layout's version.
    pub layout_version: u32,
    /// The hash of all sizes and offsets.
    pub fingerprint: u64,
    /// When it was made.
    pub created_unix_s: u64,
    /// Who made it.
    pub user_id: u32,
}

/// A node's moving parts.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a> {
    segment: &'a Segment,
    info: &'a NodeInfo,
    lines: &'a NodeLines,
    cells: &'a [AtomicU64],
}

impl<'a> Node<'a> {
    /// What never changes of it.
    #[must_use]
    pub fn info(&self) -> &'a NodeInfo {
        self.info
    }

    /// Its ring.
    #[inline]
    #[must_use]
    pub fn ring(&self) -> Ring<'a> {
        Ring::new(&self.lines.tail.0, &self.lines.head.0, self.cells)
    }

    /// Its reader lock.
    #[inline]
    #[must_use]
    pub fn lock(&self) -> ReaderLock<'a> {
        ReaderLock::new(&self.lines.lock.0)
    }

    /// Its doorbell.
    #[inline]
    #[must_use]
    pub fn doorbell(&self) -> &'a doorbell::Line {
        &self.lines.doorbell
    }

    /// Its workers' places.
    #[must_use]
    pub fn workers(&self) -> &'a [Entry] {
        let first = self.info.first_participant as usize;
        &self.segment.participants()[first..first + self.info.workers as usize]
    }

    /// The bell of one of its workers.
    #[must_use]
    pub fn bell(&self, worker: u32) -> Option<&'a Bell> {
        self.workers().get(worker as usize).map(Entry::bell)
    }

    /// After a push: `next` is the position after the last published; wakes whom it must.
    #[inline]
    pub fn after_push(&self, next: u64) {
        let node = *self;
        self.lines.doorbell.after_push(next, move |worker| node.bell(worker));
    }
}

/// A bell that any number of threads of any process wait for.
#[derive(Debug, Clone, Copy)]
pub struct SharedBell<'a>(&'a crate::layout::BellLine);

impl SharedBell<'_> {
    /// How often it has rung.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.count.load(Ordering::SeqCst)
    }

    /// Rings it; wakes all that wait.
    pub fn ring(&self) {
        self.0.count.fetch_add(1, Ordering::SeqCst);
        sys::futex::wake(&self.0.count, u32::MAX);
    }

    /// Rings it if somebody has said that it waits. The caller's last act was a `SeqCst` fence or
    /// read-modify-write that made true what is waited for.
    #[inline]
    pub fn ring_if_awaited(&self) {
        if self.0.waiters.load(Ordering::SeqCst) != 0 {
            self.ring();
        }
    }

    /// Says that somebody waits, until the guard is dropped; look once more before sleeping.
    #[must_use]
    pub fn await_rings(&self) -> Awaiting<'_> {
        self.0.waiters.fetch_add(1, Ordering::SeqCst);
        Awaiting(self.0)
    }

    /// Sleeps until it has rung since `count` was read, or `timeout` is over.
    pub fn sleep(&self, count: u32, timeout: Option<core::time::Duration>) {
        sys::futex::wait(&self.0.count, count, timeout);
    }
}

/// Somebody waits for a bell.
#[derive(Debug)]
pub struct Awaiting<'a>(&'a crate::layout::BellLine);

impl Drop for Awaiting<'_> {
    fn drop(&mut self) {
        self.0.waiters.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The POSIX name of a named place.
fn posix_name(place: &Place) -> String {
    let file = place.path();
    format!("/{}", file.file_name().unwrap_or_default().to_string_lossy())
}

/// Removes the segment of a dead server. The caller holds the lease.
fn remove_stale(path: &Path) -> Result<(), CreateError> {
    let system = |what| move |source| CreateError::System { what, path: path.to_path_buf(), source };
    let foreign = || CreateError::Foreign { path: path.to_path_buf() };
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(system("look at")(e)),
    };
    if !meta.is_file() {
        return Err(foreign());
    }
    if !is_segment_file(path).map_err(system("read"))? {
        return Err(foreign());
    }
    std::fs::remove_file(path).map_err(system("remove"))
}

/// Whether a file is a segment, finished or begun: it has our magic, or nothing but zeros where the
/// header would be (its creator died before writing it).
fn is_segment_file(path: &Path) -> io::Result<bool> {
    use std::io::Read;
    let mut head = Vec::with_capacity(PAGE);
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?
        .take(PAGE as u64)
        .read_to_end(&mut head)?;
    let finished = head.starts_with(&MAGIC.to_le_bytes());
    // The version is written first, the magic last.
    let begun = head.iter().all(|&b| b == 0)
        || head.starts_with(&[0; 8]) && head[8..].starts_with(&LAYOUT_VERSION.to_le_bytes());
    Ok(finished || begun)
}

/// Creates the file exclusively, with all its pages, and maps it.
fn make_file(place: &Place, path: &Path, bytes: u64) -> Result<Mapping, CreateError> {
    let directory =
        path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf();
    let system = |what| move |source| CreateError::System { what, path: path.to_path_buf(), source };
    let available_bytes =
        sys::file::available_bytes(&directory).map_err(system("look at the file system of"))?;
    let no_space = || CreateError::NoSpace { path: directory.clone(), needed_bytes: bytes, available_bytes };
    if available_bytes < bytes {
        return Err(no_space());
    }
    let reserve = |file: &File| {
        sys::file::reserve(file, bytes).map_err(|e| match e.raw_os_error() {
            Some(libc::ENOSPC) => no_space(),
            _ => system("reserve the pages of")(e),
        })
    };
    match place {
        Place::Named(_) => {
            let shmem = ShmemConf::new().os_id(posix_name(place)).size(bytes as usize).create().map_err(
                |e| match e {
                    ShmemError::MapCreateFailed(code) | ShmemError::UnknownOsError(code) => {
                        system("create")(io::Error::from_raw_os_error(code.cast_signed()))
                    }
                    other => system("create")(io::Error::other(other)),
                },
            )?;
            // From here on a failure drops `shmem`, which unlinks what it made.
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
                .open(path)
                .map_err(system("open"))?;
            reserve(&file)?;
            Ok(Mapping::Named(shmem))
        }
        Place::File(_) => {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
                .open(path)
                .map_err(system("create"))?;
            let mapped = reserve(&file).and_then(|()| MmapRaw::map_raw(&file).map_err(system("map")));
            if mapped.is_err() {
                let _ = std::fs::remove_file(path);
            }
            Ok(Mapping::File(mapped?))
        }
    }
}

/// Checks a header; the layout that follows from its shape.
fn read_header(
    base: NonNull<u8>,
    mapped: usize,
    path: &Path,
    payload_format: Option<u64>,
) -> Result<Layout, AttachError> {
    let foreign = |why: &str| AttachError::Foreign { path: path.to_path_buf(), why: why.into() };
    // SAFETY: the mapping has at least a page; the magic is an atomic.
    let magic = unsafe { (*base.as_ptr().cast::<Header>()).magic.load(Ordering::Acquire) }; // *finished*
    match magic {
        MAGIC => {}
        0 => return Err(foreign("its creator has not finished it")),
        _ => return Err(foreign("its first bytes are another program's")),
    }
    // SAFETY: the mapping has at least a page. Copied, so that what is checked is what is used; any
    // bytes are valid values of these types.
    let (version, fingerprint, total_bytes, shape, format) = unsafe {
        let header = base.as_ptr().cast::<Header>();
        (
            (&raw const (*header).version).read_volatile(),
            (&raw const (*header).fingerprint).read_volatile(),
            (&raw const (*header).total_bytes).read_volatile(),
            (&raw const (*header).shape).read_volatile(),
            (&raw const (*header).payload_format).read_volatile(),
        )
    };
    if version != LAYOUT_VERSION {
        return Err(AttachError::Version { path: path.into(), found: version, expected: LAYOUT_VERSION });
    }
    let layout = Layout::new(&shape).map_err(|e| foreign(&format!("its {e}")))?;
    if total_bytes != layout.total_bytes as u64 || mapped < layout.total_bytes {
        return Err(foreign(&format!(
            "it says {total_bytes} bytes, its shape makes {}, the file has {mapped}",
            layout.total_bytes
        )));
    }
    let expected = layout.fingerprint(payload_format.unwrap_or(format));
    if fingerprint != expected {
        return Err(AttachError::Fingerprint { path: path.into(), found: fingerprint, expected });
    }
    Ok(layout)
}

/// The server's pid of a segment that is in use, for the error message.
fn server_pid(place: &Place) -> Option<u32> {
    Some(Segment::inspect(place.clone()).ok()?.participants()[SERVER as usize].pid())
}

/// A segment found by [`list`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Found {
    /// Where it lies.
    pub place: Place,
    /// Whether its server lives.
    pub live: bool,
}

/// All named segments of this machine, and lease files without one, by name.
///
/// # Errors
/// If the directory cannot be read.
pub fn list() -> io::Result<Vec<Found>> {
    let mut names = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(NAMED_DIRECTORY)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str().and_then(|n| n.strip_prefix(NAME_PREFIX)) else { continue };
        names.insert(name.strip_suffix(".lease").unwrap_or(name).to_string());
    }
    let places = names.iter().filter_map(|name| Place::named(name).ok());
    Ok(places.map(|place| Found { live: is_live(&place), place }).collect())
}

/// Whether the server of a segment lives: its lease is held.
#[must_use]
pub fn is_live(place: &Place) -> bool {
    Lease::open(&place.lease_path()).is_ok_and(|lease| lease.is_held(SERVER).unwrap_or(true))
}

/// What became of a segment that was to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Removed {
    /// It was stale and is gone (or would be, if this was a rehearsal).
    Stale,
    /// Its server lives; it was left alone.
    Live,
    /// It is not a segment; it was left alone.
    Foreign,
}

/// Removes a segment whose lease is free; with `dry_run`, only says what would happen.
///
/// # Errors
/// What the operating system says.
pub fn remove_if_stale(place: &Place, dry_run: bool) -> io::Result<Removed> {
    let path = place.path();
    let exists = std::fs::symlink_metadata(&path).is_ok();
    if exists && !is_segment_file(&path).unwrap_or(false) {
        return Ok(Removed::Foreign);
    }
    if dry_run {
        return Ok(if is_live(place) { Removed::Live } else { Removed::Stale });
    }
    let Some(lease) = Lease::acquire(&place.lease_path())? else {
        return Ok(Removed::Live);
    };
    if exists {
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    std::fs::remove_file(lease.path())?;
    Ok(Removed::Stale)
}
