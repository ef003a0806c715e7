//! What a servlet is made of, without the types of its workers: data that can be cloned and sent, from which each start
//! makes a plan.

use super::options::Options;
use crate::error::StartError;
use crate::plan::{AddMember, Asked, Launch, PlanNode, Planner, Program, Span};
use crate::policy::batch::Rule;
use crate::route::Choose;
use crate::wire::{SCHEMA_NAME_LIMIT, Schemas, type_text};
use crate::worker::{BatchWorker, Identity};
use ringmill_shm::layout::NodeFacts;
use ringmill_shm::participant::Role;
use ringmill_shm::plan::Target;
use ringmill_shm::segment::{NodeSpec, PayloadTypes};
use std::any::type_name;
use std::fmt;
use std::sync::Arc;

/// A servlet.
#[derive(Debug, Clone)]
#[expect(unnameable_types, reason = "servlets cannot be implemented outside this crate")]
pub enum Part {
    /// Workers of one type.
    Node(Arc<Leaf>),
    /// One after the other.
    Sequence(Arc<(Part, Part)>),
    /// An ensemble.
    Fork(Arc<Fork>),
    /// A switch.
    Switch(Arc<Choice>),
}

/// Workers of one type.
#[derive(Debug)]
#[expect(unnameable_types, reason = "part of a part")]
pub struct Leaf {
    /// With the configuration as bytes, or the reason why there are none.
    options: Options<Result<Vec<u8>, String>>,
    worker_type: &'static str,
    payloads: PayloadTypes,
    identity: Identity,
    role: Role,
    launch: Launch,
}

/// An ensemble.
#[derive(Debug)]
#[expect(unnameable_types, reason = "part of a part")]
pub struct Fork {
    pub(super) name: String,
    pub(super) form: u32,
    pub(super) fail_fast: bool,
    /// Each with the size and alignment of its outcomes' root.
    pub(super) members: Vec<(Part, (u32, u32))>,
}

/// A switch.
#[expect(unnameable_types, reason = "part of a part")]
pub struct Choice {
    pub(super) name: String,
    pub(super) choose: Choose,
    /// The workers whose thread chooses for worker processes, without a name.
    pub(super) pass_on: Leaf,
    pub(super) members: Vec<Part>,
}

impl fmt::Debug for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Choice")
            .field("name", &self.name)
            .field("members", &self.members)
            .finish_non_exhaustive()
    }
}

impl Part {
    /// Adds it to a plan.
    ///
    /// # Errors
    /// The first invalid option, with the servlet's name.
    pub(crate) fn plan(&self, planner: &mut Planner) -> Result<Span, StartError> {
        fn add(part: &Part) -> AddMember<'_> {
            Box::new(|planner| part.plan(planner))
        }
        match self {
            Self::Node(leaf) => planner.add(leaf.node(None)?),
            Self::Sequence(parts) => planner.add_sequence(add(&parts.0), add(&parts.1)),
            Self::Fork(fork) => {
                let members = fork.members.iter().map(|(member, root)| (add(member), *root)).collect();
                planner.add_fork(fork.name.clone(), fork.form, fork.fail_fast, members)
            }
            Self::Switch(choice) => {
                let members = choice.members.iter().map(add).collect();
                let pass_on = |name| choice.pass_on.node(Some(name));
                planner.add_switch(choice.name.clone(), Arc::clone(&choice.choose), pass_on, members)
            }
        }
    }
}

impl Leaf {
    /// The workers `W` with these options.
    pub(super) fn of<W: BatchWorker>(options: &Options<W::Config>, role: Role, launch: Launch) -> Self {
        let config = crate::wire::payload::to_bytes(&options.config);
        let options = options.with_config(config.map_err(|error| error.to_string()));
        Self::with_config::<W>(options, role, launch)
    }

    /// The workers `W` with these options, whose configuration is bytes already.
    pub(super) fn with_config<W: BatchWorker>(
        options: Options<Result<Vec<u8>, String>>,
        role: Role,
        launch: Launch,
    ) -> Self {
        let worker_type = type_name::<W>();
        let Schemas { input, outcome } = &options.schemas;
        let payloads = PayloadTypes {
            input: type_text::<W::In>(input.as_ref()),
            outcome: type_text::<W::Out>(outcome.as_ref()),
        };
        Self { options, worker_type, payloads, identity: Identity::of::<W>(), role, launch }
    }

    /// Its node, under this name instead of its own.
    fn node(&self, name: Option<String>) -> Result<PlanNode, StartError> {
        let Self { options, worker_type, payloads, identity, role, launch } = self;
        let name = name
            .or_else(|| options.name.clone())
            .unwrap_or_else(|| short_name(lists_as(launch).unwrap_or(worker_type)));
        crate::plan::name::check(&name)?;
        let Rule { batch_size, wait_ns, is_stated } =
            Rule::new(&name, options.batch_size, options.batch_wait_time)?;
        options.restarts.check(&name)?;
        options.lifespan.check(&name)?;
        if options.exec_timeout.is_some_and(|limit| limit.is_zero()) {
            let what = "exec_timeout in nanoseconds";
            return Err(StartError::Range { servlet: Some(name), what, value: 0, least: 1, most: u64::MAX });
        }
        let config = options.config.clone();
        let config = config.map_err(|message| StartError::Config { servlet: name.clone(), message })?;
        if let Launch::Process { program, env } = launch {
            if let Some((variable, reason)) = env.bad_variable() {
                return Err(StartError::Variable { servlet: name, variable, reason });
            }
            if let Some(index) = program.bad_argument() {
                return Err(StartError::Argument { servlet: name, index, reason: "it has a zero byte" });
            }
        }
        if let Some(bad) = options.schemas.bad_name() {
            let (schema, longest) = (crate::plan::name::shown(bad), SCHEMA_NAME_LIMIT);
            return Err(StartError::SchemaName { servlet: name, schema, longest });
        }
        let lists_as = lists_as(launch);
        if let Some(worker) = lists_as {
            crate::plan::name::check_worker(&name, worker)?;
        }
        let type_hash = match launch {
            Launch::Process { program: Program { path: None, lists_as: None, .. }, .. } => identity.here,
            Launch::Process { .. } => identity.elsewhere,
            Launch::Thread { .. } => identity.here,
        };
        let facts = NodeFacts {
            type_hash,
            batch_wait_ns: wait_ns,
            log_batches_every: options.log_batches_every,
            batch_size,
            threads: 0, // as the workers, once all servlets are known
            keeps_inputs: options.on_death.keeps_inputs().into(),
            keeps_apart: options.on_death.keeps_apart().into(),
            wait_is_stated: is_stated.into(),
            terms_by_worker: options.terms_by_worker.into(),
        };
        let worker_type = lists_as.unwrap_or(worker_type).into();
        Ok(PlanNode {
            spec: NodeSpec {
                name,
                worker_type,
                payloads: payloads.clone(),
                config,
                facts,
                next: Target::End,
                role: *role,
                workers: Vec::new(),
            },
            launch: launch.clone(),
            schemas: options.schemas.clone(),
            type_elsewhere: identity.elsewhere,
            asked: Asked {
                cpus: options.cpus.clone(),
                stream_threads: options.stream_threads,
                max_workers: options.max_workers,
            },
            staffed: 0,
            restarts: options.restarts,
            on_death: options.on_death,
            exec_timeout: options.exec_timeout,
            lifespan: options.lifespan,
            mandatory: true,
        })
    }
}

/// The name by which the program of a servlet's workers lists them for `become_worker`, if it does.
fn lists_as(launch: &Launch) -> Option<&str> {
    match launch {
        Launch::Process { program, .. } => program.lists_as.as_deref(),
        Launch::Thread { .. } => None,
    }
}

/// The last part of a type's path, in lower case: `classify` for `app::Classify<f32>`.
fn short_name(type_name: &str) -> String {
    let path = type_name.split('<').next().unwrap_or(type_name);
    let last = path.rsplit("::").next().unwrap_or(path).to_lowercase();
    let fine = last.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_');
    let fine: String = fine.take(crate::plan::name::SERVLET_NAME_LIMIT).collect();
    if fine.is_empty() { "worker".into() } else { fine }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_types() {
        assert_eq!(short_name("app::models::Classify<f32>"), "classify");
        assert_eq!(short_name("ringmill::worker::PassThrough<alloc::vec::Vec<u8>>"), "passthrough");
        assert_eq!(short_name("::"), "worker");
    }
}
