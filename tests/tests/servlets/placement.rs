//! Workers run where the server has placed them, and threads of the service can keep off there: as the kernel says, on
//! whatever CPUs the machine has.

use ringmill::placement::{PlacedWorker, Why};
use ringmill::servlet::Pin;
use ringmill::{
    BoxError, Context, Cpus, Ensemble, ProcessServlet, Server, StartError, ThreadServlet, Worker,
};
use ringmill_shm::sys::cpu::pin;
use ringmill_tests::alone::alone;
use ringmill_tests::gate::{Gate, stop_at};
use ringmill_tests::host::{Crew, on_both};
use ringmill_tests::listener::Hearer;
use ringmill_tests::name::Name;
use ringmill_tests::pile::stream_all;
use ringmill_tests::process::cpus_of;
use ringmill_tests::stats::pids;
use ringmill_tests::wait_until;
use rkyv::Archived;
use serde_json::{Value, json};
use std::path::PathBuf;

ringmill::init!(Settler);

/// Says on which CPUs it may run, by its server's plan and by the kernel, as it was built and as it is called.
struct Settler {
    gate: String,
    me: (usize, usize),
    node: Option<usize>,
    planned: Vec<usize>,
    built: Vec<usize>,
}

/// What a [`Settler`] says: its worker and thread, its node, then its CPUs as planned, as it was built, as it is
/// called, and those that it takes to be its service's.
type Said = ((usize, usize), Option<usize>, [Vec<usize>; 4]);

fn here() -> Vec<usize> {
    cpus_of("/proc/thread-self/status")
}

impl Worker for Settler {
    type Config = String;
    type In = u32;
    type Out = Said;

    fn new(gate: String, context: &Context) -> Result<Self, BoxError> {
        let (me, node) = ((context.worker_index(), context.thread_index()), context.numa_node());
        Ok(Self { gate, me, node, planned: context.cpus().to_vec(), built: here() })
    }

    fn call(&mut self, _: &Archived<u32>) -> Result<Said, BoxError> {
        stop_at(&self.gate, "settled");
        Ok((
            self.me,
            self.node,
            [self.planned.clone(), self.built.clone(), here(), ringmill::cpu::allowed().to_vec()],
        ))
    }
}

/// What each thread of each worker says.
fn ask_each(server: &Server<u32, Said>, gate: &Gate, threads: usize) -> Vec<Said> {
    let mut said = std::thread::scope(|scope| {
        let stream = scope.spawn(move || stream_all(server, vec![0; threads]));
        drop(gate.arrivals(threads));
        let outcomes = stream.join().expect("no panic");
        outcomes.into_iter().map(|outcome| outcome.expect("an answer")).collect::<Vec<Said>>()
    });
    said.sort();
    said
}

/// The first NUMA node with CPUs that this process may use.
fn first_node() -> usize {
    let cpu = ringmill::cpu::allowed()[0];
    ringmill_shm::sys::cpu::numa_node(cpu).unwrap_or(0)
}

#[test]
fn each_thread_of_each_worker_runs_where_it_was_placed() {
    let allowed = ringmill::cpu::allowed();
    let last = *allowed.last().expect("we run on one");
    let listed = Cpus::list([Pin::to([last]), Pin::any(), Pin::to(allowed.iter().copied())]);
    for (cpus, threads) in [
        (Cpus::auto(), 1),
        (Cpus::auto().workers(5), 1),
        (Cpus::auto().workers(2), 2),
        (Cpus::per_numa_node(2), 1),
        (Cpus::node(first_node()).workers(2), 2),
        (listed, 1),
        (Cpus::Count(2), 1),
    ] {
        on_both(|host| {
            let gate = Gate::new();
            let crew = Crew::on(cpus.clone()).threads(threads);
            let server = host.start::<Settler>(Server::anonymous("placed"), gate.name(), crew);
            let placed = server.placement().workers().to_vec();
            let expected: Vec<Said> = placed
                .iter()
                .flat_map(|PlacedWorker { worker, cpus, numa_node, .. }| {
                    let kernel = if cpus.is_empty() { allowed.to_vec() } else { cpus.clone() };
                    (0..threads).map(move |thread| {
                        let said = [cpus.clone(), kernel.clone(), kernel.clone(), allowed.to_vec()];
                        ((*worker, thread), *numa_node, said)
                    })
                })
                .collect();
            assert_eq!(ask_each(&server, &gate, expected.len()), expected, "{cpus:?}");
            assert_eq!(server.placement().allowed(), allowed);
        });
    }
}

/// From the first page of its program on, memory that a worker touches lies on its node.
#[test]
fn a_process_is_pinned_before_it_runs_its_program() {
    alone("placement::a_process_is_pinned_before_it_runs_its_program", || {
        let directory = tempfile::tempdir().expect("a folder");
        let (script, noted) = (directory.path().join("program"), directory.path().join("noted"));
        let own: PathBuf = std::env::current_exe().expect("this program");
        let (said, program) = (noted.display(), own.display());
        let text = format!("#!/bin/bash\ncat /proc/self/status > '{said}'\nexec '{program}' \"$@\"\n");
        std::fs::write(&script, text).expect("a file");
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
        let allowed = ringmill::cpu::allowed();
        let start = |cpus: Cpus| {
            let servlet = ProcessServlet::<Settler>::new(String::new()).program(&script).cpus(cpus);
            let server = Server::anonymous("early").start(servlet).expect("it starts");
            (cpus_of(noted.to_str().expect("a path")), server.placement().workers()[0].cpus.clone())
        };
        for &cpu in [allowed.first(), allowed.last()].into_iter().flatten() {
            assert_eq!(start(Cpus::from([cpu])), (vec![cpu], vec![cpu]));
        }
        assert_eq!(start(Cpus::Count(1)), (allowed.to_vec(), vec![]));
        let (noted, placed) = start(Cpus::auto().workers(1));
        assert_eq!(noted, placed);
    });
}

/// Where the threads of this process may run, by name.
fn threads() -> Vec<(String, Vec<usize>)> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("procfs").flatten();
    let look = |task: std::fs::DirEntry| {
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        Some((name.trim().to_owned(), cpus_of(task.path().join("status").to_str()?)))
    };
    tasks.filter_map(look).collect()
}

#[test]
fn the_services_threads_keep_off_the_workers() {
    alone("placement::the_services_threads_keep_off_the_workers", || {
        let allowed = ringmill::cpu::allowed();
        let servlet = ProcessServlet::<Settler>::new(String::new()).cpus(Cpus::auto().workers(1));
        let unpinned = ProcessServlet::<Settler>::new(String::new()).name("unpinned");
        let servers = [Server::anonymous("apart").start(servlet), Server::anonymous("free").start(unpinned)];
        let [server, other] = servers.map(|server| server.expect("it starts"));
        let placement = server.placement();
        let taken = &placement.workers()[0].cpus;
        if allowed.len() > 1 {
            assert!(placement.free().iter().all(|cpu| !taken.contains(cpu)), "{placement}");
        } else {
            assert_eq!(placement.free(), allowed);
        }
        assert_eq!(other.placement().free(), allowed);
        // The kernel cuts names.
        let of = |name: &str| {
            let mut masks: Vec<_> = threads().into_iter().filter(|(of, _)| of == name).collect();
            masks.sort();
            masks.into_iter().map(|(_, cpus)| cpus).collect::<Vec<_>>()
        };
        let mut expected = vec![placement.free().to_vec(), allowed.to_vec()];
        expected.sort();
        assert_eq!(of("ringmill-superv"), expected);
        wait_until("the control threads are there too", || of("ringmill-contro") == expected);
        let kept = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                placement.keep_off().expect("they are ours");
                here()
            });
            thread.join().expect("no panic")
        });
        assert_eq!(kept, placement.free());
        assert_eq!(here(), allowed, "no other thread");
    });
}

#[test]
fn a_thread_that_is_pinned_when_it_starts_a_server_is_where_callers_are() {
    alone("placement::a_thread_that_is_pinned_when_it_starts_a_server_is_where_callers_are", || {
        let allowed = ringmill::cpu::allowed();
        let last = *allowed.last().expect("we run on one");
        ringmill::cpu::pin_thread(&[last]).expect("it is ours");
        let servlet = || ThreadServlet::<Settler>::new(String::new());
        let server = Server::anonymous("pinned").start(servlet().cpus(Cpus::auto())).expect("it starts");
        let placement = server.placement();
        assert_eq!(placement.callers(), [last]);
        let is_apart = |worker: &PlacedWorker| !worker.cpus.contains(&last);
        assert!(allowed.len() == 1 || placement.workers().iter().all(is_apart), "{placement}");
        let stated = Server::anonymous("stated").callers_on([allowed[0]]).start(servlet().cpus(Cpus::auto()));
        assert_eq!(stated.expect("it starts").placement().callers(), [allowed[0]]);
    });
}

#[test]
fn without_pinning_the_numbers_stay() {
    on_both(|host| {
        let allowed = ringmill::cpu::allowed();
        for cpus in [Cpus::per_numa_node(1), Cpus::from([5000, 5000]), Cpus::auto()] {
            let gate = Gate::new();
            let builder = Server::anonymous("unpinned").pinning(false);
            let server = host.start::<Settler>(builder, gate.name(), Crew::on(cpus.clone()));
            let workers = server.placement().workers();
            assert!(workers.iter().all(|worker| worker.why == Why::PinningIsOff && worker.cpus.is_empty()));
            let free = [vec![], allowed.to_vec(), allowed.to_vec(), allowed.to_vec()];
            let said: Vec<_> =
                ask_each(&server, &gate, workers.len()).into_iter().map(|said| said.2).collect();
            assert_eq!(said, vec![free; workers.len()], "{cpus:?}");
        }
    });
}

#[test]
fn choices_that_the_machine_does_not_have_are_named() {
    let allowed = ringmill::cpu::allowed();
    let (first, above) = (allowed[0], allowed.iter().max().expect("we run on one") + 1);
    let servlet = |cpus: Cpus| ThreadServlet::<Settler>::new(String::new()).name("bad").cpus(cpus);
    let refused = |builder: ringmill::ServerBuilder, cpus| {
        builder.start(servlet(cpus)).map(drop).expect_err("the machine does not have it")
    };
    let builder = || Server::anonymous("bad");
    let error = refused(builder(), Cpus::node(1023));
    assert!(
        matches!(&error, StartError::Node { node: 1023, nodes, .. } if !nodes.contains(&1023)),
        "{error}"
    );
    assert!(error.to_string().starts_with("servlet bad: there is no NUMA node 1023 with CPUs"), "{error}");
    let error = refused(builder(), Cpus::list([Pin::to([first, first])]));
    assert_eq!(
        error.to_string(),
        format!("servlet bad: CPU {first} is listed twice in one list: list it once")
    );
    let error = refused(builder().callers_on([first, first]), Cpus::auto());
    assert_eq!(
        error.to_string(),
        format!("callers_on: CPU {first} is listed twice in one list: list it once")
    );
    let error = refused(builder().callers_on([first, above]), Cpus::auto());
    assert!(matches!(error, StartError::Cpu { servlet: None, cpu, .. } if cpu == above), "{error}");
    for absurd in [0, 65, usize::MAX] {
        for cpus in [Cpus::auto(), Cpus::per_numa_node(1), Cpus::node(first_node()), Cpus::from([first])] {
            let error = refused(builder(), cpus.workers(absurd));
            assert!(matches!(error, StartError::Range { .. }), "{error}");
        }
    }
}

/// As a cpuset does, or `taskset -a`: all threads of this process.
fn pin_all_threads(cpus: &[usize]) {
    let tasks = std::fs::read_dir("/proc/self/task").expect("procfs").flatten();
    for task in tasks.filter_map(|task| task.file_name().to_str()?.parse().ok()) {
        let _ = pin(task, cpus); // it may have ended
    }
}

/// A worker that is started again runs where the service was moved, and the supervisor stays there.
#[test]
fn a_service_that_another_program_places_stays_where_it_was_put() {
    alone("placement::a_service_that_another_program_places_stays_where_it_was_put", || {
        let [.., last] = ringmill::cpu::allowed() else { return };
        for cpus in [Cpus::from(1), Cpus::node(1_000)] {
            // Neither pins: no list was given, or pinning is off, and then the node need not be there.
            let pins = matches!(cpus, Cpus::Count(_));
            pin_all_threads(ringmill::cpu::allowed());
            let servlet = ProcessServlet::<Settler>::new(String::new()).name("moved").cpus(cpus);
            let server = Server::anonymous("moved").pinning(pins).start(servlet).expect("it starts");
            pin_all_threads(&[*last]);
            let before = pids(&server)[0];
            ringmill::testing::kill(&server, "moved", 0).expect("it lives");
            let (_, _, [_, built, now, _]) =
                server.call(&0).expect("its successor answers").into_owned().expect("it is whole");
            assert_ne!(pids(&server)[0], before);
            assert_eq!([built, now], [[*last], [*last]], "its successor follows");
            let supervisors = threads().into_iter().filter(|(name, _)| name.starts_with("ringmill-super"));
            let masks: Vec<Vec<usize>> = supervisors.map(|(_, cpus)| cpus).collect();
            assert_eq!(masks, [[*last]], "nobody moves it back");
        }
    });
}

/// What the kernel does not report, the supervisor notices by looking; `shmtool show` has it at once.
#[test]
fn cpus_that_are_taken_away_are_told() {
    alone("placement::cpus_that_are_taken_away_are_told", || {
        let allowed = ringmill::cpu::allowed();
        let [first, .., last] = allowed else {
            return eprintln!("needs two CPUs: no mask can be made narrower");
        };
        let log = Hearer::of_this_process();
        let name = Name::new("narrowed");
        let node = ProcessServlet::<Settler>::new(String::new())
            .name("wide")
            .cpus(Cpus::list([Pin::to([*first, *last])]));
        let free = ThreadServlet::<Settler>::new(String::new()).name("free");
        let server = Server::builder(name.text()).start(Ensemble::of((node, free))).expect("it starts");
        let shown = || -> Value {
            serde_json::from_str(&shmtool::show(&name.text(), true).expect("it can be shown")).expect("JSON")
        };
        let masks = |worker: usize| {
            let worker = &shown()["workers"][worker];
            ["cpus", "kernel_cpus", "cpus_taken"].map(|key| worker[key].clone())
        };
        assert_eq!(masks(0), [json!([first, last]), json!([first, last]), json!([])]);
        assert_eq!(masks(1), [json!([]), json!(allowed), json!([])]);
        assert_eq!(shown()["server"]["allowed_cpus"], json!(allowed));

        let pid = pids(&server)[0];
        let of_masks = "ringmill::host::supervisor::masks";
        let title = format!("worker={}/wide/0 ", name.text());
        let (taken, cpus) = (format!("taken={first} "), format!("cpus={last}"));
        pin(pid, &[*last]).expect("our child");
        log.await_line(&["WARN", of_masks, &title, &taken, &cpus, "taken away from a worker"]);
        assert_eq!(masks(0), [json!([first, last]), json!([last]), json!([first])]);
        let page = shmtool::show(&name.text(), false).expect("it can be shown");
        let told = format!("wide/0 may not use CPU {first} any more");
        assert!(page.contains(&told), "{page}");
        let stats: Value =
            serde_json::from_str(&shmtool::stats(&name.text(), true).expect("it has some")).expect("JSON");
        let finding = &stats["findings"][0];
        assert_eq!((&finding["kind"], &finding["about"]), (&json!("cpus_taken"), &json!("wide/0")));
        assert!(finding["text"].as_str().is_some_and(|text| text.starts_with(&told)), "{finding}");
        pin(pid, &[*first, *last]).expect("our child");
        log.await_line(&["INFO", of_masks, &title, "a worker may use all its CPUs again"]);

        pin_all_threads(&[*last]);
        log.await_line(&["WARN", of_masks, &format!("server={} ", name.text()), &cpus]);
        log.await_line(&["WARN", of_masks, &format!("worker={}/free/0 ", name.text()), &cpus]);
        assert_eq!(masks(1)[1], json!([last]));
    });
}
