//! No prompt, reply or secret in the ledger, the log, the metrics, or an error that anybody is told.
//!
//! Marked words are planted wherever clients and llama-server can say something; every way through the gateway is gone,
//! above all those that fail; then everything that was written is searched, byte for byte.

use std::fmt::Write as _;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::client::{self, Conn, exchange};
use crate::harness::engine::{Engine, Options};
use crate::harness::gateway::Gateway;
use crate::harness::stub::{Step, Stub};
use crate::harness::with;

/// Begins each planted word; what follows tells where it was planted.
const MARK: &str = "zqmark";
/// Begins the words that an error may say back to the client who sent them, in at most 64 characters: the name of a model
/// that is not served, and of a field that is given twice. They are nowhere else either.
const NAME: &str = "zqname";

/// `trace` holds what `debug` does, but levels are also told apart where a line is written.
const LOGS: [&str; 2] = ["level = \"trace\"\nformat = \"text\"", "level = \"debug\"\nformat = \"json\""];

const CHAT: &str = "/v1/chat/completions";
const SURFACES: [&str; 10] = [
    CHAT,
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/embeddings",
    "/v1/rerank",
    "/tokenize",
    "/detokenize",
    "/apply-template",
];

/// A gateway, and what its clients were told.
struct Searched {
    gateway: Gateway,
    told: String,
}

impl Searched {
    fn new(gateway: Gateway) -> Self {
        Self { gateway, told: String::new() }
    }

    /// Sends bytes, reads what comes of it until its end or until it breaks off, and keeps what must be clean: the head,
    /// the body of a refusal, the error events of a stream.
    fn send(&mut self, bytes: &[u8]) -> u16 {
        // Who was not even answered was told nothing.
        let Ok(mut answer) = exchange(self.gateway.address, bytes) else { return 0 };
        let (status, mut body) = (answer.head.status, Vec::new());
        while let Ok(Some(piece)) = answer.piece() {
            body.extend(piece);
        }
        let body = String::from_utf8_lossy(&body);
        let errors = match status {
            // Before an error event may stand what llama-server said, which is the reply.
            200 => body
                .split("\n\n")
                .filter(|event| event.contains("\"error\""))
                .filter_map(|event| event.rsplit("data: ").next())
                .collect(),
            _ => body.into_owned(),
        };
        writeln!(self.told, "{:?}\n{errors}", answer.head).unwrap();
        status
    }

    /// Posts text as JSON, with marks in every header, in the path behind `path`, and in the query.
    fn post_text(&mut self, path: &str, key: &str, body: &str) -> u16 {
        let length = body.len();
        let bytes = format!(
            "POST {path} HTTP/1.1\r\nHost: {MARK}host\r\nContent-Type: application/json; x={MARK}type\r\n{key}\r\n\
             User-Agent: {MARK}agent\r\nCookie: session={MARK}cookie\r\nReferer: http://{MARK}referer/\r\n\
             X-Forwarded-For: {MARK}for\r\nX-Request-Id: {MARK}id\r\nX-Stainless-Retry-Count: {MARK}count\r\n\
             X-Request-Timeout: {MARK}timeout\r\nTraceparent: {MARK}trace\r\nX-{MARK}name: {MARK}value\r\n\
             Accept: {MARK}/accept\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        self.send(bytes.as_bytes())
    }

    fn post(&mut self, path: &str, body: &Value) -> u16 {
        let key = format!("Authorization: Bearer {}", self.gateway.key);
        self.post_text(path, &key, &body.to_string())
    }

    /// Everything that was written anywhere, and the metrics, as one text for each place.
    fn written(&self) -> Vec<(String, String)> {
        let mut written = vec![
            ("the clients' errors".to_owned(), self.told.clone()),
            ("/metrics".to_owned(), client::get(self.gateway.admin, "/metrics").unwrap().text()),
            ("/readyz".to_owned(), client::get(self.gateway.admin, "/readyz").unwrap().text()),
            ("keys list".to_owned(), self.gateway.command(&["keys", "list"])),
            ("usage".to_owned(), self.gateway.command(&["usage", "--requests", "--json"])),
        ];
        for file in std::fs::read_dir(self.gateway.data()).unwrap() {
            let file = file.unwrap();
            let bytes = std::fs::read(file.path()).unwrap();
            written.push((file.file_name().into_string().unwrap(), String::from_utf8_lossy(&bytes).into_owned()));
        }
        for part in ["ledger.sqlite", "keys.sqlite", "gateway.log", "serve.json"] {
            assert!(written.iter().any(|(place, text)| place == part && !text.is_empty()), "{part} is searched");
        }
        written
    }

    /// The places where a planted word or a part of the key is, with what stands around it.
    fn found(&self) -> Vec<String> {
        let key = self.gateway.key.as_str();
        // The id is public; what stands behind it is not.
        let secret = &key[key.len() - 59..key.len() - 7];
        let mut found = Vec::new();
        for (place, text) in self.written() {
            let may_name = place == "the clients' errors";
            for word in [MARK, NAME, secret].into_iter().filter(|word| !(may_name && *word == NAME)) {
                for (at, _) in text.to_ascii_lowercase().match_indices(word) {
                    let (first, last) = (at.saturating_sub(120), (at + 80).min(text.len()));
                    let around = &text[text.floor_char_boundary(first)..text.floor_char_boundary(last)];
                    found.push(format!("{place}: ...{around}..."));
                }
            }
        }
        found
    }

    fn is_clean(&self) {
        let found = self.found();
        assert!(found.is_empty(), "{} places, such as\n{}", found.len(), found[..found.len().min(40)].join("\n"));
    }
}

/// A request of each surface, marked in its content and in all that surrounds it.
fn marked(path: &str) -> Value {
    let words = |place: &str| format!("Tell me of {MARK}{place} and of rivers");
    let messages = json!([{"role": "system", "content": words("system")},
                          {"role": "user", "content": words("message"), "name": format!("{MARK}username")}]);
    let around = json!({"user": format!("{MARK}user"), "metadata": {format!("{MARK}meta"): format!("{MARK}metadata")},
                        "safety_identifier": format!("{MARK}safety"), format!("{MARK}field"): words("fieldvalue")});
    let body = match path {
        CHAT | "/v1/messages" => {
            json!({"model": "x", "messages": messages, "max_tokens": 5, "stop": [format!("{MARK}stop")],
                                        "tools": tools(path)})
        }
        "/v1/messages/count_tokens" | "/apply-template" => json!({"model": "x", "messages": messages}),
        "/v1/completions" => json!({"prompt": [words("prompt"), words("second")], "max_tokens": 5}),
        "/v1/responses" => {
            json!({"input": words("input"), "instructions": words("instructions"), "max_output_tokens": 5})
        }
        "/v1/embeddings" => json!({"input": [words("embedded")]}),
        "/v1/rerank" => json!({"query": words("query"), "documents": [words("document"), words("other")]}),
        "/detokenize" => json!({"tokens": [70, 71, 72]}),
        _ => json!({"content": words("content")}),
    };
    with(body, around)
}

fn tools(path: &str) -> Value {
    let parameters = json!({"type": "object", "properties": {format!("{MARK}property"): {"type": "string"}}});
    let (name, description) = (format!("{MARK}tool"), format!("{MARK}description"));
    if path == "/v1/messages" {
        return json!([{"name": name, "description": description, "input_schema": parameters}]);
    }
    json!([{"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}])
}

/// Bodies that are wrong around a marked word, in every way that JSON and the fields can be wrong.
fn wrong(path: &str) -> Vec<String> {
    let word = format!("{MARK}wrong");
    let mut bodies = vec![
        word.clone(),
        format!("\"{word}\""),
        format!("{{\"{word}"),
        format!("{{\"{word}\":}}"),
        format!("{{\"{word}\":1,\"x\":{word}}}"),
        format!("{{\"messages\":[{{\"role\":\"user\",\"content\":\"{word}\u{1}\"}}]}}"),
        format!("{{\"messages\":[{{\"role\":\"user\",\"content\":\"{word}\\ud800\"}}]}}"),
        format!("{{\"messages\":[{{\"role\":\"user\",\"content\":\"{word}\"}}]}} {word}"),
        format!("[\"{word}\"]"),
        format!("{{\"{NAME}twice\":\"{word}\",\"{NAME}twice\":\"{word}\"}}"),
        "[".repeat(80) + &word,
    ];
    // Each field in turn is of a wrong kind, and says so.
    let body = marked(path);
    let known = [
        "max_tokens",
        "max_output_tokens",
        "temperature",
        "stream",
        "n",
        "top_p",
        "seed",
        "stop",
        "tools",
        "response_format",
        "stream_options",
        "logprobs",
        "grammar",
        "json_schema",
        "tool_choice",
        "reasoning_format",
        "chat_template_kwargs",
        "samplers",
        "logit_bias",
        "messages",
        "prompt",
        "input",
        "content",
        "tokens",
        "query",
        "documents",
        "encoding_format",
        "add_special",
        "thinking",
        "system",
        "instructions",
        "id_slot",
        "lora",
        "cache_prompt",
        "top_n",
        "echo",
        "suffix",
    ];
    for field in known {
        for value in
            [json!(word), json!({"type": word, word.clone(): word}), json!([word, {"role": word, "content": word}])]
        {
            bodies.push(with(body.clone(), json!({field: value})).to_string());
        }
    }
    let url = |url: &str| json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]);
    let roles = json!([{"role": word, "content": word}, {"role": "assistant", "content": word}, {"role": "assistant", "content": word}]);
    let call =
        json!([{"role": "assistant", "tool_calls": [{"type": word, "function": {"name": word, "arguments": word}}]}]);
    for messages in [url(&format!("http://{word}/")), url(&format!("data:{word};base64,{word}")), roles, call] {
        bodies.push(with(body.clone(), json!({"messages": messages})).to_string());
    }
    let format = |schema: Value| json!({"response_format": {"type": "json_schema", "json_schema": {"name": word, "schema": schema}}});
    for schema in
        [json!({"type": word}), json!({"$ref": format!("#/{word}")}), json!({"pattern": format!("({word}{{0,9999}}")})]
    {
        bodies.push(with(body.clone(), format(schema)).to_string());
    }
    bodies.push(with(body.clone(), json!({"tools": [{"type": word}]})).to_string());
    bodies.push(with(body.clone(), json!({"tools": [word]})).to_string());
    bodies.push(with(body.clone(), json!({"grammar": format!("root ::= ({word}")})).to_string());
    bodies.push(with(body, json!({"model": format!("{NAME}model")})).to_string());
    bodies
}

/// Ways to show a key; the gateway knows none of them.
fn keys(valid: &str) -> Vec<String> {
    let typo = format!("{}{MARK}", &valid[..valid.len() - 6]);
    let mut keys = Vec::new();
    for key in [
        format!("sk-lgw-{MARK}"),
        format!("sk-{MARK}"),
        typo,
        format!("{valid}{MARK}"),
        format!("eyJ{MARK}.eyJ{MARK}.{MARK}"),
    ] {
        for header in [
            "Authorization: Bearer ",
            "Authorization: Basic ",
            "Authorization: ",
            "X-Api-Key: ",
            "Api-Key: ",
            "Cookie: key=",
        ] {
            keys.push(format!("{header}{key}"));
        }
    }
    keys.push(format!("Authorization: Bearer {valid}\r\nX-Api-Key: {MARK}second"));
    keys.push(format!("X-Api-Key: {valid}\r\nX-Api-Key: {MARK}second"));
    keys
}

/// What does not depend on who answers: refusals at the gate and of bodies.
fn refusals(searched: &mut Searched) {
    let valid = searched.gateway.key.clone();
    for key in keys(&valid) {
        for path in [CHAT, "/v1/messages"] {
            assert_eq!(searched.post_text(path, &key, &marked(path).to_string()), 401, "{key}");
        }
    }
    let authorization = format!("Authorization: Bearer {valid}");
    for path in SURFACES {
        for body in wrong(path) {
            searched.post_text(path, &authorization, &body);
        }
        searched.post_text(&format!("{path}?{MARK}query={MARK}value"), &authorization, &marked(path).to_string());
        searched.post_text(&format!("{path}/{MARK}path"), &authorization, &marked(path).to_string());
        searched.post_text(path, &format!("{authorization}\r\nContent-Encoding: {MARK}"), "{}");
    }
    for line in [
        format!("GET /{MARK}path?{MARK}=1 HTTP/1.1"),
        format!("GET /v1/models/{NAME}model HTTP/1.1"),
        format!("{MARK} {CHAT} HTTP/1.1"),
        format!("{} {CHAT} HTTP/1.1", MARK.to_uppercase()),
        format!("GET {CHAT} HTTP/1.{MARK}"),
        format!("GET http://{MARK}/{MARK} HTTP/1.1"),
    ] {
        searched.send(format!("{line}\r\nHost: {MARK}\r\n{authorization}\r\nContent-Length: 0\r\n\r\n").as_bytes());
    }
    for framing in [
        format!("Content-Length: {MARK}"),
        format!("Transfer-Encoding: {MARK}"),
        format!("Host: {MARK}"),
        format!("{MARK}: {}", MARK.repeat(4000)),
        format!("{MARK} : broken"),
        format!("Transfer-Encoding: chunked\r\n\r\n{MARK}\r\n"),
    ] {
        let lines = format!("POST {CHAT} HTTP/1.1\r\nHost: t\r\n{authorization}\r\n{framing}\r\n\r\n{{\"{MARK}\":1}}");
        searched.send(lines.as_bytes());
    }
}

/// The same request by HTTP/2, whose frames libraries like to log.
fn multiplexed(searched: &mut Searched) {
    let gateway = &searched.gateway;
    for (key, body) in [(gateway.key.as_str(), marked(CHAT).to_string()), (MARK, format!("{{{MARK}"))] {
        let output = Command::new("curl")
            .args(["-siN", "--http2-prior-knowledge", "-A", &format!("{MARK}agent"), "-d", &body])
            .args(["-H", &format!("Authorization: Bearer {key}"), "-H", &format!("x-{MARK}: {MARK}")])
            .arg(format!("http://{}{CHAT}?{MARK}", gateway.address))
            .output()
            .unwrap();
        assert!(output.status.success() && !output.stdout.is_empty());
    }
}

/// Every kind of answer that llama-server can give, good, bad and broken, with marked words in it.
fn replies() -> Vec<Vec<Step>> {
    let word = format!("{MARK}reply");
    let event = |data: String| Step::Bytes(format!("data: {data}\n\n").into_bytes());
    let chunk = |text: &str| {
        json!({"choices": [{"finish_reason": null, "index": 0, "delta": {"content": text}}], "created": 1,
                                    "id": format!("{MARK}id"), "model": "stub", "object": "chat.completion.chunk"})
    };
    let error = |message: &str| json!({"error": {"code": 500, "message": message, "type": "server_error"}});
    let output = || vec![Step::Head, event(chunk(&word).to_string())];
    let then = |steps: &[Step]| [output(), steps.to_vec()].concat();
    let mut replies = vec![
        then(&[Step::Tokens(2), Step::Finish, Step::End]),
        then(&[event(error(&format!("Failed to parse input at pos 3: {word}")).to_string()), Step::End]),
        then(&[event(error(&format!("Jinja Exception: {word}")).to_string()), Step::End]),
        then(&[Step::Bytes(format!("event: error\ndata: {{\"message\":\"{word}\"}}\n\n").into_bytes()), Step::End]),
        then(&[Step::Cut]),
        then(&[Step::End]),
        then(&[Step::Silence]),
        then(&[event(format!("{{\"choices\":[{word}")), Step::Finish, Step::End]),
        then(&[event(format!("{{\"choices\":[],\"usage\":{{\"completion_tokens\":\"{word}\"}}}}")), Step::End]),
        then(&[
            event(format!("{{\"choices\":\"{word}\",\"timings\":{{\"predicted_n\":\"{word}\"}}}}")),
            Step::Finish,
            Step::End,
        ]),
        then(&[Step::Bytes(format!("{word}: {word}\r\n{word}\n\n").into_bytes()), Step::End]),
        vec![Step::Bytes(format!("HTTP/1.1 {word}\r\n{word}").into_bytes()), Step::Cut],
        vec![Step::Silence],
        vec![Step::Whole(200, json!(word))],
        vec![Step::Whole(200, json!({"choices": word, "usage": {"prompt_tokens": word}, "data": word}))],
    ];
    let messages = [
        "",
        "Field 'n': ",
        "Failed to parse messages: ",
        "Failed to parse tools: Missing tool type: ",
        "Invalid tool_choice: ",
        "Jinja Exception: ",
        "Unable to generate parser for this template. Automatic parser generation failed: \n------------\n",
        "JSON schema conversion failed:\nUnrecognized schema: ",
        "[json.exception.parse_error.101] parse error at line 1; last read: '",
        "vector::_M_range_check: __n (which is ",
        "failed to parse grammar ",
        "image input is not supported: ",
        "exceeds the available context size ",
        "This server does not support embeddings ",
        "Loading model ",
    ];
    for message in messages {
        for (status, kind) in [
            (400, "invalid_request_error"),
            (500, "server_error"),
            (501, "not_supported_error"),
            (503, "unavailable_error"),
            (404, "not_found_error"),
            (401, "authentication_error"),
            (400, "exceed_context_size_error"),
            (418, MARK),
        ] {
            let error = json!({"code": status, "message": format!("{message}{word} 'is' /in/{word}"), "type": kind, "param": word});
            replies.push(vec![Step::Whole(status, json!({"error": error}))]);
        }
    }
    replies
}

const IMPATIENT: &str = "
[timeouts]
first_token = \"150ms\"
first_token_per_1000 = \"0s\"
silence = \"150ms\"
total = \"500ms\"
";

const LIMITS: &str = "
[policies.default]
max_queue_wait = \"50ms\"
[policies.rate]
requests_per_minute = 1
[policies.tokens]
tokens_per_minute = 5
[policies.quota]
tokens_per_day = 5
[policies.crowd]
concurrent_requests = 1
[tenants]
rate = { policy = \"rate\" }
tokens = { policy = \"tokens\" }
quota = { policy = \"quota\" }
crowd = { policy = \"crowd\" }
";

fn start(stub: &Stub, config: &str, log: &str) -> Searched {
    let config = format!("{config}[log]\n{log}\n[upstream]\nprobe_interval = \"50ms\"\n");
    Searched::new(Gateway::with_config(&stub.url(), &config))
}

/// Requests that limits and the queue refuse while another one has the only slot; then kill -9, while that one lives.
fn search_what_limits_refuse(log: &str) {
    let stub = Stub::start(1);
    let mut searched = start(&stub, LIMITS, log);
    let ask_twice = |searched: &mut Searched, tenant: &str| {
        let key = format!("X-Api-Key: {}", searched.gateway.create_key(tenant));
        [CHAT, "/v1/messages"].map(|path| searched.post_text(path, &key, &marked(path).to_string()))
    };
    for tenant in ["tokens", "rate"] {
        assert_eq!(ask_twice(&mut searched, tenant), [200, 429], "{tenant}");
    }
    let said = Step::Bytes(format!("data: {{\"x\":\"{MARK}\"}}\n\n").into_bytes());
    stub.plan(vec![Step::Head, said, Step::Tokens(2), Step::Gate]);
    let crowd = searched.gateway.create_key("crowd");
    let mut live = Conn::open(searched.gateway.address).unwrap();
    live.send(&client::request(CHAT, Some(&crowd), marked(CHAT).to_string().as_bytes())).unwrap();
    stub.wait_held(2);
    for (tenant, statuses) in [("quota", [429, 429]), ("crowd", [429, 429]), ("waits", [503, 503])] {
        assert_eq!(ask_twice(&mut searched, tenant), statuses, "{tenant}");
    }
    // This one leaves the queue.
    drop(searched.gateway.send_chat(&marked(CHAT)));
    searched.gateway.restart();
    searched.is_clean();
}

/// Every refusal and every reply of llama-server, one after the other.
fn search_what_fails(log: &str) {
    let stub = Stub::start(1);
    let mut searched = start(&stub, IMPATIENT, log);
    refusals(&mut searched);
    multiplexed(&mut searched);
    for reply in replies() {
        for path in [CHAT, "/v1/completions", "/v1/responses", "/v1/messages"] {
            for stream in [false, true] {
                stub.plan(reply.clone());
                searched.post(path, &with(marked(path), json!({"stream": stream})));
            }
        }
        // Where nothing is streamed, any 200 is the reply.
        if matches!(reply[..], [Step::Whole(..)]) {
            stub.plan(reply);
            searched.post("/v1/embeddings", &marked("/v1/embeddings"));
        }
    }
    searched.is_clean();
}

#[test]
fn nothing_that_was_said_is_written_down_or_told_to_others() {
    for log in LOGS {
        search_what_fails(log);
        search_what_limits_refuse(log);
    }
}

#[test]
fn llama_servers_own_words_about_a_request_tell_nothing_of_it() {
    let engine = Engine::start(Options::tiny().tools().args(&["--embeddings", "--pooling", "mean"]));
    let mut searched =
        Searched::new(Gateway::with_config(&engine.url(), "[log]\nlevel = \"trace\"\nformat = \"json\""));
    for path in SURFACES {
        searched.post(path, &marked(path));
        for body in wrong(path) {
            searched.post_text(path, &format!("Api-Key: {}", searched.gateway.key), &body);
        }
    }
    let long = json!({"prompt": format!("{MARK} ").repeat(5000), "input": format!("{MARK} ").repeat(5000)});
    for path in ["/v1/completions", "/v1/responses", "/v1/embeddings"] {
        assert_eq!(searched.post(path, &long), 400);
    }
    searched.is_clean();
}

/// The search itself: what is planted on purpose, it finds.
#[test]
fn a_word_that_is_planted_in_any_of_the_searched_places_is_found() {
    let stub = Stub::start(1);
    let mut searched = Searched::new(Gateway::start(&stub.url()));
    assert_eq!(searched.post(CHAT, &marked(CHAT)), 200);
    searched.is_clean();
    let tenant = searched.gateway.create_key(&format!("{MARK}tenant"));
    assert_eq!(searched.post_text(CHAT, &format!("Api-Key: {tenant}"), &marked(CHAT).to_string()), 200);
    let found = searched.found();
    for place in ["ledger.sqlite", "keys.sqlite", "gateway.log", "/metrics", "usage", "keys list"] {
        assert!(found.iter().any(|found| found.starts_with(place)), "{place} in {found:?}");
    }
    let mut searched = Searched::new(Gateway::start(&stub.url()));
    std::fs::write(searched.gateway.data().join("notes"), format!("as {}", searched.gateway.key)).unwrap();
    writeln!(searched.told, "Bearer {MARK}").unwrap();
    let found = searched.found();
    assert_eq!(found.len(), 2, "{found:?}");
}
