//! Several llama-servers: some die, hang, are stuck or work for others; some are found by their name.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::harness::client;
use crate::harness::engine::{Engine, Options, wait_idle};
use crate::harness::gateway::Gateway;
use crate::harness::stub::{Step, Stub};
use crate::harness::{chat, chat_stream, eventually_true, with};

const FAST: &str = "[upstream]\nprobe_interval = \"100ms\"\nprobe_timeout = \"500ms\"\n\
                    inspect_interval = \"2s\"\nwedged_after = \"3s\"\nresolve_interval = \"100ms\"\n";

fn launch(urls: &[String], config: &str) -> Gateway {
    Gateway::launch(&urls.iter().map(String::as_str).collect::<Vec<_>>(), config)
}

fn series(name: &str, address: SocketAddr) -> String {
    format!("llama_gateway_{name}{{upstream=\"{address}\"}}")
}

fn is_in_state(gateway: &Gateway, address: SocketAddr, state: &str) -> bool {
    let series = format!("llama_gateway_upstream_state{{state=\"{state}\",upstream=\"{address}\"}}");
    gateway.metrics().get(&series) == Some(&1.0)
}

fn wait_state(gateway: &Gateway, address: SocketAddr, state: &str) {
    eventually_true(&format!("{address} is {state}"), || is_in_state(gateway, address, state));
}

fn output(engine: &Engine) -> f64 {
    engine.counters()["llamacpp:tokens_predicted_total"]
}

/// Clients who ask again and again, and what became of their requests.
#[derive(Default)]
struct Crowd {
    served: AtomicUsize,
    failed: AtomicUsize,
    over: AtomicBool,
}

impl Crowd {
    fn ask(&self, gateway: &Gateway, body: &Value) {
        while !self.over.load(Ordering::Relaxed) {
            let reply = gateway.post("/v1/chat/completions", body);
            match reply.status {
                200 => self.served.fetch_add(1, Ordering::Relaxed),
                502 => self.failed.fetch_add(1, Ordering::Relaxed),
                status => panic!("{status}: {}", reply.text()),
            };
        }
    }

    /// Ends the crowd when it is dropped, also by a test that fails.
    fn until_dropped(&self) -> impl Drop {
        struct Over<'a>(&'a AtomicBool);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        Over(&self.over)
    }

    fn wait_served(&self, more: usize) {
        let wanted = self.served.load(Ordering::Relaxed) + more;
        eventually_true("requests are served", || self.served.load(Ordering::Relaxed) >= wanted);
    }
}

#[test]
fn of_two_llama_servers_under_load_one_is_killed_and_comes_back_and_only_what_it_had_begun_is_lost() {
    let mut engines = [Engine::start(Options::tiny().slots(2)), Engine::start(Options::tiny().slots(2))];
    let gateway = launch(&engines.each_ref().map(Engine::url), FAST);
    for engine in &engines {
        wait_state(&gateway, engine.address(), "ready");
    }
    let crowd = Crowd::default();
    std::thread::scope(|scope| {
        let _crowd = crowd.until_dropped();
        for _ in 0..8 {
            scope.spawn(|| crowd.ask(&gateway, &chat(300)));
        }
        crowd.wait_served(12);
        for engine in &engines {
            assert!(output(engine) >= 300.0, "each has its share");
        }
        engines[0].kill();
        crowd.wait_served(12);
        wait_state(&gateway, engines[0].address(), "down");
        let options = engines[0].options();
        engines[0].restart(options);
        eventually_true("it takes work again", || output(&engines[0]) >= 900.0);
    });
    assert_eq!(gateway.log().matches("was started anew").count(), 1);
    let failed = crowd.failed.load(Ordering::Relaxed);
    assert!(failed <= 2, "{failed} requests failed, two can have been in its slots");
    engines.iter().for_each(wait_idle);
    eventually_true("no slot is lost", || gateway.metric("llama_gateway_slots_busy") == 0.0);
}

#[test]
fn a_request_that_no_llama_server_has_seen_is_served_by_the_one_that_is_left() {
    let mut engines = [(); 3].map(|()| Engine::start(Options::tiny().slots(4)));
    let stub = Stub::start(1);
    let urls: Vec<_> = engines.iter().map(Engine::url).chain([stub.url()]).collect();
    // Nothing but the requests themselves can find out.
    let gateway = launch(&urls, "[upstream]\nprobe_interval = \"1h\"");
    eventually_true("all are ready", || gateway.metric("llama_gateway_upstream_ready") == 4.0);
    engines.iter_mut().for_each(Engine::kill);
    let reply = gateway.post("/v1/chat/completions", &chat(3));
    assert_eq!((reply.status, stub.count()), (200, 1));
    assert_eq!(gateway.metric("llama_gateway_upstream_ready"), 1.0);
    assert_eq!(gateway.settled_row(&reply.head.request_id())["ending"], "complete");
}

#[test]
fn a_request_that_no_llama_server_has_seen_waits_for_one_until_its_deadline() {
    let mut engine = Engine::start(Options::tiny().slots(1));
    let config = "[upstream]\nprobe_interval = \"1h\"\n[policies.default]\nmax_queue_wait = \"1s\"";
    let gateway = Gateway::with_config(&engine.url(), config);
    // Its tokens are known from now on: the next one meets llama-server's end only when it has its slot.
    assert_eq!(gateway.post("/v1/chat/completions", &chat(3)).status, 200);
    engine.kill();
    let reply = gateway.post("/v1/chat/completions", &chat(3));
    assert_eq!((reply.status, reply.code().as_str()), (503, "queue_timeout"));
    let row = gateway.settled_row(&reply.head.request_id());
    assert_ne!(row["dispatched"], Value::Null, "{row}");
    assert!(row["queue_wait_ms"].as_u64() >= Some(900), "{row}");
    assert!(row["prefill_slot_ms"].as_u64() < Some(500), "it had no slot while it waited again: {row}");
    let options = engine.options();
    engine.restart(options);
    gateway.wait_ready();
    assert_eq!(gateway.post("/v1/chat/completions", &chat(3)).status, 200);
}

#[test]
fn llama_server_that_hangs_takes_no_work_and_goes_on_where_it_was_when_it_comes_back() {
    let mut hung = Engine::start(Options::speaking().slots(2));
    let alive = Engine::start(Options::tiny().slots(1));
    // The one with more free slots gets the first request.
    let gateway = launch(&[hung.url(), alive.url()], FAST);
    eventually_true("both are ready", || gateway.metric("llama_gateway_upstream_ready") == 2.0);
    let running = gateway.stream_chat(&with(chat_stream(100), json!({"ignore_eos": true})));
    let id = running.head.request_id();
    hung.hang();
    wait_state(&gateway, hung.address(), "down");
    let before = output(&alive);
    for _ in 0..3 {
        assert_eq!(gateway.post("/v1/chat/completions", &chat(5)).status, 200);
    }
    assert_eq!(output(&alive), before + 15.0);
    hung.resume();
    wait_state(&gateway, hung.address(), "ready");
    assert_eq!(running.events().last().unwrap(), "data: [DONE]");
    assert_eq!(gateway.settled_row(&id)["completion_tokens"], 100);
    let before = output(&hung);
    assert_eq!(gateway.post("/v1/chat/completions", &chat(5)).status, 200);
    assert!(output(&hung) > before, "it is the one with more free slots again");
}

#[test]
fn a_restart_that_no_probe_sees_is_noticed_by_its_slots() {
    let mut engine = Engine::start(Options::tiny().slots(1));
    let config = "[upstream]\nprobe_interval = \"1h\"\ninspect_interval = \"2s\"\n[log]\nlevel = \"gateway=debug\"";
    let gateway = Gateway::with_config(&engine.url(), config);
    assert_eq!(gateway.post("/v1/chat/completions", &chat(5)).status, 200);
    eventually_true("its slots were seen", || gateway.log().contains("inspected"));
    let options = engine.options();
    engine.restart(options);
    eventually_true("the restart is noticed", || gateway.log().contains("was started anew"));
    assert!(!gateway.log().contains("is down"));
    assert_eq!(gateway.post("/v1/chat/completions", &chat(5)).status, 200);
}

/// Asks llama-server itself for a stream of many seconds.
fn past_the_gateway(engine: &Engine) -> client::Answer {
    let body = with(chat_stream(1800), json!({"ignore_eos": true}));
    client::open(engine.address(), "/v1/chat/completions", None, &body)
}

fn wait_foreign(gateway: &Gateway, engine: &Engine, count: f64) {
    let series = series("upstream_foreign_requests", engine.address());
    eventually_true("so many foreign requests", || gateway.metrics()[&series] == count);
}

#[test]
fn a_restart_that_a_probe_saw_is_not_told_again_by_the_slots() {
    let mut engine = Engine::start(Options::tiny().slots(2));
    let config = format!("{FAST}[log]\nlevel = \"gateway=debug\"");
    let gateway = Gateway::with_config(&engine.url(), &config);
    (0..5).for_each(|_| assert_eq!(gateway.post("/v1/chat/completions", &chat(2)).status, 200));
    let inspections = || gateway.log().matches("inspected").count();
    let restarts = || gateway.log().matches("llama-server was started anew").count();
    let before = inspections();
    eventually_true("its slots were seen", || inspections() > before);
    let options = engine.options();
    engine.restart(options);
    eventually_true("the restart is noticed", || restarts() > 0);
    let before = inspections();
    eventually_true("its slots were seen twice", || inspections() > before + 1);
    assert_eq!(restarts(), 1);
    assert_eq!(gateway.metrics()[&series("upstream_restarts_total", engine.address())], 1.0);
}

#[test]
fn a_request_past_the_gateway_is_seen_and_its_end_too() {
    let engine = Engine::start(Options::speaking().slots(2));
    let gateway = Gateway::with_config(&engine.url(), FAST);
    let own = gateway.stream_chat(&with(chat_stream(1800), json!({"ignore_eos": true})));
    let mut foreign = past_the_gateway(&engine);
    foreign.next_text();
    wait_foreign(&gateway, &engine, 1.0);
    assert_eq!(gateway.log().matches("did not come through this gateway").count(), 1);
    drop(foreign);
    wait_foreign(&gateway, &engine, 0.0);
    assert!(gateway.log().contains("works on this gateway's requests only"));
    assert_eq!(gateway.ready_status(), 200);
    drop(own);
    wait_idle(&engine);
}

#[test]
fn a_request_past_the_gateway_is_seen_while_it_waits_in_llama_servers_own_queue() {
    let engine = Engine::start(Options::speaking().slots(1));
    let gateway = Gateway::with_config(&engine.url(), FAST);
    let own = gateway.stream_chat(&with(chat_stream(1800), json!({"ignore_eos": true})));
    let mut foreign = client::Conn::open(engine.address()).unwrap();
    let body = chat(1800).to_string();
    foreign.send(&client::request("/v1/chat/completions", None, body.as_bytes())).unwrap();
    wait_foreign(&gateway, &engine, 1.0);
    drop(own);
    drop(foreign);
    wait_foreign(&gateway, &engine, 0.0);
}

#[test]
fn requests_of_the_gateway_alone_are_never_taken_for_foreign_ones() {
    let engine = Engine::start(Options::speaking().slots(2));
    let gateway = Gateway::with_config(&engine.url(), &format!("{FAST}[log]\nlevel = \"gateway=debug\"\n"));
    let crowd = Crowd::default();
    std::thread::scope(|scope| {
        let _crowd = crowd.until_dropped();
        for _ in 0..4 {
            scope.spawn(|| crowd.ask(&gateway, &chat(40)));
        }
        // One whose client leaves all the time.
        scope.spawn(|| {
            while !crowd.over.load(Ordering::Relaxed) {
                drop(gateway.stream_chat(&chat_stream(400)));
            }
        });
        eventually_true("it was inspected several times", || gateway.log().matches("inspected").count() >= 4);
    });
    assert_eq!(crowd.failed.load(Ordering::Relaxed), 0);
    assert!(!gateway.log().contains("did not come through this gateway"), "{}", gateway.log());
}

#[test]
fn a_wedged_llama_server_takes_no_work_is_reported_and_comes_back_by_itself() {
    let stub = Stub::start(2);
    let gateway = Gateway::with_config(&stub.url(), FAST);
    stub.plan_next(vec![Step::Head, Step::Tokens(2), Step::Gate, Step::Tokens(1), Step::Finish, Step::End]);
    let running = gateway.stream_chat(&chat_stream(3));
    let id = running.head.request_id();
    wait_state(&gateway, stub.address(), "wedged");
    assert_eq!(gateway.metrics()[&series("upstream_ready", stub.address())], 0.0);
    let ready = client::get(gateway.admin, "/readyz").unwrap();
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("stuck"), "{}", ready.text());
    let reply = gateway.post("/v1/chat/completions", &chat(3));
    assert_eq!((reply.status, reply.code().as_str(), stub.count()), (503, "backend_unavailable", 1));
    assert!(gateway.log().contains("slot 0 has been busy without progress for 3s"));

    stub.release(0);
    assert_eq!(running.events().last().unwrap(), "data: [DONE]");
    assert_eq!(gateway.settled_row(&id)["completion_tokens"], 3);
    gateway.wait_ready();
    assert_eq!(gateway.post("/v1/chat/completions", &chat(3)).status, 200);
}

#[test]
fn while_one_llama_server_is_wedged_the_other_one_works_alone() {
    let stubs = [Stub::start(2), Stub::start(1)];
    let gateway = launch(&stubs.each_ref().map(Stub::url), FAST);
    eventually_true("both are ready", || gateway.metric("llama_gateway_upstream_ready") == 2.0);
    stubs[0].plan_next(vec![Step::Head, Step::Tokens(1), Step::Silence]);
    let running = gateway.stream_chat(&chat_stream(3));
    wait_state(&gateway, stubs[0].address(), "wedged");
    for _ in 0..3 {
        assert_eq!(gateway.post("/v1/chat/completions", &chat(3)).status, 200);
    }
    assert_eq!((stubs[0].count(), stubs[1].count()), (1, 3));
    assert_eq!(gateway.ready_status(), 200);
    drop(running);
    wait_state(&gateway, stubs[0].address(), "ready");
}

/// What the gateway's resolver knows. The files change at one stroke: a reader never meets half of one.
struct Hosts(tempfile::TempDir);

impl Hosts {
    fn new(addresses: &[&str]) -> Self {
        let hosts = Self(tempfile::tempdir().unwrap());
        hosts.set(addresses);
        hosts.dns_is_asked(true);
        // Nobody answers there.
        hosts.write("resolv.conf", "nameserver 127.0.0.99\noptions timeout:1 attempts:1\n");
        hosts
    }

    fn set(&self, addresses: &[&str]) {
        let lines: String = addresses.iter().map(|address| format!("{address} llama.test\n")).collect();
        self.write("hosts", &format!("127.0.0.1 localhost\n{lines}"));
    }

    /// Whether what the hosts file does not have is asked of a DNS server, which does not answer; else there is no such
    /// name.
    fn dns_is_asked(&self, yes: bool) {
        self.write("nsswitch.conf", if yes { "hosts: files dns\n" } else { "hosts: files\n" });
    }

    fn write(&self, file: &str, text: &str) {
        // Always as long: what is left of an earlier, longer file would still be read.
        let text = &format!("{text}{:#<200}\n", "")[..200];
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.create(true).truncate(false).write(true).open(self.0.path().join(file)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }
}

#[test]
fn the_addresses_of_a_name_are_the_replicas_while_they_come_and_go() {
    let first = Stub::start(1);
    let port = first.address().port();
    let second = Stub::start_at(([127, 0, 0, 2], port).into(), 1);
    let hosts = Hosts::new(&["127.0.0.1"]);
    let url = format!("dns://llama.test:{port}");
    let gateway = Gateway::launch_with_hosts(&[&url], FAST, Some(hosts.0.path().to_owned()));
    gateway.wait_ready();
    assert_eq!(gateway.metric("llama_gateway_slots_total"), 1.0);
    let gated = vec![Step::Head, Step::Tokens(1), Step::Gate, Step::Finish, Step::End];
    first.plan_next(gated.clone());
    let on_first = gateway.stream_chat(&chat_stream(3));

    hosts.set(&["127.0.0.1", "127.0.0.2"]);
    wait_state(&gateway, second.address(), "ready");
    second.plan_next(gated);
    let on_second = gateway.stream_chat(&chat_stream(3));

    hosts.set(&["127.0.0.2"]);
    wait_state(&gateway, first.address(), "leaving");
    // It finishes what it has, and gets nothing new.
    first.release(0);
    assert_eq!(on_first.events().last().unwrap(), "data: [DONE]");
    eventually_true("it is forgotten", || !gateway.metrics().keys().any(|key| key.contains("127.0.0.1:")));
    second.release(0);
    assert_eq!(on_second.events().last().unwrap(), "data: [DONE]");
    assert_eq!(gateway.post("/v1/chat/completions", &chat(3)).status, 200);
    assert_eq!((first.count(), second.count()), (1, 2));

    hosts.set(&[]);
    eventually_true("the look-up fails", || gateway.metric("llama_gateway_upstream_lookup_failures_total") >= 1.0);
    assert_eq!(gateway.post("/v1/chat/completions", &chat(3)).status, 200, "what is known is kept");
    assert!(gateway.log().contains("the name has no address"));

    hosts.set(&["127.0.0.1"]);
    wait_state(&gateway, first.address(), "ready");
    assert_eq!(gateway.post("/v1/chat/completions", &chat(3)).status, 200);
    assert_eq!((first.count(), second.count()), (2, 3));
}

#[test]
fn a_name_without_addresses_lets_the_last_replica_finish_what_it_has() {
    let stub = Stub::start(1);
    let hosts = Hosts::new(&["127.0.0.1"]);
    let url = format!("dns://llama.test:{}", stub.address().port());
    let gateway = Gateway::launch_with_hosts(&[&url], FAST, Some(hosts.0.path().to_owned()));
    gateway.wait_ready();
    stub.plan_next(vec![Step::Head, Step::Tokens(1), Step::Gate, Step::Finish, Step::End]);
    let running = gateway.stream_chat(&chat_stream(3));

    // As a headless Service whose only pod is about to end.
    hosts.dns_is_asked(false);
    hosts.set(&[]);
    wait_state(&gateway, stub.address(), "leaving");
    let refused = gateway.post("/v1/chat/completions", &chat(3));
    assert_eq!((refused.status, stub.count()), (503, 1), "it gets nothing new");
    assert_eq!(gateway.ready_status(), 503);
    stub.release(0);
    assert_eq!(running.events().last().unwrap(), "data: [DONE]");

    hosts.set(&["127.0.0.1"]);
    gateway.wait_ready();
    assert_eq!(gateway.post("/v1/chat/completions", &chat(3)).status, 200);
    assert_eq!(stub.count(), 2);
}
