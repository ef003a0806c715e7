//! Workers that state their batches and threads themselves, within what their servlet reserves.

use ringmill::error::RemoteCause;
use ringmill::worker::Terms;
use ringmill::{
    Batch, BatchWorker, BoxError, CallError, Context, ProcessServlet, Server, StartError, ThreadServlet,
};
use ringmill_tests::guard::guarded;
use ringmill_tests::process::signal;
use ringmill_tests::stats::{pids, workers};
use ringmill_tests::{fresh_name, wait_until};
use std::collections::BTreeSet;
use std::time::Duration;

ringmill::init!(Own);

/// States what its configuration says; answers with the size of each item's batch, and its thread.
struct Own(Stated);

/// What a worker states: batch size, wait in seconds, threads; and whether stating it panics.
type Stated = (Option<u32>, Option<u64>, Option<u32>, bool);

impl BatchWorker for Own {
    type Config = Stated;
    type In = u32;
    type Out = (u64, u64);

    fn new(stated: Stated, context: &Context) -> Result<Self, BoxError> {
        match (stated.2, context.thread_index()) {
            // In a process the first thread says so before the others are built.
            (Some(threads), index) if !is_thread(context) && index >= threads as usize => {
                Err(BoxError::msg(format!("thread {index} is not to be built")))
            }
            _ => Ok(Self(stated)),
        }
    }

    fn terms(&self, context: &Context) -> Terms {
        let (size, wait_s, threads, panics) = self.0;
        assert!(!panics, "worker {} has no terms", context.worker_index());
        let terms = size.into_iter().fold(Terms::new(), |terms, size| terms.batch_size(size as usize));
        let terms = wait_s.into_iter().fold(terms, |terms, s| terms.batch_wait_time(Duration::from_secs(s)));
        threads.into_iter().fold(terms, |terms, threads| terms.stream_threads(threads as usize))
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        let answer = (batch.len() as u64, this_thread());
        let answers = vec![answer; batch.len()];
        batch.reply_all(answers)
    }
}

/// The calling thread, as the kernel numbers it.
fn this_thread() -> u64 {
    let path = std::fs::read_link("/proc/thread-self").expect("a path");
    path.file_name().expect("a name").to_str().expect("a number").parse().expect("a number")
}

/// Whether the worker is a thread of the server's process: the tests give such servlets this name.
fn is_thread(context: &Context) -> bool {
    context.servlet_name() == "threads"
}

type Sizes = Server<u32, (u64, u64)>;

fn in_process(stated: Stated) -> ProcessServlet<Own> {
    ProcessServlet::new(stated)
        .batch_size(64)
        .batch_wait_time(Duration::ZERO)
        .stream_threads(4)
        .terms_by_worker()
}

fn start(servlet: ProcessServlet<Own>) -> Result<Sizes, StartError> {
    Server::builder(fresh_name("terms")).start(servlet)
}

/// Streams so many items: the size of each one's batch, and the threads.
fn sizes_and_threads(server: &Sizes, items: u32) -> (Vec<u64>, BTreeSet<u64>) {
    let replies = server.stream(0..items).map(|reply| reply.expect("an answer"));
    let (sizes, threads): (Vec<u64>, Vec<u64>) = replies.unzip();
    (sizes, threads.into_iter().collect())
}

/// With a wait of a minute only a full batch is closed.
#[test]
fn a_worker_states_its_batches_and_threads() {
    guarded(|| {
        let stated = (Some(3), Some(60), Some(2), false);
        let server = start(in_process(stated)).expect("it starts");
        let threads = ThreadServlet::<Own>::new(stated).name("threads").batch_size(64).stream_threads(4);
        let threads =
            Server::builder(fresh_name("terms")).start(threads.terms_by_worker()).expect("it starts");
        for server in [&server, &threads] {
            let (sizes, threads) = sizes_and_threads(server, 300);
            assert_eq!(sizes, vec![3; 300]);
            assert!((1..=2).contains(&threads.len()), "{threads:?}");
            let ready = workers(server).iter().filter(|worker| worker.ready).count();
            assert_eq!(ready, 4, "those that do not work are ready too");
        }
    });
}

#[test]
fn what_a_worker_leaves_out_is_as_the_servlet_says() {
    guarded(|| {
        let servlet =
            in_process((None, None, None, false)).batch_size(5).batch_wait_time(Duration::from_secs(60));
        let (sizes, _) = sizes_and_threads(&start(servlet).expect("it starts"), 100);
        assert_eq!(sizes, vec![5; 100]);
        let (sizes, _) =
            sizes_and_threads(&start(in_process((Some(0), None, None, false))).expect("it starts"), 100);
        assert_eq!(sizes, vec![1; 100]);
        // A servlet that leaves nothing to its workers, which state nothing.
        let plain = ProcessServlet::<Own>::new((None, None, None, false)).batch_size(2).stream_threads(2);
        let server = start(plain.batch_wait_time(Duration::from_secs(60))).expect("it starts");
        assert_eq!(sizes_and_threads(&server, 10).0, vec![2; 10]);
    });
}

#[track_caller]
fn refusal(servlet: ProcessServlet<Own>) -> RemoteCause {
    match start(servlet) {
        Err(StartError::Worker(error)) => error.cause,
        other => panic!("{other:?}"),
    }
}

#[test]
fn terms_beyond_what_is_reserved_are_refused_with_the_limit() {
    guarded(|| {
        let cause = refusal(in_process((Some(65), None, None, false)));
        let told = "the worker states a batch_size of 65, and its servlet reserves 0..=64: raise that, or state less";
        assert_eq!(cause.to_string(), told);
        let cause = refusal(in_process((None, None, Some(5), false)));
        assert!(matches!(cause, RemoteCause::Terms { value: 5, least: 1, most: 4, .. }), "{cause:?}");
        let cause = refusal(in_process((Some(1), Some(1), None, false)));
        assert!(matches!(cause, RemoteCause::Terms { value: 1_000_000_000, most: 0, .. }), "{cause:?}");
        let cause = refusal(in_process((None, Some(3601), None, false)));
        assert!(matches!(cause, RemoteCause::Terms { most: 3_600_000_000_000, .. }), "{cause:?}");
        let fixed = ProcessServlet::<Own>::new((Some(2), None, None, false)).batch_size(4);
        assert_eq!(refusal(fixed), RemoteCause::TermsNotLeft);
        let cause = refusal(in_process((None, None, None, true)));
        let RemoteCause::Panicked { message, .. } = &cause else { panic!("{cause:?}") };
        assert!(message.starts_with("worker 0 has no terms"), "{message}");
    });
}

#[test]
fn a_worker_states_its_terms_again_when_it_is_restarted() {
    guarded(|| {
        let server = start(in_process((Some(4), Some(60), Some(1), false))).expect("it starts");
        let before = pids(&server)[0];
        signal(before, libc::SIGKILL);
        let restarted = || workers(&server)[0].ready && workers(&server)[0].pid != before;
        wait_until("its successor is ready", restarted);
        let size = loop {
            // A batch of four is closed only when it is full.
            let pending: Vec<_> = (0..4).map(|item| server.submit(&item).expect("a permit")).collect();
            let sizes: Result<Vec<u64>, CallError> =
                pending.into_iter().map(|pending| Ok(pending.wait()?.0.to_native())).collect();
            match sizes {
                Ok(sizes) => break sizes,
                Err(CallError::WorkerDied(_)) => {}
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(size, [4; 4]);
        assert_ne!(pids(&server)[0], before);
    });
}
