//! The counts of a storm.

use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts that threads add to.
        #[derive(Debug, Default)]
        pub struct Counts {
            $($(#[$doc])* pub $name: AtomicU64,)*
            /// Kills by victim and weather.
            pub by_victim: Mutex<BTreeMap<(String, &'static str), u64>>,
        }

        /// The counts at one moment.
        #[derive(Debug, Clone, Serialize)]
        pub struct Report {
            $($(#[$doc])* pub $name: u64,)*
            /// Kills by servlet.
            pub kills_by_servlet: BTreeMap<String, u64>,
            /// Kills by weather.
            pub kills_by_weather: BTreeMap<&'static str, u64>,
        }

        impl Counts {
            /// Reads the counts.
            #[must_use]
            pub fn report(&self) -> Report {
                let (mut servlets, mut weathers) = (BTreeMap::new(), BTreeMap::new());
                let by_victim = self.by_victim.lock().unwrap_or_else(|e| e.into_inner());
                for ((servlet, weather), kills) in &*by_victim {
                    *servlets.entry(servlet.clone()).or_default() += kills;
                    *weathers.entry(*weather).or_default() += kills;
                }
                Report {
                    $($name: self.$name.load(Ordering::Relaxed),)* // Relaxed: counts
                    kills_by_servlet: servlets,
                    kills_by_weather: weathers,
                }
            }
        }
    };
}

counts! {
    /// Worker processes that the storm has ended: killed, or made to exec another program.
    kills,
    /// Worker processes that execed another program.
    execs,
    /// Children that the servers' process has forked.
    forks,
    /// Children that worker processes have forked.
    worker_forks,
    /// Services that execed another program.
    service_execs,
    /// Worker processes stopped for a while.
    stops,
    /// Levers that were pulled, and did as they were told.
    levers,
    /// Levers that said that they had not.
    levers_failed,
    /// Workers that left in order, as a lever wanted.
    retired,
    /// Worker processes restarted.
    restarts,
    /// Requests that ended with a value.
    values,
    /// With `WorkerDied`.
    died,
    /// With an error of an ensemble.
    ensemble,
    /// With a refusal, as their servlet would have in any weather.
    refused,
    /// With a servlet that is down.
    down,
    /// With a servlet that is drained.
    drained,
    /// Given up by their caller: late, or dropped.
    gone,
    /// Turned away: all permits were taken.
    turned_away,
    /// How often servlets' code ran.
    runs,
    /// Quiet moments at which nothing was amiss.
    checks,
    /// Servers under storms.
    servers,
}

impl Report {
    /// Requests that were begun.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.values + self.died + self.ensemble + self.refused + self.down + self.drained + self.gone
    }
}

impl Counts {
    /// Requests that have ended.
    pub(super) fn ended(&self) -> u64 {
        let errors = [&self.died, &self.ensemble, &self.refused, &self.down, &self.drained];
        let all = errors.into_iter().chain([&self.values, &self.gone]);
        all.map(|count| count.load(Ordering::Relaxed)).sum() // Relaxed: counts
    }
}
