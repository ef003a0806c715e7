//! The short forms of the campaigns in PROOF.md that need minutes or hours in full.

mod hostile;
mod soak;
mod storms;
