//! `memory`: the bytes that a request in progress costs, by the largest payload it may have, and what the
//! processes need for themselves.
//!
//! A segment is made for as many requests as the server's capacity, once and for all. What one more of them costs is
//! how much longer the segment of a larger capacity is.
//!
//! The server runs in a process of its own, which is this program's executable, started again with a hidden first argument:
//! so its memory is not mixed up with memory that other contestants have left in this process. It prints its figures and
//! ends.

use std::process::{self, Command};
use std::{env, fs};

use ringmill::{ProcessServlet, Server};
use serde::{Deserialize, Serialize};

use super::{Job, Session};
use crate::Error;
use crate::contestant::Point;
use crate::payload::Payload;
use crate::peers::ringmill::{Echo, server_builder, worker_pids};
use crate::procfs;
use crate::report::Row;

/// The hidden first argument. After it: the largest payload and the capacity.
const SERVER: &str = "--be-the-server";

/// The largest payloads, in bytes.
pub const PAYLOADS: [u32; 5] = [64, 1 << 10, 4 << 10, 16 << 10, 64 << 10];

/// The capacities whose segments are compared.
const CAPACITIES: [u32; 2] = [256, 1024];

/// Measures every largest payload.
///
/// # Errors
///
/// Those of starting and calling the server, and of asking the system.
pub fn run(session: &mut Session<'_>) -> Result<(), Error> {
    if !session.wants_ringmill() {
        return Ok(());
    }
    let only = session.only.payload_bytes;
    for payload_bytes in PAYLOADS.into_iter().filter(|&bytes| only.is_none_or(|only| only == bytes)) {
        session.audience.progress(format_args!("memory, {payload_bytes} B"));
        let [small, large] = CAPACITIES.map(|capacity| Needs::of_server(payload_bytes, capacity));
        let (small, large) = (small?, large?);
        let [least, most] = CAPACITIES.map(f64::from);
        let per_request = (large.segment_bytes as f64 - small.segment_bytes as f64) / (most - least);
        let row = Row::new(Job::Memory.name(), "ringmill")
            .at("payload_bytes", payload_bytes)
            .figure("bytes_per_request", per_request)
            .figure("segment_bytes", small.segment_bytes as f64)
            .figure("worker_private_bytes", small.worker_private_bytes as f64)
            .figure("server_private_bytes", small.server_private_bytes as f64);
        session.audience.rows(&[row])?;
    }
    Ok(())
}

/// If this process was started as a server, serves, prints its needs, and ends.
pub fn begin() {
    let mut arguments = env::args().skip(1);
    if arguments.next().is_none_or(|first| first != SERVER) {
        return;
    }
    let mut number = || arguments.next()?.parse().ok();
    let (Some(payload_bytes), Some(capacity)) = (number(), number()) else {
        eprintln!("{SERVER} is not meant to be given by hand");
        process::exit(2);
    };
    match Needs::measure(payload_bytes, capacity) {
        Ok(needs) => println!("{}", serde_json::to_string(&needs).expect("numbers")),
        Err(error) => {
            eprintln!("compare: {error}");
            process::exit(1);
        }
    }
    process::exit(0);
}

/// What a server with one worker needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Needs {
    segment_bytes: u64,
    worker_private_bytes: u64,
    server_private_bytes: u64,
}

impl Needs {
    /// Has a process be the server.
    fn of_server(payload_bytes: u32, capacity: u32) -> Result<Self, Error> {
        let who = "ringmill";
        let output = Command::new("/proc/self/exe")
            .args([SERVER, &payload_bytes.to_string(), &capacity.to_string()])
            .stderr(process::Stdio::inherit())
            .output()
            .map_err(|source| Error::SpawnProcess { who, source })?;
        // It has said why.
        let failed = |_| {
            Error::Rival(format!("the process that was to be {who}'s server ended with {}", output.status))
        };
        serde_json::from_slice(&output.stdout).map_err(failed)
    }

    /// Is the server.
    fn measure(payload_bytes: u32, capacity: u32) -> Result<Self, Error> {
        let look = |what| move |source| Error::Look { what, source };
        let private = |pid| procfs::private_bytes(pid).map_err(look("a process's memory"));
        let server: Server<Payload<8>, Payload<8>> = server_builder(Point::STANDARD)
            .capacity(capacity as usize)
            .max_payload(payload_bytes as usize)
            .start(ProcessServlet::<Echo<8>>::new(()))?;
        // Each request id is used once.
        for (item, answer) in (0..).zip(server.stream((0..u64::from(capacity)).map(Payload::question))) {
            if !answer?.answers(item) {
                return Err(Error::WrongAnswer { who: "ringmill", item });
            }
        }
        let worker = worker_pids(&server).next().expect("it has one worker");
        procfs::wait_until_asleep(worker);
        let segment = fs::metadata(server.segment_path()).map_err(look("a segment's file"))?;
        Ok(Self {
            segment_bytes: segment.len(),
            worker_private_bytes: private(worker)?,
            server_private_bytes: private(process::id())?,
        })
    }
}
