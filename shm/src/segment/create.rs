//! Creating a segment: its files, its pages, everything in them, the magic last.
#![expect(unsafe_code, reason = "writing the pages before another process has them")]

use super::attach::NotASegment;
use super::location::{Anonymous, Location, MODE, NameError, posix_name};
use super::memory::{self, Memory};
use super::node::PayloadTypes;
use super::pages::HugePages;
use super::stale::remove_stale;
use super::{MEMBER_BYTES, Mapping, Owner, Removal, Run, Segment, TARGET_BYTES};
use crate::doorbell::WORKER_LIMIT;
use crate::layout::{
    BACKED, Class, Extent, ForkDescriptor, Header, LAYOUT_VERSION, Layout, MAGIC, NAME_LIMIT, NodeDescriptor,
    NodeFacts, PAYLOAD_ALIGN, PartialRings, REQUEST_LIMIT, ServiceDescriptor, Shape, ShapeError,
    SwitchDescriptor, within,
};
use crate::participant::{Lease, LeaseError, Life, MemoryLeaseError, Role, SERVER};
use crate::placed::Placed;
use crate::plan::{Fork, PlanError, Routes, Switch, Target};
use crate::sync::Ordering;
use crate::sys;
use crate::sys::file::Kind;
use crate::sys::memfd;
use crate::text::{exact_size, shown_path};
use crate::token::Token;
use core::ptr::NonNull;
use memmap2::MmapRaw;
use shared_memory::{ShmemConf, ShmemError};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What a segment is made from.
#[derive(Debug, Clone, Default)]
pub struct Spec {
    /// Requests of the server's own process that can be in progress.
    pub requests: u32,
    /// How many client processes can take part at once.
    pub clients: u32,
    /// Requests of each client that can be in progress.
    pub client_requests: u32,
    /// What clients send and get, and where their requests enter.
    pub service: Service,
    /// Tasks of each request.
    pub tasks_per_request: u32,
    /// Size classes of payload blocks, ascending by size.
    pub classes: Vec<Class>,
    /// The ring of partials of each request.
    pub partials: PartialRings,
    /// How many traces are kept; 0: none.
    pub traces: u32,
    /// Identifies how payload bytes are written: part of the fingerprint.
    pub payload_format: u64,
    /// Which pages are reserved when it is created.
    pub reserve: Reserve,
    /// The plan's nodes.
    pub nodes: Vec<NodeSpec>,
    /// The plan's forks, in the order of their first branches.
    pub forks: Vec<Fork>,
    /// The plan's switches.
    pub switches: Vec<Switch>,
    /// On which NUMA nodes its memory is to lie.
    pub memory: Memory,
    /// Whether it is to lie on huge pages.
    pub huge_pages: HugePages,
}

/// What a server's clients must know of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    /// The types of its inputs and outcomes.
    pub payloads: PayloadTypes,
    /// Differs if those types do, as far as the engine can tell.
    pub type_hash: u64,
    /// Where a request enters.
    pub entry: Target,
}

/// Which pages of a segment are reserved when it is created, so that nothing that needs them meets a system without memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[non_exhaustive]
pub enum Reserve {
    /// All but the payload blocks: each of those is reserved by the first request that uses it or, where the file system can,
    /// one of its neighbours within 64 KiB, and stays so. A request for whose block there is no memory ends with an error, and
    /// harms nothing else.
    ///
    /// On huge pages, of which the kernel reserves as many as a process maps, it is [`Everything`](Self::Everything).
    #[default]
    AsUsed,
    /// All: no request ever finds the system without memory for it, and the segment takes that of all blocks from the start.
    Everything,
}

/// What a node is made from.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    /// The servlet's name.
    pub name: String,
    /// The worker type's name.
    pub worker_type: String,
    /// The types of its payloads.
    pub payloads: PayloadTypes,
    /// What each worker is constructed from.
    pub config: Vec<u8>,
    /// Its numbers.
    pub facts: NodeFacts,
    /// Where finished tasks go.
    pub next: Target,
    /// Where the workers run.
    pub role: Role,
    /// Where each worker runs.
    pub workers: Vec<Placed>,
}

impl NodeSpec {
    /// How many rows its workers have: one for each thread of each worker.
    pub(super) fn rows(&self) -> usize {
        self.workers.len() * self.facts.threads as usize
    }
}

/// Why a segment could not be created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The name is invalid.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A number of the shape is out of range.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The routes do not make a plan.
    #[error("invalid plan: {0}")]
    Plan(PlanError),
    /// Another process has written into it meanwhile: it is not what the creator wrote.
    #[error("{} was written over while it was made: {why}", shown_path(path))]
    Overwritten {
        /// The segment's file.
        path: PathBuf,
        /// What is wrong with it now.
        why: NotASegment,
    },
    /// A living server has the name.
    #[error("segment {} is in use by a live server{}: take another name, or stop that one first", shown_path(path), pid.map_or(String::new(), |p| format!(" (pid {p})")))]
    InUse {
        /// The segment's file.
        path: PathBuf,
        /// The server's process, if it can be told.
        pid: Option<u32>,
    },
    /// There is a file of this name that is no segment.
    #[error(
        "{} exists and is not a ringmill segment; it was left alone: remove it, or take another name",
        shown_path(path)
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// One of its files is another user's. In a directory where all users may make files, any user can take a name
    /// first.
    #[error(
        "{} belongs to user {owner}, this process acts as user {user}; it was left alone: take another name, or a file in a directory of your own",
        shown_path(path)
    )]
    Owner {
        /// The file: the segment's, or its lease.
        path: PathBuf,
        /// The file's user.
        owner: u32,
        /// This process's user.
        user: u32,
    },
    /// This process may not make files so large (`RLIMIT_FSIZE`).
    #[error(
        "a file of this process may have {}, {} needs {}: lower capacity, max_payload or payload_classes, or raise the limit on file sizes",
        exact_size(*limit_bytes),
        shown_path(path),
        exact_size(*needed_bytes)
    )]
    FileLimit {
        /// The segment's file.
        path: PathBuf,
        /// What the segment needs.
        needed_bytes: u64,
        /// What is allowed.
        limit_bytes: u64,
    },
    /// The file system has too few free bytes.
    #[error(
        "{} has {} free, the segment needs {}: lower capacity, max_payload or payload_classes, or enlarge it",
        shown_path(path),
        exact_size(*available_bytes),
        exact_size(*needed_bytes)
    )]
    NoSpace {
        /// The file system's directory.
        path: PathBuf,
        /// What the segment needs.
        needed_bytes: u64,
        /// What there is.
        available_bytes: u64,
    },
    /// There are too few huge pages.
    #[error(
        "{} lies on huge pages of {page_bytes} bytes: {} of them are free, the segment needs {}: lower capacity, max_payload or payload_classes, mount it with a larger size, or reserve more (/proc/sys/vm/nr_hugepages)",
        shown_path(path),
        exact_size(*available_bytes),
        exact_size(*needed_bytes)
    )]
    HugePages {
        /// The segment's file.
        path: PathBuf,
        /// The size of a page.
        page_bytes: u64,
        /// What the segment needs, in whole pages.
        needed_bytes: u64,
        /// What there is.
        available_bytes: u64,
    },
    /// Huge pages are demanded of a segment that cannot have them.
    #[error(
        "{} cannot lie on huge pages: an anonymous segment can, or a file on a hugetlbfs; take one of these, or leave huge pages off",
        shown_path(path)
    )]
    NoHugePages {
        /// The segment's file.
        path: PathBuf,
    },
    /// The control group may not use so much memory: the kernel would kill its processes while the pages are reserved.
    #[error(
        "the control group {} may take {} of memory and has {} left, {} needs {}: lower capacity, max_payload or payload_classes, or raise the limit of the group (the container)",
        shown_path(group),
        exact_size(*limit_bytes),
        exact_size(*available_bytes),
        shown_path(path),
        exact_size(*needed_bytes)
    )]
    MemoryLimit {
        /// The segment's file.
        path: PathBuf,
        /// The group's directory.
        group: PathBuf,
        /// The group's limit.
        limit_bytes: u64,
        /// What is left of that.
        available_bytes: u64,
        /// What the segment needs.
        needed_bytes: u64,
    },
    /// This machine has less memory left than an anonymous segment needs, which no file system bounds.
    #[error(
        "this machine has {} of memory left, {} needs {}: lower capacity, max_payload or payload_classes",
        exact_size(*available_bytes),
        shown_path(path),
        exact_size(*needed_bytes)
    )]
    NoMemory {
        /// The segment, as messages call it.
        path: PathBuf,
        /// What the segment needs.
        needed_bytes: u64,
        /// What there is.
        available_bytes: u64,
    },
    /// The lease of an anonymous segment could not be opened a second time, which takes `/proc`.
    #[error(
        "cannot open {} once more through /proc/self/fd: {error}; an anonymous server needs /proc: mount it, or give the server a name",
        shown_path(path)
    )]
    NoProc {
        /// The lease, as messages call it.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
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
}

fn blob_bytes(spec: &Spec) -> u64 {
    let round = |n: usize| n.next_multiple_of(PAYLOAD_ALIGN) as u64;
    let nodes = spec.nodes.iter();
    let nodes = nodes.flat_map(|n| {
        let texts = [&n.name, &n.worker_type, &n.payloads.input, &n.payloads.outcome].map(|text| text.len());
        texts.into_iter().chain([n.config.len()]).map(round)
    });
    let forks = spec.forks.iter().map(|f| round(f.name.len()) + round(f.members.len() * MEMBER_BYTES));
    let switches = spec.switches.iter().map(|s| round(s.name.len()) + round(s.members.len() * TARGET_BYTES));
    let service =
        [&spec.service.payloads.input, &spec.service.payloads.outcome].map(|text| round(text.len()));
    nodes.chain(forks).chain(switches).chain(service).sum()
}

fn shape_of(spec: &Spec) -> Result<Shape, ShapeError> {
    for node in &spec.nodes {
        node.facts.check()?;
        within("number of workers of a node, threads included", node.rows() as u64, 0, WORKER_LIMIT as u64)?;
    }
    within("capacity", spec.requests.into(), 1, REQUEST_LIMIT.into())?;
    let of_clients = u64::from(spec.clients) * u64::from(spec.client_requests);
    let requests = u64::from(spec.requests) + of_clients;
    within("capacity, with the requests of all clients", requests, 1, REQUEST_LIMIT.into())?;
    let workers = spec.nodes.iter().map(|n| n.rows() as u32).sum::<u32>();
    within("number of clients", spec.clients.into(), 0, u64::from(Token::INDEX_LIMIT - 1))?;
    let mut shape = Shape {
        participants: 1 + workers + spec.clients,
        clients: spec.clients,
        client_requests: if spec.clients == 0 { 0 } else { spec.client_requests },
        nodes: spec.nodes.len() as u32,
        requests: requests as u32,
        tasks_per_request: spec.tasks_per_request,
        forks: spec.forks.len() as u32,
        switches: spec.switches.len() as u32,
        partials: spec.partials,
        traces: spec.traces,
        memory_parts: spec.memory.parts(),
        blob_bytes: blob_bytes(spec),
        class_count: spec.classes.len() as u64,
        ..Shape::default()
    };
    for (to, from) in shape.classes.iter_mut().zip(&spec.classes) {
        *to = *from;
    }
    Ok(shape)
}

impl Spec {
    /// How many bytes the segment will take, and how many of them once it is created: on pages of the usual size. Huge pages
    /// are all reserved, and as many as cover it.
    ///
    /// # Errors
    /// The first number that is out of range.
    pub fn size(&self) -> Result<Size, ShapeError> {
        let is_huge = self.huge_pages == HugePages::Required;
        let reserve = if is_huge { Reserve::Everything } else { self.reserve };
        Ok(Size::of(&Layout::new(&shape_of(self)?)?, reserve))
    }
}

/// The size of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// All of it.
    pub total_bytes: u64,
    /// What is reserved when it is created.
    pub reserved_bytes: u64,
}

impl Size {
    fn of(layout: &Layout, reserve: Reserve) -> Self {
        let total_bytes = layout.total_bytes as u64;
        match reserve {
            Reserve::AsUsed => Self { total_bytes, reserved_bytes: layout.bytes_before_blocks() },
            Reserve::Everything => Self { total_bytes, reserved_bytes: total_bytes },
        }
    }

    /// In whole huge pages, if it lies on those.
    fn on(self, kind: Kind) -> Self {
        let total_bytes = self.total_bytes.next_multiple_of(kind.granule_bytes());
        match kind {
            Kind::Huge { .. } => Self { total_bytes, reserved_bytes: total_bytes },
            _ => Self { total_bytes, ..self },
        }
    }
}

impl Segment {
    /// Creates a segment; its files go when it is dropped.
    ///
    /// # Errors
    /// See [`CreateError`]; nothing is left behind.
    pub fn create(location: Location, spec: &Spec) -> Result<Self, CreateError> {
        let shape = shape_of(spec)?;
        let layout = Layout::new(&shape)?;
        let size = Size::of(&layout, spec.reserve);
        let nexts: Vec<Target> = spec.nodes.iter().map(|node| node.next).collect();
        Routes::new(spec.forks.clone(), spec.switches.clone(), &nexts, shape.branches())
            .map_err(CreateError::Plan)?;
        // From here on the location names the same file in each process, whatever its working directory.
        let location = location.absolute().map_err(|error| CreateError::System {
            what: "use the path",
            path: location.path(),
            error,
        })?;
        let mut refused = None;
        let mut place = |file: &File, base| refused = memory::place(spec, &layout, file, base).err();
        let (made, huge_refused) = match &location {
            Location::Anonymous(of) => make_in_memory(of, size, spec.huge_pages, &mut place)?,
            Location::Named(_) | Location::File(_) => {
                let refused = huge_pages_at(&location, spec.huge_pages)?;
                (make_files(location, size, &mut place)?, refused)
            }
        };
        let Made { location, lease, mapping, file, owner, has_all } = made;
        let base = NonNull::new(mapping.as_ptr()).expect("a mapping is not at null");
        let mut segment = Self::over(mapping, base, layout, location, file, lease);
        segment.owner = owner;
        (segment.part_of_inputs, segment.memory_refused) = (spec.memory.part_of_inputs(), refused);
        segment.huge_refused = huge_refused;
        crash_point!("create.mapped");
        if has_all {
            for class in 0..segment.shape().classes().len() {
                // Relaxed: no other process has the segment yet.
                segment.block_owners(class).iter().for_each(|owner| owner.store(BACKED, Ordering::Relaxed));
            }
        }
        segment.initialise(spec)?;
        Ok(segment)
    }

    /// Writes everything into the zeroed pages, the magic last.
    ///
    /// # Errors
    /// If another process has written over the plan before it is read back.
    fn initialise(&mut self, spec: &Spec) -> Result<(), CreateError> {
        let mut blob = 0_u64;
        let mut put = |bytes: &[u8]| {
            let extent = Extent { offset: blob, bytes: bytes.len() as u64 };
            // SAFETY: [checked]: the blobs have room for all of these by `blob_bytes`; no other process has the segment
            // yet.
            unsafe {
                let to = self.base.as_ptr().add(self.layout.blobs + blob as usize);
                core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
            }
            blob += bytes.len().next_multiple_of(PAYLOAD_ALIGN) as u64;
            extent
        };
        let mut first = SERVER + 1;
        let mut descriptors = Vec::with_capacity(spec.nodes.len());
        for (index, node) in spec.nodes.iter().enumerate() {
            descriptors.push(NodeDescriptor {
                name: put(node.name.as_bytes()),
                worker_type: put(node.worker_type.as_bytes()),
                input_type: put(node.payloads.input.as_bytes()),
                outcome_type: put(node.payloads.outcome.as_bytes()),
                config: put(&node.config),
                facts: node.facts,
                first_participant: first,
                rows: node.rows() as u32,
                next: node.next.raw(),
                in_threads: (node.role == Role::ThreadWorker).into(),
                memory_part: spec.memory.part_of(index).map_or(0, |part| part + 1),
                pad: 0,
            });
            first += node.rows() as u32;
        }
        let mut numbers = |numbers: &mut dyn Iterator<Item = u32>| {
            put(&numbers.flat_map(u32::to_le_bytes).collect::<Vec<u8>>())
        };
        let members_of = |fork: &Fork| -> Vec<u32> {
            fork.members.iter().flat_map(|m| [m.entry.raw(), m.root_bytes, m.root_align]).collect()
        };
        let fork_members: Vec<Extent> =
            spec.forks.iter().map(|fork| numbers(&mut members_of(fork).into_iter())).collect();
        let switch_members: Vec<Extent> =
            spec.switches.iter().map(|s| numbers(&mut s.members.iter().map(|m| m.raw()))).collect();
        let forks: Vec<ForkDescriptor> = (spec.forks.iter().zip(fork_members))
            .map(|(fork, members)| ForkDescriptor {
                name: put(fork.name.as_bytes()),
                members,
                fail_fast: fork.fail_fast.into(),
                form: fork.form,
                parent: fork.parent,
                first: fork.first,
                end: fork.end,
                next: fork.next.raw(),
            })
            .collect();
        let switches: Vec<SwitchDescriptor> = (spec.switches.iter().zip(switch_members))
            .map(|(switch, members)| SwitchDescriptor {
                name: put(switch.name.as_bytes()),
                members,
                node: switch.node.map_or(u64::MAX, u64::from),
            })
            .collect();
        let service = ServiceDescriptor {
            input_type: put(spec.service.payloads.input.as_bytes()),
            outcome_type: put(spec.service.payloads.outcome.as_bytes()),
            type_hash: spec.service.type_hash,
            entry: spec.service.entry.raw(),
            pad: 0,
        };
        // SAFETY: [checked]: the layout has as many descriptors of each kind, aligned for them; no other process has
        // the segment yet.
        unsafe {
            self.base.as_ptr().add(self.layout.service).cast::<ServiceDescriptor>().write(service);
            let to = self.base.as_ptr().add(self.layout.forks).cast::<ForkDescriptor>();
            core::ptr::copy_nonoverlapping(forks.as_ptr(), to, forks.len());
            let to = self.base.as_ptr().add(self.layout.switches).cast::<SwitchDescriptor>();
            core::ptr::copy_nonoverlapping(switches.as_ptr(), to, switches.len());
        }
        for (index, descriptor) in descriptors.iter().enumerate() {
            // SAFETY: [checked]: one of the layout's descriptors; no other process has the segment yet.
            unsafe {
                let to = self.base.as_ptr().add(self.layout.node_descriptors).cast::<NodeDescriptor>();
                to.add(index).write(*descriptor);
            }
        }
        crash_point!("create.descriptors");
        let entries = self.participants();
        for (node, descriptor) in spec.nodes.iter().zip(&descriptors) {
            for number in 0..descriptor.rows {
                let entry = &entries[(descriptor.first_participant + number) as usize];
                entry.assign(&node.workers[(number / node.facts.threads) as usize]);
            }
        }
        for row in self.client_rows() {
            // SAFETY: a client's row, which no incarnation has had: the segment is new.
            unsafe { entries[row as usize].offer(row) };
        }
        let server = &entries[SERVER as usize];
        // SAFETY: the server's row, which no incarnation has had: the segment is new.
        unsafe { server.prepare(SERVER) };
        server.arrive();
        server.set_life(Life::Ready);
        crash_point!("create.server");

        let lease_number = self.lease.file_number().map_err(|error| {
            let path = self.location.lease_path();
            CreateError::System { what: "look at", path, error }
        })?;
        let name = self.location.server_name();
        let name = name.as_bytes();
        let created = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        // SAFETY: the header is at the base, page-aligned; no other process has the segment yet.
        unsafe {
            let header = self.base.as_ptr().cast::<Header>();
            (*header).version = LAYOUT_VERSION;
            (*header).fingerprint = self.layout.fingerprint(spec.payload_format);
            (*header).total_bytes = self.layout.total_bytes as u64;
            (*header).shape = self.layout.shape;
            (*header).payload_format = spec.payload_format;
            (*header).lease_number = lease_number;
            (*header).created_unix_s = created.map_or(0, |d| d.as_secs());
            (*header).user_id = sys::process::user_id();
            let kept = name.len().min(NAME_LIMIT);
            (*header).name_len = kept as u32;
            (&mut (*header).name)[..kept].copy_from_slice(&name[..kept]);
        }
        self.set_run(Run::Running);
        crash_point!("create.header");
        self.header().magic.store(MAGIC, Ordering::Release); // [finished]
        crash_point!("create.magic");
        // Reads back what we have just written, which another process may have written over since.
        self.read_plan().map_err(|why| CreateError::Overwritten { path: self.location.path(), why })
    }
}

/// A segment of zeros, and its lease.
struct Made {
    location: Location,
    lease: Lease,
    mapping: Mapping,
    file: File,
    owner: Option<Owner>,
    /// Whether all pages are reserved.
    has_all: bool,
}

/// Sets policies on the mapping of a file, which has its size and no pages yet.
type Place<'a> = &'a mut dyn FnMut(&File, *const u8);

/// Takes the lease of a location, removes what a dead server left there, and makes the segment's file.
fn make_files(location: Location, size: Size, place: Place<'_>) -> Result<Made, CreateError> {
    let path = location.path();
    let lease_path = location.lease_path();
    let lease = match Lease::acquire_to_serve(&lease_path) {
        Ok(Some(lease)) => lease,
        Ok(None) => return Err(CreateError::InUse { pid: server_pid(&location), path }),
        Err(LeaseError::Owner { owner }) => {
            let user = sys::process::user_id();
            return Err(CreateError::Owner { path: lease_path, owner, user });
        }
        Err(LeaseError::Irregular) => return Err(CreateError::Foreign { path: lease_path }),
        Err(LeaseError::System(error)) => {
            return Err(CreateError::System { what: "lock", path: lease_path, error });
        }
    };
    // [lease before deeds]: the server has its bytes.
    crash_point!("create.leased");
    let made = remove_stale(&path).and_then(|()| make_file(&location, &path, size, place));
    let made = made.and_then(|(mapping, file, has_all)| {
        let directory = path.parent().unwrap_or(Path::new("/"));
        let directory = sys::image::open_directory(directory)
            .inspect_err(|_| drop(std::fs::remove_file(&path)))
            .map_err(|error| CreateError::System { what: "open the directory of", path, error })?;
        Ok((mapping, file, has_all, directory))
    });
    let (mapping, file, has_all, directory) = made.inspect_err(|_| {
        let _ = std::fs::remove_file(lease.path()); // while we hold it
    })?;
    let owner = Some(Owner { removal: Removal::In(directory).into() });
    Ok(Made { location, lease, mapping, file, owner, has_all })
}

/// Makes an anonymous segment and its lease, each a file of memory.
///
/// The error is why it does not lie on huge pages although they are preferred.
fn make_in_memory(
    of: &Anonymous,
    size: Size,
    huge_pages: HugePages,
    place: Place<'_>,
) -> Result<(Made, Option<CreateError>), CreateError> {
    let lease_path = memfd::shown_as(&of.lease_name());
    let system = |what, path: &Path| {
        let path = path.to_path_buf();
        move |error| CreateError::System { what, path, error }
    };
    let lease =
        Lease::serve_in_memory(&of.lease_name(), lease_path.clone()).map_err(|error| match error {
            MemoryLeaseError::NoSecond(error) if error.kind() == io::ErrorKind::NotFound => {
                CreateError::NoProc { path: lease_path.clone(), error }
            }
            MemoryLeaseError::NoSecond(error) => system("open once more", &lease_path)(error),
            MemoryLeaseError::System(error) => system("make", &lease_path)(error),
        })?;
    // [lease before deeds]: the server has its bytes.
    let number = lease.file_number().map_err(system("look at", &lease_path))?;
    let of = Anonymous { lease: Some(number), process: std::process::id(), ..of.clone() };
    let location = Location::Anonymous(of.clone());
    let path = location.path();
    let refused = match huge_pages {
        HugePages::No => None,
        HugePages::Preferred | HugePages::Required => match on_huge_pages(&of, &path, size, place) {
            Ok((mapping, file)) => {
                return Ok((Made { location, lease, mapping, file, owner: None, has_all: true }, None));
            }
            Err(error) if huge_pages == HugePages::Required => return Err(error),
            Err(error) => Some(error),
        },
    };
    check_limits(&path, size, true)?;
    let needed_bytes = size.reserved_bytes;
    if let Some(available_bytes) = memfd::available_bytes().filter(|&available| available < needed_bytes) {
        return Err(CreateError::NoMemory { path, needed_bytes, available_bytes });
    }
    let file = memfd::create(&of.name()).map_err(system("make", &path))?;
    crash_point!("create.memory");
    let mapping = fill(&file, size, place).map_err(|(what, error)| system(what, &path)(error))?;
    let has_all = size.reserved_bytes == size.total_bytes;
    Ok((Made { location, lease, mapping, file, owner: None, has_all }, refused))
}

/// Gives a file of memory its size and its pages, and maps it; or says what failed.
fn fill(file: &File, size: Size, place: Place<'_>) -> Result<Mapping, (&'static str, io::Error)> {
    file.set_len(size.total_bytes).map_err(|error| ("size", error))?;
    let mapping = Mapping::File(MmapRaw::map_raw(file).map_err(|error| ("map", error))?);
    place(file, mapping.as_ptr());
    sys::file::reserve(file, 0..size.reserved_bytes).map_err(|error| ("reserve the pages of", error))?;
    memfd::seal_size(file); // where the kernel refuses, it is as for a file
    Ok(mapping)
}

/// Makes an anonymous segment on huge pages, if the system has enough free ones.
fn on_huge_pages(
    of: &Anonymous,
    path: &Path,
    size: Size,
    place: Place<'_>,
) -> Result<(Mapping, File), CreateError> {
    let system = |what| move |error| CreateError::System { what, path: path.to_path_buf(), error };
    let file = memfd::create_on_huge_pages(&of.name()).map_err(system("make on huge pages"))?;
    let kind = sys::file::kind_of(&file).map_err(system("look at the file system of"))?;
    let Kind::Huge { page_bytes } = kind else {
        return Err(CreateError::NoHugePages { path: path.into() });
    };
    let size = size.on(kind);
    let needed_bytes = size.reserved_bytes;
    let few = |available_bytes| {
        let path = path.to_path_buf();
        CreateError::HugePages { path, page_bytes, needed_bytes, available_bytes }
    };
    check_limits(path, size, false)?; // huge pages are counted apart
    let free_bytes = || sys::file::free_huge_bytes(page_bytes).unwrap_or(u64::MAX);
    if free_bytes() < needed_bytes {
        return Err(few(free_bytes()));
    }
    let mapping = fill(&file, size, place).map_err(|(what, error)| match error.raw_os_error() {
        // Others have taken some meanwhile, or their nodes have none.
        Some(libc::ENOSPC | libc::ENOMEM) if free_bytes() < needed_bytes => few(free_bytes()),
        _ => system(what)(error),
    })?;
    Ok((mapping, file))
}

/// Whether a segment with a file can lie on huge pages; why not, if they are preferred only.
fn huge_pages_at(location: &Location, wanted: HugePages) -> Result<Option<CreateError>, CreateError> {
    let path = location.path();
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let has_them = || matches!(sys::file::kind_at(directory), Ok(Kind::Huge { .. }));
    match wanted {
        HugePages::No => Ok(None),
        _ if has_them() => Ok(None),
        HugePages::Preferred => Ok(Some(CreateError::NoHugePages { path })),
        HugePages::Required => Err(CreateError::NoHugePages { path }),
    }
}

/// What this process may have: of a file, and, if it is memory, of the memory of its control group.
fn check_limits(path: &Path, size: Size, is_memory: bool) -> Result<(), CreateError> {
    let Size { total_bytes, reserved_bytes: needed_bytes } = size;
    if let Some(limit_bytes) = sys::file::size_limit_bytes().filter(|&limit| limit < total_bytes) {
        return Err(CreateError::FileLimit { path: path.into(), needed_bytes: total_bytes, limit_bytes });
    }
    match sys::cgroup::memory_limit().filter(|limit| is_memory && limit.available_bytes < needed_bytes) {
        Some(sys::cgroup::MemoryLimit { group, limit_bytes, available_bytes }) => {
            let path = path.into();
            Err(CreateError::MemoryLimit { path, group, limit_bytes, available_bytes, needed_bytes })
        }
        None => Ok(()),
    }
}

/// Creates the file exclusively, with the pages that are to be reserved, and maps it. Whether it has all pages.
fn make_file(
    location: &Location,
    path: &Path,
    size: Size,
    place: Place<'_>,
) -> Result<(Mapping, File, bool), CreateError> {
    let directory =
        path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf();
    let system = |what| move |error| CreateError::System { what, path: path.to_path_buf(), error };
    let looks = || system("look at the file system of");
    let kind = sys::file::kind_at(&directory).map_err(looks())?;
    let size = size.on(kind);
    let Size { total_bytes, reserved_bytes: bytes } = size;
    let has_all = bytes == total_bytes;
    let free_bytes = sys::file::available_bytes(&directory).map_err(looks())?;
    let no_space = |available_bytes| {
        let (needed_bytes, path) = (bytes, directory.clone());
        match kind {
            Kind::Huge { page_bytes } => {
                CreateError::HugePages { path, page_bytes, needed_bytes, available_bytes }
            }
            _ => CreateError::NoSpace { path, needed_bytes, available_bytes },
        }
    };
    // The least of the known numbers.
    let free_bytes = match kind {
        Kind::Huge { page_bytes } => {
            free_bytes.into_iter().chain(sys::file::free_huge_bytes(page_bytes)).min()
        }
        _ => free_bytes,
    };
    if let Some(free_bytes) = free_bytes.filter(|&free| free < bytes) {
        return Err(no_space(free_bytes));
    }
    // Huge pages are counted apart; those of a device's cache are written back.
    check_limits(path, size, matches!(kind, Kind::Memory | Kind::Ramfs))?;
    let reserve = |file: &File| {
        sys::file::reserve(file, 0..bytes).map_err(|e| match e.raw_os_error() {
            Some(libc::ENOSPC) => {
                // Others have used room since, or the file system needs more than the bytes of the file.
                let left = sys::file::available_bytes(&directory).ok().flatten().unwrap_or(0);
                let had = file.metadata().map_or(0, |meta| meta.blocks().saturating_mul(512));
                match had.saturating_add(left) {
                    available if available < bytes => no_space(available),
                    _ => system("reserve the pages of")(e),
                }
            }
            _ => system("reserve the pages of")(e),
        })
    };
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
    match location {
        Location::Named(_) => {
            let mut shmem =
                ShmemConf::new().os_id(posix_name(location)).size(total_bytes as usize).create().map_err(
                    |e| match e {
                        ShmemError::MapCreateFailed(code) | ShmemError::UnknownOsError(code) => {
                            system("create")(io::Error::from_raw_os_error(code.cast_signed()))
                        }
                        other => system("create")(io::Error::other(other)),
                    },
                )?;
            shmem.set_owner(false); // we remove it here, or under the lease
            crash_point!("create.named");
            let reserved = whatever_the_umask(path)
                .and_then(|()| options.open(path))
                .map_err(system("open"))
                .and_then(|file| {
                    place(&file, shmem.as_ptr());
                    reserve(&file).map(|()| file)
                });
            if reserved.is_err() {
                let _ = std::fs::remove_file(path);
            }
            reserved.map(|file| (Mapping::Named(shmem), file, has_all))
        }
        Location::File(_) => {
            let file = options.create_new(true).mode(MODE).open(path).map_err(system("create"))?;
            crash_point!("create.file");
            let mapped = whatever_the_umask(path)
                .map_err(system("open"))
                .and_then(|()| file.set_len(total_bytes).map_err(system("size")))
                .and_then(|()| MmapRaw::map_raw(&file).map_err(system("map")))
                .and_then(|map| {
                    place(&file, map.as_ptr());
                    reserve(&file).map(|()| map)
                });
            if mapped.is_err() {
                let _ = std::fs::remove_file(path);
            }
            Ok((Mapping::File(mapped?), file, has_all))
        }
        Location::Anonymous(_) => unreachable!("it is made in memory"),
    }
}

/// Gives a file that we have just created its rights, where the umask took some of them. No other user can have
/// replaced the file: the directory is ours, or only we may remove our files from it.
fn whatever_the_umask(path: &Path) -> io::Result<()> {
    let meta = std::fs::symlink_metadata(path)?;
    if meta.is_file() && meta.mode() & 0o777 != MODE {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))?;
    }
    Ok(())
}

/// The server's pid of a segment that is in use, for the error message.
fn server_pid(location: &Location) -> Option<u32> {
    Some(Segment::inspect(location.clone()).ok()?.participants()[SERVER as usize].pid())
}
