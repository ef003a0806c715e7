//! Workers and servers of trees of servlets die.

use crate::report::{name, number, points, tell_killed, tell_passed};
use crate::{Part, Shop, again, unwatch, watch};
use ringmill::error::{Member, MemberOutcome, RemoteCause, RemoteError};
use ringmill::stats::WorkerStats;
use ringmill::{
    CallError, CallOptions, OnDeath, Restarts, Server, StartError, StreamOptions, Wait, WhenFull,
};
use ringmill_shm::check::check;
use ringmill_shm::control::{Command, Lever};
use ringmill_shm::crash::{Act, Page, VARIABLE, follow};
use ringmill_shm::segment::{Location, Removed, Segment, is_live, remove_if_stale};
use ringmill_shm::sys::process::PidFd;
use ringmill_tests::dice::Dice;
use ringmill_tests::name::Name;
use ringmill_tests::tree::Tree::{Fast, Keep, Sequence, Switch};
use ringmill_tests::tree::{self, Circumstances, Crew, Item, LARGEST, ONE, Op, THREAD, TWO, Tree, leaf};
use ringmill_tests::wait_until;
use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant};

type Outcome = Result<Item, CallError>;

/// A patience that no test outlives.
const ENDLESS: Duration = Duration::from_secs(3600);
/// Requests that can be in progress.
const CAPACITY: usize = 12;
/// How long work goes on until an armed point counts as not reached.
const PATIENCE: Duration = Duration::from_millis(500);

/// How many servers of a tree die side by side.
const SIDE_BY_SIDE: usize = 3;
/// How many servers run until one dies at a point; the second, for a point without a death in any tree.
const FEW_RUNS: usize = 4;
const MANY_RUNS: usize = 40;

/// The exit code of a server that could not start, because a worker died.
const NOT_STARTED: i32 = 3;

/// The roles of the server's process, by thread; of workers' processes follow those of each servlet.
const CALLER: usize = 0;
const SUPERVISOR: usize = 1;
const SWITCH: usize = 2;
const REACTOR: usize = 3;
const WORKERS: usize = 4;
const THREADS: [(&str, usize); 3] =
    [("ringmill-supervisor", SUPERVISOR), ("ringmill-reactor", REACTOR), ("ringmill-", SWITCH)];

/// Where a server's segment is.
#[derive(Clone, Copy)]
enum Home<'p> {
    Named,
    File(&'p Path),
    Anonymous,
}

/// What says [`Home::Anonymous`] to a server's process.
const ANONYMOUS: &str = "anonymous";

/// A tree, the names of its servlets in the table, and how it is served.
struct Scenario {
    tree: Tree,
    roles: &'static [&'static str],
    restarts: Restarts,
    wait: Wait,
    /// Servlets are given up for a while.
    down: bool,
}

fn scenario(name: &str) -> Scenario {
    let soon = Duration::from_millis(1);
    let restarts = Restarts::unlimited().backoff(soon, soon);
    let usual = |tree, roles| Scenario { tree, roles, restarts, wait: Wait::default(), down: false };
    match name {
        // A window, a switch behind processes, blocks that are kept and swapped.
        "line" => {
            let (one, two) = (ONE.on_death(OnDeath::Retry(9)), TWO.on_death(OnDeath::Retry(9)));
            usual(
                Sequence(vec![
                    leaf(Op::Add(3), two.window(Duration::from_micros(500))),
                    Switch(vec![leaf(Op::Grow(30), one), leaf(Op::Pass, one)]),
                    leaf(Op::Add(5), two),
                ]),
                &["stage with a window", "switch member", "switch member", "last stage"],
            )
        }
        // The caller forks; errors decide, and branches are late.
        "fast" => {
            let inner = Keep(vec![leaf(Op::Refuse(3), ONE), leaf(Op::Pass, ONE)], ONE);
            let grown = Sequence(vec![leaf(Op::Grow(20), ONE), inner]);
            let members = vec![leaf(Op::Add(1), ONE), grown, leaf(Op::Refuse(9), TWO)];
            usual(
                Fast(members, ONE),
                &[
                    "last stage",
                    "branch",
                    "forking branch",
                    "stage of a branch",
                    "inner branch",
                    "inner branch",
                    "branch",
                ],
            )
        }
        // A worker forks; errors are kept.
        "keep" => {
            let (one, two) = (ONE.on_death(OnDeath::Bisect(9)), TWO.on_death(OnDeath::Bisect(9)));
            let inner = Fast(vec![leaf(Op::Add(1), one), leaf(Op::Refuse(5), one)], one);
            let members = vec![leaf(Op::Pass, one), inner, leaf(Op::Grow(30), one), leaf(Op::Pass, THREAD)];
            Scenario {
                wait: Wait::Spin(Duration::from_micros(50)),
                ..usual(
                    Sequence(vec![leaf(Op::Add(3), two), Keep(members, one)]),
                    &[
                        "forking stage",
                        "last stage",
                        "branch",
                        "stage of a branch",
                        "inner branch",
                        "inner branch",
                        "branch",
                        "branch in a thread", // the server's: no process has this role
                    ],
                )
            }
        }
        // A worker that dies is given up for a while.
        "down" => Scenario {
            restarts: Restarts::default().limit(0).try_again_after(Duration::from_millis(20)),
            down: true,
            ..usual(
                Sequence(vec![
                    leaf(Op::Add(3), ONE),
                    Switch(vec![leaf(Op::Pass, ONE), leaf(Op::Add(1), ONE)]),
                ]),
                &["stage before one that is down", "stage that is down", "stage that is down"],
            )
        },
        other => panic!("no tree {other}"),
    }
}

impl Scenario {
    fn role(&self, role: usize) -> &'static str {
        match role {
            CALLER => "caller",
            SUPERVISOR => "supervisor",
            SWITCH => "switch or worker's thread",
            REACTOR => "reactor",
            worker => self.roles[worker - WORKERS],
        }
    }

    fn all_roles(&self) -> std::ops::Range<usize> {
        0..WORKERS + self.roles.len()
    }

    fn start(&self, name: &str, page: &Path, home: Home) -> Result<Server<Item, Item>, StartError> {
        let page = page.to_str().expect("text");
        let role = |servlet: u32| format!("{}:{page}", WORKERS + servlet as usize);
        let circumstances = Circumstances {
            restarts: self.restarts,
            env: Some((VARIABLE, &role)),
            ..Circumstances::default()
        };
        let builder = match home {
            Home::Named => Server::builder(name),
            Home::File(file) => Server::builder(name).file(file),
            Home::Anonymous => Server::anonymous(name),
        };
        let builder = builder.capacity(CAPACITY).max_payload(LARGEST).partials(1).wait(self.wait);
        assert_eq!(self.tree.most_runs().len(), self.roles.len(), "each servlet has a role");
        builder.start(self.tree.servlet(&circumstances))
    }
}

/// Callers at work on a server.
struct Work<'s> {
    scenario: &'s Scenario,
    server: &'s Server<Item, Item>,
    /// Whether this test made a process die.
    is_victim: Box<dyn Fn(u32) -> bool + Sync + 's>,
    /// Callers hold it while they call.
    open: RwLock<()>,
    over: AtomicBool,
    /// Rounds of calls.
    rounds: AtomicU64,
    /// Requests so far.
    requests: AtomicU64,
    /// After this many requests each caller ends; 0: when the work is over.
    limit: u64,
}

impl Work<'_> {
    /// All callers, until it is over or they have done their part.
    fn spawn<'scope>(&'scope self, scope: &'scope std::thread::Scope<'scope, '_>, seed: u64) {
        let callers: [fn(&Self, &mut Dice); 5] =
            [Self::call, Self::stream, Self::hurry, Self::submit, Self::listen];
        for (number, caller) in (0..).zip(callers) {
            scope.spawn(move || {
                let mut dice = Dice::new(seed + number);
                for round in 1.. {
                    if self.over.load(Ordering::SeqCst) || self.limit != 0 && round > self.limit {
                        return;
                    }
                    let _open = self.open.read().expect("no thread panics");
                    caller(self, &mut dice);
                    self.rounds.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    }

    fn input(&self, dice: &mut Dice) -> Item {
        tree::item(self.requests.fetch_add(1, Ordering::SeqCst), dice)
    }

    fn call(&self, dice: &mut Dice) {
        let input = self.input(dice);
        let options = CallOptions::new().when_full(WhenFull::Wait).timeout(ENDLESS);
        self.judge(&input, &self.server.call_with(&input, options).and_then(|reply| reply.into_owned()));
    }

    fn stream(&self, dice: &mut Dice) {
        let inputs: Vec<Item> = (0..10).map(|_| self.input(dice)).collect();
        let options = StreamOptions::new().window(6).timeout(ENDLESS);
        let outcomes: Vec<Outcome> = self.server.stream_with(inputs.clone(), options).collect();
        assert!(outcomes.len() == inputs.len() || self.scenario.down, "each has ended once");
        inputs.iter().zip(&outcomes).for_each(|(input, outcome)| self.judge(input, outcome));
    }

    /// Calls that often give up before they are answered, at any stage.
    fn hurry(&self, dice: &mut Dice) {
        let (input, patience) = (self.input(dice), Duration::from_micros(dice.below(3000)));
        let options = CallOptions::new().when_full(WhenFull::Wait);
        let options = match dice.below(2) {
            0 => options.timeout(patience),
            _ => options.deadline(Instant::now() + patience),
        };
        match self.server.call_with(&input, options).and_then(|reply| reply.into_owned()) {
            Err(CallError::Timeout { .. } | CallError::ServerBacklogFull { .. } | CallError::Ensemble(_)) => {
            }
            Err(CallError::Remote(error)) if is_deadline(&error) => {}
            outcome => self.judge(&input, &outcome),
        }
    }

    /// Requests that are looked for later, awaited, or dropped.
    fn submit(&self, dice: &mut Dice) {
        let input = self.input(dice);
        let options = CallOptions::new().timeout(ENDLESS);
        match dice.below(3) {
            0 => drop(self.server.submit_with(&input, options)),
            _ => match pollster::block_on(self.server.call_async_with(&input, options)) {
                Err(CallError::ServerBacklogFull { .. }) => {}
                outcome => self.judge(&input, &outcome.and_then(|reply| reply.into_owned())),
            },
        }
    }

    /// Calls that take partials, and then the outcome.
    fn listen(&self, dice: &mut Dice) {
        let input = self.input(dice);
        let options = CallOptions::new().when_full(WhenFull::Wait).timeout(ENDLESS);
        let mut call = match self.server.call_streaming_with::<u64>(&input, options) {
            Ok(call) => call,
            Err(error) => return self.judge(&input, &Err(error)),
        };
        let heard: Result<Vec<u64>, CallError> = call.by_ref().collect();
        let heard = heard.unwrap_or_else(|error| panic!("a partial: {error}"));
        assert!(tree::are_partials(&input, &heard), "{input:?}: {heard:?}");
        match call.outcome().and_then(|reply| reply.into_owned()) {
            // What had been emitted is not emitted once more.
            Err(CallError::WorkerDied(error)) if !heard.is_empty() => {
                assert!((self.is_victim)(error.pid), "{error}");
            }
            outcome => self.judge(&input, &outcome),
        }
    }

    /// A request has ended: with a right value, or an error that a death or a refusal explains.
    fn judge(&self, input: &[u8], outcome: &Outcome) {
        match outcome {
            Ok(value) => {
                let calm = self.scenario.tree.fates(input, false).values.contains(value);
                assert!(
                    calm || self.scenario.tree.fates(input, true).values.contains(value),
                    "{input:?}: {value:?}"
                );
            }
            Err(CallError::Ensemble(error)) => self.judge_members(&error.members),
            Err(CallError::WorkerDied(error) | CallError::Remote(error)) => self.judge_error(error),
            Err(CallError::ServletDown { .. }) if self.scenario.down => {}
            Err(other) => panic!("{other}"),
        }
    }

    fn judge_members(&self, members: &[Member]) {
        for member in members {
            if let MemberOutcome::Failed { error } = &member.outcome {
                self.judge_error(error);
            }
        }
    }

    fn judge_error(&self, error: &RemoteError) {
        match &error.cause {
            RemoteCause::Died { signal: Some(libc::SIGKILL), .. } => {
                assert!((self.is_victim)(error.pid), "{error}");
                // Under a policy that retries, only a join that cannot be repeated ends with a death.
                let once = self.scenario.tree.most_runs().contains(&1);
                assert!(once || self.scenario.tree.has_ensembles(), "{error} was not retried");
            }
            RemoteCause::Failed { messages, .. } => assert!(messages[0].starts_with("refused"), "{error}"),
            RemoteCause::Ensemble { members } => self.judge_members(members),
            RemoteCause::Down { .. } if self.scenario.down => {}
            other => panic!("{other:?} in {error}"),
        }
    }

    /// Sends as many requests as there are permits, side by side, all with the right outcome.
    fn fill(&self, dice: &mut Dice) {
        let inputs: Vec<Item> = (0..CAPACITY).map(|_| self.input(dice)).collect();
        let options = CallOptions::new().timeout(ENDLESS);
        let sent =
            inputs.iter().map(|input| self.server.submit_with(input, options).expect("all permits are free"));
        let sent: Vec<_> = sent.collect();
        for (input, pending) in inputs.iter().zip(sent) {
            let (fates, outcome) =
                (self.scenario.tree.fates(input, false), pending.wait().and_then(|r| r.into_owned()));
            match &outcome {
                Ok(value) => assert!(fates.values.contains(value), "{input:?}: {value:?}"),
                Err(error) => {
                    assert!(fates.error, "{input:?}: {error}");
                    self.judge(input, &outcome);
                }
            }
        }
    }

    /// Worker processes, with the names of their servlets.
    fn processes(&self) -> impl Iterator<Item = (String, WorkerStats)> {
        let of = |servlet: ringmill::stats::ServletStats| {
            let name = servlet.name;
            servlet.workers.into_iter().map(move |worker| (name.clone(), worker))
        };
        let all = self.server.stats().servlets.into_iter().flat_map(of);
        all.filter(|(_, worker)| worker.pid != std::process::id())
    }

    /// The processes of one role.
    fn of(&self, role: usize) -> Vec<WorkerStats> {
        let number = format!("-{}", role - WORKERS);
        self.processes().filter(|(name, _)| name.ends_with(&number)).map(|(_, worker)| worker).collect()
    }
}

/// Whether every servlet takes calls.
fn takes_calls(server: &Server<Item, Item>) -> bool {
    let mut dice = Dice::new(0);
    (0..16).all(|n| server.call(&tree::item(n, &mut dice)).is_ok())
}

fn is_deadline(error: &RemoteError) -> bool {
    matches!(error.cause, RemoteCause::DeadlineExceeded { .. })
}

/// The segment is consistent, and no block is in use.
#[track_caller]
fn assert_at_rest(segment: &Segment) {
    assert_eq!(check(segment), []);
    assert!(ringmill_shm::pool::in_use(segment).iter().all(|&n| n == 0), "blocks are left");
}

/// Where in the work, of a point that is passed so often: somewhere among the first passings.
fn passing(point: usize, role: usize, passed: u64) -> u32 {
    if passed < 50 { 1 } else { 1 + (point * 7 + role * 3) as u32 % 4 }
}

/// Points that only a starting worker's process passes.
fn is_of_start(point: usize) -> bool {
    ["child.", "participant.", "life.born"].iter().any(|start| name(point).starts_with(start))
}

/// Points that a worker passes only when it meets a dead holder's lock before the supervisor does.
fn is_of_two(point: usize) -> bool {
    ["lock.taken_over", "collect.took_over"].contains(&name(point))
}

/// One tree: first its workers die, then its servers.
pub(crate) fn lane(tree: &str, shop: &Shop) {
    let (scenario, begun) = (scenario(tree), Instant::now());
    let causes = workers_die(tree, &scenario, shop);
    unwatch();
    eprintln!("lane {tree}: servers, after {:?}", begun.elapsed());
    std::thread::scope(|scope| {
        for number in 0..SIDE_BY_SIDE {
            let (scenario, causes) = (&scenario, &causes);
            scope.spawn(move || servers_die(tree, number, scenario, shop, causes));
        }
    });
}

/// A worker's death, after which a thread of the server's process passes a point.
struct Cause {
    /// Which role passes which points.
    passes: (usize, usize),
    /// The deaths by point and role.
    death: (usize, usize),
}

fn workers_die(tree: &str, scenario: &Scenario, shop: &Shop) -> Vec<Cause> {
    let path = shop.page(&format!("{tree}.workers"));
    let page = Page::create(&path).expect("a page");
    follow(&path, CALLER, &THREADS).expect("the first");
    let named = Name::new(&format!("crash-{tree}"));
    let server = scenario.start(&named.text(), &path, Home::Named).expect("it starts");
    let killed: Mutex<BTreeSet<u32>> = Mutex::default();
    let is_victim = |pid| {
        [0, 2].iter().any(|&slot| page.fired(slot) == Some(pid))
            || killed.lock().expect("no panic").contains(&pid)
    };
    let work = Work {
        scenario,
        server: &server,
        is_victim: Box::new(is_victim),
        open: RwLock::default(),
        over: AtomicBool::new(false),
        rounds: AtomicU64::new(0),
        requests: AtomicU64::new(0),
        limit: 0,
    };
    let mut causes = Vec::new();
    let mut dice = Dice::new(99);
    std::thread::scope(|scope| {
        work.spawn(scope, 1);
        let body = || {
            wait_until("work goes on", || work.rounds.load(Ordering::SeqCst) > 300);
            let mut tried: BTreeSet<(&str, usize)> = BTreeSet::new();
            loop {
                let all =
                    (WORKERS..scenario.all_roles().end).flat_map(|role| points().map(move |p| (role, p.0)));
                let next = all
                    .filter(|&(role, point)| {
                        page.passed(role, point) > 0 || is_of_two(point) && work.of(role).len() == 2
                    })
                    .find(|&(role, point)| !tried.contains(&(scenario.role(role), point)))
                    // Of the processes with this role the one that passes there most often.
                    .and_then(|(first, point)| {
                        let of_role = |role: &usize| scenario.role(*role) == scenario.role(first);
                        let roles = (WORKERS..scenario.all_roles().end).filter(of_role);
                        roles.max_by_key(|&role| page.passed(role, point)).map(|role| (role, point))
                    });
                let Some((role, point)) = next else { break };
                tried.insert((scenario.role(role), point));
                watch(format!("{tree}: {} dies at {}", scenario.role(role), name(point)));
                let in_server = || (CALLER..WORKERS).flat_map(|role| points().map(move |p| (role, p.0)));
                let before: Vec<u64> = in_server().map(|(role, point)| page.passed(role, point)).collect();
                page.arm(
                    0,
                    point,
                    role,
                    passing(point, role, if is_of_start(point) { 0 } else { page.passed(role, point) }),
                    Act::Die,
                );
                if is_of_two(point) {
                    // The supervisor would free the lock.
                    page.arm(1, number("supervisor.reaped"), SUPERVISOR, 1, Act::Hold);
                    page.arm(2, number("collect.claimed"), role, 1, Act::Die);
                }
                let patience = if is_of_start(point) { Duration::ZERO } else { PATIENCE };
                let fired = page.await_fired(0, patience).or_else(|| {
                    // A restarted worker may reach it.
                    let victim = work.of(role).into_iter().find(|worker| worker.ready)?;
                    killed.lock().expect("no panic").insert(victim.pid);
                    PidFd::open(victim.pid).and_then(|p| p.send_signal(libc::SIGKILL)).ok()?;
                    page.await_fired(0, PATIENCE)
                });
                (0..3).for_each(|slot| page.disarm(slot));
                killed.lock().expect("no panic").extend([0, 2].iter().filter_map(|&slot| page.fired(slot)));
                let _closed = work.open.write().expect("no thread panics"); // every call has ended
                wait_until(&format!("all are back after {}", name(point)), || {
                    let gone = killed.lock().expect("no panic");
                    work.processes().all(|(_, w)| w.ready && !gone.contains(&w.pid))
                });
                wait_until("all permits come back", || server.backlog() == 0);
                assert_at_rest(&named.inspect());
                if scenario.down {
                    wait_until("it takes calls again", || takes_calls(&server));
                    wait_until("all permits come back", || server.backlog() == 0);
                }
                work.fill(&mut dice);
                wait_until("all permits come back", || server.backlog() == 0);
                assert_at_rest(&named.inspect());
                if fired.is_some() {
                    tell_killed(point, scenario.role(role), "went on");
                    shop.claim(scenario.role(role), point);
                    let passed = in_server().zip(before);
                    let passed =
                        passed.filter(|((role, point), before)| page.passed(*role, *point) > *before);
                    causes.extend(passed.map(|(passes, _)| Cause { passes, death: (role, point) }));
                } else {
                    eprintln!("lane {tree}: {} not again by a {}", name(point), scenario.role(role));
                }
            }
        };
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        work.over.store(true, Ordering::SeqCst);
        if let Err(panic) = done {
            eprintln!("lane {tree}: failed; {:#?}", server.debug_info());
            drop(panic);
            std::process::exit(1); // callers may hang
        }
    });
    server.shutdown();
    named.assert_nothing_left();
    tell_all_passed(scenario, &page);
    causes
}

fn tell_all_passed(scenario: &Scenario, page: &Page) {
    for role in scenario.all_roles() {
        for (point, _) in points().filter(|(point, _)| page.passed(role, *point) > 0) {
            tell_passed(point, scenario.role(role), page.passed(role, point));
        }
    }
}

/// A server that works for a while, then shuts down.
pub(crate) fn serve(tree: &str, name: &str, page: &Path, options: &[&str]) {
    follow(page, CALLER, &THREADS).expect("the first");
    let scenario = scenario(tree);
    let home = match options.first() {
        None => Home::Named,
        Some(&ANONYMOUS) => Home::Anonymous,
        Some(path) => Home::File(Path::new(path)),
    };
    let server = match scenario.start(name, page, home) {
        Ok(server) => server,
        // A worker has died before all were ready.
        Err(StartError::Died { .. }) => std::process::exit(NOT_STARTED),
        Err(error) => panic!("{error}"),
    };
    let work = Work {
        scenario: &scenario,
        server: &server,
        is_victim: Box::new(|_| true),
        open: RwLock::default(),
        over: AtomicBool::new(false),
        rounds: AtomicU64::new(0),
        requests: AtomicU64::new(0),
        limit: 15,
    };
    std::thread::scope(|scope| work.spawn(scope, 7));
    if scenario.down {
        wait_until("it takes calls again", || takes_calls(&server));
    }
    // Levers, at whose points no request comes by. A victim may be the worker that they are for.
    let servlet = server.stats().servlets[0].name.clone();
    let _ = server.restart_worker(&servlet, 0);
    let _ = server.drain_servlet(&servlet, super::HANGS);
    server.resume_servlet(&servlet).expect("there is one");
    let segment = Segment::inspect(Location::parse(&server.address()).expect("an address")).expect("it runs");
    let command = Command { servlet, lever: Lever::Restart { worker: 0 } };
    let _ = segment.asker().expect("it is ours").ask(&command, super::HANGS, super::HANGS);
    server.shutdown();
}

/// How a server's process ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    InOrder,
    NotStarted,
    Killed,
}

fn servers_die(tree: &str, number_of: usize, scenario: &Scenario, shop: &Shop, causes: &[Cause]) {
    let path = shop.page(&format!("{tree}.servers.{number_of}"));
    let page = Page::create(&path).expect("a page");
    let name_of = Name::new(&format!("crash-{tree}-servers-{number_of}"));
    let location = Location::named(&name_of.text()).expect("a name");
    let run = |home: Home| run_server(tree, &name_of.text(), &path, home);
    assert_eq!(run(Home::Named), End::InOrder);
    name_of.assert_nothing_left();
    let calm = |role: usize| points().map(|p| page.passed(role, p.0)).collect::<Vec<u64>>();
    let calm: Vec<Vec<u64>> = scenario.all_roles().map(calm).collect();
    let mut tried: BTreeSet<(usize, usize)> = BTreeSet::new();
    let mut deaths = 0;
    loop {
        let seen = |role: usize, point: usize| {
            page.passed(role, point) > 0 || causes.iter().any(|cause| cause.passes == (role, point))
        };
        let all = scenario.all_roles().flat_map(|role| points().map(move |p| (role, p.0)));
        let next = all
            .filter(|&(role, point)| seen(role, point) && tried.insert((role, point)))
            .filter(|&(role, point)| !shop.has_failed(tree, scenario.role(role), point))
            .find(|&(role, point)| shop.claim(scenario.role(role), point));
        let Some((role, point)) = next else { break };
        let mut setups = Vec::new();
        if calm[role][point] > 0 {
            setups.push(None);
        }
        if role < WORKERS {
            // A supervisor that repairs needs a death.
            let causes = causes.iter().filter(|cause| cause.passes == (role, point));
            setups.extend(causes.map(|cause| Some(cause.death)));
        } else {
            // A worker that removes a segment, a server.
            setups.push(Some((CALLER, number("reply.sent"))));
        }
        let mut fired = false;
        for (runs, &other) in (0..).zip(setups.iter().cycle()) {
            // A rare point is retried as long as no process has died at it.
            let others_die_there = shop.is_claimed_by_others(scenario.role(role), point);
            if fired || runs >= if others_die_there { setups.len().min(FEW_RUNS) } else { MANY_RUNS } {
                break;
            }
            let passed = if other.is_some() { 0 } else { calm[role][point] };
            page.arm(0, point, role, passing(point, role, passed), Act::Die);
            match other {
                Some((role, point)) => page.arm(1, point, role, 1, Act::Die),
                None => page.disarm(1),
            }
            watch(format!(
                "{tree}: {} of a server dies at {}, {other:?} before",
                scenario.role(role),
                name(point)
            ));
            let end = run(Home::Named);
            fired = page.fired(0).is_some();
            page.disarm(0);
            page.disarm(1);
            match end {
                End::InOrder | End::NotStarted => {
                    assert!(!fired || role >= WORKERS, "the server died");
                    name_of.assert_nothing_left();
                }
                End::Killed => after_server(&location, &name_of, deaths % 2 == 0),
            }
            deaths += 1;
        }
        if fired {
            tell_killed(point, scenario.role(role), if role < WORKERS { "next server" } else { "went on" });
        } else {
            shop.fail(tree, scenario.role(role), point);
            eprintln!("lane {tree}: {} not again by a {}", name(point), scenario.role(role));
        }
    }
    tell_all_passed(scenario, &page);
    unwatch();
    // Two that no server passes that starts where nothing is.
    let (removed, file) = (number("lease.removed"), number("create.file"));
    if shop.claim(scenario.role(CALLER), removed) {
        for point in [number("create.header"), removed] {
            page.arm(0, point, CALLER, 1, Act::Die);
            assert_eq!(run(Home::Named), End::Killed, "at {}", name(point));
        }
        after_server(&location, &name_of, false);
        tell_killed(removed, scenario.role(CALLER), "next server");
    }
    if shop.claim(scenario.role(CALLER), file) {
        let path = shop.page("segment");
        let location = Location::File(path.clone());
        page.arm(0, file, CALLER, 1, Act::Die);
        assert_eq!(run(Home::File(&path)), End::Killed, "at {}", name(file));
        assert_eq!(remove_if_stale(&location, true).expect("it can be looked at"), Removed::Stale);
        page.disarm(0);
        assert_eq!(run(Home::File(&path)), End::InOrder, "the next");
        tell_killed(file, scenario.role(CALLER), "next server");
    }
    if shop.claim(scenario.role(CALLER), number("lease.memory")) {
        anonymous_servers_die(tree, scenario, &page, &path);
    }
}

/// A server that makes an anonymous segment dies at each step of that, and leaves nothing: neither a file nor memory.
fn anonymous_servers_die(tree: &str, scenario: &Scenario, page: &Page, path: &Path) {
    let label = Name::label(&format!("crash-{tree}"));
    let run = || run_server(tree, &label.text(), path, Home::Anonymous);
    let of_memory = ["lease.memory", "create.memory"];
    let of_both = ["mapped", "descriptors", "server", "header", "magic"].map(|step| format!("create.{step}"));
    let later = ["supervisor.launched", "reply.sent"];
    let steps = of_memory.iter().copied().chain(of_both.iter().map(String::as_str)).chain(later);
    for step in steps {
        let role = if step.starts_with("supervisor") { SUPERVISOR } else { CALLER };
        page.arm(0, number(step), role, 1, Act::Die);
        assert_eq!(run(), End::Killed, "at {step}");
        label.assert_nothing_left();
        page.disarm(0);
        if of_memory.contains(&step) {
            tell_killed(number(step), scenario.role(CALLER), "next server");
        }
    }
    assert_eq!(run(), End::InOrder, "the next");
    label.assert_nothing_left();
}

/// Runs a server until all its processes have ended.
fn run_server(tree: &str, name: &str, page: &Path, home: Home) -> End {
    let mut command = again(&["serve", tree, name, page.to_str().expect("text")]);
    let home = match home {
        Home::Named => None,
        Home::File(path) => Some(path),
        Home::Anonymous => Some(Path::new(ANONYMOUS)),
    };
    command.args(home).stdout(Stdio::piped());
    let mut part = Part::spawn(command);
    let child = &mut part.child;
    let status = child.wait().expect("our child");
    // Its workers hold its output open.
    let mut said = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut said).expect("text");
    match (status.signal(), status.code()) {
        (Some(libc::SIGKILL), _) => End::Killed,
        (_, Some(0)) => End::InOrder,
        (_, Some(NOT_STARTED)) => End::NotStarted,
        _ => panic!("a server ended with {status}: {said}"),
    }
}

/// A server has died, and its workers have left: its segment is stale, and the next server starts at once.
fn after_server(location: &Location, name: &Name, remove: bool) {
    assert!(!is_live(location));
    assert_eq!(remove_if_stale(location, true).expect("it can be looked at"), Removed::Stale);
    if remove {
        assert_eq!(remove_if_stale(location, false).expect("it can be removed"), Removed::Stale);
        name.assert_nothing_left();
    }
    let tree = Tree::single(Crew::in_threads(1));
    let server =
        Server::builder(name.text()).capacity(CAPACITY).start(tree.servlet(&Circumstances::default()));
    let server = server.expect("it starts");
    let mut dice = Dice::new(0);
    let inputs: Vec<Item> = (0..CAPACITY as u64).map(|n| tree::item(n, &mut dice)).collect();
    let sent: Vec<_> = inputs.iter().map(|input| server.submit(input).expect("a permit")).collect();
    for (input, pending) in inputs.iter().zip(sent) {
        let value = pending.wait().expect("a value").into_owned().expect("its own value");
        assert_eq!(tree.fates(input, false).values, BTreeSet::from([value]));
    }
    assert_at_rest(&name.inspect());
    server.shutdown();
    name.assert_nothing_left();
}
