//! What Prometheus scrapes of servers that work, are together in one registry, or have gone.

use ringmill::prometheus_client::encoding::text;
use ringmill::prometheus_client::registry::Registry;
use ringmill::stats::Collector;
use ringmill::{PassThrough, ProcessServlet, Server, StreamOptions, ThreadServlet};
use ringmill_tests::{GUARD, fresh_name, wait_until};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

ringmill::init!(PassThrough<u64>);

type Echo = PassThrough<u64>;

fn registry(collector: Collector) -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(collector));
    registry
}

/// Each series with its value.
fn scrape(registry: &Registry) -> BTreeMap<String, f64> {
    let mut body = String::new();
    text::encode(&mut body, registry).expect("a String takes all text");
    let samples = body.strip_suffix("# EOF\n").expect("an end").lines().filter(|line| !line.starts_with('#'));
    let mut all = BTreeMap::new();
    for line in samples {
        let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
        let value = value.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(all.insert(series.to_string(), value).is_none(), "{series} is there twice");
    }
    all
}

/// The sum of the series of that name whose labels have this text.
fn sum(scraped: &BTreeMap<String, f64>, name: &str, label: &str) -> f64 {
    let of = scraped.iter().filter(|(series, _)| series.split('{').next() == Some(name));
    of.filter(|(series, _)| series.contains(label)).map(|(_, value)| value).sum()
}

/// What may only grow: counters, and the buckets, counts and sums of histograms.
fn grows(series: &str) -> bool {
    let name = series.split('{').next().unwrap_or_default();
    ["_total", "_bucket", "_count", "_sum"].iter().any(|end| name.ends_with(end))
}

#[test]
fn a_server_is_scraped_while_it_works() {
    const CALLERS: u64 = 3;
    const REQUESTS: u64 = 20_000;
    let echo = ProcessServlet::<Echo>::new(()).cpus(2).batch_size(16).name("echo");
    let server: Server<u64, u64> = Server::builder(fresh_name("scraped")).start(echo).expect("it starts");
    let registry = registry(server.handle().collector());
    let done = AtomicBool::new(false);
    let call_all = || {
        let options = StreamOptions::default().timeout(GUARD);
        assert!(
            server
                .stream_with(0..REQUESTS, options)
                .map(|outcome| outcome.expect("an answer"))
                .eq(0..REQUESTS)
        );
    };
    let scrapes = thread::scope(|scope| {
        let scraper = scope.spawn(|| {
            let mut last = scrape(&registry);
            let mut scrapes = 0;
            while !done.load(Ordering::Relaxed) {
                let now = scrape(&registry);
                assert!(now.keys().eq(last.keys()), "the series are the same in each scrape");
                for (series, value) in now.iter().filter(|(series, _)| grows(series)) {
                    assert!(*value >= last[series], "{series}: {value} after {}", last[series]);
                }
                assert_eq!(sum(&now, "ringmill_workers_ready", "servlet=\"echo\""), 2.0);
                last = now;
                scrapes += 1;
            }
            scrapes
        });
        let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(call_all)).collect();
        let results: Vec<_> = callers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        results.into_iter().for_each(|result| result.expect("a caller that had its answers"));
        scraper.join().expect("scrapes that are sound")
    });
    assert!(scrapes > 0);

    let all = (CALLERS * REQUESTS) as f64;
    wait_until("the workers have counted their batches", || {
        sum(&scrape(&registry), "ringmill_worker_items_total", "servlet=\"echo\"") == all
    });
    let end = scrape(&registry);
    assert_eq!(sum(&end, "ringmill_requests_total", "outcome=\"answered\""), all);
    assert_eq!(sum(&end, "ringmill_requests_total", ""), all, "all were answered");
    assert_eq!(sum(&end, "ringmill_worker_batch_size_items_sum", ""), all);
    let batches = sum(&end, "ringmill_worker_batches_total", "");
    assert_eq!(sum(&end, "ringmill_worker_batches_closed_total", "reason="), batches);
    assert_eq!(sum(&end, "ringmill_worker_batch_size_items_bucket", "le=\"+Inf\""), batches);
    assert_eq!(
        sum(&end, "ringmill_worker_batch_size_items_bucket", "le=\"31.0\""),
        batches,
        "none has more than 16"
    );
    assert_eq!(sum(&end, "ringmill_requests_in_progress", ""), 0.0);
    assert_eq!(sum(&end, "ringmill_capacity_requests", ""), server.capacity() as f64);
}

#[test]
fn replicas_of_one_name_are_apart_and_the_last_values_stay() {
    let replica = || {
        let started = Server::anonymous("replica").start(ThreadServlet::<Echo>::new(()));
        started.expect("it starts")
    };
    let (one, other): (Server<u64, u64>, Server<u64, u64>) = (replica(), replica());
    let registry = registry(one.collector().and(other.collector()));
    other.call(&1).expect("an answer");
    let now = scrape(&registry);
    let answered =
        |server| sum(&now, "ringmill_requests_total", &format!("server=\"{server}\",outcome=\"answered\""));
    let names = [one.name().to_string(), format!("{}-2", other.name())];
    assert_eq!(names.each_ref().map(answered), [0.0, 1.0]);
    let ready = |now: &BTreeMap<_, _>| sum(now, "ringmill_workers_ready", "");
    assert!(ready(&now) >= 2.0);
    drop((one, other));
    let after = scrape(&registry);
    assert_eq!(ready(&after), 0.0, "no worker is left");
    assert_eq!(sum(&after, "ringmill_requests_total", "outcome=\"answered\""), 1.0);
}
