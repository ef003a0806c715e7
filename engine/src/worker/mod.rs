//! What runs in a worker: the traits that user code implements, the loop that collects batches for it, and its life.

pub(crate) mod batch;
mod collect;
mod context;
mod desk;
mod emit;
mod identity;
mod lent;
mod life;
pub(crate) mod one_item;
mod outside;
mod seat;
mod tally;
mod terms;
mod unit;

pub use batch::{Batch, BatchWorker, Item, Items, Preprocessed, PreprocessedItems};
pub(crate) use context::title;
pub use context::{Context, Stop};
pub use emit::EmitError;
pub(crate) use identity::Identity;
pub(crate) use lent::{LentSeat, SeatsToLend, lend_seats};
pub(crate) use life::{LifeEnd, Live, live, live_built_by};
pub use one_item::{IntoOutcome, PassThrough, Worker, schema};
pub use outside::Outside;
pub(crate) use seat::Seat;
pub use terms::Terms;
pub(crate) use unit::Unit;
