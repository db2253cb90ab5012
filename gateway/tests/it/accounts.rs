//! Four books of the same requests: what the clients were told, the ledger, the gateway's metrics, and the counters of
//! the llama-server that did the work. They agree, and where they cannot, this says by how much they may differ.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::client::{Conn, post, request};
use crate::harness::dice::Dice;
use crate::harness::engine::{Engine, Options, wait_idle};
use crate::harness::gateway::{Gateway, is_settled};
use crate::harness::told::{Leaving, Tokens, Told, Until, read};
use crate::harness::{eventually, with};

/// Output tokens by which llama-server may be ahead of the ledger for each request that was cut, on average. It notices
/// a closed connection between two tokens only; what it made until then, or had sent and nobody had read, is in nobody's
/// row. A real model is one or two tokens ahead. The random one makes thousands a second: this is some milliseconds, as
/// long as a process waits for its turn on a busy machine.
const AHEAD: u64 = 20;
/// Output tokens by which the ledger may be ahead of llama-server for each request that was cut: a token is sent before
/// llama-server counts it.
const BEHIND: u64 = 1;
// For prompts there is no constant. llama-server counts them batch by batch, as it computes them. The ledger has a prompt
// when llama-server has told it, with the first event behind it; who leaves before that is billed nothing. So
// llama-server may be ahead by the prompts of those who left, and by the first of several where another one was too long.

const SEED: u64 = 500;
const CLIENTS: usize = 6;

/// When a client leaves.
#[derive(Clone, Copy, Debug)]
enum Stay {
    /// It reads as far as this.
    Reads(Until),
    /// It leaves so many milliseconds after it has asked, without reading anything.
    Leaves(u64, Leaving),
}

/// One request to be made.
#[derive(Clone, Debug)]
struct Asked {
    path: &'static str,
    body: Value,
    choices: usize,
    /// Who asks; beyond the keys there are: somebody without a valid one.
    key: usize,
    stay: Stay,
    /// What it must be answered with, if it is read to the end.
    status: u16,
}

fn words(dice: &mut Dice, count: usize) -> String {
    const WORDS: [&str; 8] = ["river", "stone", "the", "old", "sea", "wanders", "under", "bridges"];
    (0..count).map(|_| dice.one_of(&WORDS)).collect::<Vec<_>>().join(" ")
}

/// A prompt: one that llama-server has in its cache, mostly; a new one; or a long one.
fn text(dice: &mut Dice) -> String {
    const KNOWN: [&str; 3] = ["Tell me about rivers.", "Tell me about rivers and stones.", "Once upon a time"];
    match dice.below(10) {
        0..4 => dice.one_of(&KNOWN).to_owned(),
        4..9 => {
            let count = 3 + dice.below(40);
            words(dice, count)
        }
        _ => {
            let count = 300 + dice.below(200);
            words(dice, count)
        }
    }
}

fn tools() -> Value {
    let parameters = json!({"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]});
    json!([{"type": "function", "function": {"name": "weather", "description": "Weather", "parameters": parameters}}])
}

/// A request that can be answered, of any surface.
fn answerable(dice: &mut Dice, most_output: usize) -> Asked {
    let cap = 1 + dice.below(most_output);
    let stream = dice.below(2) == 0;
    let common = json!({"stream": stream, "timings_per_token": stream, "seed": dice.below(1000)});
    let messages = |dice: &mut Dice| json!([{"role": "user", "content": text(dice)}]);
    let choices = if dice.below(3) == 0 { 2 + dice.below(2) } else { 1 };
    let (path, choices, body) = match dice.below(8) {
        kind @ 0..3 => {
            let further = match kind {
                0 => json!({"n": choices}),
                1 => json!({"tools": tools()}),
                _ if stream => json!({}),
                // llama-server answers this one in one piece.
                _ => json!({"logprobs": true}),
            };
            let body =
                json!({"messages": messages(dice), "max_tokens": cap, "stream_options": {"include_usage": true}});
            ("/v1/chat/completions", if kind == 0 { choices } else { 1 }, with(with(body, further), common))
        }
        3 => ("/v1/completions", choices, with(json!({"prompt": text(dice), "max_tokens": cap, "n": choices}), common)),
        4 => {
            let prompts = json!([text(dice), text(dice)]);
            ("/v1/completions", 1, with(json!({"prompt": prompts, "max_tokens": cap}), common))
        }
        5 => ("/v1/responses", 1, json!({"input": text(dice), "max_output_tokens": cap, "stream": stream})),
        6 => {
            let body = json!({"model": "x", "messages": messages(dice), "max_tokens": cap, "stream": stream});
            ("/v1/messages", 1, body)
        }
        _ => {
            let inputs = (0..1 + dice.below(3)).map(|_| text(dice)).collect::<Vec<_>>();
            ("/v1/embeddings", 1, json!({"input": inputs}))
        }
    };
    Asked { path, body, choices, key: dice.below(4), stay: Stay::Reads(Until::End), status: 200 }
}

/// A request that is refused, somewhere on the way.
fn refused(dice: &mut Dice) -> Asked {
    let messages = json!([{"role": "user", "content": text(dice)}]);
    let (path, body, key, status) = match dice.below(6) {
        0 => ("/v1/chat/completions", json!({"messages": messages}), usize::MAX, 401),
        1 => ("/v1/chat/completions", json!({"messages": 7}), 0, 400),
        2 => ("/v1/completions", json!({"prompt": "river ".repeat(9000)}), 0, 400),
        3 => ("/v1/messages", json!({"max_tokens": 9}), 1, 400),
        // Only llama-server finds these wrong.
        4 => ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": [{"type": "odd"}]}]}), 1, 400),
        _ => ("/v1/completions", json!({"prompt": "a", "grammar": "root ::= ("}), 2, 400),
    };
    Asked { path, body, choices: 1, key, stay: Stay::Reads(Until::End), status }
}

/// Two prompts of which llama-server finds the second one too long once it has begun with the first.
fn half_too_long(dice: &mut Dice) -> Asked {
    let prompts = json!([text(dice), "river ".repeat(9000)]);
    let body = json!({"prompt": prompts, "max_tokens": 50});
    Asked { path: "/v1/completions", body, choices: 1, key: 2, stay: Stay::Reads(Until::End), status: 400 }
}

/// One that its client leaves.
fn left(dice: &mut Dice) -> Asked {
    let leaving = dice.one_of(&[Leaving::ByFin, Leaving::ByRst]);
    let stay = match dice.below(4) {
        0 => Stay::Leaves(dice.below(30) as u64, leaving),
        1 => Stay::Reads(Until::Tokens(0, leaving)),
        _ => Stay::Reads(Until::Tokens(1 + dice.below(40), leaving)),
    };
    Asked { stay, ..answerable(dice, 600) }
}

/// Half of them run to their end; the others are refused, or left if `leaves`.
fn mixed(dice: &mut Dice, leaves: bool) -> Asked {
    match dice.below(20) {
        0..2 => refused(dice),
        2 if leaves => half_too_long(dice),
        3..13 if leaves => left(dice),
        _ => answerable(dice, 120),
    }
}

/// Asks as one client and gives what it was told; nothing if it did not read.
fn ask(gateway: &Gateway, keys: &[String], asked: &Asked) -> Option<Told> {
    let key = keys.get(asked.key).map_or("sk-lgw-unknown", String::as_str);
    let mut conn = Conn::open(gateway.address).unwrap();
    conn.send(&request(asked.path, Some(key), asked.body.to_string().as_bytes())).unwrap();
    match asked.stay {
        Stay::Leaves(after, leaving) => {
            std::thread::sleep(Duration::from_millis(after));
            leaving.go(conn);
            None
        }
        Stay::Reads(until) => {
            let told = read(conn.answer().unwrap(), asked.choices, until, || {});
            assert!(until != Until::End || told.status == asked.status, "{told:?} for {asked:?}");
            Some(told)
        }
    }
}

/// Makes all requests, some at a time.
fn ask_all(gateway: &Gateway, keys: &[String], all: &[Asked]) -> Vec<(Asked, Told)> {
    let (next, answers) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while let Some(asked) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Some(told) = ask(gateway, keys, asked) {
                        answers.lock().unwrap().push((asked.clone(), told));
                    }
                }
            });
        }
    });
    answers.into_inner().unwrap()
}

fn tokens_of(row: &Value) -> Tokens {
    let number = |name: &str| row[name].as_u64().unwrap();
    let (prompt, cached) = (number("prompt_tokens"), number("cached_tokens"));
    Tokens { prompt, cached, completion: number("completion_tokens") }
}

fn sum(all: impl Iterator<Item = Tokens>) -> Tokens {
    all.fold(Tokens::default(), |mut sum, tokens| {
        sum += tokens;
        sum
    })
}

/// By tenant, as the metrics show it.
fn metrics(gateway: &Gateway) -> BTreeMap<String, Tokens> {
    let mut tenants = BTreeMap::<String, Tokens>::new();
    for (series, value) in gateway.metrics() {
        let Some(labels) = series.strip_prefix("llama_gateway_tokens_total{") else { continue };
        let label = |name: &str| labels.split(&format!("{name}=\"")).nth(1).unwrap().split('"').next().unwrap();
        let tenant = tenants.entry(label("tenant").to_owned()).or_default();
        match label("kind") {
            "prompt" => tenant.prompt += value as u64,
            "cached" => tenant.cached += value as u64,
            "completion" => tenant.completion += value as u64,
            // Part of the completion.
            "reasoning" => {}
            kind => panic!("{kind} is not known here"),
        }
    }
    tenants
}

/// By tenant, as the ledger has it.
fn by_tenant(rows: &[Value]) -> BTreeMap<String, Tokens> {
    let mut tenants = BTreeMap::<String, Tokens>::new();
    for row in rows {
        *tenants.entry(row["tenant"].as_str().unwrap().to_owned()).or_default() += tokens_of(row);
    }
    tenants
}

/// llama-server counts prompt tokens that it computed and those that it took from its cache apart.
fn counters(engine: &Engine) -> Tokens {
    let counters = engine.counters();
    let number = |name: &str| counters[&format!("llamacpp:{name}")] as u64;
    let cached = number("prompt_tokens_cached_total");
    Tokens { prompt: number("prompt_tokens_total") + cached, cached, completion: number("tokens_predicted_total") }
}

/// The four books.
struct Books {
    clients: Tokens,
    ledger: Tokens,
    metrics: Tokens,
    engine: Tokens,
    rows: Vec<Value>,
}

/// Closes the books once everything is over: rows and metrics agree by tenant, and each row with what its client saw.
fn close(gateway: &Gateway, engine: &Engine, answers: &[(Asked, Told)]) -> Books {
    wait_idle(engine);
    let rows = eventually("all requests are settled", || {
        let rows = gateway.usage_rows();
        rows.iter().all(is_settled).then_some(rows)
    });
    let mut clients = Tokens::default();
    for (asked, told) in answers.iter().filter(|(_, told)| told.status == 200) {
        let row = rows.iter().find(|row| row["request_id"] == told.id);
        let row = row.unwrap_or_else(|| panic!("no row for {told:?} of {asked:?}"));
        let has_ended = matches!(asked.stay, Stay::Reads(Until::End));
        assert!(!has_ended || told.tokens.is_some(), "{told:?} for {asked:?}");
        if let Some(tokens) = told.tokens {
            assert_eq!((&row["ending"], tokens_of(row)), (&json!("complete"), tokens), "{asked:?}: {row}");
            clients += tokens;
        }
    }
    assert_eq!(metrics(gateway), by_tenant(&rows));
    let books = Books {
        clients,
        ledger: sum(rows.iter().map(tokens_of)),
        metrics: sum(metrics(gateway).into_values()),
        engine: counters(engine),
        rows,
    };
    for (book, Tokens { prompt, cached, completion }) in [
        ("clients that saw the end", books.clients),
        ("ledger", books.ledger),
        ("metrics", books.metrics),
        ("llama-server", books.engine),
    ] {
        println!("{book:>25}: {prompt:>8} prompt ({cached:>7} of them cached) {completion:>8} completion");
    }
    books
}

fn endings(rows: &[Value]) -> BTreeMap<&str, usize> {
    let mut endings = BTreeMap::new();
    for row in rows {
        *endings.entry(row["ending"].as_str().unwrap()).or_default() += 1;
    }
    endings
}

/// The engine that has everything: it talks, calls tools and embeds.
fn start() -> (Engine, Gateway, Vec<String>) {
    let engine = Engine::start(Options::tiny().tools().args(&["--embeddings", "--pooling", "mean"]));
    let gateway = Gateway::start(&engine.url());
    let keys = vec![
        gateway.key.clone(),
        gateway.create_key("acme"),
        gateway.create_key("globex"),
        gateway.create_key("initech"),
    ];
    (engine, gateway, keys)
}

#[test]
fn five_hundred_mixed_requests_are_the_same_in_four_books() {
    let (engine, gateway, keys) = start();
    let mut dice = Dice::new(SEED);
    // First those that end by themselves: there is no tolerance.
    let whole = (0..250).map(|_| mixed(&mut dice, false)).collect::<Vec<_>>();
    let mut answers = ask_all(&gateway, &keys, &whole);
    let books = close(&gateway, &engine, &answers);
    println!("{:?}", endings(&books.rows));
    assert_eq!((books.clients, books.metrics, books.engine), (books.ledger, books.ledger, books.ledger));

    let some_left = (0..250).map(|_| mixed(&mut dice, true)).collect::<Vec<_>>();
    answers.extend(ask_all(&gateway, &keys, &some_left));
    let books = close(&gateway, &engine, &answers);
    println!("{:?}", endings(&books.rows));
    is_within_tolerance(&books, unseen_prompts(&engine, &some_left));
    assert_eq!(gateway.metric("llama_gateway_stream_unreadable_events_total"), 0.0);
}

/// Tokens of the prompts of those who left or failed, as far as llama-server can have worked on them.
fn unseen_prompts(engine: &Engine, all: &[Asked]) -> u64 {
    let cut = all.iter().filter(|asked| !matches!(asked.stay, Stay::Reads(Until::End)) || asked.status == 400);
    cut.map(|asked| prompt_tokens(engine, asked)).sum()
}

fn prompt_tokens(engine: &Engine, Asked { path, body, .. }: &Asked) -> u64 {
    let texts = match *path {
        "/v1/completions" => &body["prompt"],
        "/v1/embeddings" => &body["input"],
        "/v1/messages" => return counted(engine, "/v1/messages/count_tokens", body),
        _ => return counted(engine, &format!("{path}/input_tokens"), body),
    };
    let texts = texts.as_array().cloned().unwrap_or_else(|| vec![texts.clone()]);
    let tokens = texts.iter().map(|text| {
        let tokens = engine.ask("/tokenize", &json!({"content": text, "add_special": true}));
        tokens["tokens"].as_array().unwrap().len() as u64
    });
    tokens.filter(|tokens| *tokens < u64::from(engine.options().context)).sum()
}

/// What an endpoint that counts says; what it refuses, llama-server never began.
fn counted(engine: &Engine, path: &str, body: &Value) -> u64 {
    let reply = post(engine.address(), path, None, body);
    if reply.status == 200 { reply.json()["input_tokens"].as_u64().unwrap() } else { 0 }
}

/// Compares ledger and llama-server where some requests did not end by themselves.
fn is_within_tolerance(books: &Books, unseen: u64) {
    let Books { ledger, engine, rows, .. } = books;
    let cut = rows.iter().filter(|row| row["ending"] != "complete").count() as u64;
    let ahead = |of: fn(&Tokens) -> u64| of(engine) as i64 - of(ledger) as i64;
    let (prompt, cached) = (ahead(|tokens| tokens.prompt), ahead(|tokens| tokens.cached));
    let completion = ahead(|tokens| tokens.completion);
    println!(
        "{cut} were cut: llama-server is ahead by {completion} completion tokens, {:.1} for each, and by {prompt} prompt \
         tokens ({cached} of them cached) of the {unseen} in their prompts",
        completion as f64 / cut as f64
    );
    assert!(cut > 20, "too few were cut to tell");
    assert!((-((BEHIND * cut) as i64)..=(AHEAD * cut) as i64).contains(&completion));
    assert!((0..=unseen as i64).contains(&prompt) && (0..=prompt).contains(&cached));
}

#[test]
fn documents_that_are_ranked_are_the_same_in_four_books() {
    let engine = Engine::start(Options::tiny().args(&["--rerank"]));
    let gateway = Gateway::start(&engine.url());
    let mut dice = Dice::new(SEED);
    let ranked = |dice: &mut Dice| {
        let documents = (0..1 + dice.below(6)).map(|count| words(dice, 1 + 9 * count)).collect::<Vec<_>>();
        let body = json!({"query": words(dice, 5), "documents": documents});
        Asked { path: "/v1/rerank", body, choices: 1, key: 0, stay: Stay::Reads(Until::End), status: 200 }
    };
    let all = (0..20).map(|_| ranked(&mut dice)).collect::<Vec<_>>();
    let answers = ask_all(&gateway, std::slice::from_ref(&gateway.key), &all);
    let books = close(&gateway, &engine, &answers);
    assert_eq!((books.clients, books.metrics, books.engine), (books.ledger, books.ledger, books.ledger));
    assert!(books.ledger.prompt > 0);
}
