//! A segment in words and tables.

use super::memory::{self, Blocks, Memory};
use super::numa;
use super::{Counters, LockHolder, Node, Shown, Worker};
use crate::output::{Page, Report};
use crate::survey::{Liveness, user_text, way_out};
use crate::units;
use crate::who::title;
use ringmill_shm::layout::NodeFacts;
use ringmill_shm::participant::{Life, Role};
use ringmill_shm::plan::Target;
use ringmill_shm::segment::Run;
use ringmill_shm::stats::{Counter, Snapshot, Table};
use ringmill_shm::text::size;
use ringmill_shm::word::Phase;

impl Report for Shown {
    fn text(&self, page: Page) -> String {
        let mut text = self.header();
        text += "\nPlan\n";
        text += &self.plan_table(page);
        for node in &self.nodes {
            if let Some(why) = &node.down {
                text += &format!("{} is down: {why}\n", node.name);
            }
        }
        text += "\nWorkers\n";
        text += &self.worker_table(page);
        for worker in &self.workers {
            // The reason why a servlet is down is printed above.
            let told = |message: &String| self.nodes.iter().any(|node| node.down.as_ref() == Some(message));
            if let Some(message) = worker.message.as_ref().filter(|message| !told(message)) {
                text += &format!("{} failed: {message}\n", worker.name());
            }
        }
        for worker in &self.workers {
            if let Some(exit) = &worker.last_exit {
                text += &page.paragraph(&format!("{} {}", worker.name(), exit.text()), 0);
            }
        }
        if !self.clients.is_empty() {
            text += "\nClients\n";
            text += &self.client_table(page);
        }
        text += "\nPlacement\n";
        text += &self.placement_table(page);
        for worker in self.workers.iter().filter(|worker| !worker.cpus_taken.is_empty()) {
            let taken = units::cpus(&worker.cpus_taken);
            let how = "since it started: a control group, taskset, or a CPU that went offline";
            text += &page.paragraph(&format!("{} may not use CPU {taken} any more {how}", worker.name()), 0);
        }
        text += "\nBatches\n";
        text += &self.batch_table(page);
        text += "\nErrors\n";
        text += &self.error_table(page);
        text += "\nMemory\n";
        let rows = self.memory.iter().map(Memory::row).chain(self.blocks.iter().map(Blocks::row));
        text += &page.table(&memory::HEADINGS, rows);
        if let Some(parts) = self.numa.as_ref().filter(|_| numa::is_of_interest()) {
            text += &page.table(&numa::HEADINGS, parts.iter().map(numa::Part::row));
        }
        text
    }
}

impl Shown {
    fn header(&self) -> String {
        let of = &self.identity;
        let pid = self.server.pid;
        let age = of.age_s.map_or_else(|| "?".into(), units::age);
        let first = match (of.state, of.run) {
            (Liveness::Live, Some(run)) => {
                let stopped = if self.server.stopped == Some(true) { " is stopped" } else { "" };
                format!("{}, server pid {pid}{stopped}, made {age} ago", run_text(run))
            }
            _ => format!("stale, its server (pid {pid}) has died, made {age} ago; {}", way_out(&of.name)),
        };
        // Of all seven phases the line would be wider than a terminal.
        let requests: Vec<String> = Phase::ALL
            .into_iter()
            .filter(|&phase| self.requests[phase] > 0)
            .map(|phase| format!("{} {}", self.requests[phase], phase.name()))
            .collect();
        let lines = [
            (
                "file",
                format!(
                    "{}, {}{}, user {}",
                    of.path,
                    size(of.bytes.unwrap_or_default()),
                    if self.page_bytes > 4096 {
                        format!(" on pages of {}", size(self.page_bytes))
                    } else {
                        String::new()
                    },
                    of.user_id.map_or_else(|| "?".into(), user_text)
                ),
            ),
            ("layout", format!("version {}, fingerprint {}", self.layout_version, self.fingerprint)),
            (
                "capacity",
                format!(
                    "{} of {} each",
                    units::count(self.capacity as usize, "request"),
                    units::count(self.tasks_per_request as usize, "task")
                ),
            ),
            (
                "payloads",
                format!(
                    "up to {}; up to {} in line",
                    size(self.largest_payload_bytes),
                    size(self.inline_bytes)
                ),
            ),
            ("requests", requests.join(", ")),
            ("workers", self.ready_text()),
        ];
        let mut text = format!("{}: {first}\n", of.name);
        for (what, value) in lines {
            text += &format!("  {what:<9} {value}\n");
        }
        text
    }

    /// How many workers are ready, and which one has been starting for longest.
    fn ready_text(&self) -> String {
        let count = |state: &str| self.workers.iter().filter(|worker| worker.state_text() == state).count();
        let mut text = format!("{} of {} ready", count("ready"), self.workers.len() - count("vacant"));
        let starting = self.workers.iter().filter(|worker| worker.state_text() == "starting");
        let since = starting.filter_map(|worker| Some((worker.state_s?, worker)));
        if let Some((seconds, longest)) = since.max_by(|a, b| a.0.total_cmp(&b.0)) {
            let (name, time) = (longest.name(), units::age(seconds as u64));
            text += &format!(", {} starting, {name} for {time}", count("starting"));
        }
        text
    }

    /// The plan as a tree, with a row for each servlet. The column of ages is left out if none is known.
    fn plan_table(&self, page: Page) -> String {
        let node_of = |index: u32| self.nodes.iter().find(|node| node.index == index);
        let mut rows: Vec<(String, String, Option<&Node>)> = self
            .tree
            .iter()
            .map(|line| {
                let (name, kind, node) = match line.of {
                    Target::Fork(index) => match self.ensembles.get(index as usize) {
                        Some(ensemble) if ensemble.fail_fast => (&*ensemble.name, "fail-fast", None),
                        Some(ensemble) => (&*ensemble.name, "keeps errors", None),
                        None => ("?", "ensemble", None),
                    },
                    Target::Switch(index) => match self.switches.get(index as usize) {
                        Some(switch) => (&*switch.name, "switch", switch.chooser.and_then(node_of)),
                        None => ("?", "switch", None),
                    },
                    Target::Node(index) => node_of(index)
                        .map_or(("?", "", None), |node| (&node.name, &node.worker_type, Some(node))),
                    Target::End => ("end", "", None),
                };
                let name = line.lead(page.is_drawn()) + name;
                if line.again { (name, "as above".into(), None) } else { (name, kind.into(), node) }
            })
            .collect();
        // Of a plan that no servlet tree makes.
        let shown = |node: &Node| rows.iter().any(|(.., of)| of.is_some_and(|of| of.index == node.index));
        let others: Vec<_> = self.nodes.iter().filter(|node| !shown(node)).collect();
        rows.extend(others.into_iter().map(|node| (node.name.clone(), node.worker_type.clone(), Some(node))));

        let with_age = self.nodes.iter().any(|node| node.ring.oldest_s.is_some());
        let mut headings = vec!["servlet", "worker type", ">batch", ">wait", ">depth"];
        headings.extend(with_age.then_some(">oldest"));
        headings.extend(["lock", "workers", "asleep"]);
        let rows = rows.into_iter().map(|(name, kind, node)| {
            let mut row = vec![name, kind];
            let Some(node) = node else {
                row.resize(headings.len(), String::new());
                return row;
            };
            row.extend([
                if node.facts.batch_size == 0 { "single".into() } else { node.facts.batch_size.to_string() },
                wait_text(&node.facts),
                node.ring.depth.to_string(),
            ]);
            row.extend(with_age.then(|| node.ring.oldest_s.map_or_else(|| "-".into(), units::seconds)));
            row.extend([
                node.lock_holder.as_ref().map_or_else(|| "free".into(), LockHolder::text),
                node.workers_text(),
                format!("{} of {}", node.sleeping.len(), node.workers_threads),
            ]);
            row
        });
        page.table(&headings, rows.collect::<Vec<_>>())
    }

    fn client_table(&self, page: Page) -> String {
        let rows = self.clients.iter().map(|client| {
            let state = match (client.state, client.stopped) {
                (Life::Vacant, _) => "gone".into(),
                (_, Some(true)) => "stopped".into(),
                (_, _) if !client.alive => "dead".into(),
                (life, _) => format!("{life:?}").to_lowercase(),
            };
            vec![
                client.participant.to_string(),
                state,
                if client.pid == 0 { "-".into() } else { client.pid.to_string() },
                client.share.to_string(),
                client.in_progress.to_string(),
            ]
        });
        page.table(&[">row", "state", ">pid", ">share", ">in progress"], rows)
    }

    fn worker_table(&self, page: Page) -> String {
        let rows = self.workers.iter().map(|worker| {
            vec![
                worker.name(),
                worker.state_text().into(),
                worker.state_s.map_or_else(|| "-".into(), |seconds| units::age(seconds as u64)),
                worker.role_text().into(),
                if worker.pid == 0 { "-".into() } else { worker.pid.to_string() },
                worker.restarts.to_string(),
                units::cpus(&worker.cpus),
                worker.has_text(),
            ]
        });
        page.table(&["worker", "state", ">for", "role", ">pid", ">restarts", "cpus", "has"], rows)
    }

    /// What was planned, and what the kernel says.
    fn placement_table(&self, page: Page) -> String {
        let rows = self.workers.iter().map(|worker| {
            vec![
                worker.name(),
                units::cpus(&worker.cpus),
                worker.kernel_cpus.as_ref().map_or_else(|| "-".into(), |cpus| units::cpus(cpus)),
                worker.numa_node.map_or_else(|| "-".into(), |node| node.to_string()),
                worker.placed_why.to_string(),
            ]
        });
        page.table(&["worker", "cpus", "kernel", ">node", "why"], rows)
    }

    fn error_table(&self, page: Page) -> String {
        let columns = || Counter::of(Table::Workers);
        let rows = self.workers.iter().map(|worker| {
            let cells = columns().map(|counter| worker.counters.snapshot.get(counter).to_string());
            std::iter::once(worker.name()).chain(cells).collect()
        });
        let headings: Vec<_> = std::iter::once("worker".into()).chain(columns().map(heading)).collect();
        page.table(&headings, rows)
    }

    fn batch_table(&self, page: Page) -> String {
        // The name, a cell for each counter, and the mean between the smallest and the largest batch.
        let row = |name: String, cell: &dyn Fn(Counter) -> String, mean: String| {
            let mut row = vec![name];
            for counter in Counter::of(Table::Batches) {
                if counter == Counter::BatchMax {
                    row.push(mean.clone());
                }
                row.push(cell(counter));
            }
            row
        };
        let row_of = |name: String, Counters { snapshot, batch_mean }: &Counters| {
            row(name, &|counter| snapshot.get(counter).to_string(), format!("{batch_mean:.1}"))
        };
        let mut rows: Vec<_> = self.workers.iter().map(|w| row_of(w.name(), &w.counters)).collect();
        if self.workers.len() > 1 {
            let all = self.workers.iter().map(|w| w.counters.snapshot);
            let snapshot = all.fold(Snapshot::default(), Snapshot::merged);
            rows.push(row_of("all".into(), &Counters::of(snapshot)));
        }
        page.table(&row("worker".into(), &heading, ">mean".into()), rows)
    }
}

impl Node {
    /// `2`, or `2 of 8` if a lever can add some.
    fn workers_text(&self) -> String {
        match self.workers == self.max_workers {
            true => self.workers.to_string(),
            false => format!("{} of {}", self.workers, self.max_workers),
        }
    }
}

impl LockHolder {
    fn text(&self) -> String {
        let time = self.held_time.text().map(|time| format!(" for {time}"));
        self.holder.text() + &time.unwrap_or_default()
    }
}

impl Worker {
    pub(crate) fn name(&self) -> String {
        title(&self.node, self.worker, self.thread, self.threads)
    }

    pub(crate) fn role_text(&self) -> &'static str {
        match self.role {
            Role::Server => "server",
            Role::ProcessWorker => "process",
            Role::ThreadWorker => "thread",
            Role::Client => "client",
        }
    }

    /// How many requests it has, and which: at most three ranges of them.
    fn has_text(&self) -> String {
        let calls = match self.call_time.map(|time| time.text()) {
            None => String::new(),
            Some(None) => " in call".into(),
            Some(Some(time)) => format!(" in call for {time}"),
        };
        match self.in_hand.len() {
            0 => format!("-{calls}"),
            count => {
                format!("{count}{calls}: {}", units::ranges(self.in_hand.iter().map(|&id| id.into()), 3))
            }
        }
    }

    /// The state that the worker wrote, unless the kernel proves its death, or says that it is stopped.
    pub(crate) fn state_text(&self) -> &'static str {
        let said = match self.state {
            Life::Vacant => "vacant",
            Life::Starting => "starting",
            Life::Ready => "ready",
            Life::Failed => "failed",
            Life::Leaving => "leaving",
            Life::Dead => "dead",
        };
        // A worker that is starting may not hold its lease yet.
        let must_live = matches!(self.state, Life::Ready | Life::Leaving);
        match self.stopped {
            _ if must_live && !self.alive => "dead",
            Some(true) => "stopped",
            _ => said,
        }
    }
}

/// The heading of a counter's column, on the right as numbers are.
fn heading(counter: Counter) -> String {
    format!(">{}", counter.words().heading)
}

/// A server's last report.
pub(crate) fn run_text(run: Run) -> &'static str {
    match run {
        Run::Creating => "being created",
        Run::Running => "running",
        Run::Draining => "draining",
        Run::Stopping => "stopping",
        Run::Closed => "closed",
    }
}

/// A wait that the servlet's author states is kept; otherwise it is the most that a batch waits.
fn wait_text(facts: &NodeFacts) -> String {
    let wait = units::wait(facts.batch_wait_ns);
    if facts.batch_wait_ns == 0 || facts.wait_is_stated.is_set() { wait } else { format!("≤ {wait}") }
}
