//! What the supervisor's thread does for the [levers](super::levers).
//!
//! # Protocol
//!
//! What is to be done for a lever is a list of rounds, each a list of steps of posts that are taken side by side; the next
//! round begins when the last one is done. One job of a servlet runs at a time, in the order in which they came.
//!
//! | Step | Begins | Is done when | Fails if |
//! |---|---|---|---|
//! | start | a post is staffed, and its unit started once a former one has left | the unit is ready | it ends before that; the former does not leave |
//! | renew | the unit is told to leave, if there is one; then its successor is started | the successor is ready | the successor ends before that; the former does not leave |
//! | leave | the unit is told to leave; its post is staffed no more | it has ended | it is a thread, or cannot be killed |
//!
//! Once a step has failed, a job has the workers leave that were to come and do not, and one that stands in; then it is
//! answered.
//!
//! A unit that has not left within the server's `shutdown_timeout`, counted as the supervisor sees it (`[looks]` of
//! `limits`), is killed: a death like any other, for its requests.
//!
//! A servlet is replaced by renewing its workers one after another. If a worker's rows are vacant, a worker is started
//! there first, from what is new, and leaves last: then no worker is missing meanwhile, and one that cannot start
//! disturbs none.
//!
//! # Invariants
//!
//! * `[staffed first]`: the staffed posts of a node are those of its workers with the lowest indexes.
#![expect(unsafe_code, reason = "the contract of rows, whose unit has ended or was not started")]

use super::job::{Active, Job, Kind, MadeOf, Step};
use super::lever::{Lever, Renewal};
use super::post::{Body, Post, Starter};
use super::state::Supervisor;
use crate::error::{LeverError, StartError};
use crate::host::recipe::{Begins, Program};
use crate::host::registry::check_program;
use crate::panics::say;
use ringmill_shm::participant::Life;
use ringmill_shm::sys::image::Image;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How far a step is.
enum Progress {
    Pending,
    Done,
    Failed(String),
    Stuck,
}

impl Supervisor {
    /// Does what can be done now for the levers that were pulled.
    pub(super) fn work_for_levers(&mut self) {
        let stopping = self.stopping();
        let new = match self.shared.pulls().as_mut() {
            Some(pulls) => std::mem::take(pulls),
            None => Vec::new(),
        };
        for pull in new {
            let job = Job {
                pull,
                rounds: None,
                round: vec![],
                made_of: None,
                former: None,
                replaced: 0,
                workers: 0,
                failure: None,
            };
            self.jobs.push(job);
        }
        if !stopping && !self.restarts_workers() {
            return; // the server is being started
        }
        let (mut busy, jobs) = (BTreeSet::new(), std::mem::take(&mut self.jobs));
        for mut job in jobs {
            let node = job.pull.node;
            let waits = busy.contains(&node) && !matches!(job.pull.lever, Lever::Kill { .. });
            let done = match stopping {
                true => Some(Err(LeverError::ShuttingDown)),
                false if waits => None,
                false => self.work_for(&mut job),
            };
            match done {
                Some(done) => drop(job.pull.answer.send(done)), // the thread that waits for it may have ended
                None => {
                    busy.insert(node);
                    self.jobs.push(job);
                }
            }
        }
    }

    /// Whether a thread waits for this post to be ready.
    pub(super) fn is_awaited(&self, index: usize) -> bool {
        self.jobs.iter().flat_map(|job| &job.round).any(|active| active.post == index)
    }

    /// Whether the unit of this post was to be renewed, and its successor has not been started yet.
    pub(super) fn is_being_renewed(&self, index: usize) -> bool {
        let is_it = |active: &&Active| active.post == index && active.step.kind != Kind::Leave;
        let active = self.jobs.iter().flat_map(|job| &job.round).find(is_it);
        active.is_some_and(|active| active.launches == self.posts[index].launches)
    }

    /// At a look: kills units that were told to leave and have not left in time.
    pub(super) fn look_at_leaving(&mut self, passed: Duration) {
        let limit = self.shared.limits.shutdown;
        for active in self.jobs.iter_mut().flat_map(|job| &mut job.round) {
            let post = &mut self.posts[active.post];
            if post.launches != active.launches || !post.has_unit() {
                continue;
            }
            active.leaving = active.leaving.saturating_add(passed);
            if active.leaving < limit {
                continue;
            }
            if let Body::Process(process) = &post.body
                && post.killing.is_none()
            {
                let pid = process.child.id();
                say(
                    || tracing::warn!(worker = %post.title, pid, ?limit, "a worker was told to leave and has not left in time; it is killed"),
                );
            }
            post.kill();
        }
    }

    /// Works for one lever; returns the answer once there is one.
    fn work_for(&mut self, job: &mut Job) -> Option<Result<(), LeverError>> {
        if job.rounds.is_none() {
            match self.plan_job(job) {
                Ok(rounds) => job.rounds = Some(rounds),
                Err(error) => return Some(Err(error)),
            }
        }
        loop {
            if job.round.is_empty() {
                let Some(steps) = job.rounds.as_mut().and_then(VecDeque::pop_front) else {
                    if let Some(made_of) = &job.made_of {
                        self.remake_vacant(job.pull.node, made_of);
                    }
                    return Some(job.failure.take().map_or(Ok(()), Err));
                };
                for step in steps {
                    self.begin(job, step);
                }
                crash_point!("supervisor.pulled");
            }
            let progress: Vec<Progress> = job.round.iter().map(|active| self.progress(active)).collect();
            let has_failed = |p: &Progress| matches!(p, Progress::Failed(_) | Progress::Stuck);
            let is_pending = |p: &Progress| matches!(p, Progress::Pending);
            let starts =
                || progress.iter().zip(&job.round).filter(|(_, active)| active.step.kind == Kind::Start);
            // Which of the workers that start together may stay is known once each has started, or has not.
            if progress.iter().any(has_failed) && !starts().any(|(progress, _)| is_pending(progress)) {
                self.give_job_up(job, progress);
                continue;
            }
            if progress.iter().any(is_pending) {
                return None;
            }
            let renewed: BTreeSet<u32> =
                job.round.iter().filter(|a| a.step.kind == Kind::Renew).map(|a| a.step.worker).collect();
            job.replaced += renewed.len() as u32;
            job.round.clear();
        }
    }

    /// What is to be done for a lever, by what there is now.
    fn plan_job(&mut self, job: &mut Job) -> Result<VecDeque<Vec<Step>>, LeverError> {
        let node = job.pull.node;
        let info = &self.shared.segment.nodes()[node as usize];
        let (servlet, most) = (info.name.clone(), info.rows / info.facts.threads);
        let staffed = self.staffed(node);
        let range = |what, value: u32, least: u32, most: u32| {
            let (servlet, value) = (servlet.clone(), value.into());
            LeverError::Range { servlet, what, value, least: least.into(), most: most.into() }
        };
        let known = |worker| match worker < staffed {
            true => Ok(worker),
            false => Err(range("index of a worker", worker, 0, staffed - 1)),
        };
        let step = |kind| move |worker| Step { worker, kind };
        Ok(match job.pull.lever.clone() {
            Lever::Kill { worker } => {
                let worker = known(worker)?;
                for post in self.posts.iter_mut().filter(|post| (post.node, post.worker) == (node, worker)) {
                    if let Body::Thread { .. } = post.body {
                        return Err(LeverError::InThreads { servlet, what: "a thread cannot be killed" });
                    }
                    if let Some(pid) = post.pid() {
                        say(
                            || tracing::warn!(worker = %post.title, pid, "a worker is killed, as it was asked for"),
                        );
                    }
                    post.kill();
                }
                VecDeque::new()
            }
            Lever::Restart { worker } => [vec![step(Kind::Renew)(known(worker)?)]].into(),
            Lever::Scale { workers } if !(1..=most).contains(&workers) => {
                return Err(range("number of workers", workers, 1, most));
            }
            Lever::Scale { workers } if workers >= staffed => {
                [(staffed..workers).map(step(Kind::Start)).collect()].into()
            }
            Lever::Scale { workers } => [(workers..staffed).map(step(Kind::Leave)).collect()].into(),
            Lever::Replace(renewal) => {
                job.made_of = Some(self.made_of(node, renewal)?);
                job.former = self.posts.iter().find(|post| post.node == node).map(Post::made_of);
                job.workers = staffed;
                let one_by_one = (0..staffed).map(step(Kind::Renew)).map(|step| vec![step]);
                let more = |kind| (staffed < most).then(|| vec![step(kind)(staffed)]);
                more(Kind::Start).into_iter().chain(one_by_one).chain(more(Kind::Leave)).collect()
            }
        })
    }

    /// How many workers of a node there are to be: see `[staffed first]`.
    fn staffed(&self, node: u32) -> u32 {
        let staffed = self.posts.iter().filter(|post| post.node == node && post.staffed);
        staffed.map(|post| post.worker + 1).max().unwrap_or(0)
    }

    /// From what the new workers of a node are made.
    fn made_of(&self, node: u32, renewal: Renewal) -> Result<MadeOf, LeverError> {
        let post = self.posts.iter().find(|post| post.node == node && post.staffed);
        let post = post.ok_or(LeverError::ShuttingDown)?; // a node always has one
        let info = &self.shared.segment.nodes()[node as usize];
        let (mut made_of, begins) =
            (post.made_of(), post.called().map_or(Begins::BeforeMain, |_| Begins::ByCall));
        let Some(program) = &mut made_of.program else {
            if renewal.program.is_some() {
                let (servlet, what) = (info.name.clone(), "it has no program of its own");
                return Err(LeverError::InThreads { servlet, what });
            }
            made_of.config = renewal.config.map(|config| (config.bytes, config.file)).or(made_of.config);
            return Ok(made_of);
        };
        let path = renewal.program.unwrap_or_else(|| program.image.path().to_path_buf());
        let unusable =
            |error| StartError::Executable { servlet: info.name.clone(), path: path.clone(), error };
        let image = Image::open(&path).map_err(unusable)?;
        if !image.is_same_file(&program.image) {
            check_program(&info.name, &info.worker_type, &path, &image, begins)?;
            *program = Program {
                build: image.build().cloned(),
                image: Arc::new(image),
                is_own: false,
                type_hash: Some(self.types[node as usize]),
            };
        }
        made_of.config = renewal.config.map(|config| (config.bytes, config.file)).or(made_of.config);
        Ok(made_of)
    }

    fn begin(&mut self, job: &mut Job, step: Step) {
        for index in 0..self.posts.len() {
            let post = &mut self.posts[index];
            if (post.node, post.worker) != (job.pull.node, step.worker) {
                continue;
            }
            let (launches, failures) = (post.launches, post.failures);
            let former =
                job.made_of.clone().filter(|_| step.kind != Kind::Leave).map(|made_of| post.make_of(made_of));
            job.round.push(Active { step, post: index, launches, failures, leaving: Duration::ZERO, former });
            post.staffed = step.kind != Kind::Leave;
            match step.kind {
                _ if post.has_unit() => {
                    let why = match (&job.pull.lever, step.kind) {
                        (Lever::Replace(_), Kind::Leave) => "it had stood in while its servlet was replaced",
                        (Lever::Replace(_), _) => "it is replaced",
                        (_, Kind::Leave) => "its servlet is scaled down",
                        _ => "it is restarted, as it was asked for",
                    };
                    post.retire(&self.shared.segment, why.into());
                }
                Kind::Start | Kind::Renew => post.body = Body::Awaiting(Instant::now()),
                Kind::Leave => self.vacate(index),
            }
        }
    }

    /// A post without a unit waits for none from now on.
    pub(super) fn vacate(&mut self, index: usize) {
        let post = &mut self.posts[index];
        post.body = Body::None;
        post.record = Default::default();
        (post.on_trial, post.hangs) = (false, false);
        let node = post.node;
        for entry in post.entries(&self.shared.segment) {
            // SAFETY: the post has no unit: it was not started, or its end was seen.
            unsafe { entry.vacate() };
        }
        self.give_up_if_last(node, "was given up, and the others were scaled away");
    }

    /// From now on units of posts that have none and wait for none are made of this.
    fn remake_vacant(&mut self, node: u32, made_of: &MadeOf) {
        for post in self.posts.iter_mut().filter(|post| post.node == node && !post.staffed) {
            post.make_of(made_of.clone());
        }
    }

    fn progress(&self, active: &Active) -> Progress {
        let post = &self.posts[active.post];
        let is_former = post.launches == active.launches;
        let is_thread = matches!(post.body, Body::Thread { .. });
        if is_former && post.has_unit() {
            // A process that was killed and has not ended will end once the kernel lets it go.
            let does_not_leave = is_thread || post.survives() || matches!(post.body, Body::Unwatched(_));
            return match does_not_leave && active.leaving >= self.shared.limits.shutdown {
                true => Progress::Stuck,
                false => Progress::Pending,
            };
        }
        match active.step.kind {
            Kind::Leave => Progress::Done,
            _ if post.failures > active.failures => Progress::Failed(post.last_failure.clone()),
            _ if is_former => Progress::Pending,
            // Its successor was ready, and has ended since: one that was not ready counts in `failures`.
            _ if !post.has_unit() || post.launches > active.launches + 1 => Progress::Done,
            _ if is_thread && post.overdue.is_some() => {
                let limit = self.shared.limits.start;
                Progress::Failed(format!("is a thread that has not become ready within {limit:?}"))
            }
            _ if self.is_ready(active.post) => Progress::Done,
            _ => Progress::Pending,
        }
    }

    fn is_ready(&self, post: usize) -> bool {
        self.posts[post].entries(&self.shared.segment).all(|entry| entry.life() == Life::Ready)
    }

    /// After a step of a job has failed: undoes what it was about to change. What is left of the job is to have those
    /// workers leave that were to come, and do not, and the one that stands in.
    fn give_job_up(&mut self, job: &mut Job, progress: Vec<Progress>) {
        let (node, replaces) = (job.pull.node, job.made_of.take().is_some());
        let round = std::mem::take(&mut job.round);
        let mut failed = BTreeSet::new();
        let mut failure = None;
        for (active, progress) in round.into_iter().zip(progress) {
            let Step { worker, kind } = active.step;
            let reason = match progress {
                Progress::Failed(reason) => Some(reason),
                Progress::Stuck => None,
                Progress::Pending | Progress::Done => continue,
            };
            if kind == Kind::Start && !self.is_ready(active.post) {
                failed.insert(worker);
            }
            let post = &mut self.posts[active.post];
            if let Some(former) = active.former {
                post.make_of(former);
            }
            if kind == Kind::Renew && replaces && reason.is_some() && !post.has_unit() {
                post.body = Body::Awaiting(Instant::now());
            }
            failure.get_or_insert((worker, reason));
        }
        if let Some(former) = job.former.take() {
            // Also of the post whose worker stands in, which is the last one: its units to come are made of this.
            let stands_in = |post: &&mut Post| post.node == node && post.worker >= job.workers;
            self.posts.iter_mut().filter(stands_in).for_each(|post| drop(post.make_of(former.clone())));
        }
        // `[staffed first]`: a worker below one that stays must stay.
        let last = self.staffed(node);
        let leave: Vec<Step> = (0..last)
            .rev()
            .take_while(|worker| failed.contains(worker))
            .map(|worker| Step { worker, kind: Kind::Leave })
            .collect();
        let rest = job.rounds.take().unwrap_or_default().into_iter();
        let leaves = |steps: &Vec<Step>| steps.iter().all(|step| step.kind == Kind::Leave);
        job.rounds =
            Some([leave].into_iter().chain(rest.filter(leaves)).filter(|round| !round.is_empty()).collect());
        let Some((worker, reason)) = failure.filter(|_| job.failure.is_none()) else { return };
        let servlet = self.shared.segment.nodes()[node as usize].name.clone();
        let (limit, replaced, workers) = (self.shared.limits.shutdown, job.replaced, job.workers);
        job.failure = Some(match reason {
            None => LeverError::Stuck { servlet, worker, limit },
            Some(reason) if replaces => {
                LeverError::NotReplaced { servlet, worker, reason, replaced, workers }
            }
            Some(reason) => LeverError::NotStarted { servlet, worker, reason },
        });
    }
}

impl Post {
    /// Whether it has a process or thread.
    pub(super) fn has_unit(&self) -> bool {
        matches!(self.body, Body::Process(_) | Body::Thread { .. } | Body::Unwatched(_))
    }

    fn pid(&self) -> Option<u32> {
        match &self.body {
            Body::Process(process) => Some(process.child.id()),
            _ => None,
        }
    }

    fn made_of(&self) -> MadeOf {
        let program = match &self.starter {
            Starter::Process(recipe) => Some(recipe.program.clone()),
            Starter::Thread(_) => None,
        };
        MadeOf { program, config: self.config.clone() }
    }

    /// From now on its units are made of this; returns of what they were.
    fn make_of(&mut self, MadeOf { program, config }: MadeOf) -> MadeOf {
        let former = self.made_of();
        self.config = config;
        if let (Starter::Process(recipe), Some(program)) = (&mut self.starter, program) {
            recipe.program = program;
            recipe.config = self.config.as_ref().map(|(_, file)| Arc::clone(file));
        }
        former
    }
}
