//! What the bytes of a segment are for.

use ringmill_shm::pool;
use ringmill_shm::segment::{Room, Segment, Use};
use ringmill_shm::text::size;
use serde::Serialize;

/// The bytes of one use.
#[derive(Debug, Serialize)]
pub(super) struct Memory {
    #[serde(rename = "use", serialize_with = "named")]
    of: Use,
    bytes: u64,
    /// In pages that were ever read or written, by this tool too; none: the file system does not say.
    touched_bytes: Option<u64>,
}

/// A size class of payload blocks.
#[derive(Debug, Serialize)]
pub(super) struct Blocks {
    block_bytes: u64,
    in_use: u64,
    count: u64,
    /// As of [`Memory`].
    touched_bytes: Option<u64>,
}

fn named<S: serde::Serializer>(of: &Use, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(of.name())
}

/// All bytes of a segment, by use.
pub(super) fn of(segment: &Segment) -> (Vec<Memory>, Vec<Blocks>) {
    let rooms = segment.rooms();
    let room_of = |of: Use| rooms.iter().find(|room| room.of == of).and_then(|room| room.touched_bytes);
    let classes = segment.shape().classes().iter().zip(pool::in_use(segment)).enumerate();
    let blocks = classes.map(|(index, (class, in_use))| Blocks {
        block_bytes: class.block_bytes,
        in_use,
        count: class.count,
        touched_bytes: room_of(Use::Blocks(index)),
    });
    let others = rooms.iter().filter(|room| !matches!(room.of, Use::Blocks(_)));
    let memory = |room: &Room| Memory { of: room.of, bytes: room.bytes, touched_bytes: room.touched_bytes };
    (others.map(memory).collect(), blocks.collect())
}

/// The headings of the table.
pub(super) const HEADINGS: [&str; 5] = ["memory", ">size", ">touched", ">in use", ">of"];

fn touched(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "?".into(), size)
}

impl Memory {
    pub(super) fn row(&self) -> Vec<String> {
        let none = || "-".to_string();
        vec![self.of.name().replace('_', " "), size(self.bytes), touched(self.touched_bytes), none(), none()]
    }
}

impl Blocks {
    pub(super) fn row(&self) -> Vec<String> {
        vec![
            format!("blocks of {}", size(self.block_bytes)),
            size(self.block_bytes.saturating_mul(self.count)),
            touched(self.touched_bytes),
            self.in_use.to_string(),
            self.count.to_string(),
        ]
    }
}
