//! The simulator over real connections, in real time.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::stepped_time::in_steps;

/// A running simulator.
struct Running {
    address: std::net::SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Running {
    async fn start(options: Options) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop, tasks) = (listener.local_addr().unwrap(), CancellationToken::new(), TaskTracker::new());
        let until = stop.clone();
        tasks.spawn(async move { serve(listener, options, until).await.unwrap() });
        Self { address, stop, tasks }
    }

    async fn send(&self, method: &str, path: &str, body: &Value) -> http::Response<Incoming> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        self.tasks.spawn(async move { connection.await.ok() });
        let body = if method == "GET" { Bytes::new() } else { body.to_string().into() };
        let request = http::Request::builder().method(method).uri(path).body(Full::new(body)).unwrap();
        sender.send_request(request).await.unwrap()
    }

    async fn json(&self, method: &str, path: &str, body: Value) -> Value {
        let reply = self.send(method, path, &body).await.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice(&reply).unwrap_or_else(|_| panic!("{reply:?}"))
    }

    /// The moments at which pieces of a streamed chat came, and its text; an error if it was cut.
    async fn streamed(&self, body: Value) -> (Vec<Duration>, Result<String, hyper::Error>) {
        let (sent, mut moments, mut text) = (Instant::now(), Vec::new(), String::new());
        let mut reply = self.send("POST", "/v1/chat/completions", &body).await.into_body();
        while let Some(frame) = reply.frame().await {
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => return (moments, Err(error)),
            };
            moments.push(sent.elapsed());
            text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        }
        (moments, Ok(text))
    }

    async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn chat(tokens: u32, further: Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "Tell me about rivers."}], "max_tokens": tokens,
        "ignore_eos": true, "stream": true});
    body.as_object_mut().unwrap().extend(further.as_object().unwrap().clone());
    body
}

fn options() -> Options {
    Options::new(Profile { decode: Duration::from_millis(5), ..Profile::shipped("fast").unwrap() })
}

#[tokio::test]
async fn a_stream_takes_as_long_as_the_profile_says() {
    let running = Running::start(options()).await;
    let words = "word ".repeat(2000);
    let fields = json!({"messages": [{"role": "user", "content": words}], "cache_prompt": false});
    let (moments, text) = in_steps(running.streamed(chat(100, fields))).await;
    assert!(text.unwrap().ends_with("data: [DONE]\n\n"));
    // 2000 words, the last blank, and 8 tokens of the template.
    let expected = options().profile.expected(Duration::ZERO, 2009, 100, 1);
    for (measured, expected) in [(moments[0], expected.first_token), (*moments.last().unwrap(), expected.end)] {
        assert!(measured >= expected && measured < expected.mul_f64(1.02), "{measured:?} {expected:?}");
    }
    running.end().await;
}

#[tokio::test]
async fn a_stall_delays_what_is_under_way_and_what_comes() {
    let running = Running::start(options()).await;
    let before = Instant::now();
    assert_eq!(running.json("POST", "/sim/stall", json!({"ms": 300})).await, json!({"ms": 300}));
    running.streamed(chat(1, json!({}))).await.1.unwrap();
    assert!(before.elapsed() >= Duration::from_millis(300), "{:?}", before.elapsed());
    running.end().await;
}

#[tokio::test]
async fn a_cut_stream_has_no_proper_end() {
    let running = Running::start(options()).await;
    assert!(running.streamed(chat(10, json!({"sim_fault": "cut"}))).await.1.is_err());
    let body = chat(10, json!({"sim_fault": "cut", "stream": false}));
    let reply = running.send("POST", "/v1/chat/completions", &body).await;
    assert!(reply.into_body().collect().await.is_err());
    running.end().await;
}

#[tokio::test]
async fn faults_in_a_stream_show_as_what_they_are() {
    let running = Running::start(options()).await;
    let text = running.streamed(chat(10, json!({"sim_fault": "error-event"}))).await.1.unwrap();
    assert!(text.contains("data: {\"error\":{\"code\":500") && !text.contains("[DONE]"), "{text}");
    let text = running.streamed(chat(10, json!({"sim_fault": "garbage"}))).await.1.unwrap();
    let garbage = |line: &&str| serde_json::from_str::<Value>(&line[6..]).is_err() && !line.ends_with("[DONE]");
    assert_eq!(text.lines().filter(|line| line.starts_with("data: ")).filter(garbage).count(), 1);
    assert!(text.ends_with("data: [DONE]\n\n"), "it goes on");
    for status in [500, 503] {
        let body = chat(10, json!({"chat_template_kwargs": {"sim_fault": format!("status-{status}")}}));
        assert_eq!(running.send("POST", "/v1/chat/completions", &body).await.status(), status);
    }
    let unknown = running.send("POST", "/v1/chat/completions", &chat(1, json!({"sim_fault": "other"}))).await;
    assert_eq!(unknown.status(), 400);
    running.end().await;
}

#[tokio::test]
async fn usage_lies_only_when_it_is_told_to() {
    let running = Running::start(options()).await;
    let usage = async |fault: Value| {
        let body = chat(10, json!({"stream": false, "sim_fault": fault}));
        let reply = running.json("POST", "/v1/chat/completions", body).await;
        let of = |name: &str| reply["usage"][name].as_u64().unwrap();
        (of("completion_tokens"), of("total_tokens") - of("prompt_tokens") - of("completion_tokens"))
    };
    assert_eq!(usage(json!(null)).await, (10, 0));
    assert_eq!(usage(json!("usage-too-few")).await, (5, 0));
    assert_eq!(usage(json!("usage-too-many")).await, (20, 0));
    assert_eq!(usage(json!("usage-sum")).await, (10, 7));
    running.end().await;
}

#[tokio::test]
async fn a_hanging_request_is_never_answered_and_a_wedged_slot_never_free() {
    let running = Running::start(Options { profile: Profile { slots: 1, ..options().profile }, ..options() }).await;
    running.json("POST", "/sim/faults", json!({"fault": "hang", "requests": 1})).await;
    let body = chat(3, json!({}));
    let hanging = tokio::time::timeout(Duration::from_millis(200), running.streamed(body.clone())).await;
    assert!(hanging.is_err());
    assert!(running.streamed(body).await.1.is_ok(), "it took no slot, and no other request hangs");
    let mut wedged =
        running.send("POST", "/v1/chat/completions", &chat(10, json!({"sim_fault": "wedge"}))).await.into_body();
    let slots = async || running.json("GET", "/slots", Value::Null).await;
    while slots().await[0]["next_token"][0]["n_decoded"] != json!(5) {}
    let rest = async { while wedged.frame().await.is_some_and(|frame| frame.is_ok()) {} };
    assert!(tokio::time::timeout(Duration::from_millis(200), rest).await.is_err(), "it says no more");
    drop(wedged);
    let slots = slots().await;
    assert_eq!((&slots[0]["is_processing"], &slots[0]["next_token"][0]["n_decoded"]), (&json!(true), &json!(5)));
    running.end().await;
}

#[tokio::test]
async fn who_leaves_a_stream_frees_its_slot_and_it_is_told_how_soon() {
    let running = Running::start(options()).await;
    let mut reply = running.send("POST", "/v1/chat/completions", &chat(5000, json!({}))).await.into_body();
    reply.frame().await.unwrap().unwrap();
    drop(reply);
    let cancels = loop {
        let cancels = running.json("GET", "/sim/cancels", Value::Null).await;
        if cancels["cancels"][0].is_object() {
            break cancels;
        }
    };
    // A token takes 5 ms.
    assert!(cancels["cancels"][0]["free_after_ms"].as_f64().unwrap() <= 5.0, "{cancels}");
    running.end().await;
}

#[tokio::test]
async fn nothing_but_its_own_door_is_open_while_the_model_loads() {
    let profile = Profile { load: Duration::from_secs(600), ..options().profile };
    let running = Running::start(Options { profile, ..options() }).await;
    let reply = running.json("GET", "/health", Value::Null).await;
    assert_eq!(reply, json!({"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}));
    running.end().await;
}

#[tokio::test]
async fn the_prompt_that_was_counted_is_the_one_in_usage() {
    let running = Running::start(options()).await;
    let body = chat(2, json!({"stream": false}));
    let counted = running.json("POST", "/v1/chat/completions/input_tokens", body.clone()).await["input_tokens"].clone();
    let prompt = running.json("POST", "/apply-template", body.clone()).await["prompt"].clone();
    let tokens = running.json("POST", "/tokenize", json!({"content": prompt})).await["tokens"].clone();
    let reply = running.json("POST", "/v1/chat/completions", body).await;
    assert_eq!(reply["usage"]["prompt_tokens"], counted);
    assert_eq!(tokens.as_array().unwrap().len() as u64, counted.as_u64().unwrap());
    assert_eq!(running.json("POST", "/detokenize", json!({"tokens": tokens})).await["content"], prompt);
    running.end().await;
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    use clap::Parser;
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }
    let options = |args: &[&str]| Line::try_parse_from([&["sim"][..], args].concat()).unwrap().args.options();
    for wrong in
        [["--profile", "t4"], ["--speed", "0"], ["--slots", "0"], ["--decode-ms", "inf"], ["--api-key-file", "/no"]]
    {
        assert!(options(&wrong).is_err(), "{wrong:?}");
    }
    let options = options(&["--profile", "t4-gpt-oss-20b", "--speed", "10", "--decode-ms", "50"]).unwrap();
    assert_eq!((options.profile.decode, options.profile.slots), (Duration::from_millis(5), 4));
}
