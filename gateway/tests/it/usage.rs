//! Usage, three ways: the operator's API, the command line and the view of a key's holder say the same, and what the
//! metrics say.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::client::{Conn, Reply, get_as, post};
use crate::harness::engine::{Engine, Options, variable};
use crate::harness::gateway::{ADMIN_KEY, Gateway, is_settled};
use crate::harness::stub::{PROMPT_TOKENS, Step, Stub};
use crate::harness::{chat, chat_stream, eventually_true, with};

const PRICES: &str = "
[models]
aliases = [\"small-talk\"]
[billing]
currency = \"EUR\"
[prices.base]
prompt = 0.3
cached = 0.1
output = 2.5
slot_second = \"0.0000972\"
[prices.small-talk]
model = \"small-talk\"
output = 1
";
const DAY: i64 = 86_400;
const COLUMNS: [&str; 9] = [
    "requests",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "queue_wait_seconds",
    "prefill_slot_seconds",
    "decode_slot_seconds",
    "cost",
];

/// The columns by tenant, key and model.
type Sums = BTreeMap<[String; 3], [f64; 9]>;

fn add(sums: &mut Sums, names: [&str; 3], numbers: [f64; 9]) {
    let sum = sums.entry(names.map(str::to_owned)).or_default();
    for (sum, number) in sum.iter_mut().zip(numbers) {
        *sum += number;
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("not a number: {value}"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}"))
}

#[track_caller]
fn assert_same(one: &Sums, other: &Sums, what: &str) {
    let rounded = |sums: &Sums| -> BTreeMap<_, _> {
        let round = |numbers: &[f64; 9]| numbers.map(|number| format!("{number:.9}"));
        sums.iter().map(|(names, numbers)| (names.clone(), round(numbers))).collect()
    };
    assert_eq!(rounded(one), rounded(other), "{what}");
}

fn usage(gateway: &Gateway, args: &[&str]) -> String {
    let config = gateway.data().join("config.toml");
    let start = ["usage", "--config", config.to_str().unwrap(), "--by", "tenant,key,model"];
    gateway.command(&[&start, args].concat())
}

fn by_json(gateway: &Gateway, width: &str) -> Sums {
    let rows: Vec<Value> = serde_json::from_str(&usage(gateway, &["--json", "--width", width])).unwrap();
    let mut sums = Sums::new();
    for row in &rows {
        let numbers = COLUMNS.map(|column| number(&row[column]));
        add(&mut sums, [text(&row["tenant"]), text(&row["key_id"]), text(&row["model"])], numbers);
    }
    sums
}

fn by_csv(gateway: &Gateway) -> Sums {
    let csv = usage(gateway, &["--csv", "--width", "hour"]);
    let mut lines = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let header = lines.next().unwrap();
    let mut sums = Sums::new();
    for line in lines {
        let cell = |column: &str| line[header.iter().position(|name| *name == column).unwrap()];
        let numbers = COLUMNS.map(|column| cell(column).parse().unwrap());
        add(&mut sums, [cell("tenant"), cell("key_id"), cell("model")], numbers);
    }
    sums
}

/// Two days back, at midnight.
fn start(gateway: &Gateway) -> i64 {
    let now = gateway.get("/v1/usage").json()["today"]["start_time"].as_i64().unwrap();
    now - 2 * DAY
}

fn admin(gateway: &Gateway, path: &str) -> Reply {
    gateway.ask_admin("GET", &format!("/v1/organization/{path}"), &json!(null))
}

fn by_admin(gateway: &Gateway, width: &str) -> Sums {
    let mut sums = Sums::new();
    for kind in ["completions", "embeddings"] {
        let query = format!(
            "usage/{kind}?start_time={}&bucket_width={width}&group_by[]=project_id&group_by[]=api_key_id&group_by=model",
            start(gateway)
        );
        let mut page = String::new();
        loop {
            let reply = admin(gateway, &format!("{query}{page}"));
            assert_eq!(reply.status, 200, "{}", reply.text());
            let answer = reply.json();
            let results =
                answer["data"].as_array().unwrap().iter().flat_map(|bucket| bucket["results"].as_array().unwrap());
            for result in results {
                assert_eq!(result["object"], format!("organization.usage.{kind}.result"));
                let numbers = COLUMNS.map(|column| match column {
                    "requests" => number(&result["num_model_requests"]),
                    "prompt_tokens" => number(&result["input_tokens"]),
                    "cached_tokens" => result["input_cached_tokens"].as_f64().unwrap_or_default(),
                    "completion_tokens" => result["output_tokens"].as_f64().unwrap_or_default(),
                    column => number(&result[column]),
                });
                add(
                    &mut sums,
                    [text(&result["project_id"]), text(&result["api_key_id"]), text(&result["model"])],
                    numbers,
                );
            }
            match answer["next_page"].as_str() {
                Some(next) => page = format!("&page={next}"),
                None => break,
            }
        }
    }
    sums
}

/// What the holders of the keys see, all of them together.
fn by_own(gateway: &Gateway, keys: &[&str]) -> Sums {
    let mut sums = Sums::new();
    for key in keys {
        let own = get_as(gateway.address, "/v1/usage", Some(key)).unwrap().json();
        let month = &own["this_month"];
        let mut of_models = [0.0; 9];
        for model in month["models"].as_array().unwrap() {
            let numbers = COLUMNS.map(|column| number(&model[column]));
            add(&mut sums, [text(&own["tenant"]), text(&own["api_key_id"]), text(&model["model"])], numbers);
            of_models.iter_mut().zip(numbers).for_each(|(sum, number)| *sum += number);
        }
        for (column, sum) in COLUMNS.iter().zip(of_models) {
            assert!((number(&month[column]) - sum).abs() < 1e-9, "{column}: {own}");
        }
        assert_eq!(month["currency"], "EUR");
    }
    sums
}

/// The tokens and slot seconds that the metrics have.
fn assert_metrics_say(gateway: &Gateway, sums: &Sums) {
    let metrics = gateway.metrics();
    let mut by_model: BTreeMap<(&str, &str), [f64; 9]> = BTreeMap::new();
    for ([tenant, _, model], numbers) in sums {
        let sum = by_model.entry((tenant, model)).or_default();
        sum.iter_mut().zip(numbers).for_each(|(sum, number)| *sum += number);
    }
    for ((tenant, model), sum) in by_model {
        let metric = |name: &str, label: &str| {
            let has = |key: &str| {
                key.starts_with(name)
                    && key.contains(&format!("tenant=\"{tenant}\""))
                    && key.contains(&format!("model=\"{model}\""))
                    && key.contains(label)
            };
            metrics.iter().filter(|(key, _)| has(key)).map(|(_, value)| value).sum::<f64>()
        };
        for (kind, column) in [("prompt", 1), ("cached", 2), ("completion", 3), ("reasoning", 4)] {
            let counted = metric("llama_gateway_tokens_total", &format!("kind=\"{kind}\""));
            assert_eq!(counted, sum[column], "{tenant} {model} {kind}");
        }
        for (phase, column) in [("prefill", 6), ("decode", 7)] {
            let counted = metric("llama_gateway_slot_seconds_total", &format!("phase=\"{phase}\""));
            // The ledger has whole milliseconds.
            let rounding = 0.001 * sum[0];
            assert!(counted >= sum[column] - 1e-6 && counted <= sum[column] + rounding, "{phase} {counted} {sum:?}");
        }
    }
}

/// Real requests of two tenants and three keys, on all surfaces that the server has, one of them cut.
fn drive(gateway: &Gateway, keys: &[&str]) {
    let ask = |key: &str, path: &str, body: Value| {
        let reply = post(gateway.address, path, Some(key), &body);
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    };
    for (number, key) in keys.iter().enumerate() {
        ask(key, "/v1/chat/completions", with(chat(5), json!({"model": "small-talk"})));
        ask(key, "/v1/chat/completions", chat_stream(4 + u32::try_from(number).unwrap()));
        ask(key, "/v1/embeddings", json!({"input": "two rivers", "model": "test-model"}));
    }
    ask(keys[0], "/v1/completions", json!({"prompt": "Once", "max_tokens": 7}));
    ask(keys[1], "/v1/responses", json!({"input": "Once", "max_output_tokens": 3}));
    let messages = json!([{"role": "user", "content": "Once upon"}]);
    ask(keys[2], "/v1/messages", json!({"model": "small-talk", "messages": messages, "max_tokens": 9}));
    drop(gateway.stream_chat(&with(chat_stream(3000), json!({"model": "small-talk"}))));
    eventually_true("all are settled", || {
        let rows = gateway.usage_rows();
        rows.len() == 13 && rows.iter().all(is_settled)
    });
}

/// One entry had 3 prompt tokens more and 2 generated ones less.
fn correct(gateway: &Gateway) -> [String; 3] {
    let ledger = rusqlite::Connection::open(gateway.data().join("ledger.sqlite")).unwrap();
    ledger.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
    ledger
        .execute_batch(
            "BEGIN IMMEDIATE;
             INSERT INTO corrections SELECT request_id, 1, arrived_ms, 'test', tenant, key_id, model, surface, arrived_ms,
                 3, 0, -2, 0, 0, 0 FROM entries WHERE surface = 'completions';
             UPDATE daily SET prompt_tokens = prompt_tokens + 3, completion_tokens = completion_tokens - 2
                 WHERE surface = 'completions';
             COMMIT",
        )
        .unwrap();
    let of = "SELECT tenant, key_id, model FROM corrections";
    ledger.query_row(of, [], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?])).unwrap()
}

#[test]
fn the_three_ways_and_the_metrics_agree() {
    let engine = Engine::start(Options::tiny().slots(2).args(&["--embeddings", "--pooling", "mean"]));
    let gateway = Gateway::with_config(&engine.url(), PRICES);
    let (second, other) = (gateway.create_key("acme"), gateway.create_key("beta"));
    let keys = [gateway.key.as_str(), &second, &other];
    drive(&gateway, &keys);
    let mut expected = by_json(&gateway, "day");
    assert_eq!(expected.len(), 6, "three keys with two models each: {expected:?}");
    assert!(expected.values().all(|sum| sum[8] > 0.0), "everything costs something: {expected:?}");
    eventually_true("the metrics have the last one", || gateway.metric("llama_gateway_requests_total") == 13.0);
    assert_metrics_say(&gateway, &expected);
    let agree = |expected: &Sums| {
        assert_same(expected, &by_json(&gateway, "day"), "by day");
        assert_same(expected, &by_json(&gateway, "total"), "the whole range");
        assert_same(expected, &by_json(&gateway, "minute"), "by minute");
        assert_same(expected, &by_csv(&gateway), "CSV");
        assert_same(expected, &by_admin(&gateway, "1d"), "the operator's API by day");
        assert_same(expected, &by_admin(&gateway, "1h"), "the operator's API by hour");
        assert_same(expected, &by_own(&gateway, &keys), "the holders of the keys");
    };
    agree(&expected);
    let corrected = expected.get_mut(&correct(&gateway)).unwrap();
    corrected[1] += 3.0;
    corrected[3] -= 2.0;
    corrected[8] += (3.0 * 0.3 - 2.0 * 2.5) / 1e6;
    agree(&expected);
    let row = gateway.usage_rows().into_iter().find(|row| row["surface"] == "completions").unwrap();
    assert_eq!((&row["completion_tokens"], &row["revision"]), (&json!(5), &json!(1)));
    the_official_client_agrees(&gateway, &expected);
}

fn the_official_client_agrees(gateway: &Gateway, expected: &Sums) {
    let output = Command::new(variable("CLIENT_PYTHON"))
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/openai_usage.py"))
        .env("BASE_URL", format!("http://{}", gateway.admin))
        .env("ADMIN_KEY", ADMIN_KEY)
        .env("START", start(gateway).to_string())
        .output()
        .expect("the client cannot be started; hint: scripts/test installs it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut sums = Sums::new();
    for row in answer["usage"].as_array().unwrap() {
        let mut numbers = [0.0; 9];
        for column in [0, 1, 3] {
            numbers[column] = number(&row[COLUMNS[column]]);
        }
        add(&mut sums, [text(&row["tenant"]), text(&row["key_id"]), text(&row["model"])], numbers);
    }
    let counted =
        expected.iter().map(|(names, sum)| (names.clone(), [sum[0], sum[1], 0.0, sum[3], 0.0, 0.0, 0.0, 0.0, 0.0]));
    assert_same(&counted.collect(), &sums, "the official client");
    let cost: f64 = expected.values().map(|sum| sum[8]).sum();
    assert!((number(&answer["cost"]) - cost).abs() < 1e-12, "{} {cost}", answer["cost"]);
}

#[test]
fn the_holder_of_a_key_sees_its_limits_and_what_is_left() {
    let stub = Stub::start(4);
    let gateway = Gateway::with_config(
        &stub.url(),
        "[policies.gold]\nclass = \"interactive\"\ntokens_per_day = 100000\nconcurrent_requests = 5\n\
         [policies.reader]\nrequests_per_minute = 60\ntokens_per_minute = 5000\ntokens_per_month = 9000\n\
         [tenants.acme]\npolicy = \"gold\"\nkey_policy = \"reader\"\n",
    );
    let other = gateway.create_key("acme");
    stub.plan_next(vec![Step::Head, Step::Tokens(1), Step::Gate, Step::Tokens(2), Step::Finish, Step::End]);
    let running = gateway.stream_chat(&chat_stream(3));
    let own = gateway.get("/v1/usage").json();
    assert_eq!((&own["tenant"], &own["class"]), (&json!("acme"), &json!("interactive")));
    assert_eq!(own["policies"], json!({"tenant": "gold", "key": "reader"}));
    assert!(own["today"].get("cost").is_none() && own.get("buckets").is_none(), "{own}");
    let limit = |own: &Value, of: &str, name: &str| -> Value {
        let limits = own["limits"].as_array().unwrap();
        let found = limits.iter().find(|limit| limit["of"] == of && limit["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} of the {of}: {own}")).clone()
    };
    assert_eq!(own["limits"].as_array().unwrap().len(), 5, "{own}");
    let concurrent = limit(&own, "tenant", "concurrent_requests");
    assert_eq!((&concurrent["used"], &concurrent["remaining"]), (&json!(1), &json!(4)), "{concurrent}");
    assert!(concurrent["resets_at"].is_null(), "{concurrent}");
    stub.release(0);
    running.events();
    gateway.only_settled_row();

    let own = gateway.get("/v1/usage").json();
    let used = PROMPT_TOKENS + 3;
    assert_eq!((&own["today"]["requests"], &own["today"]["prompt_tokens"]), (&json!(1), &json!(PROMPT_TOKENS)));
    assert_eq!(own["this_month"]["models"][0]["completion_tokens"], 3, "{own}");
    for (of, name, most) in [("tenant", "tokens_per_day", 100_000), ("key", "tokens_per_month", 9000)] {
        let quota = limit(&own, of, name);
        assert_eq!((&quota["used"], &quota["remaining"]), (&json!(used), &json!(most - used)), "{quota}");
        assert!(text(&quota["resets_at"]).ends_with("T00:00:00.000Z"), "{quota}");
    }
    let minute = limit(&own, "key", "tokens_per_minute");
    assert!(minute["used"].as_u64().unwrap() <= used && number(&minute["resets_in_seconds"]) < 60.0, "{minute}");
    assert_eq!(limit(&own, "key", "requests_per_minute")["limit"], 60);
    // Another key of the tenant sees the tenant's quota, and nothing of what this key did.
    let others = get_as(gateway.address, "/v1/usage", Some(&other)).unwrap().json();
    assert_eq!((&others["this_month"]["requests"], &others["today"]["models"]), (&json!(0), &json!([])));
    assert_eq!(limit(&others, "tenant", "tokens_per_day")["used"], used);
    assert_eq!(limit(&others, "key", "tokens_per_month")["used"], 0);
    // Looking costs nothing.
    assert_eq!(limit(&gateway.get("/v1/usage").json(), "key", "tokens_per_month")["used"], used);
}

#[test]
fn the_holder_of_a_key_may_ask_for_days_and_hours_in_both_dialects() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let reply = gateway.post("/v1/chat/completions", &chat(3));
    gateway.settled_row(&reply.head.request_id());
    let today = gateway.get("/v1/usage").json()["today"]["start_time"].as_i64().unwrap();
    for query in [format!("start_time={}", today - 5 * DAY), format!("start_time={today}&bucket_width=1h")] {
        let own = gateway.get(&format!("/v1/usage?{query}")).json();
        let buckets = own["buckets"].as_array().unwrap();
        assert_eq!((buckets.len(), &buckets[0]["requests"]), (1, &json!(1)), "{own}");
        assert!(buckets[0]["start_time"].as_i64().unwrap() >= today, "{own}");
    }
    let wrong = gateway.get("/v1/usage?start_time=5");
    assert_eq!((wrong.status, &wrong.openai_error()["param"]), (400, &json!("start_time")));
    let request = format!(
        "GET /v1/usage?who=me HTTP/1.1\r\nHost: test\r\nx-api-key: {}\r\nanthropic-version: 2023-06-01\r\n\r\n",
        gateway.key
    );
    let mut conn = Conn::open(gateway.address).unwrap();
    conn.send(request.as_bytes()).unwrap();
    let wrong = conn.answer().unwrap().reply().unwrap();
    assert_eq!((wrong.status, &wrong.json()["error"]["type"]), (400, &json!("invalid_request_error")));
    assert!(wrong.json()["request_id"].is_string(), "{}", wrong.text());
    let stranger = get_as(gateway.address, "/v1/usage", None).unwrap();
    assert_eq!((stranger.status, stranger.code().as_str()), (401, "invalid_api_key"));
}

#[test]
fn the_operators_api_refuses_what_it_does_not_serve() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    for (path, param) in [
        ("usage/completions", "start_time"),
        ("usage/completions?start_time=0&group_by=batch", "group_by"),
        ("usage/embeddings?start_time=0&page=page_0-1-2", "page"),
        ("usage/completions?start_time=0&projects=acme", "projects"),
        ("costs?start_time=0&bucket_width=1h", "bucket_width"),
        ("costs?start_time=0&limit=181", "limit"),
    ] {
        let reply = admin(&gateway, path);
        assert_eq!((reply.status, &reply.openai_error()["param"]), (400, &json!(param)), "{path}");
    }
    let costs = admin(&gateway, "costs?start_time=0");
    assert_eq!((costs.status, costs.code().as_str()), (501, "not_supported"));
    let own_key = get_as(gateway.admin, "/v1/organization/costs?start_time=0", Some(&gateway.key)).unwrap();
    assert_eq!(own_key.status, 401);
    assert_eq!(gateway.get("/v1/organization/costs?start_time=0").status, 404, "not on the public port");
    // Nobody but keys and tenants is known: of users there is no usage.
    let reply = gateway.post("/v1/chat/completions", &chat(3));
    gateway.settled_row(&reply.head.request_id());
    for (filter, results) in [("", 1), ("&project_ids[]=acme", 1), ("&project_ids[]=beta", 0), ("&user_ids[]=me", 0)] {
        let query = format!("usage/completions?start_time={}{filter}", start(&gateway));
        let answer = admin(&gateway, &query).json();
        let buckets = answer["data"].as_array().unwrap();
        assert_eq!((buckets.len(), answer["has_more"].as_bool()), (3, Some(false)), "{answer}");
        assert_eq!(buckets[2]["results"].as_array().unwrap().len(), results, "{filter}: {answer}");
    }
}

#[test]
fn the_command_line_refuses_what_it_cannot_read() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    for (args, told) in [
        (&["--from", "yesterday"][..], "`yesterday` is neither a date"),
        (&["--since", "soon"], "`soon` is not a time span"),
        (&["--since", "1d", "--from", "2026-01-01"], "cannot be used with"),
        (&["--by", "user"], "invalid value 'user'"),
        (&["--requests", "--by", "key"], "cannot be used with"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_llama-gateway"))
            .args(["usage", "--data-dir", gateway.data().to_str().unwrap()])
            .args(args)
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(told), "{args:?}: {error}");
    }
    assert_eq!(gateway.command(&["usage", "--requests", "--tenant", "nobody", "--json"]), "");
}
