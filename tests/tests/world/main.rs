//! The world around the engine does other things than kill: it forks, execs, deploys, refuses, fills up and freezes. A
//! module a promise.

mod before_main;
mod deploy;
mod dispositions;
mod ends;
mod file_systems;
mod fork;
mod fork_start;
mod fork_user;
mod fork_worker;
mod freeze;
mod half_built;
mod held;
mod kill_refused;
mod limits;
mod linear;
mod never_the_program;
mod numbers_and_names;
mod own_handlers;
mod payloads;
mod policy;
mod rare;
mod refused;
mod resident;
mod restrained;
mod signals;
mod stopped;
mod twins;
mod user_code;
mod where_init_is;
