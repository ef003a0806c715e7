//! Levers in a storm: servlets are scaled, their workers restarted, replaced and killed, and they are drained, several
//! at a time, by calls of the server and by the control page of its segment, while workers die.
//!
//! What must hold besides the outcome of every request: a lever ends; it fails only if a worker has died meanwhile; and
//! what it says is so. After it, the servlet has as many workers as it was told, those with the lowest indexes; a
//! worker that was restarted is another one; and once a servlet was replaced, no worker of a former
//! [edition](crate::book::Edition) ever runs again, and after a replacement that replaced none, none of the new one.

use super::weather::{Killer, Weather};
use super::{ENDLESS, Sky};
use crate::book::Edition;
use crate::tree::Item;
use ringmill::Server;
use ringmill::error::LeverError;
use ringmill_shm::control;
use ringmill_shm::participant::{Life, Role};
use ringmill_shm::segment::NodeInfo;
use ringmill_shm::token::Token;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How many levers are pulled at a time.
const LEVERS: u64 = 3;

/// What explains errors of requests since the last quiet moment.
#[derive(Debug, Default)]
pub(super) struct Operated {
    /// The servlets that were drained.
    drained: Mutex<BTreeSet<String>>,
    /// Those of which a worker was killed by a lever.
    killed: Mutex<BTreeSet<String>>,
}

fn locked(of: &Mutex<BTreeSet<String>>) -> MutexGuard<'_, BTreeSet<String>> {
    of.lock().unwrap_or_else(|e| e.into_inner())
}

impl Operated {
    pub(super) fn was_drained(&self, servlet: &str) -> bool {
        locked(&self.drained).contains(servlet)
    }

    pub(super) fn was_killed(&self, servlet: &str) -> bool {
        locked(&self.killed).contains(servlet)
    }

    /// In a quiet moment: no request is in progress that any of it may have met.
    pub(super) fn forget(&self) {
        locked(&self.drained).clear();
        locked(&self.killed).clear();
    }
}

#[derive(Debug, Clone, Copy)]
enum Lever {
    Scale(u32),
    Restart(u32),
    Kill(u32),
    /// By this edition, if it is by a call.
    Replace(Edition),
    /// And resume after that.
    Drain(Duration),
}

/// What is wanted of a node.
#[derive(Debug, Clone, Copy)]
struct Order {
    node: u32,
    lever: Lever,
    /// Else by a call of the server.
    by_page: bool,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    OutOfRange,
    NotStarted,
    NotReplaced { replaced: u32 },
    NotEmpty,
    Resumed,
}

impl From<Result<(), LeverError>> for Outcome {
    fn from(done: Result<(), LeverError>) -> Self {
        match done {
            Ok(()) => Self::Done,
            Err(LeverError::Range { .. }) => Self::OutOfRange,
            Err(LeverError::NotStarted { .. }) => Self::NotStarted,
            Err(LeverError::NotReplaced { replaced, .. }) => Self::NotReplaced { replaced },
            Err(LeverError::NotEmpty { .. }) => Self::NotEmpty,
            Err(LeverError::Resumed { .. }) => Self::Resumed,
            Err(other) => panic!("{other}"),
        }
    }
}

impl From<control::Verdict> for Outcome {
    fn from(verdict: control::Verdict) -> Self {
        let texts = [
            ("must be in", Self::OutOfRange),
            ("did not start", Self::NotStarted),
            ("are still in servlet", Self::NotEmpty),
            ("was resumed", Self::Resumed),
        ];
        let text = verdict.text;
        let known = || texts.into_iter().find(|(of, _)| text.contains(of)).map(|(_, outcome)| outcome);
        if verdict.is_done { Self::Done } else { known().unwrap_or_else(|| panic!("{text}")) }
    }
}

/// The number that ends a servlet's name: see [`Tree::servlet`](crate::tree::Tree::servlet); none of the node of a
/// switch, which the engine names.
fn number_of(node: &NodeInfo) -> Option<u32> {
    let (does, number) = node.name.rsplit_once('-')?;
    number.parse().ok().filter(|_| does != "switch")
}

impl Sky<'_> {
    fn nodes(&self) -> &[NodeInfo] {
        self.segment.nodes()
    }

    /// The editions that the workers of a node may have; 0 where they have none.
    fn allowed(&self, node: &NodeInfo) -> RangeInclusive<Edition> {
        number_of(node).map_or(0..=0, |number| self.book.allowed(number))
    }

    fn allow(&self, node: &NodeInfo, editions: RangeInclusive<Edition>) {
        self.book.allow(number_of(node).expect("it is of the tree"), editions);
    }

    /// How many workers a node has: those with the lowest indexes, which are not vacant.
    fn staffed(&self, node: &NodeInfo) -> u32 {
        let (first, threads) = (node.first_participant as usize, node.facts.threads as usize);
        let rows = &self.segment.participants()[first..first + node.rows as usize];
        let lives: Vec<Vec<Life>> =
            rows.chunks(threads).map(|worker| worker.iter().map(|row| row.life()).collect()).collect();
        let is_vacant = |worker: &Vec<Life>| worker.iter().all(|life| *life == Life::Vacant);
        let staffed = lives.iter().position(is_vacant).unwrap_or(lives.len());
        assert!(lives[staffed..].iter().all(is_vacant), "{}: {lives:?}", node.name);
        let in_part = |worker: &Vec<Life>| worker.contains(&Life::Vacant);
        assert!(!lives[..staffed].iter().any(in_part), "{}: {lives:?}", node.name);
        staffed as u32
    }

    fn token_of(&self, node: &NodeInfo, worker: u32) -> Option<Token> {
        let row = node.first_participant + worker * node.facts.threads;
        self.segment.participants().get(row as usize)?.token()
    }

    fn pull(&self, Order { node, lever, by_page }: Order) -> Outcome {
        let node = &self.nodes()[node as usize];
        let servlet = node.name.as_str();
        match lever {
            Lever::Kill(_) => {
                locked(&self.operated.killed).insert(servlet.into());
            }
            Lever::Drain(_) => {
                locked(&self.operated.drained).insert(servlet.into());
            }
            _ => {}
        }
        let page = |lever| {
            let command = control::Command { servlet: servlet.into(), lever };
            let verdict = self.segment.asker().and_then(|mut asker| asker.ask(&command, ENDLESS, ENDLESS));
            Outcome::from(verdict.unwrap_or_else(|error| panic!("{command:?}: {error}")))
        };
        let server = self.server;
        match lever {
            Lever::Scale(workers) if by_page => page(control::Lever::Scale { workers }),
            Lever::Scale(workers) => server.scale(servlet, workers as usize).into(),
            Lever::Restart(worker) if by_page => page(control::Lever::Restart { worker }),
            Lever::Restart(worker) => server.restart_worker(servlet, worker as usize).into(),
            Lever::Kill(worker) if by_page => page(control::Lever::Kill { worker }),
            Lever::Kill(worker) => server.kill_worker(servlet, worker as usize).into(),
            Lever::Replace(edition) => {
                let number = number_of(node).expect("it is of the tree");
                let by = self.storm.tree.replacement(number, &self.book.path(), edition);
                server.replace(servlet, by.expect("it is of the tree")).into()
            }
            Lever::Drain(limit) => {
                let drained = match by_page {
                    true => page(control::Lever::Drain { limit }),
                    false => server.drain_servlet(servlet, limit).into(),
                };
                match by_page {
                    true => assert_eq!(page(control::Lever::Resume), Outcome::Done),
                    false => server.resume_servlet(servlet).expect("it is known"),
                }
                drained
            }
        }
    }
}

/// Shuts the server down while threads restart workers of each of its servlets, which learn that it does.
///
/// # Errors
/// If a lever says something else.
pub(super) fn end_amid_levers(server: Server<Item, Item>) -> Result<(), String> {
    let names: Vec<String> = server.stats().servlets.into_iter().map(|servlet| servlet.name).collect();
    let (tell, told) = channel();
    std::thread::scope(|scope| {
        let restart = |name: String| {
            let (handle, tell) = (server.handle(), tell.clone());
            scope.spawn(move || {
                loop {
                    let done = handle.restart_worker(&name, 0);
                    let _ = tell.send(()); // the first is awaited
                    match done {
                        Ok(()) => {}
                        Err(LeverError::ShuttingDown) => return Ok(()),
                        Err(other) => return Err(format!("a lever amid the shutdown: {other}")),
                    }
                }
            })
        };
        let threads: Vec<_> = names.into_iter().map(restart).collect();
        let _ = told.recv(); // each thread tells
        drop(server);
        threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })
}

impl Killer<'_> {
    /// Levers for random servlets, of each at most one that replaces.
    fn orders(&mut self) -> Vec<Order> {
        let nodes = self.sky.nodes();
        let mut orders: Vec<Order> = Vec::new();
        for _ in 0..1 + self.dice.below(LEVERS) {
            // Often of one servlet.
            let node = match orders.last() {
                Some(last) if self.dice.below(3) == 0 => last.node,
                _ => self.dice.below(nodes.len() as u64) as u32,
            };
            let of = &nodes[node as usize];
            let most = of.rows / of.facts.threads;
            let is_replaced = orders.iter().any(|o| o.node == node && matches!(o.lever, Lever::Replace(_)));
            let by_page = self.dice.below(2) == 0;
            let mut worker = |least| least + self.dice.below(most.into()) as u32;
            let (worker, workers) = (worker(0), worker(1));
            let lever = match self.dice.below(8) {
                0 | 1 => Lever::Scale(workers),
                2 | 3 => Lever::Restart(worker),
                4 | 5 if !is_replaced && number_of(of).is_some() => {
                    Lever::Replace(self.sky.allowed(of).end() + 1)
                }
                6 if of.role == Role::ProcessWorker => Lever::Kill(worker),
                _ => Lever::Drain(match self.dice.below(3) {
                    0 => ENDLESS,
                    _ => Duration::from_micros(self.dice.below(5000)),
                }),
            };
            orders.push(Order { node, lever, by_page });
        }
        orders
    }

    /// Pulls a few levers at once, and lets workers die meanwhile.
    pub(super) fn pull_levers(&mut self) {
        let sky = self.sky;
        let orders = self.orders();
        let allowed: Vec<RangeInclusive<Edition>> =
            sky.nodes().iter().map(|node| sky.allowed(node)).collect();
        let staffed: Vec<u32> = sky.nodes().iter().map(|node| sky.staffed(node)).collect();
        let tokens: Vec<Option<Token>> = orders
            .iter()
            .map(|order| match order.lever {
                Lever::Restart(worker) => sky.token_of(&sky.nodes()[order.node as usize], worker),
                _ => None,
            })
            .collect();
        for order in &orders {
            if let Lever::Replace(edition) = order.lever {
                let node = order.node as usize;
                sky.allow(&sky.nodes()[node], *allowed[node].start()..=edition);
            }
        }
        let killed: Vec<u64> = sky.nodes().iter().map(|node| self.kills_of(&node.name)).collect();
        let outcomes = self.pull_amid_kills(&orders);
        for (index, (order, outcome)) in orders.iter().zip(&outcomes).enumerate() {
            let node = &sky.nodes()[order.node as usize];
            let beside = || orders.iter().filter(|other| other.node == order.node).map(|other| other.lever);
            let replaces = || beside().any(|lever| matches!(lever, Lever::Replace(_)));
            let is_alone = beside().count() == 1;
            let died = self.kills_of(&node.name) > killed[order.node as usize]
                || beside().any(|lever| matches!(lever, Lever::Kill(_)));
            let (least, most) = Self::bounds(&orders, order.node, staffed[order.node as usize]);
            let is_right = match (order.lever, outcome) {
                (Lever::Scale(workers), Outcome::Done) => !is_alone || sky.staffed(node) == workers,
                (Lever::Scale(workers), Outcome::NotStarted) => died && workers > least,
                (Lever::Restart(worker), Outcome::Done) => {
                    worker < most && !(is_alone && sky.token_of(node, worker) == tokens[index])
                }
                (Lever::Restart(_), Outcome::NotStarted) => died,
                // One more stands in while a servlet is replaced.
                (Lever::Kill(worker), Outcome::Done) => worker < most || worker == most && replaces(),
                (Lever::Restart(worker) | Lever::Kill(worker), Outcome::OutOfRange) => worker >= least,
                (Lever::Replace(edition), Outcome::Done) => {
                    sky.allow(node, edition..=edition);
                    true
                }
                (Lever::Replace(edition), Outcome::NotReplaced { replaced }) => {
                    // The next replacement has an edition of its own in any case: see `orders`.
                    let former = &allowed[order.node as usize];
                    let end = if *replaced == 0 { *former.end() } else { edition };
                    sky.allow(node, *former.start()..=end);
                    died
                }
                (Lever::Drain(_), Outcome::Done) => true,
                (Lever::Drain(limit), Outcome::NotEmpty) => limit != ENDLESS,
                (Lever::Drain(_), Outcome::Resumed) => !is_alone,
                _ => false,
            };
            let now = sky.staffed(node);
            assert!(
                is_right && (least..=most).contains(&now),
                "{orders:?}: {outcomes:?}: {order:?}; {now} of {least}..={most} workers, {died}"
            );
            let counter = match outcome {
                Outcome::Done => &sky.counts.levers,
                _ => &sky.counts.levers_failed,
            };
            counter.fetch_add(1, Ordering::Relaxed); // Relaxed: a count
        }
    }

    /// How many workers a node may have after these levers, by those that scale.
    fn bounds(orders: &[Order], node: u32, before: u32) -> (u32, u32) {
        let scaled = orders.iter().filter(|order| order.node == node).filter_map(|order| match order.lever {
            Lever::Scale(workers) => Some(workers),
            _ => None,
        });
        scaled.fold((before, before), |(least, most), workers| (least.min(workers), most.max(workers)))
    }

    /// What came of each lever.
    fn pull_amid_kills(&mut self, orders: &[Order]) -> Vec<Outcome> {
        let sky = self.sky;
        let (tell, told) = channel();
        let mut outcomes: Vec<Option<Outcome>> = orders.iter().map(|_| None).collect();
        std::thread::scope(|scope| {
            for (index, order) in orders.iter().enumerate() {
                let tell = tell.clone();
                scope.spawn(move || {
                    let outcome = sky.pull(*order);
                    let _ = tell.send((index, outcome)); // the receiver waits for all
                });
            }
            drop(tell);
            let begun = Instant::now();
            let mut kills = self.dice.below(5);
            loop {
                match told.recv_timeout(Duration::from_micros(self.dice.below(3000))) {
                    Ok((index, outcome)) => outcomes[index] = Some(outcome),
                    Err(RecvTimeoutError::Disconnected) => break,
                    Err(RecvTimeoutError::Timeout) if kills > 0 => {
                        kills -= 1;
                        self.kill_beside(orders);
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                }
                sky.victims.continue_due(Instant::now());
                if begun.elapsed() > sky.storm.patience {
                    sky.give_up(&format!("levers hang: {orders:?}, so far {outcomes:?}"));
                }
            }
        });
        outcomes
            .into_iter()
            .map(|outcome| outcome.expect("each was told, else its thread has panicked"))
            .collect()
    }

    /// Kills a worker, mostly of one of these servlets, at any stage of its life.
    fn kill_beside(&mut self, orders: &[Order]) {
        let lives = [Life::Starting, Life::Ready, Life::Leaving];
        let name = &self.sky.nodes()[self.dice.pick(orders).node as usize].name;
        let of_it = |entry: &&_| self.sky.node_of(entry).name == *name;
        let there: Vec<_> =
            self.sky.victims_rows().filter(|entry| lives.contains(&entry.life())).filter(of_it).collect();
        if there.is_empty() || self.dice.below(4) == 0 {
            if let Some(entry) = self.any_worker(&lives) {
                self.kill_worker(Weather::Levers, entry);
            }
            return;
        }
        let entry = *self.dice.pick(&there);
        match self.dice.below(4) {
            0 => self.kill_unborn(entry, Weather::Levers),
            _ => {
                self.kill_worker(Weather::Levers, entry);
            }
        }
    }
}
