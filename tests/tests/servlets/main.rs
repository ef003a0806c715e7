//! A server and its servlets as their callers see them, a module a topic.

mod asynchronous;
mod batches;
mod compound;
mod errors;
mod handles;
mod in_place;
mod limits;
mod names;
mod order;
mod partials;
mod placement;
mod promises;
mod request_traces;
mod start;
mod starting;
mod statistics;
mod streams;
mod submit;
mod terms;
mod testing;
mod tower;
mod trees;
mod workers;
