//! The statistics of a server: deaths, and what became of the items of the dead.

use super::{add, counters};
use crate::fields::in_segment;

counters! {
    "server"
    /// A counter of a server.
    ServerCounter
    Values
    /// The counters of a server at one moment.
    ServerSnapshot

    /// Workers that died, or gave up.
    Deaths          deaths          "deaths"    "workers"  Sum Deaths;
    /// Workers that were started again.
    Restarts        restarts        "restarts"  "workers"  Sum Deaths;
    /// Workers that left in order while their server went on: at a limit of theirs, or since they were told to.
    Retired         retired         "retired"   "workers"  Sum Deaths;
    /// Repairs of what a dead worker, or one of its threads, had left.
    Repairs         repairs         "repairs"   "repairs"  Sum Deaths;
    /// Items of dead workers that were retried.
    Retried         retried         "retried"   "items"    Sum Deaths;
    /// Items that ended because their worker died.
    Died            died            "lost"      "items"    Sum Deaths;
    /// Items that ended because too many workers died with them; also counted as ended by a death.
    Poisonous       poisonous       "poisonous" "items"    Sum Deaths;
    /// Times that a servlet went down, because all its workers had been given up.
    WentDown        went_down       "down"      "times"    Sum Deaths;
}

in_segment! {
    /// The counters of a server.
    #[repr(align(128))]
    #[derive(Debug, Default)]
    pub struct ServerCounters {
        values: Values,
    }
}

impl ServerCounters {
    /// Adds one to a counter. The supervisor's thread alone calls this: two writers at a time would lose counts.
    pub fn count(&self, counter: ServerCounter) {
        add(self.values.at(counter), 1);
    }

    /// The counters now.
    #[must_use]
    pub fn snapshot(&self) -> ServerSnapshot {
        self.values.snapshot()
    }
}
