//! A server when something ends: a worker, its own process, a resource, a user's rights. A module a topic.

mod access;
mod clients;
mod control;
mod deaths;
mod events;
mod identity;
mod levers;
mod lifespans;
mod log_listener;
mod policies;
mod resources;
mod server_death;
mod shown;
mod shutdown;
mod signals;
mod slow;
mod told;
