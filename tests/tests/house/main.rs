//! What the documents and the source say of themselves. Nothing here starts a server.

mod documents;
mod layers;
