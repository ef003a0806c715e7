//! Clients: other processes that send requests to a server.
//!
//! A client is the same core as a server's, over a segment that this process has attached: it has a row of the participant
//! table, requests of its own, and no supervisor. Its calls are those of a [`Handle`].

use super::handle::Handle;
use crate::client::free_ids::FreeIds;
use crate::client::{Connection, Core, Host, Keeper, Rows};
use crate::error::ConnectError;
use crate::host::child;
use crate::policy::batch::{Rule, Stamps};
use crate::policy::patience::{Patience, Wait};
use crate::policy::placement::Placement;
use crate::policy::sample::Timing;
use crate::route::Router;
use crate::wire::payload::{PAYLOAD_FORMAT, Payload, layout_hash};
use ringmill_shm::participant::SERVER;
use ringmill_shm::plan::Target;
use ringmill_shm::segment::{AttachError, JoinError, Location, Run, Segment};
use ringmill_shm::sys::process::{PidFd, open_standard_descriptors, start_time};
use std::any::type_name;
use std::fmt;
use std::io;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

/// How long a connecting client waits until the server has repaired what a dead client left, if all rows are taken.
const REPAIR_LIMIT: Duration = Duration::from_secs(5);

/// A connection of this process to a [`Server`](crate::Server) of another one: sends `In`, gets `Out`. It has all calls of a
/// [`Handle`], to which it dereferences, and any number of threads may call it at once.
///
/// The server must [take clients](crate::ServerBuilder::clients). Each client has as many requests of its own as the server
/// [gives it](crate::ServerBuilder::client_requests): its [`capacity`](Handle::capacity). So it neither waits for the
/// requests of another process, nor takes them any. It may be another program than the server's; it has to have the same
/// payload types, from the same crate.
///
/// * Dropping it, its clones and what they gave ends the connection. What is in progress then is cancelled.
/// * If this process dies, the server notices, cancels its requests, and gives its row to the next client.
/// * If the server shuts down, requests in progress are answered, and later ones end with
///   [`CallError::ShuttingDown`](crate::CallError::ShuttingDown). If it dies, all end with
///   [`CallError::ServerGone`](crate::CallError::ServerGone), within a second. A client never connects again by itself: a
///   request that a worker may have begun is not sent twice.
/// * In a process forked from this one every call fails at once with [`CallError::Forked`](crate::CallError::Forked); that
///   process can connect a client of its own.
///
/// [`stats`](Handle::stats) and [`debug_info`](Handle::debug_info) show the server as a whole, except that capacity, backlog
/// and requests are the client's.
///
/// ```no_run
/// # fn main() -> Result<(), ringmill::BoxError> {
/// use ringmill::Client;
/// let digits = Client::<Vec<f32>, u8>::connect("digits")?;
/// println!("{}", *digits.call(&vec![0.0; 64])?);
/// # Ok(())
/// # }
/// ```
pub struct Client<In, Out> {
    handle: Handle<In, Out>,
}

impl<In, Out> Clone for Client<In, Out> {
    fn clone(&self) -> Self {
        Self { handle: self.handle.clone() }
    }
}

impl<In, Out> fmt::Debug for Client<In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("server", &self.handle.name()).finish_non_exhaustive()
    }
}

impl<In, Out> Deref for Client<In, Out> {
    type Target = Handle<In, Out>;

    fn deref(&self) -> &Handle<In, Out> {
        &self.handle
    }
}

impl<In: Payload, Out: Payload> Client<In, Out> {
    /// Connects to a server by its [address](crate::Server::address): its name, the path of its file, or `LABEL@PID` if it is
    /// anonymous. It waits for no server that is still to start.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub fn connect(address: &str) -> Result<Self, ConnectError> {
        Self::connect_with(address, Wait::default())
    }

    /// [`connect`](Self::connect), with how this process's callers wait, as for [`ServerBuilder::wait`](
    /// crate::ServerBuilder::wait).
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub fn connect_with(address: &str, wait: Wait) -> Result<Self, ConnectError> {
        child::exit_if_unfulfilled_worker();
        let core = connect(address, wait, &Types::of::<In, Out>())?;
        Ok(Self { handle: Handle::new(&Keeper::new(core)) })
    }
}

impl<In, Out> Client<In, Out> {
    /// A handle: the same calls, for code that takes a [`Handle`]. The connection stays as long as it does.
    #[must_use]
    pub fn handle(&self) -> Handle<In, Out> {
        self.handle.clone()
    }

    /// The server's process.
    #[must_use]
    pub fn server_pid(&self) -> u32 {
        match &self.handle.core.host {
            Host::Client(connection) => connection.server_pid,
            Host::Server(_) => self.handle.core.pid,
        }
    }
}

/// The payload types of a client.
struct Types {
    input: &'static str,
    outcome: &'static str,
    hash: u64,
}

impl Types {
    fn of<In: Payload, Out: Payload>() -> Self {
        let hash = layout_hash::<In, Out, ()>(0);
        Self { input: type_name::<In>(), outcome: type_name::<Out>(), hash }
    }

    /// # Errors
    /// If they are not those of the server.
    fn check(&self, segment: &Segment, address: &str) -> Result<(), ConnectError> {
        let service = segment.service();
        let (input, outcome) = (&service.payloads.input, &service.payloads.outcome);
        if self.hash == service.type_hash {
            return Ok(());
        }
        if (input.as_str(), outcome.as_str()) == (self.input, self.outcome) {
            let (input, outcome) = (self.input, self.outcome);
            return Err(ConnectError::TypeLayout { address: address.into(), input, outcome });
        }
        Err(ConnectError::Types {
            address: address.into(),
            input: input.clone(),
            outcome: outcome.clone(),
            client_input: self.input,
            client_outcome: self.outcome,
        })
    }
}

fn connect(address: &str, wait: Wait, types: &Types) -> Result<Arc<Core>, ConnectError> {
    open_standard_descriptors(); // before any other file is opened
    let no_server = || ConnectError::NoServer { address: address.into() };
    let mut segment = match Segment::attach(Location::parse(address)?, PAYLOAD_FORMAT) {
        Ok(segment) => segment,
        Err(AttachError::System { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
            return Err(no_server());
        }
        Err(error) => return Err(error.into()),
    };
    let look = |error| ConnectError::System { what: "look at the server's lease", error };
    if !segment.has_its_own_lease().map_err(look)? || !segment.is_served().map_err(look)? {
        return Err(no_server());
    }
    types.check(&segment, address)?;
    crash_point!("connect.attached");
    join(&mut segment, address)?;
    crash_point!("connect.joined");
    let core = core(segment, wait);
    // The server may have begun to shut down before it could see this client.
    match core.segment.run() {
        Run::Running => Ok(core),
        _ => Err(ConnectError::ShuttingDown { address: address.into() }),
    }
}

/// Takes a client's row. If all are taken, but some by dead clients, waits until the server has repaired what those left.
fn join(segment: &mut Segment, address: &str) -> Result<(), ConnectError> {
    let until = Instant::now() + REPAIR_LIMIT;
    loop {
        if segment.run() != Run::Running {
            return Err(ConnectError::ShuttingDown { address: address.into() });
        }
        let count = segment.startup().count(); // before the look: the server rings it when a row is free again
        match segment.join_as_client() {
            Ok(()) => return Ok(()),
            Err(JoinError::Full { to_repair: 1.., .. }) if Instant::now() < until => {
                segment.startup().sleep(count, Some(until.saturating_duration_since(Instant::now())));
            }
            Err(JoinError::Full { rows: most, .. }) => {
                return Err(ConnectError::Full { address: address.into(), most });
            }
            Err(JoinError::NoClients) => return Err(ConnectError::NoClients { address: address.into() }),
            Err(JoinError::System(error)) => {
                return Err(ConnectError::System { what: "lock a client's byte of the lease", error });
            }
            Err(error) => return Err(ConnectError::System { what: "join", error: io::Error::other(error) }),
        }
    }
}

/// The core of a client that has joined.
fn core(segment: Segment, wait: Wait) -> Arc<Core> {
    let segment = Arc::new(segment);
    let entry = segment.service().entry;
    let stamps = match entry {
        Target::Node(node) => {
            segment.nodes().get(node as usize).map_or(Stamps::Never, |node| Rule::of(&node.facts).stamps())
        }
        _ => Stamps::Never, // the mover stamps the task when it queues it at its node
    };
    let server = &segment.participants()[SERVER as usize];
    let server_pid = server.pid();
    // If the process that was opened began when the server did, it is the server.
    let opened = PidFd::open(server_pid).ok();
    let process = opened.filter(|_| start_time(server_pid) == Some(server.start_time()));
    let connection = Connection { server_pid, server: process };
    let requests = segment.home_requests();
    Arc::new_cyclic(|me: &Weak<Core>| Core {
        me: Weak::clone(me),
        reactor: OnceLock::new(),
        name: segment.location().server_name(),
        capacity: requests.end - requests.start,
        entry,
        birth: segment.birth(),
        pid: std::process::id(),
        stamps,
        rows: Rows::new(Timing::from_raw(segment.timed_every()), segment.home_caller_rows()),
        free_ids: FreeIds::with_abandoned(requests, &segment),
        patience: Patience::of_callers(wait),
        reserved: AtomicU32::new(0),
        cut_off: AtomicBool::new(false),
        router: Arc::new(Router::default()),
        placement: Placement::of_another_process(),
        host: Host::Client(connection),
        segment,
    })
}
