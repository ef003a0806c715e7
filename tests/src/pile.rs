//! Items that pile up in the ring while workers are held busy.

use crate::gate::{Arrival, Gate};
use crate::{GUARD, wait_until};
use ringmill::{CallError, Payload, Server, StreamOptions};
use std::thread::{Scope, ScopedJoinHandle};

/// Waits until at least this many items lie in the ring of the server's servlet.
#[track_caller]
pub fn wait_for_depth<In: Payload, Out: Payload>(server: &Server<In, Out>, items: usize) {
    let depth = || server.stats().servlets[0].depth;
    wait_until(&format!("{items} items in the ring"), || depth() >= items as u64);
}

/// Streams all items; the outcomes, in order. None takes longer than [`GUARD`].
pub fn stream_all<In, Out>(
    server: &Server<In, Out>,
    items: impl IntoIterator<Item = In>,
) -> Vec<Result<Out, CallError>>
where
    In: Payload,
    Out: Payload,
{
    server.stream_with(items, StreamOptions::new().timeout(GUARD)).collect()
}

/// Holds a worker busy with an item that comes to the gate; the call ends after the arrival is released.
#[track_caller]
pub fn hold<'scope, In, Out>(
    scope: &'scope Scope<'scope, '_>,
    server: &'scope Server<In, Out>,
    gate: &Gate,
    item: In,
) -> (Arrival, ScopedJoinHandle<'scope, Result<Out, CallError>>)
where
    In: Payload + Send,
    Out: Payload + Send,
{
    let call = scope.spawn(move || server.call(&item).and_then(|reply| reply.into_owned()));
    (gate.arrival(), call)
}

/// Lets items pile up behind an item that holds the server's only worker at the gate, then lets the worker go on; returns the
/// outcomes of the pile, in order.
#[track_caller]
pub fn pile_up<In, Out>(
    server: &Server<In, Out>,
    gate: &Gate,
    stopper: In,
    items: Vec<In>,
) -> Vec<Result<Out, CallError>>
where
    In: Payload + Send,
    Out: Payload + Send,
{
    std::thread::scope(|scope| {
        let (arrival, call) = hold(scope, server, gate, stopper);
        let count = items.len();
        let stream = scope.spawn(move || stream_all(server, items));
        wait_for_depth(server, count);
        arrival.release();
        call.join().expect("no panic").expect("the worker was only held");
        stream.join().expect("no panic")
    })
}
