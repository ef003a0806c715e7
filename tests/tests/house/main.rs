//! Checks of documents and source. Nothing here starts a server.

mod documents;
mod edges;
mod events;
mod handles;
mod layers;
mod promises;
