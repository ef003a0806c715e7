//! Statistics: any process can read them live, also after the writers' death, without slowing a writer.
//!
//! | Part | Lines of | Written by |
//! |---|---|---|
//! | [`worker`] | each worker's row: [`Counter`], [`WorkerHistogram`] | the worker |
//! | [`caller`] | each of [`CALLER_ROWS`]: [`CallerCounter`], [`CallerHistogram`] | the calling thread that has the row; row 0 all others |
//! | [`server`] | the server: [`ServerCounter`] | the supervisor's thread |
//!
//! Each line has one writer; so adding is a load and a store, no locked instruction. (The exceptions add by locked
//! instructions: row 0 of the callers, and dropped events, which all threads of a worker's process count.) A reader may
//! see counters of two moments, and so somewhat more items than the batches could hold.
//!
//! Counters and histograms are declared once, in tables. Their atomics, snapshots, sums over lines, the names, units,
//! help texts and columns of reports and their part of the segment's fingerprint follow from that.
//!
//! # Samples
//!
//! A time costs a read of a clock, so where there is much to do only some requests and batches are timed, at random
//! distances. Each stands for all since the last one, and is recorded that many times ([`Weight`]). So the sum of a
//! histogram of times is an estimate without bias.

pub mod caller;
mod histogram;
pub mod server;
mod stamp;
pub mod worker;

pub use caller::{
    CALLER_ROWS, CLIENT_ROWS, CallerCounter, CallerDistributions, CallerHistogram, CallerRow, CallerSnapshot,
    CallerStats,
};
use histogram::histograms;
pub use histogram::{BUCKETS, Distribution, Histogram, HistogramWords, PERCENTILES, Quantity};
pub use server::{ServerCounter, ServerCounters, ServerSnapshot};
pub use stamp::{Stamp, Weight};
pub use worker::{
    Closed, Counter, Counters, Snapshot, WorkerDistributions, WorkerHistogram, WorkerHistograms,
};

use crate::sync::Ordering;
use core::sync::atomic::AtomicU64;

/// Declares counters: what they are of, the type of a counter, of their atomics and of a snapshot; and of each what it
/// counts, its name, its field in the snapshot (and its name in reports), the heading of its column, its unit, how those
/// of several lines are put together, the table where its column is, and its [`Family`] if it has one.
macro_rules! counters {
    (
        $of:literal
        $(#[$of_counter:meta])* $Counter:ident
        $Values:ident
        $(#[$of_snapshot:meta])* $Snapshot:ident
        $(
            #[doc = $help:literal]
            $counter:ident $field:ident $heading:literal $unit:literal $merge:ident $table:ident $($family:ident)?;
        )*
    ) => {
        $(#[$of_counter])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(usize)]
        #[non_exhaustive]
        pub enum $Counter {
            $(#[doc = $help] $counter,)*
        }

        impl $Counter {
            /// All counters, in the order of reports.
            pub const ALL: [Self; [$(stringify!($field)),*].len()] = [$(Self::$counter),*];

            const WORDS: [$crate::stats::Words; Self::ALL.len()] = [$($crate::stats::Words {
                of: $of,
                name: stringify!($field),
                help: $help.trim_ascii(),
                heading: $heading,
                unit: $unit,
                merge: $crate::stats::Merge::$merge,
                table: $crate::stats::Table::$table,
                family: [$(Some(&$family),)? None][0],
            }),*];

            /// Its words.
            #[must_use]
            pub fn words(self) -> &'static $crate::stats::Words {
                &Self::WORDS[self as usize]
            }

            /// Those whose columns a table has.
            pub fn of(table: $crate::stats::Table) -> impl Iterator<Item = Self> {
                Self::ALL.into_iter().filter(move |counter| counter.words().table == table)
            }
        }

        $(#[$of_snapshot])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
        #[non_exhaustive]
        pub struct $Snapshot {
            $(#[doc = $help] pub $field: u64,)*
        }

        impl $Snapshot {
            fn of(value: impl Fn($Counter) -> u64) -> Self {
                Self { $($field: value($Counter::$counter),)* }
            }

            /// One of them.
            #[must_use]
            pub fn get(&self, counter: $Counter) -> u64 {
                match counter {
                    $($Counter::$counter => self.$field,)*
                }
            }

            /// The counters of both, put together as if they were of one.
            #[must_use]
            pub fn merged(self, other: Self) -> Self {
                Self::of(|counter| counter.words().merge.merged(self.get(counter), other.get(counter)))
            }

            /// What came after an earlier moment, at which they were those of `earlier`. A least or greatest value stays
            /// that since the start.
            #[must_use]
            pub fn since(self, earlier: Self) -> Self {
                Self::of(|counter| match counter.words().merge {
                    $crate::stats::Merge::Sum => self.get(counter).saturating_sub(earlier.get(counter)),
                    _ => self.get(counter),
                })
            }
        }

        /// The atomics of the counters, in their order.
        #[derive(Debug, Default)]
        #[repr(transparent)]
        struct $Values([core::sync::atomic::AtomicU64; $Counter::ALL.len()]);

        impl $crate::fields::InSegment for $Values {
            /// The number of a struct with a field for each counter.
            const FIELDS: u64 = $crate::stats::fields_of(
                stringify!($Values),
                &$Counter::WORDS,
                size_of::<Self>(),
                align_of::<Self>(),
            );
        }

        impl $Values {
            #[inline]
            fn at(&self, counter: $Counter) -> &core::sync::atomic::AtomicU64 {
                &self.0[counter as usize]
            }

            fn snapshot(&self) -> $Snapshot {
                // Relaxed: readers want no more than a recent value.
                $Snapshot::of(|counter| self.at(counter).load($crate::sync::Ordering::Relaxed))
            }
        }
    };
}
pub(crate) use counters;

/// The number of a struct with a field for each counter.
const fn fields_of<const N: usize>(name: &str, words: &[Words; N], size: usize, align: usize) -> u64 {
    use crate::fields::{Field, InSegment, of_struct};
    let mut fields = [const { Field { name: "", offset: 0, of: AtomicU64::FIELDS } }; N];
    let mut index = 0;
    while index < N {
        fields[index].name = words[index].name;
        fields[index].offset = index * size_of::<AtomicU64>();
        index += 1;
    }
    of_struct(name, size, align, &fields)
}

/// The words of a counter, for reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Words {
    /// What it is a counter of: `worker`, `caller`, `server`.
    pub of: &'static str,
    /// Its name, which is that of its field in a snapshot.
    pub name: &'static str,
    /// What it counts, as a sentence.
    pub help: &'static str,
    /// The heading of its column in a table.
    pub heading: &'static str,
    /// What is counted.
    pub unit: &'static str,
    /// How the counters of several lines become one.
    pub merge: Merge,
    /// The table that its column belongs to.
    pub table: Table,
    /// The counters that it is one of for Prometheus; `None`: it stands alone.
    pub family: Option<&'static Family>,
}

/// Counters that add up to one number: each thing that they count is counted by exactly one of them. For Prometheus they
/// are one metric, in which a label tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Family {
    /// The metric's name, without what all names begin with, and without `_total`.
    pub name: &'static str,
    /// What all of them count, as a sentence.
    pub help: &'static str,
    /// The label. Its value is the counter's name, without `prefix`.
    pub label: &'static str,
    /// What the names of the counters begin with.
    pub prefix: &'static str,
}

impl Words {
    /// The name in Prometheus' form: of the counter, or of its family.
    #[must_use]
    pub fn metric(&self) -> String {
        let only_grows = if self.merge == Merge::Sum { "_total" } else { "" };
        match self.family {
            Some(family) => format!("ringmill_{}{only_grows}", family.name),
            None => format!("ringmill_{}_{}{only_grows}", self.of, self.name),
        }
    }

    /// What the metric of that name counts, as a sentence.
    #[must_use]
    pub fn metric_help(&self) -> &'static str {
        self.family.map_or(self.help, |family| family.help)
    }

    /// The label, and its value, by which the counter is told apart within its family.
    #[must_use]
    pub fn label(&self) -> Option<(&'static str, &'static str)> {
        let family = self.family?;
        Some((family.label, self.name.strip_prefix(family.prefix).unwrap_or(self.name)))
    }
}

/// How the counters of several lines become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merge {
    /// Their sum.
    Sum,
    /// The least of those that are not 0: 0 says that there is none.
    Least,
    /// The greatest.
    Greatest,
}

impl Merge {
    fn merged(self, a: u64, b: u64) -> u64 {
        match self {
            Self::Sum => a.saturating_add(b), // counters are read from a segment
            Self::Least if a == 0 || b == 0 => a.max(b),
            Self::Least => a.min(b),
            Self::Greatest => a.max(b),
        }
    }
}

/// The table of a report that a counter belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Of the workers, one by one.
    Workers,
    /// Of their batches.
    Batches,
    /// Of how they waited.
    Waits,
    /// Of the callers' requests.
    Callers,
    /// Of deaths.
    Deaths,
}

#[inline]
fn add(counter: &AtomicU64, n: u64) {
    // Relaxed, and not a fetch_add: one writer; readers want no more than a recent value. Wrapping: any process may
    // have written these bytes.
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}
