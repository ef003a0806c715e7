//! Checks of documents and source. Nothing here starts a server.

mod documents;
mod layers;
mod promises;
