//! What `shmtool` says of workers that died, hang or are stopped, while the server goes on.

use ringmill::payload::from_bytes;
use ringmill::stats::Timing;
use ringmill::{CallOptions, OnDeath, Server, WhenFull};
use ringmill_tests::actor::{Act, Answer};
use ringmill_tests::actor_gate::ActorGate;
use ringmill_tests::guard::guarded;
use ringmill_tests::name::Name;
use ringmill_tests::process::{go_on, signal, stop};
use ringmill_tests::stats::{pids, workers};
use ringmill_tests::wait_until;
use serde_json::Value;
use shmtool::Printers;
use std::any::type_name;
use std::time::Duration;

/// A batch window that no test outlives.
const ENDLESS: Duration = Duration::from_secs(3600);

fn shown(name: &Name) -> Value {
    serde_json::from_str(&shmtool::show(&name.text(), true).expect("it can be shown")).expect("JSON")
}

fn findings(name: &Name) -> Vec<String> {
    let stats = shmtool::stats(&name.text(), true).expect("it has statistics");
    let stats: Value = serde_json::from_str(&stats).expect("JSON");
    let findings = stats["findings"].as_array().expect("a list");
    findings.iter().map(|found| found["text"].as_str().expect("text").into()).collect()
}

/// Of a server's own types a program of its own prints the values.
#[test]
fn what_a_held_request_asks_for() {
    guarded(|| {
        let (name, gate) = (Name::new("typed"), ActorGate::new());
        let server = Server::builder(name.text()).start(gate.processes(1)).expect("it starts");
        std::thread::scope(|scope| {
            let (visit, call) = gate.hold(scope, &server, 7);
            let payload = |printers: &Printers| {
                let report = shmtool::requests_with(&name.text(), true, printers).expect("it can be read");
                let report: Value = serde_json::from_str(&report).expect("JSON");
                report["requests"][0]["payload"].clone()
            };
            let unknown = payload(&Printers::new());
            assert_eq!((&unknown["type"], &unknown["value"]), (&type_name::<Act>().into(), &Value::Null));
            let own =
                Printers::new().with::<Act>(|bytes| Some(format!("{:?}", from_bytes::<Act>(bytes).ok()?)));
            let known = payload(&own);
            let value = known["value"].as_str().expect("it is printed");
            assert!(value.contains('7'), "{value}");
            let node = &shown(&name)["nodes"][0];
            assert_eq!(
                (&node["input_type"], &node["outcome_type"]),
                (&type_name::<Act>().into(), &type_name::<Answer>().into())
            );
            visit.let_go();
            call.join().expect("no panic").expect("an answer");
        });
    });
}

#[test]
fn which_item_killed_the_worker() {
    guarded(|| {
        let (name, gate) = (Name::new("which"), ActorGate::new());
        let server = Server::builder(name.text()).start(gate.processes(1)).expect("it starts");
        let victim = pids(&server)[0];
        assert_eq!(shown(&name)["workers"][0]["last_exit"], Value::Null);
        std::thread::scope(|scope| {
            let (_visit, call) = gate.hold(scope, &server, 0x0123_4567);
            let in_hand = shown(&name)["workers"][0]["in_hand"].clone();
            signal(victim, libc::SIGKILL);
            assert!(call.join().expect("no panic").is_err());
            let exit = shown(&name)["workers"][0]["last_exit"].clone();
            assert_eq!((&exit["signal"], &exit["pid"]), (&9.into(), &victim.into()), "{exit}");
            assert_eq!((&exit["why"], &exit["item_count"]), (&Value::Null, &1.into()), "{exit}");
            assert_eq!(exit["items"][0]["request"], in_hand[0], "{exit}");
            let payload = exit["payload_hex"].as_str().expect("text");
            assert!(payload.contains("67452301"), "the item's bytes: {exit}");
            let told = &findings(&name)[0];
            assert!(
                told.starts_with("1 worker died; actor/0 ended ") && told.contains("SIGKILL; with request"),
                "{told}"
            );
        });
        wait_until("it is restarted", || workers(&server).iter().all(|worker| worker.ready));
        assert_eq!(shown(&name)["workers"][0]["last_exit"]["pid"], victim, "it stays");
    });
}

#[test]
fn that_a_call_took_too_long_and_which_items_were_in_it() {
    guarded(|| {
        let (name, gate) = (Name::new("long"), ActorGate::new());
        let servlet = gate.processes(1).batch_size(4).exec_timeout(Duration::from_millis(50));
        let servlet = servlet.on_death(OnDeath::Retry(1));
        let server = Server::builder(name.text()).start(servlet).expect("it starts");
        let options = CallOptions::new().when_full(WhenFull::Wait).timeout(ENDLESS);
        assert!(server.call_with(&Act::Hold(1), options).is_err());
        let exit = shown(&name)["workers"][0]["last_exit"].clone();
        assert_eq!((&exit["why"], &exit["signal"]), (&"exec_timeout".into(), &9.into()), "{exit}");
        assert_eq!(exit["items"][0]["attempt"], 1, "a worker had died with it before: {exit}");
    });
}

#[test]
fn since_when_a_call_runs() {
    guarded(|| {
        for timing in [Timing::Adaptive, Timing::Never] {
            let (name, gate) = (Name::new("since"), ActorGate::new());
            let server = Server::builder(name.text()).timing(timing);
            let server = server.start(gate.processes(1)).expect("it starts");
            std::thread::scope(|scope| {
                let (visit, call) = gate.hold(scope, &server, 1);
                let time = || shown(&name)["workers"][0]["call_time"].clone();
                if timing == Timing::Adaptive {
                    let time = time();
                    assert_eq!(time["at_least_s"], time["at_most_s"], "its clock was read");
                }
                wait_until("the server has looked", || time()["at_least_s"].is_number());
                let time_now = time();
                assert!(time_now["at_least_s"].as_f64() <= time_now["at_most_s"].as_f64(), "{time_now}");
                visit.let_go();
                call.join().expect("no panic").expect("an answer");
                wait_until("it is over", || time().is_null());
            });
        }
    });
}

#[test]
fn that_the_lock_holder_is_stopped_and_since_when_it_has_the_lock() {
    guarded(|| {
        let (name, gate) = (Name::new("stopped"), ActorGate::new());
        let servlet = gate.processes(2).batch_size(2).batch_wait_time(ENDLESS);
        let server = Server::builder(name.text()).start(servlet).expect("it starts");
        std::thread::scope(|scope| {
            let call = |number| {
                let options = CallOptions::new().when_full(WhenFull::Wait).timeout(ENDLESS);
                server.call_with(&Act::Double(number), options)?.into_owned()
            };
            let first = scope.spawn(move || call(1));
            let holder = || shown(&name)["nodes"][0]["lock_holder"].clone();
            wait_until("a worker waits out its window, and the server has looked", || {
                holder()["held_time"]["at_least_s"].is_number()
            });
            let pid = holder()["pid"].as_u64().expect("it lives") as u32;
            assert_eq!(findings(&name).iter().filter(|told| told.contains("stopped")).count(), 0);
            stop(pid);
            let holder = holder();
            assert_eq!((&holder["stopped"], &holder["pid"]), (&true.into(), &pid.into()));
            let told = findings(&name).remove(0);
            let worker = holder["worker"].as_str().expect("text");
            let wanted = format!(
                "{worker} (pid {pid}) is stopped and holds the reader lock of actor, so that no worker of it takes items; \
                 'kill -CONT {pid}' lets it go on"
            );
            assert_eq!(told, wanted);
            go_on(pid);
            let second = scope.spawn(move || call(2));
            for (call, value) in [(first, 2), (second, 4)] {
                assert_eq!(call.join().expect("no panic").expect("an answer").value, value);
            }
        });
    });
}
