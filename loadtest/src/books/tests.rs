use std::sync::{Arc, Mutex};

use serde_json::json;

use super::clients::tests::complete;
use super::*;
use crate::record::{Ending, Record, Usage};
use crate::stub::{Asked, Stub};
use crate::target::tests::server;

const DAY: i64 = 86_400;

/// A gateway and a llama-server in one, with books that a test writes.
#[derive(Clone, Default)]
struct World(Arc<Mutex<State>>);

struct State {
    /// The gateway's wall clock.
    now: i64,
    /// Requests, prompt, cached and completion tokens, by key and day.
    usage: BTreeMap<(String, i64), [i64; 4]>,
    computed: u64,
    cached: u64,
    generated: u64,
    /// Answers of `/metrics` that still tell of a request under way.
    busy: u32,
    has_ledger: bool,
    has_metrics: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            now: 10 * DAY + 100,
            usage: BTreeMap::new(),
            computed: 1000,
            cached: 500,
            generated: 300,
            busy: 0,
            has_ledger: true,
            has_metrics: true,
        }
    }
}

impl World {
    /// A request, as both servers count it.
    fn serves(&self, key: &str, prompt: u64, cached: u64, completion: u64) {
        let mut state = self.0.lock().unwrap();
        let day = state.now - state.now % DAY;
        let row = state.usage.entry((key.to_owned(), day)).or_default();
        for (sum, new) in row.iter_mut().zip([1, prompt, cached, completion]) {
            *sum += i64::try_from(new).unwrap();
        }
        state.computed += prompt - cached;
        state.cached += cached;
        state.generated += completion;
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap());
    }

    fn answer(&self, asked: &Asked) -> (u16, String) {
        let mut state = self.0.lock().unwrap();
        match asked.path() {
            "/metrics" if state.has_metrics => (200, state.metrics()),
            path if path.starts_with("/v1/usage") && state.has_ledger => {
                let from = path.strip_prefix("/v1/usage?start_time=").map(|day| day.parse().unwrap());
                (200, state.own_usage(asked.key().unwrap_or_default(), from))
            }
            _ => (404, String::new()),
        }
    }
}

impl State {
    fn metrics(&mut self) -> String {
        let processing = u8::from(self.busy > 0);
        self.busy = self.busy.saturating_sub(1);
        format!(
            "llamacpp:prompt_tokens_total {}\nllamacpp:prompt_tokens_cached_total {}\n\
             llamacpp:tokens_predicted_total {}\nllamacpp:requests_processing {processing}\n\
             llamacpp:requests_deferred 0\n",
            self.computed, self.cached, self.generated
        )
    }

    fn own_usage(&self, key: &str, from: Option<i64>) -> String {
        let today = self.now - self.now % DAY;
        let period = |day: i64| {
            let [requests, prompt, cached, completion] =
                self.usage.get(&(key.to_owned(), day)).copied().unwrap_or_default();
            json!({"start_time": day, "end_time": day + DAY, "requests": requests, "prompt_tokens": prompt,
                   "cached_tokens": cached, "completion_tokens": completion, "models": []})
        };
        let days = self.usage.keys().filter(|(of, day)| of == key && from.is_some_and(|from| *day >= from));
        let buckets: Vec<_> = days.map(|&(_, day)| period(day)).collect();
        json!({"object": "usage", "today": period(today), "buckets": buckets}).to_string()
    }
}

struct Fixture {
    world: World,
    stub: Stub,
    book: ClientBook,
}

impl Fixture {
    async fn new() -> Self {
        let world = World::default();
        // An earlier day, and earlier today.
        world.change(|state| state.now = 9 * DAY);
        world.serves("key-a", 999, 0, 999);
        world.change(|state| state.now = 10 * DAY + 100);
        world.serves("key-a", 77, 7, 7);
        let answers = world.clone();
        let stub = Stub::answering(move |asked| answers.answer(asked)).await;
        Self { world, stub, book: ClientBook::new(2) }
    }

    async fn open(&self, keys: [&str; 2]) -> Books {
        let server = server(&self.stub);
        let asker = |(tenant, key): (&str, &str)| Asker {
            tenant: tenant.to_owned(),
            key: Some(key.to_owned()),
            model: String::new(),
        };
        let askers: Vec<_> = ["a", "b"].into_iter().zip(keys).map(asker).collect();
        Books::open(&server, &askers, std::slice::from_ref(&server)).await
    }

    /// A request of a tenant whose client was told the truth.
    fn complete(&mut self, tenant: usize, key: &str) {
        self.world.serves(key, 112, 40, 20);
        self.book.add(&Record { tenant, ..complete() });
    }
}

/// The lines that do not agree, as `of kind`.
fn disagreeing(audit: &Audit) -> Vec<String> {
    let lines = audit.lines.iter().filter(|line| !line.agrees);
    lines.map(|line| format!("{} {}", line.of, line.kind)).collect()
}

#[tokio::test(start_paused = true)]
async fn three_books_that_agree() {
    let mut fixture = Fixture::new().await;
    let books = fixture.open(["key-a", "key-b"]).await;
    for (tenant, key) in [(0, "key-a"), (0, "key-a"), (1, "key-b")] {
        fixture.complete(tenant, key);
    }
    let audit = books.close(&fixture.book).await;
    assert!(audit.agrees && audit.notes.is_empty(), "{audit:?}");
    assert_eq!(audit.lines.len(), 12);
    let all = audit.lines.iter().find(|line| line.of == "all" && line.kind == "prompt").unwrap();
    assert_eq!((all.clients, all.ledger, all.engine, all.allowed), (336, Some(336), Some(336), 0));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_tells_its_clients_too_little_is_found_out() {
    let mut fixture = Fixture::new().await;
    let books = fixture.open(["key-a", "key-b"]).await;
    fixture.complete(1, "key-b");
    fixture.world.serves("key-a", 112, 40, 20);
    let lie = Usage { prompt: 112, cached: 40, completion: 19 };
    fixture.book.add(&Record { usage: Some(lie), ..complete() });
    let audit = books.close(&fixture.book).await;
    assert_eq!(
        (audit.agrees, disagreeing(&audit)),
        (false, vec!["a completion".to_owned(), "all completion".to_owned()])
    );
}

#[tokio::test(start_paused = true)]
async fn somebody_else_on_llama_server_shows_in_its_book_alone() {
    let mut fixture = Fixture::new().await;
    let books = fixture.open(["key-a", "key-b"]).await;
    fixture.complete(0, "key-a");
    fixture.world.change(|state| state.computed += 5);
    assert_eq!(disagreeing(&books.close(&fixture.book).await), ["all prompt"]);
}

#[tokio::test(start_paused = true)]
async fn a_run_over_midnight_is_compared_like_any_other() {
    let mut fixture = Fixture::new().await;
    let books = fixture.open(["key-a", "key-b"]).await;
    fixture.complete(0, "key-a");
    fixture.world.change(|state| state.now = 11 * DAY + 5);
    fixture.complete(0, "key-a");
    let audit = books.close(&fixture.book).await;
    assert!(audit.agrees, "{audit:?}");
    assert_eq!((audit.lines[0].kind.as_str(), audit.lines[0].ledger), ("requests", Some(2)));
}

#[tokio::test(start_paused = true)]
async fn tenants_who_share_a_key_are_compared_as_one() {
    let mut fixture = Fixture::new().await;
    let books = fixture.open(["key-a", "key-a"]).await;
    fixture.complete(0, "key-a");
    fixture.complete(1, "key-a");
    let audit = books.close(&fixture.book).await;
    assert!(audit.agrees, "{audit:?}");
    assert_eq!((audit.lines[0].of.as_str(), audit.lines[0].clients), ("a + b", 2));
}

#[tokio::test(start_paused = true)]
async fn a_llama_server_that_was_started_anew_is_not_compared_and_the_ledger_still_is() {
    let mut fixture = Fixture::new().await;
    let books = fixture.open(["key-a", "key-b"]).await;
    fixture.complete(0, "key-a");
    fixture.world.change(|state| (state.computed, state.cached, state.generated) = (0, 0, 0));
    let audit = books.close(&fixture.book).await;
    assert!(audit.agrees && audit.lines.iter().all(|line| line.engine.is_none()));
    let wanted = format!("{} was started anew during the run: its counters fell", fixture.stub.url);
    assert_eq!(audit.notes, [format!("not compared: llama-server: {wanted}")]);
}

#[tokio::test(start_paused = true)]
async fn books_that_cannot_be_read_never_agree() {
    let mut fixture = Fixture::new().await;
    fixture.world.change(|state| (state.has_ledger, state.has_metrics) = (false, false));
    let books = fixture.open(["key-a", "key-b"]).await;
    fixture.complete(0, "key-a");
    let audit = books.close(&fixture.book).await;
    assert!(!audit.agrees && audit.lines.is_empty());
    assert_eq!(audit.notes[0], "not compared: the ledger of a, the ledger of b: /v1/usage answers 404 Not Found");
    assert!(audit.notes[1].ends_with("/metrics answers 404 Not Found (hint: start llama-server with --metrics)"));
}

#[tokio::test(start_paused = true)]
async fn what_is_still_under_way_is_waited_for() {
    let mut fixture = Fixture::new().await;
    let books = fixture.open(["key-a", "key-b"]).await;
    fixture.complete(0, "key-a");
    fixture.world.change(|state| state.busy = 5);
    assert!(books.close(&fixture.book).await.agrees);
}

#[tokio::test(start_paused = true)]
async fn a_llama_server_that_is_never_idle_is_not_compared() {
    let mut fixture = Fixture::new().await;
    let books = fixture.open(["key-a", "key-b"]).await;
    fixture.complete(0, "key-a");
    fixture.world.change(|state| state.busy = u32::MAX);
    let audit = books.close(&fixture.book).await;
    assert!(audit.lines.iter().all(|line| line.engine.is_none() && line.agrees));
    assert_eq!(audit.notes, ["not compared: llama-server: it still moved after 30 s: others use it"]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_left_is_allowed_what_it_could_not_know_and_the_audit_says_so() {
    let mut fixture = Fixture::new().await;
    let books = fixture.open(["key-a", "key-b"]).await;
    fixture.complete(0, "key-a");
    // The ledger has its prompt, and three tokens more than the client saw.
    fixture.world.serves("key-a", 112, 40, 10);
    fixture.book.add(&Record { tokens_seen: 7, usage: None, ending: Ending::Left, ..complete() });
    let audit = books.close(&fixture.book).await;
    assert!(audit.agrees, "{audit:?}");
    assert!(audit.notes[0].starts_with("1 requests were cut before their end"));
}
