//! Attaching a segment: nothing in it is believed before it has been checked.
#![expect(unsafe_code, reason = "reading a header that another program may have written")]

use super::node::NodeInfo;
use super::place::{Place, posix_name};
use super::{MEMBER_BYTES, Mapping, Segment, TARGET_BYTES};
use crate::doorbell;
use crate::layout::{
    Extent, ForkDescriptor, Header, LAYOUT_VERSION, Layout, MAGIC, NodeDescriptor, PAGE, SwitchDescriptor,
};
use crate::participant::Lease;
use crate::plan::{Fork, Member, Routes, Switch, Target};
use crate::sync::Ordering;
use crate::sys;
use core::ptr::NonNull;
use memmap2::{MmapOptions, MmapRaw};
use shared_memory::ShmemConf;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

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

impl Segment {
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
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK) // a FIFO must not hold us
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
        let mut segment = Self::over(mapping, base, layout, place, lease);
        segment.read_plan().map_err(foreign)?;
        Ok(segment)
    }

    /// A segment whose plan has not been read.
    pub(super) fn over(
        mapping: Mapping,
        base: NonNull<u8>,
        layout: Layout,
        place: Place,
        lease: Lease,
    ) -> Self {
        let (nodes, routes) = (Vec::new(), Routes::default());
        Self { base, layout, nodes, routes, place, lease, owner: false.into(), _mapping: mapping }
    }

    /// Reads and checks the plan.
    pub(super) fn read_plan(&mut self) -> Result<(), String> {
        let nodes = self.read_nodes()?;
        let nexts: Vec<Target> = nodes.iter().map(|node| node.next).collect();
        let (forks, switches) = (self.read_forks()?, self.read_switches()?);
        self.routes = Routes::new(forks, switches, &nexts, self.layout.shape.branches())?;
        self.nodes = nodes;
        Ok(())
    }

    /// The name in these bytes of the blobs.
    fn text(&self, extent: Extent) -> Result<String, String> {
        let bytes = self.blob(extent).ok_or("a name outside the blobs")?;
        Ok(String::from_utf8(bytes.to_vec()).map_err(|_| "a name that is not UTF-8")?)
    }

    /// One of the descriptors that lie at `offset`, whose number the caller has checked.
    fn descriptor<T: Copy>(&self, offset: usize, index: u32) -> T {
        // SAFETY: *checked*: one of the layout's descriptors, written once before the magic; any bytes are
        // a valid descriptor. Copied, so that checks hold for what is used.
        unsafe { self.base.as_ptr().add(offset).cast::<T>().add(index as usize).read_volatile() }
    }

    /// Numbers in these bytes of the blobs.
    fn numbers(&self, extent: Extent) -> Result<Vec<u32>, String> {
        let bytes = self.blob(extent).ok_or("members outside the blobs")?;
        Ok(bytes.as_chunks().0.iter().map(|&four| u32::from_le_bytes(four)).collect())
    }

    fn read_forks(&self) -> Result<Vec<Fork>, String> {
        let read = |index| {
            let d: ForkDescriptor = self.descriptor(self.layout.forks, index);
            let members = self.numbers(d.members)?;
            let member = |&[entry, root_bytes, root_align]: &[u32; MEMBER_BYTES / TARGET_BYTES]| Member {
                entry: Target::from_raw(entry),
                root_bytes,
                root_align,
            };
            Ok(Fork {
                name: self.text(d.name)?,
                fail_fast: d.fail_fast != 0,
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

    fn read_switches(&self) -> Result<Vec<Switch>, String> {
        let read = |index| {
            let d: SwitchDescriptor = self.descriptor(self.layout.switches, index);
            Ok(Switch {
                name: self.text(d.name)?,
                node: (d.node != u64::MAX).then_some(d.node as u32),
                members: self.numbers(d.members)?.into_iter().map(Target::from_raw).collect(),
            })
        };
        (0..self.layout.shape.switches).map(read).collect()
    }

    fn read_nodes(&self) -> Result<Vec<NodeInfo>, String> {
        (0..self.layout.shape.nodes)
            .map(|index| {
                let d: NodeDescriptor = self.descriptor(self.layout.node_descriptors, index);
                let last = u64::from(d.first_participant) + u64::from(d.workers);
                if last > u64::from(self.layout.shape.participants)
                    || d.workers as usize > doorbell::WORKER_LIMIT
                {
                    return Err(format!("node {index} has workers outside the participant table"));
                }
                if d.threads == 0 || !d.workers.is_multiple_of(d.threads) {
                    return Err(format!("node {index} has workers with a fraction of a thread"));
                }
                if self.blob(d.config).is_none() {
                    return Err(format!("node {index} has its configuration outside the blobs"));
                }
                Ok(NodeInfo {
                    name: self.text(d.name)?,
                    worker_type: self.text(d.worker_type)?,
                    type_hash: d.type_hash,
                    batch_size: d.batch_size,
                    batch_wait_ns: d.batch_wait_ns,
                    next: Target::from_raw(d.next),
                    first_participant: d.first_participant,
                    workers: d.workers,
                    threads: d.threads,
                    log_batches_every: d.log_batches_every,
                    keeps_inputs: d.flags & 1 != 0,
                    keeps_apart: d.flags & 2 != 0,
                    config: d.config,
                })
            })
            .collect()
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
