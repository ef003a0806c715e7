//! What a server and its servlets do for their callers, a module a topic.

mod asynchronous;
mod batches;
mod compound;
mod errors;
mod limits;
mod order;
mod promises;
mod start;
mod streams;
mod submit;
mod trees;
mod workers;
