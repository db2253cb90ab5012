//! Each refusal as the official clients see it: which error they raise, whether they try again, and after which wait.

use std::io::{BufRead, BufReader, Lines, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::client::Conn;
use crate::harness::engine::variable;
use crate::harness::gateway::Gateway;
use crate::harness::stub::{Step, Stub, stream_of};
use crate::harness::tap::{Passed, Tap};
use crate::harness::{chat, chat_stream, eventually_true, with};

const PATH: &str = "/v1/chat/completions";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    OpenAiPython,
    OpenAiNode,
    AnthropicPython,
}

/// A process with an official client that does what it is told.
struct Client {
    kind: Kind,
    child: Child,
    orders: ChildStdin,
    results: Lines<BufReader<ChildStdout>>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Client {
    fn start(kind: Kind) -> Self {
        let script = |name: &str| format!("{}/tests/clients/{name}", env!("CARGO_MANIFEST_DIR"));
        let mut command = match kind {
            Kind::OpenAiNode => Command::new("node"),
            Kind::OpenAiPython | Kind::AnthropicPython => Command::new(variable("CLIENT_PYTHON")),
        };
        match kind {
            Kind::OpenAiNode => command.arg(script("drive.mjs")),
            Kind::OpenAiPython => command.arg(script("drive.py")).arg("openai"),
            Kind::AnthropicPython => command.arg(script("drive.py")).arg("anthropic"),
        };
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the client starts");
        let (orders, results) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { kind, child, orders, results: BufReader::new(results).lines() }
    }

    /// The class of error for a status.
    fn error(&self, status: u16) -> &'static str {
        match status {
            400 => "BadRequestError",
            401 => "AuthenticationError",
            404 => "NotFoundError",
            429 => "RateLimitError",
            503 if self.kind == Kind::AnthropicPython => "ServiceUnavailableError",
            500.. => "InternalServerError",
            _ => panic!("no class for {status}"),
        }
    }

    /// Sends a request through the tap; it goes on while the test does other things.
    fn begin(&mut self, tap: &Tap, key: &str, further: Value) {
        let order =
            json!({"base": tap.url(), "key": key, "model": "any", "stream": false, "retries": 2, "timeout": 60});
        writeln!(self.orders, "{}", with(order, further)).unwrap();
    }

    /// What became of it.
    fn result(&mut self) -> Value {
        let line = self.results.next().expect("the client lives").unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn ask(&mut self, tap: &Tap, key: &str, further: Value) -> Value {
        self.begin(tap, key, further);
        self.result()
    }

    /// Checks that a request failed with this status and code, after so many tries.
    fn failed(&self, result: &Value, tap: &Tap, (status, code): (u16, &str), tries: usize) {
        assert_eq!(result["error"], self.error(status), "{result}");
        assert_eq!(result["status"], status, "{result}");
        if self.kind != Kind::AnthropicPython {
            assert_eq!(result["code"], code, "{result}");
        }
        assert!(result["request_id"].as_str().is_some_and(|id| id.starts_with("req_")), "{result}");
        assert_eq!(tap.passed().len(), tries, "{:?}", tap.passed());
    }
}

/// Checks that a client came back after the wait that it was told, and gives that wait.
fn told_wait(tries: &[Passed]) -> Duration {
    let [refused, retry, ..] = tries else { panic!("one try: {tries:?}") };
    let told = refused.answer_header("retry-after-ms").unwrap_or_else(|| panic!("no time in {refused:?}"));
    let told = Duration::from_millis(told.parse().unwrap());
    let waited = retry.at.duration_since(refused.answered.as_ref().unwrap().0);
    // It may be busy, but it must not be early: anthropic's client is exact to a millisecond.
    let least = told.saturating_sub(Duration::from_millis(2));
    assert!((least..told + Duration::from_secs(2)).contains(&waited), "{waited:?} instead of {told:?}");
    assert_eq!(retry.header("x-stainless-retry-count").as_deref(), Some("1"));
    told
}

struct Scene {
    stub: Stub,
    gateway: Gateway,
    tap: Tap,
}

fn scene(toml: &str) -> Scene {
    let stub = Stub::start(1);
    let gateway = Gateway::with_config(&stub.url(), toml);
    let tap = Tap::start(gateway.address);
    Scene { stub, gateway, tap }
}

impl Scene {
    /// A request that has the only slot until it is released.
    fn occupy(&self) -> Conn {
        self.stub.plan_next(vec![Step::Head, Step::Tokens(1), Step::Gate, Step::Finish, Step::End]);
        let conn = self.gateway.send_chat(&chat_stream(9));
        self.stub.wait_held(0);
        conn
    }

    fn wait_tries(&self, tries: usize) {
        let answered = |passed: Vec<Passed>| passed.iter().filter(|passed| passed.answered.is_some()).count();
        eventually_true("so many tries are answered", || answered(self.tap.passed()) >= tries);
    }

    /// What the stub answers in the words of the client's surface.
    fn answer(&self, client: &Client) {
        if client.kind == Kind::AnthropicPython {
            self.stub.plan(message());
        }
    }
}

/// A stream of an Anthropic message.
fn message() -> Vec<Step> {
    let events = [
        json!({"type": "message_start", "message": {"id": "m", "type": "message", "role": "assistant", "model": "stub",
               "content": [], "stop_reason": null, "stop_sequence": null,
               "usage": {"input_tokens": 7, "cache_read_input_tokens": 0, "output_tokens": 0}}}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " t1 t2 t3"}}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null},
               "usage": {"output_tokens": 3}}),
        json!({"type": "message_stop"}),
    ];
    let text = events.map(|event| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap())).concat();
    vec![Step::Head, Step::Bytes(text.into_bytes()), Step::End]
}

fn succeeded(result: &Value) {
    assert_eq!((&result["error"], &result["text"]), (&Value::Null, &json!(" t1 t2 t3")), "{result}");
}

fn whoever_is_unknown_is_not_tried_again(client: &mut Client) {
    let scene = scene("");
    let result = client.ask(&scene.tap, "sk-wrong", json!({}));
    client.failed(&result, &scene.tap, (401, "invalid_api_key"), 1);
}

fn an_unknown_model_is_not_tried_again(client: &mut Client) {
    let scene = scene("[models]\naliases = [\"ours\"]");
    let result = client.ask(&scene.tap, &scene.gateway.key, json!({"model": "theirs"}));
    client.failed(&result, &scene.tap, (404, "model_not_found"), 1);
}

fn a_prompt_that_is_too_long_is_not_tried_again(client: &mut Client) {
    let scene = scene("");
    let error = json!({"code": 400, "message": "too long", "type": "exceed_context_size_error", "n_prompt_tokens": 9000,
                       "n_ctx": 2048});
    scene.stub.plan(vec![Step::Whole(400, json!({"error": error}))]);
    let result = client.ask(&scene.tap, &scene.gateway.key, json!({}));
    client.failed(&result, &scene.tap, (400, "context_length_exceeded"), 1);
}

fn requests_a_minute_are_waited_for(client: &mut Client) {
    // One in 3 s: the client must have come before that, on a busy machine, too.
    let scene = scene("[policies.default]\nrequests_per_minute = 20");
    while scene.gateway.post(PATH, &chat(3)).status == 200 {}
    scene.answer(client);
    succeeded(&client.ask(&scene.tap, &scene.gateway.key, json!({})));
    let passed = scene.tap.passed();
    assert_eq!((passed[0].status(), passed.len()), (Some(429), 2));
    assert!(told_wait(&passed) <= Duration::from_millis(3750));
}

fn tokens_a_minute_are_waited_for(client: &mut Client) {
    // 10 a second, and a debt of 37.
    let scene = scene("[policies.default]\ntokens_per_minute = 600");
    scene.stub.plan_next(stream_of(630));
    assert_eq!(scene.gateway.post(PATH, &chat(7000)).status, 200);
    scene.answer(client);
    succeeded(&client.ask(&scene.tap, &scene.gateway.key, json!({})));
    let passed = scene.tap.passed();
    assert_eq!((passed[0].status(), passed.len()), (Some(429), 2));
    assert!(told_wait(&passed) > Duration::from_millis(200));
}

fn one_too_many_at_once_comes_back(client: &mut Client) {
    let scene = scene("[policies.default]\nconcurrent_requests = 1");
    let first = scene.occupy();
    scene.answer(client);
    client.begin(&scene.tap, &scene.gateway.key, json!({}));
    scene.wait_tries(1);
    scene.stub.release(0);
    first.answer().unwrap().events();
    succeeded(&client.result());
    told_wait(&scene.tap.passed());
    assert_eq!(scene.tap.passed().len(), 2);
}

fn a_quota_is_not_tried_again(client: &mut Client) {
    let scene = scene("[policies.default]\ntokens_per_day = 5");
    let result = client.ask(&scene.tap, &scene.gateway.key, json!({}));
    client.failed(&result, &scene.tap, (429, "insufficient_quota"), 1);
    let passed = scene.tap.passed();
    assert_eq!(passed[0].answer_header("x-should-retry").as_deref(), Some("false"));
    assert_eq!(passed[0].answer_header("retry-after"), None);
}

fn a_full_queue_is_tried_again(client: &mut Client) {
    let scene = scene("[policies.default]\nqueued_requests = 1");
    let first = scene.occupy();
    let second = scene.gateway.send_chat(&chat_stream(9));
    scene.gateway.wait_depth(1);
    scene.answer(client);
    client.begin(&scene.tap, &scene.gateway.key, json!({"stream": true}));
    scene.wait_tries(1);
    scene.stub.release(0);
    first.answer().unwrap().events();
    drop(second);
    succeeded(&client.result());
    told_wait(&scene.tap.passed());
}

fn a_wait_that_would_be_too_long_is_not_begun(client: &mut Client) {
    let scene = scene("");
    // The model takes half a second for a token, and answers have two hundred.
    let slow = r#"{"cache_n":0,"prompt_n":20,"prompt_ms":2000,"predicted_n":200,"predicted_ms":100000}"#;
    let usage = r#"{"completion_tokens":200,"prompt_tokens":20,"total_tokens":220}"#;
    let chunk = |choices: &str, further: &str| {
        format!(
            "data: {{\"choices\":{choices},\"created\":1,\"id\":\"c\",\"model\":\"stub\",\
             \"object\":\"chat.completion.chunk\"{further}}}\n\n"
        )
    };
    let text = chunk(r#"[{"finish_reason":"stop","index":0,"delta":{"content":"slow"}}]"#, "")
        + &chunk("[]", &format!(",\"usage\":{usage},\"timings\":{slow}"))
        + "data: [DONE]\n\n";
    scene.stub.plan_next(vec![Step::Head, Step::Bytes(text.into_bytes()), Step::End]);
    assert_eq!(scene.gateway.post(PATH, &chat(500)).status, 200);
    scene.stub.plan_next(vec![Step::Gate]);
    let running = scene.gateway.send_chat(&chat(500));
    scene.stub.wait_held(1);
    let result = client.ask(&scene.tap, &scene.gateway.key, json!({"timeout": 5}));
    client.failed(&result, &scene.tap, (429, "wait_too_long"), 1);
    let passed = scene.tap.passed();
    let after = passed[0].answer_header("retry-after").expect("the true time").parse::<u64>().unwrap();
    assert!(after > 60 && passed[0].answer_header("retry-after-ms").is_none(), "{passed:?}");
    drop(running);
}

fn a_wait_that_was_too_long_is_told_before_or_inside_a_stream(client: &mut Client) {
    let scene = scene("[policies.default]\nmax_queue_wait = \"700ms\"\n[timeouts]\nearly_open = \"50ms\"");
    let _first = scene.occupy();
    let result = client.ask(&scene.tap, &scene.gateway.key, json!({"retries": 0}));
    client.failed(&result, &scene.tap, (503, "queue_timeout"), 1);
    let result = client.ask(&scene.tap, &scene.gateway.key, json!({"stream": true}));
    let passed = scene.tap.passed();
    assert_eq!((passed.len(), passed[1].status()), (2, Some(200)), "nobody tries again after a 200");
    let (class, code) = match client.kind {
        // This one judges by the status, which was 200.
        Kind::AnthropicPython => ("APIStatusError", Value::Null),
        _ => ("APIError", json!("queue_timeout")),
    };
    assert_eq!((result["error"].as_str(), &result["code"]), (Some(class), &code), "{result}");
}

fn a_gateway_that_shuts_down_is_tried_again_later(client: &mut Client) {
    let scene = scene("");
    let first = scene.occupy();
    scene.gateway.term();
    eventually_true("it drains", || scene.gateway.ready_status() == 503);
    let result = client.ask(&scene.tap, &scene.gateway.key, json!({"retries": 1}));
    client.failed(&result, &scene.tap, (503, "draining"), 2);
    assert!(told_wait(&scene.tap.passed()) >= Duration::from_secs(5));
    scene.stub.release(0);
    first.answer().unwrap().events();
}

fn a_model_that_loads_is_an_error_of_the_server(client: &mut Client) {
    let scene = scene("[upstream]\nprobe_interval = \"20ms\"");
    scene.stub.set_loading(true);
    eventually_true("the gateway sees it", || scene.gateway.ready_status() == 503);
    let result = client.ask(&scene.tap, &scene.gateway.key, json!({"retries": 0}));
    client.failed(&result, &scene.tap, (503, "model_loading"), 1);
    assert!(scene.tap.passed()[0].answer_header("retry-after").is_some());
}

/// The first try has the slot when the client gives it up behind a proxy that does not tell.
fn a_retry_takes_the_slot_of_its_first_try(client: &mut Client) {
    let scene = scene("[policies.default]\nconcurrent_requests = 1");
    scene.tap.hide_leaving();
    scene.stub.plan_next(vec![Step::Gate]);
    scene.answer(client);
    succeeded(&client.ask(&scene.tap, &scene.gateway.key, json!({"retries": 1, "timeout": 3})));
    scene.stub.wait_closed(0);
    assert_eq!(scene.stub.count(), 2);
    replaced(&scene);
}

/// The first try waits where there is room for one only, and a proxy in between gives up.
fn a_retry_takes_the_place_of_its_first_try_in_the_queue(client: &mut Client) {
    let scene = scene("[policies.default]\nqueued_requests = 1");
    let first = scene.occupy();
    scene.tap.hide_leaving();
    scene.answer(client);
    client.begin(&scene.tap, &scene.gateway.key, json!({"retries": 1}));
    scene.gateway.wait_depth(1);
    let sent = scene.tap.passed()[0].at;
    eventually_true("its client may have given it up", || sent.elapsed() > Duration::from_secs(2));
    scene.tap.cut_clients();
    scene.wait_tries(1);
    scene.stub.release(0);
    first.answer().unwrap().events();
    succeeded(&client.result());
    assert_eq!(scene.stub.count(), 2, "the first try was never sent");
    replaced(&scene);
}

fn replaced(scene: &Scene) {
    let passed = scene.tap.passed();
    assert_eq!(passed.len(), 2, "{passed:?}");
    assert_eq!(passed[0].status(), Some(409), "{passed:?}");
    assert_eq!(passed[0].answer_header("x-should-retry").as_deref(), Some("false"));
    let row = scene.gateway.settled_row(&passed[0].answer_header("x-request-id").unwrap());
    assert_eq!((&row["ending"], &row["status"]), (&json!("replaced"), &json!(409)), "{row}");
}

type Scenario = (&'static str, fn(&mut Client));

macro_rules! scenarios {
    ($($name:ident),+ $(,)?) => { [$((stringify!($name), $name as fn(&mut Client))),+] };
}

/// All of them, with one client after another: starting one takes longer than most scenes.
fn play(kind: Kind) {
    let scenarios: [Scenario; 14] = scenarios![
        whoever_is_unknown_is_not_tried_again,
        an_unknown_model_is_not_tried_again,
        a_prompt_that_is_too_long_is_not_tried_again,
        requests_a_minute_are_waited_for,
        tokens_a_minute_are_waited_for,
        one_too_many_at_once_comes_back,
        a_quota_is_not_tried_again,
        a_full_queue_is_tried_again,
        a_wait_that_would_be_too_long_is_not_begun,
        a_wait_that_was_too_long_is_told_before_or_inside_a_stream,
        a_gateway_that_shuts_down_is_tried_again_later,
        a_model_that_loads_is_an_error_of_the_server,
        a_retry_takes_the_slot_of_its_first_try,
        a_retry_takes_the_place_of_its_first_try_in_the_queue,
    ];
    let mut client = Client::start(kind);
    let mut failed = Vec::new();
    for (name, scenario) in scenarios {
        eprintln!("{kind:?}: {name}");
        if catch_unwind(AssertUnwindSafe(|| scenario(&mut client))).is_err() {
            failed.push(name);
            // It may still be in the middle of that one.
            client = Client::start(kind);
        }
    }
    assert!(failed.is_empty(), "{kind:?} failed: {failed:?}");
}

#[test]
fn the_openai_python_client_behaves_as_it_should_at_every_refusal() {
    play(Kind::OpenAiPython);
}

#[test]
fn the_openai_npm_client_behaves_as_it_should_at_every_refusal() {
    play(Kind::OpenAiNode);
}

#[test]
fn the_anthropic_python_client_behaves_as_it_should_at_every_refusal() {
    play(Kind::AnthropicPython);
}
