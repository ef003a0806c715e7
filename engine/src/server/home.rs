//! Where a server's segment is: under a name, in a file, or in memory without a name.

use crate::error::StartError;
use ringmill_shm::segment::{CreateError, Location, Segment, Spec};
use std::path::PathBuf;

/// How many names [`Home::NamedOrSuffix`] tries: `digits`, `digits-2` and so on.
const NAME_LIMIT: u32 = 64;

/// Where the segment is.
#[derive(Debug, Clone)]
pub(super) enum Home {
    /// In `/dev/shm`, under the server's name.
    Named,
    /// As above, or under the name with the first free suffix.
    NamedOrSuffix,
    /// In this file.
    File(PathBuf),
    /// In memory without a name.
    Anonymous,
}

/// Creates the segment; the server's name, and the segment.
pub(super) fn create(name: String, home: Home, spec: &Spec) -> Result<(String, Segment), StartError> {
    let location = match home {
        Home::Named => Location::named(&name),
        Home::NamedOrSuffix => return create_with_suffix(name, spec),
        Home::File(path) => Ok(Location::File(path)),
        Home::Anonymous => Location::anonymous(&name),
    };
    let segment = Segment::create(location.map_err(CreateError::from)?, spec)?;
    Ok((name, segment))
}

/// Creates the segment under the first name that is free: a server has a name once it has its lease, so no other server
/// can take it between a look and this.
fn create_with_suffix(name: String, spec: &Spec) -> Result<(String, Segment), StartError> {
    for number in 1..=NAME_LIMIT {
        let tried = if number == 1 { name.clone() } else { format!("{name}-{number}") };
        match Segment::create(Location::named(&tried).map_err(CreateError::from)?, spec) {
            Err(CreateError::InUse { .. } | CreateError::Owner { .. }) => {}
            made => return Ok((tried, made?)),
        }
    }
    Err(StartError::NamesInUse { name, tried: NAME_LIMIT })
}
