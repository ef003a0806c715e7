//! Attaching a segment: the attacher checks all that it believes.
//!
//! # Protocol
//!
//! The attacher opens the file once, and checks and maps that descriptor: a plain file with one name, its user's alone,
//! with as many pages as lie before the payload blocks and in those that were used. Then the header, copied; then the plan, copied. The shape, the
//! plan and all that follows from them lie in this process's memory from then on, and are not read again. The lease file
//! is checked in the same way. A worker that has both descriptors from its server does not check names and rights: these
//! may have changed by now. An anonymous segment is opened through a descriptor of another process, and must have no
//! name at all.
//!
//! Any process of the same user may open the file and write into it at any time. So whatever is read later is checked
//! where it is read. Only a file that is made *shorter* while it is mapped, or that gets a hole before its payload blocks (by
//! hand, or as a copy that leaves out zeros), has no defence: the kernel sends SIGBUS to a process that reads what is not
//! there, or for which it finds no page. Only the file's user can do that, since its mode lets no other user write.
#![expect(unsafe_code, reason = "reading a header that another program may have written")]

use super::anonymous::{self, Opened};
use super::client::Home;
use super::create::Service;
use super::location::Location;
use super::node::{NodeInfo, PayloadTypes};
use super::{MEMBER_BYTES, Mapping, Segment, TARGET_BYTES};
use crate::doorbell;
use crate::fields::InSegment;
use crate::layout::{
    BACKED, Extent, ForkDescriptor, Header, LAYOUT_VERSION, Layout, MAGIC, NodeDescriptor, PAGE,
    ServiceDescriptor, ShapeError, SwitchDescriptor,
};
use crate::participant::{Lease, Role, SERVER};
use crate::plan::{Fork, ForkMember, PlanError, Routes, Switch, Target};
use crate::sync::{AtomicU32, Ordering};
use crate::sys;
use crate::sys::birth::Birth;
use crate::text::shown_path;
use core::cell::Cell;
use core::ptr::NonNull;
use memmap2::MmapOptions;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why a segment could not be attached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The operating system refused.
    #[error("cannot {what} {}: {error}", shown_path(path))]
    System {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// It is not a segment, or one that is not finished.
    #[error("{} is not a ringmill segment: {why}", shown_path(path))]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: NotASegment,
    },
    /// Another version of this library made it.
    #[error(
        "{} has layout version {found}, this program has {expected}: build both from the same version of ringmill",
        shown_path(path)
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// Its sizes or its payload format differ from this program's.
    #[error(
        "{} has fingerprint {found:#018x}, this program computes {expected:#018x}: build both from the same sources, with the same settings",
        shown_path(path)
    )]
    Fingerprint {
        /// The file.
        path: PathBuf,
        /// Its fingerprint.
        found: u64,
        /// Ours.
        expected: u64,
    },
    /// Its file has another size than its header and shape say.
    #[error(
        "{} has {found} bytes, its header says {stated}, its shape makes {needed}: it is damaged; restart its server",
        shown_path(path)
    )]
    Size {
        /// The file.
        path: PathBuf,
        /// The file's size.
        found: u64,
        /// The size that the header says.
        stated: u64,
        /// The size that follows from the numbers in the header.
        needed: u64,
    },
    /// It belongs to another user.
    #[error(
        "{} belongs to user {owner}, this process acts as user {user}: run it as that user",
        shown_path(path)
    )]
    Owner {
        /// The file.
        path: PathBuf,
        /// The file's user.
        owner: u32,
        /// This process's user.
        user: u32,
    },
    /// An anonymous segment whose address fits several.
    #[error("there are several segments {address}: name one of {all}")]
    Several {
        /// The address.
        address: String,
        /// The addresses of each.
        all: String,
    },
    /// Other users may read or write it.
    #[error("{} has mode {mode:04o}; only its user may have rights to it, as in 0600", shown_path(path))]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

/// What is wrong with a file that is no segment, or one that is not finished.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotASegment {
    /// It is a directory, a link, a pipe.
    #[error("it is no plain file")]
    NoFile,
    /// It no longer has a name.
    #[error("it has just been removed")]
    Removed,
    /// It is said to be anonymous, and has a name.
    #[error("it is a file with a name, and no anonymous segment")]
    Named,
    /// It has other names, and a lease beside one of them.
    #[error("its file has {names} names, and a lease beside one of them")]
    Names {
        /// How many.
        names: u64,
    },
    /// It is shorter than a header.
    #[error("{bytes} bytes, less than a header")]
    Short {
        /// Its size.
        bytes: u64,
    },
    /// Some of its pages are missing.
    #[error("it has holes: {there} of {bytes} bytes are there")]
    Holes {
        /// Bytes that are there.
        there: u64,
        /// Its size.
        bytes: u64,
    },
    /// It begins with zeros.
    #[error("its creator has not finished it")]
    Unfinished,
    /// It begins with other bytes than a segment.
    #[error("its first bytes are another program's")]
    Magic,
    /// A number of its header is out of range.
    #[error("its {0}")]
    Shape(ShapeError),
    /// Its routes do not make a plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Names, members and configurations overlap.
    #[error("names, members and configurations overlap")]
    Overlap,
    /// A part of the plan lies outside the blobs.
    #[error("{what} of {part} lies outside the blobs")]
    Outside {
        /// What.
        what: &'static str,
        /// Of which part.
        part: Target,
    },
    /// A name is not text.
    #[error("a name of {part} is not UTF-8")]
    NotText {
        /// The part that has it.
        part: Target,
    },
    /// A node has workers in rows of the participant table that cannot be theirs.
    #[error("node {node} has workers {fault}")]
    Workers {
        /// Which.
        node: u32,
        /// What is wrong with them.
        fault: &'static str,
    },
    /// A number of a node is out of range.
    #[error("node {node} is impossible: its {error}")]
    Node {
        /// Which.
        node: u32,
        /// Which number.
        error: ShapeError,
    },
    /// A switch has a node whose number is out of range.
    #[error("switch {switch} has node {node}")]
    NodeOfSwitch {
        /// Which.
        switch: u32,
        /// The number.
        node: u64,
    },
    /// Requests enter at a part that there is not.
    #[error("requests enter at {entry}, which there is not")]
    Entry {
        /// Where.
        entry: Target,
    },
    /// Rows of the participant table belong to no node.
    #[error("{count} participants belong to no node")]
    Strangers {
        /// How many.
        count: u32,
    },
}

/// The checks of a file before it is believed to be ours.
struct Vetting {
    user: u32,
    /// Whether this process only looks; root may look at all users' segments.
    only_looks: bool,
    is_anonymous: bool,
}

impl Vetting {
    /// # Errors
    /// What is wrong with the file.
    fn vet(&self, path: &Path, meta: &Metadata) -> Result<(), AttachError> {
        let foreign = |why| Err(AttachError::Foreign { path: path.into(), why });
        let (user, owner) = (self.user, meta.uid());
        if owner != user && !(user == 0 && self.only_looks) {
            return Err(AttachError::Owner { path: path.into(), owner, user });
        }
        if !meta.is_file() {
            return foreign(NotASegment::NoFile);
        }
        match meta.nlink() {
            0 if self.is_anonymous => Ok(()),
            _ if self.is_anonymous => foreign(NotASegment::Named),
            0 => foreign(NotASegment::Removed),
            1 => Ok(()),
            // Under another name it would have another lease, and all its participants would look dead.
            names => foreign(NotASegment::Names { names }),
        }
    }
}

/// Checked only of a file that is a segment by its first bytes: of another file it would be beside the point.
fn check_mode(path: &Path, meta: &Metadata) -> Result<(), AttachError> {
    match meta.mode() & 0o7777 {
        mode if mode & 0o7077 != 0 => Err(AttachError::Mode { path: path.into(), mode }),
        _ => Ok(()),
    }
}

/// How many bytes of the blobs have not been read yet. A creator writes them side by side, so all names, members and
/// configurations together have no more bytes than the blobs: else a few bytes could be read over and over.
struct Budget(Cell<u64>);

impl Budget {
    fn spend(&self, bytes: u64) -> Result<(), NotASegment> {
        let left = self.0.get().checked_sub(bytes);
        self.0.set(left.ok_or(NotASegment::Overlap)?);
        Ok(())
    }
}

/// A file that is mapped, with a header that was checked.
struct Mapped {
    mapping: Mapping,
    base: NonNull<u8>,
    layout: Layout,
    file: File,
}

impl Mapped {
    fn join(self, location: Location, lease: Lease) -> Result<Segment, AttachError> {
        let path = location.path();
        let mut segment = Segment::over(self.mapping, self.base, self.layout, location, self.file, lease);
        segment.read_plan().map_err(|why| AttachError::Foreign { path, why })?;
        Ok(segment)
    }
}

/// How many bytes of a file have pages if it has no holes: all before the payload blocks, and those of blocks that are backed. The
/// words that say so are read, not touched in the mapping, since these pages may be missing.
fn bytes_to_be_there(file: &File, layout: &Layout) -> io::Result<u64> {
    let page = PAGE as u64;
    let mut pages = layout.bytes_before_blocks().div_ceil(page);
    let mut next = pages;
    let mut words = vec![0; 64 << 10];
    for (class, shape) in layout.shape.classes().iter().enumerate() {
        let (owners, blocks) = (layout.block_owners[class] as u64, layout.blocks[class] as u64);
        let mut index = 0;
        while index < shape.count {
            let some = ((shape.count - index) * 8).min(words.len() as u64);
            let words = &mut words[..some as usize];
            file.read_exact_at(words, owners + index * 8)?;
            for word in words.chunks_exact(8) {
                let first = blocks + index * shape.block_bytes;
                index += 1;
                if u64::from_ne_bytes(word.try_into().expect("eight bytes")) & BACKED != 0 {
                    // Blocks lie in the order of their classes; small ones share a page.
                    let end = (first + shape.block_bytes).div_ceil(page);
                    pages += end - (first / page).max(next).min(end);
                    next = next.max(end);
                }
            }
        }
    }
    Ok((pages * page).min(layout.total_bytes as u64))
}

impl Segment {
    /// Maps an existing segment to take part in it.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn attach(location: Location, payload_format: u64) -> Result<Self, AttachError> {
        Self::open(location, Some(payload_format))
    }

    /// Maps an existing segment of any payload format only to look at it: the pages are read-only.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn inspect(location: Location) -> Result<Self, AttachError> {
        Self::open(location, None)
    }

    fn open(location: Location, payload_format: Option<u64>) -> Result<Self, AttachError> {
        let path = location.path();
        let system = |what| {
            let path = path.clone();
            move |error| AttachError::System { what, path, error }
        };
        let write = payload_format.is_some();
        let mut vetting = Vetting { user: sys::process::user_id(), only_looks: !write, is_anonymous: false };
        let (file, lease) = match &location {
            Location::Anonymous(of) => {
                vetting.is_anonymous = true;
                let Opened { file, lease } = anonymous::open(of, write)?;
                (file, Some(lease))
            }
            Location::Named(_) | Location::File(_) => {
                let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK; // a FIFO must not hold us
                let mut options = OpenOptions::new();
                options.read(true).write(write).custom_flags(flags);
                (options.open(&path).map_err(system("open"))?, None)
            }
        };
        let meta = file.metadata().map_err(system("look at"))?;
        vetting.vet(&path, &meta)?;
        let segment = Self::map_checked(&location, file, &meta, payload_format)?;
        let lease_path = location.lease_path();
        check_mode(&path, &meta)?;
        let of_lease = |what| {
            let path = lease_path.clone();
            move |error| AttachError::System { what, path, error }
        };
        let lease = match lease {
            Some(lease) => lease,
            None => Lease::open(&lease_path).map_err(of_lease("open"))?,
        };
        for meta in lease.metadata().map_err(of_lease("look at"))? {
            vetting.vet(&lease_path, &meta)?;
            check_mode(&lease_path, &meta)?;
        }
        segment.join(location, lease)
    }

    /// Maps a segment whose descriptors this process got from its server, to take part in it, whatever the names and
    /// rights of its files are by now.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn adopt(
        location: Location,
        payload_format: u64,
        file: File,
        lease: Lease,
    ) -> Result<Self, AttachError> {
        let path = location.path();
        let meta = file.metadata().map_err(|error| AttachError::System { what: "look at", path, error })?;
        Self::map_checked(&location, file, &meta, Some(payload_format))?.join(location, lease)
    }

    /// Maps a file, and checks its header.
    fn map_checked(
        location: &Location,
        file: File,
        meta: &Metadata,
        payload_format: Option<u64>,
    ) -> Result<Mapped, AttachError> {
        let path = location.path();
        let foreign = |why| AttachError::Foreign { path: path.clone(), why };
        if meta.len() < PAGE as u64 {
            return Err(foreign(NotASegment::Short { bytes: meta.len() }));
        }
        let kind = sys::file::kind_of(&file).map_err(|error| AttachError::System {
            what: "look at the file system of",
            path: path.clone(),
            error,
        })?;
        // Its creator reserves all but the payload blocks, which their owners reserve. If the file system is full when a
        // missing page is first touched, the kernel sends SIGBUS.
        let there = if kind.counts_blocks() { meta.blocks().saturating_mul(512) } else { meta.len() };
        let has = |bytes: u64| {
            if there < bytes { Err(foreign(NotASegment::Holes { there, bytes })) } else { Ok(()) }
        };
        has(PAGE as u64)?;
        let mapping = map(&file, meta.len(), payload_format.is_some())
            .map_err(|error| AttachError::System { what: "map", path: path.clone(), error })?;
        let base = NonNull::new(mapping.as_ptr()).expect("a mapping is not at null");
        let layout = read_header(base, meta.len(), kind.granule_bytes(), &path, payload_format)?;
        has(layout.bytes_before_blocks())?;
        if kind.counts_blocks() {
            let system = |error| AttachError::System { what: "look at", path: path.clone(), error };
            // In this order: a block has its pages before its word says so.
            let bytes = bytes_to_be_there(&file, &layout).map_err(system)?;
            let there = file.metadata().map_err(system)?.blocks().saturating_mul(512);
            if there < bytes {
                return Err(foreign(NotASegment::Holes { there, bytes }));
            }
        }
        Ok(Mapped { mapping, base, layout, file })
    }

    /// A segment whose plan has not been read.
    pub(super) fn over(
        mapping: Mapping,
        base: NonNull<u8>,
        layout: Layout,
        location: Location,
        file: File,
        lease: Lease,
    ) -> Self {
        let (nodes, routes) = (Vec::new(), Routes::default());
        let (birth, owner) = (Birth::here(), None);
        let layout_shape = layout.shape;
        static MAPPED: AtomicU32 = AtomicU32::new(0);
        let number = MAPPED.fetch_add(1, Ordering::Relaxed); // Relaxed: numbers only have to differ
        // SAFETY: [checked]: in the mapping, which has the layout's bytes.
        let tasks = unsafe { base.add(layout.tasks) }.cast();
        Self {
            base,
            tasks,
            layout,
            nodes,
            routes,
            location,
            file,
            lease,
            birth,
            owner,
            service: Service::default(),
            home: Home::of_server(&layout_shape),
            part_of_inputs: None,
            memory_refused: None,
            huge_refused: None,
            number,
            granted: super::Granted::default(),
            _mapping: mapping,
        }
    }

    /// Reads and checks the plan.
    pub(super) fn read_plan(&mut self) -> Result<(), NotASegment> {
        let budget = Budget(Cell::new(self.layout.shape.blob_bytes));
        let nodes = self.read_nodes(&budget)?;
        let nexts: Vec<Target> = nodes.iter().map(|node| node.next).collect();
        let (forks, switches) = (self.read_forks(&budget)?, self.read_switches(&budget)?);
        self.routes = Routes::new(forks, switches, &nexts, self.layout.shape.branches())?;
        self.nodes = nodes;
        self.service = self.read_service(&budget)?;
        Ok(())
    }

    fn read_service(&self, budget: &Budget) -> Result<Service, NotASegment> {
        let d: ServiceDescriptor = self.descriptor(self.layout.service, 0);
        let entry = Target::from_raw(d.entry);
        if entry != Target::End && self.name_of(entry).is_none() {
            return Err(NotASegment::Entry { entry });
        }
        let payloads = PayloadTypes {
            input: self.text(entry, d.input_type, budget)?,
            outcome: self.text(entry, d.outcome_type, budget)?,
        };
        Ok(Service { payloads, type_hash: d.type_hash, entry })
    }

    /// The name of a part, from these bytes of the blobs.
    fn text(&self, part: Target, extent: Extent, budget: &Budget) -> Result<String, NotASegment> {
        budget.spend(extent.bytes)?;
        let bytes = self.blob(extent).ok_or(NotASegment::Outside { what: "a name", part })?;
        String::from_utf8(bytes.to_vec()).map_err(|_| NotASegment::NotText { part })
    }

    /// One of the descriptors that lie at `offset`, whose number the caller has checked.
    fn descriptor<T: Copy + InSegment>(&self, offset: usize, index: u32) -> T {
        // SAFETY: [checked]: one of the layout's descriptors, written once before the magic; any bytes are
        // a valid descriptor. Copied, so that checks hold for what is used.
        unsafe { self.base.as_ptr().add(offset).cast::<T>().add(index as usize).read_volatile() }
    }

    /// The numbers of a part's members, from these bytes of the blobs.
    fn numbers(&self, part: Target, extent: Extent, budget: &Budget) -> Result<Vec<u32>, NotASegment> {
        budget.spend(extent.bytes)?;
        let bytes = self.blob(extent).ok_or(NotASegment::Outside { what: "a member", part })?;
        Ok(bytes.as_chunks().0.iter().map(|&four| u32::from_le_bytes(four)).collect())
    }

    fn read_forks(&self, budget: &Budget) -> Result<Vec<Fork>, NotASegment> {
        let read =
            |index| {
                let d: ForkDescriptor = self.descriptor(self.layout.forks, index);
                let part = Target::Fork(index);
                let members = self.numbers(part, d.members, budget)?;
                let member = |&[entry, root_bytes, root_align]: &[u32; MEMBER_BYTES / TARGET_BYTES]| {
                    ForkMember { entry: Target::from_raw(entry), root_bytes, root_align }
                };
                Ok(Fork {
                    name: self.text(part, d.name, budget)?,
                    fail_fast: d.fail_fast.is_set(),
                    form: d.form,
                    parent: d.parent,
                    first: d.first,
                    end: d.end,
                    next: Target::from_raw(d.next),
                    members: members.as_chunks().0.iter().map(member).collect(),
                })
            };
        (0..self.layout.shape.forks).map(read).collect()
    }

    fn read_switches(&self, budget: &Budget) -> Result<Vec<Switch>, NotASegment> {
        let read = |index| {
            let node_of = |node: u64| match node {
                u64::MAX => Ok(None),
                node => match u32::try_from(node) {
                    Ok(node) => Ok(Some(node)),
                    Err(_) => Err(NotASegment::NodeOfSwitch { switch: index, node }),
                },
            };
            let d: SwitchDescriptor = self.descriptor(self.layout.switches, index);
            let part = Target::Switch(index);
            Ok(Switch {
                name: self.text(part, d.name, budget)?,
                node: node_of(d.node)?,
                members: self.numbers(part, d.members, budget)?.into_iter().map(Target::from_raw).collect(),
            })
        };
        (0..self.layout.shape.switches).map(read).collect()
    }

    fn read_nodes(&self, budget: &Budget) -> Result<Vec<NodeInfo>, NotASegment> {
        let participants = self.layout.shape.first_client_row();
        let mut first = SERVER + 1;
        let nodes: Vec<NodeInfo> = (0..self.layout.shape.nodes)
            .map(|index| {
                let part = Target::Node(index);
                let workers = |fault| Err(NotASegment::Workers { node: index, fault });
                let d: NodeDescriptor = self.descriptor(self.layout.node_descriptors, index);
                if d.rows as usize > doorbell::WORKER_LIMIT || d.rows > participants - first {
                    return workers("outside the participant table");
                }
                if d.first_participant != first {
                    return workers("that are not those after the last one's");
                }
                first += d.rows;
                d.facts.check().map_err(|error| NotASegment::Node { node: index, error })?;
                if !d.rows.is_multiple_of(d.facts.threads) {
                    return workers("with a fraction of a thread");
                }
                budget.spend(d.config.bytes)?;
                if self.blob(d.config).is_none() {
                    return Err(NotASegment::Outside { what: "the configuration", part });
                }
                Ok(NodeInfo {
                    name: self.text(part, d.name, budget)?,
                    worker_type: self.text(part, d.worker_type, budget)?,
                    payloads: PayloadTypes {
                        input: self.text(part, d.input_type, budget)?,
                        outcome: self.text(part, d.outcome_type, budget)?,
                    },
                    facts: d.facts,
                    next: Target::from_raw(d.next),
                    first_participant: d.first_participant,
                    rows: d.rows,
                    role: if d.in_threads.is_set() { Role::ThreadWorker } else { Role::ProcessWorker },
                    // A number that no part has stands for none: then any block is as near.
                    memory_part: d
                        .memory_part
                        .checked_sub(1)
                        .filter(|&part| part < self.layout.shape.memory_parts),
                    config: d.config,
                })
            })
            .collect::<Result<_, _>>()?;
        match participants - first {
            0 => Ok(nodes),
            count => Err(NotASegment::Strangers { count }),
        }
    }
}

/// Maps `bytes` bytes of a file: as many as were checked, whatever its size is by now.
fn map(file: &File, bytes: u64, write: bool) -> io::Result<Mapping> {
    let mut options = MmapOptions::new();
    options.len(usize::try_from(bytes).map_err(io::Error::other)?);
    let mapped = if write { options.map_raw(file) } else { options.map_raw_read_only(file) };
    mapped.map(Mapping::File)
}

/// Checks a header; the layout that follows from its shape.
fn read_header(
    base: NonNull<u8>,
    found: u64,
    granule_bytes: u64,
    path: &Path,
    payload_format: Option<u64>,
) -> Result<Layout, AttachError> {
    let foreign = |why| AttachError::Foreign { path: path.to_path_buf(), why };
    // SAFETY: the mapping has at least a page; the magic is an atomic.
    let magic = unsafe { (*base.as_ptr().cast::<Header>()).magic.load(Ordering::Acquire) }; // [finished]
    match magic {
        MAGIC => {}
        0 => return Err(foreign(NotASegment::Unfinished)),
        _ => return Err(foreign(NotASegment::Magic)),
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
    let layout = Layout::new(&shape).map_err(|error| foreign(NotASegment::Shape(error)))?;
    let needed = layout.total_bytes as u64;
    if total_bytes != needed || found != needed.next_multiple_of(granule_bytes) {
        return Err(AttachError::Size { path: path.into(), found, stated: total_bytes, needed });
    }
    let expected = layout.fingerprint(payload_format.unwrap_or(format));
    if fingerprint != expected {
        return Err(AttachError::Fingerprint { path: path.into(), found: fingerprint, expected });
    }
    Ok(layout)
}
