//! The order that a server gives a worker's process which it starts, as text in its environment.
//!
//! The text is JSON with a version. Fields may hold any value of their types. A program that was built with another
//! version of ringmill sees by the version, before it reads another field, that it cannot follow. A process that has
//! such a text is a worker and nothing else; if it cannot follow the order, it ends (`child::begin`).

use crate::policy::patience::Wait;
use ringmill_shm::doorbell::WORKER_LIMIT;
use ringmill_shm::participant::{SERVER, is_served};
use ringmill_shm::segment::{Location, Segment, open_lease};
use ringmill_shm::sys::build_id::BuildId;
use ringmill_shm::sys::file::{copy, take_over};
use ringmill_shm::token::Token;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;
use tracing::level_filters::LevelFilter;

/// The environment variable that makes a process a worker: an [`Order`]. No part of it is secret: on some systems other
/// users can see the environment of a process.
pub(crate) const VARIABLE: &str = "RINGMILL_WORKER";
/// The environment variable of a process that becomes a worker when its program calls `become_worker`: an [`Order`] too. The
/// process keeps it: a child of it has the variable and not the descriptors, and so is no worker.
pub(crate) const VARIABLE_OF_CALL: &str = "RINGMILL_WORKER_BY_CALL";
/// The version of the orders that this program gives and follows: a new number for each change of [`Order`].
pub(crate) const ORDER_VERSION: u32 = 5;

/// What a worker's process needs to know at its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    /// The first of its rows.
    pub(crate) row: u32,
    /// One for each of its rows, which are consecutive.
    pub(crate) tokens: Vec<Token>,
    pub(crate) wait: Wait,
    /// How many requests it may handle, if there is a limit.
    pub(crate) max_requests: Option<u64>,
    /// Which server gave the order: another one may have started under the same name since.
    pub(crate) origin: Origin,
    /// Its descriptors from the server: the segment's file, the lease to hold bytes by, the lease to look by, the
    /// tether.
    pub(crate) descriptors: Option<[Descriptor; 4]>,
    /// A file with the configuration of its workers, if it is not that in the segment.
    pub(crate) config: Option<Descriptor>,
    /// The hash by which it finds the type of its workers, if it is not that of the plan.
    pub(crate) type_hash: Option<u64>,
    /// Which build the process must be, if the server knows it.
    pub(crate) build: Option<BuildId>,
    /// Its name in process lists; empty: the name that it has.
    pub(crate) name: String,
    /// How it sends its `tracing` events to the server, if it does.
    pub(crate) events: Option<EventLine>,
    pub(crate) segment: Location,
}

/// How a worker's process sends its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EventLine {
    pub(crate) descriptor: Descriptor,
    /// Up to which level.
    pub(crate) level: LevelFilter,
}

/// Which of an order's descriptors is the lease to look by.
const LOOKED_BY: usize = 2;

/// A descriptor that a process has from its start, and the file to which it refers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Descriptor {
    pub(crate) number: i32,
    file: u64,
}

impl Descriptor {
    pub(crate) fn of(file: &File) -> std::io::Result<Self> {
        Ok(Self { number: file.as_raw_fd(), file: file.metadata()?.ino() })
    }

    pub(crate) fn take_over(self) -> Option<File> {
        take_over(self.number, self.file)
    }

    /// Another descriptor of the file, for a process that takes this one over later.
    pub(crate) fn copy(self) -> Option<File> {
        copy(self.number, self.file)
    }
}

/// Which server gave an order, among all that ever had its name or its pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Origin {
    pub(crate) pid: u32,
    /// When its process began.
    began: u64,
    /// The file number of its lease: the file under that name may be of a later server.
    lease: u64,
}

impl Origin {
    pub(crate) fn of(segment: &Segment) -> std::io::Result<Self> {
        let server = &segment.participants()[SERVER as usize];
        Ok(Self { pid: server.pid(), began: server.start_time(), lease: segment.lease().file_number()? })
    }

    /// Whether the server has certainly ended: by its lease, if this process has a descriptor of it.
    pub(crate) fn has_ended(&self, lease: Option<&File>, location: &Location) -> bool {
        if let Some(lease) = lease {
            return matches!(is_served(lease), Ok(false));
        }
        match open_lease(location) {
            Ok(lease) => {
                lease.file_number().ok() != Some(self.lease) || matches!(lease.is_served(), Ok(false))
            }
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        }
    }
}

/// Why a text is not an order that this program can follow.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OrderError {
    #[error("its order is not UTF-8")]
    NotText,
    #[error("its order cannot be read: {0}")]
    Unreadable(serde_json::Error),
    #[error(
        "its order has version {theirs}, and this program follows those of version {ORDER_VERSION}; build the server's program and the workers' with the same version of ringmill"
    )]
    OtherVersion { theirs: u64 },
    #[error("its order is invalid: {what}")]
    Invalid { what: &'static str },
}

/// An order as JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u32,
    row: u32,
    tokens: Vec<u32>,
    wait: WrittenWait,
    max_requests: Option<u64>,
    origin: Origin,
    descriptors: Option<[Descriptor; 4]>,
    config: Option<Descriptor>,
    type_hash: Option<u64>,
    build: Option<String>,
    name: String,
    events: Option<WrittenEventLine>,
    segment: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenEventLine {
    descriptor: Descriptor,
    level: String,
}

#[derive(Serialize, Deserialize)]
enum WrittenWait {
    Adaptive,
    Spin(Duration),
    Park,
}

/// The part that orders of all versions have; of other versions perhaps also the descriptors.
#[derive(Deserialize)]
struct Versioned {
    version: u64,
    #[serde(default)]
    descriptors: serde_json::Value,
}

/// The tether in an order of any version, if this process has it from its server.
pub(crate) fn tether_in(text: &OsStr) -> Option<Descriptor> {
    let Versioned { descriptors, .. } = serde_json::from_str(text.to_str()?).ok()?;
    let tether: Descriptor = serde_json::from_value(descriptors.as_array()?.last()?.clone()).ok()?;
    tether.copy().map(|_open| tether)
}

impl Order {
    /// The lease to look by, if this process has it from its server.
    pub(crate) fn lease(&self) -> Option<File> {
        self.descriptors?[LOOKED_BY].copy()
    }

    pub(crate) fn to_text(&self) -> String {
        let written = Written {
            version: ORDER_VERSION,
            row: self.row,
            tokens: self.tokens.iter().map(|token| token.raw()).collect(),
            wait: match self.wait {
                Wait::Adaptive => WrittenWait::Adaptive,
                Wait::Spin(time) => WrittenWait::Spin(time),
                Wait::Park => WrittenWait::Park,
            },
            max_requests: self.max_requests,
            origin: self.origin,
            descriptors: self.descriptors,
            config: self.config,
            type_hash: self.type_hash,
            build: self.build.as_ref().map(ToString::to_string),
            name: self.name.clone(),
            events: self.events.map(|EventLine { descriptor, level }| WrittenEventLine {
                descriptor,
                level: level.to_string(),
            }),
            segment: self.segment.to_text(),
        };
        serde_json::to_string(&written).expect("numbers, strings and lists of them can be written")
    }

    pub(crate) fn parse(text: &OsStr) -> Result<Self, OrderError> {
        let text = text.to_str().ok_or(OrderError::NotText)?;
        let Versioned { version, .. } = serde_json::from_str(text).map_err(OrderError::Unreadable)?;
        if version != u64::from(ORDER_VERSION) {
            return Err(OrderError::OtherVersion { theirs: version });
        }
        let written: Written = serde_json::from_str(text).map_err(OrderError::Unreadable)?;
        let invalid = |what| OrderError::Invalid { what };
        let tokens: Option<Vec<Token>> = written.tokens.iter().map(|&raw| Token::from_raw(raw)).collect();
        let tokens = tokens.ok_or(invalid("a token is invalid"))?;
        if !(1..=WORKER_LIMIT).contains(&tokens.len()) {
            return Err(invalid("it has no token, or more than a process can have workers"));
        }
        if written.row == SERVER || written.row.saturating_add(tokens.len() as u32) > Token::INDEX_LIMIT {
            return Err(invalid("no worker has that row"));
        }
        let build =
            written.build.map(|text| BuildId::parse(&text).ok_or(invalid("the build is not a build id")));
        let events = written.events.map(|WrittenEventLine { descriptor, level }| {
            let level = level.parse().map_err(|_| invalid("there is no such level of events"))?;
            Ok(EventLine { descriptor, level })
        });
        Ok(Self {
            row: written.row,
            tokens,
            wait: match written.wait {
                WrittenWait::Adaptive => Wait::Adaptive,
                WrittenWait::Spin(time) => Wait::Spin(time),
                WrittenWait::Park => Wait::Park,
            },
            max_requests: written.max_requests,
            origin: written.origin,
            descriptors: written.descriptors,
            config: written.config,
            type_hash: written.type_hash,
            build: build.transpose()?,
            name: written.name,
            events: events.transpose()?,
            segment: Location::parse(&written.segment).map_err(|_| invalid("no segment has that name"))?,
        })
    }
}

/// Whether a text is an order that is written again as the same text.
pub(crate) fn understands(text: &str) -> bool {
    let order = Order::parse(OsStr::new(text)).ok();
    order.is_some_and(|order| Order::parse(OsStr::new(&order.to_text())).ok() == Some(order))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::ffi::OsStrExt;

    fn token(index: u32, epoch: u32) -> Token {
        Token::from_raw(epoch << 10 | index).expect("it is one")
    }

    fn waits() -> impl Strategy<Value = Wait> {
        let duration = (any::<u64>(), 0..1_000_000_000_u32).prop_map(|(s, ns)| Duration::new(s, ns));
        let spins = prop_oneof![Just(Duration::ZERO), Just(Duration::MAX), duration].prop_map(Wait::Spin);
        prop_oneof![Just(Wait::Adaptive), Just(Wait::Park), spins]
    }

    fn segments() -> impl Strategy<Value = Location> {
        let named =
            "[A-Za-z0-9_-][A-Za-z0-9._-]{0,20}".prop_filter_map("a name", |name| Location::named(&name).ok());
        let anonymous = any::<(u32, Option<u64>)>().prop_map(|(process, lease)| {
            let lease = lease.map_or_else(String::new, |lease| format!(":{lease}"));
            Location::parse(&format!("label@{process}{lease}")).expect("an address")
        });
        let file = any::<String>().prop_map(|path| Location::File(format!("/{path}").into()));
        prop_oneof![named, file, anonymous]
    }

    fn orders() -> impl Strategy<Value = Order> {
        let token = (0..Token::INDEX_LIMIT, 1..8_u32).prop_map(|(index, epoch)| token(index, epoch));
        let tokens = proptest::collection::vec(token, 1..=WORKER_LIMIT);
        let rows = 1..Token::INDEX_LIMIT - WORKER_LIMIT as u32;
        let origin = any::<(u32, u64, u64)>().prop_map(|(pid, began, lease)| Origin { pid, began, lease });
        let descriptor = any::<(i32, u64)>().prop_map(|(number, file)| Descriptor { number, file });
        let descriptors = proptest::option::of([
            descriptor.clone(),
            descriptor.clone(),
            descriptor.clone(),
            descriptor.clone(),
        ]);
        let renewed = (proptest::option::of(descriptor), any::<Option<u64>>());
        let build = proptest::option::of("[a-z0-9.-]{1,60}")
            .prop_map(|text| text.map(|text| BuildId::parse(&text).expect("a build")));
        let levels = [LevelFilter::OFF, LevelFilter::ERROR, LevelFilter::INFO, LevelFilter::TRACE];
        let events = (any::<(i32, u64)>(), proptest::sample::select(levels.to_vec()));
        let events = events
            .prop_map(|((number, file), level)| EventLine { descriptor: Descriptor { number, file }, level });
        let texts = (any::<String>(), segments(), any::<Option<u64>>(), renewed);
        let all = (rows, tokens, waits(), origin, descriptors, build, proptest::option::of(events), texts);
        all.prop_map(
            |(
                row,
                tokens,
                wait,
                origin,
                descriptors,
                build,
                events,
                (name, segment, max_requests, (config, type_hash)),
            )| Order {
                row,
                tokens,
                wait,
                max_requests,
                origin,
                descriptors,
                config,
                type_hash,
                build,
                name,
                events,
                segment,
            },
        )
    }

    proptest! {
        #[test]
        fn orders_come_back_as_they_were(order in orders()) {
            let text = order.to_text();
            prop_assert!(!text.contains('\0'), "it is a variable's value");
            prop_assert_eq!(Order::parse(OsStr::new(&text)).unwrap(), order);
        }

        #[test]
        fn a_damaged_order_is_refused_or_read_as_another(order in orders(), at: usize, byte: u8) {
            let mut text = order.to_text().into_bytes();
            let at = at % text.len();
            prop_assert!(Order::parse(OsStr::from_bytes(&text[..at])).is_err());
            text[at] = byte;
            let _ = Order::parse(OsStr::from_bytes(&text));
        }
    }

    #[test]
    fn invalid_orders_are_refused_with_a_reason() {
        let origin = Origin { pid: 42, began: 7, lease: 1 << 40 };
        let tokens = vec![token(3, 9), token(4, 2)];
        let order = Order {
            row: 3,
            tokens,
            wait: Wait::Park,
            max_requests: None,
            origin,
            descriptors: None,
            config: None,
            type_hash: None,
            build: None,
            name: String::new(),
            events: Some(EventLine {
                descriptor: Descriptor { number: 9, file: 2 },
                level: LevelFilter::INFO,
            }),
            segment: Location::named("a").unwrap(),
        };
        let text = order.to_text();
        let why = |text: &str| Order::parse(OsStr::new(text)).unwrap_err().to_string();
        for (part, other, said) in [
            ("\"version\":5", "\"version\":6", "version 6, and this program follows those of version 5"),
            ("\"version\":5", "\"version\":6,\"more\":[]", "version 6, and this program follows"),
            ("\"version\":5", "\"version\":-1", "cannot be read"),
            ("\"version\":5,", "", "missing field `version`"),
            ("\"version\":5", "\"version\":5,\"more\":[]", "unknown field `more`"),
            ("\"row\":3", "\"row\":0", "no worker has that row"),
            ("\"row\":3", "\"row\":4294967295", "no worker has that row"),
            ("\"Park\"", "\"Never\"", "unknown variant `Never`"),
            ("\"a\"", "\"\"", "no segment has that name"),
            ("\"info\"", "\"loud\"", "no such level of events"),
            ("\"number\":9,", "", "missing field `number`"),
            ("\"build\":null", "\"build\":\"a/b\"", "the build is not a build id"),
        ] {
            let bad = text.replacen(part, other, 1);
            assert_ne!(bad, text, "{part}");
            assert!(why(&bad).contains(said), "{bad}: {}", why(&bad));
        }
        let tokens =
            |raw: &str| text.replacen(&text[text.find("[").unwrap()..=text.find("]").unwrap()], raw, 1);
        assert!(why(&tokens("[]")).contains("more than a process can have"));
        assert!(why(&tokens("[0]")).contains("a token is invalid"));
        assert!(
            why(&tokens(&format!("{:?}", vec![1025; WORKER_LIMIT + 1])))
                .contains("more than a process can have")
        );
        for text in ["", "1", "{}", "[]", "3:3073,4098:park:42:name"] {
            assert!(why(text).contains("cannot be read"), "{text}");
        }
        assert!(matches!(Order::parse(OsStr::from_bytes(b"\xff")), Err(OrderError::NotText)));
    }
}
