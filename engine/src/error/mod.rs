//! Everything that can go wrong, as values: one enum for starting a server, one for a request, the record of an
//! error that happened in a worker, and the error of user code.

mod boxed;
mod call;
mod remote;
mod start;

pub use boxed::BoxError;
pub(crate) use call::forked_text;
pub use call::{CallError, DrainError};
pub use remote::{EnsembleError, Member, MemberOutcome, RemoteCause, RemoteError};
pub use start::StartError;

pub(crate) use call::EncodeError;
pub(crate) use start::{JoinError, NOT_A_WORKER, STOPPED_BY_ERROR, status_of_early_death};
