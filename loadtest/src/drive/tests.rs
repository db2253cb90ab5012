use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use serde_json::Value;
use tokio::sync::Notify;

use super::*;
use crate::client::Options;
use crate::plan::{Leave, Turn};
use crate::record::{Ending, Refusal, Usage};
use crate::stub::{Asked, Conn, Stub, nobody};
use crate::workload::Length;

const EVENT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\" word\"}}]}\n\n";
const USAGE: &str =
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2,\"total_tokens\":7}}\n\n";
const DONE: &str = "data: [DONE]\n\n";
const WHOLE: &str = r#"{"choices":[{"message":{"content":"a b"}}],
    "usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}"#;

fn turn() -> Turn {
    Turn {
        prompt: "one two three four five".to_owned(),
        prompt_tokens: 5,
        output_tokens: 8,
        pause: Duration::ZERO,
        streamed: true,
        leave: None,
        slow_reader: None,
    }
}

/// Sessions of these turns.
fn sessions(turns: Vec<Turn>) -> SessionOf {
    Arc::new(move |number| Session { number, system: None, system_tokens: 0, turns: turns.clone() })
}

/// Sessions of one turn at these moments, in ms.
fn at(moments: impl IntoIterator<Item = u64>) -> Load {
    let moments: Vec<Duration> = moments.into_iter().map(Duration::from_millis).collect();
    Load { starts: Starts::At(Box::new(moments.into_iter())), session: sessions(vec![turn()]) }
}

fn once(turn: Turn) -> Load {
    Load { session: sessions(vec![turn]), ..at([0]) }
}

/// A run that is being set up.
struct Case {
    drive: Drive,
    records: mpsc::Receiver<Record>,
}

impl Case {
    fn new(url: &str, tenant: Tenant, load: Load) -> Self {
        let (sender, records) = mpsc::channel(1000);
        let drive = Drive {
            workload: Workload { tenants: [("a".to_owned(), tenant)].into(), ..Workload::default() },
            loads: vec![load],
            keys: vec![Some("sk-test".to_owned())],
            client: Client::new(url, &Options::default()).unwrap(),
            clock: Clock::begin(),
            records: sender,
            live: Arc::new(Live::default()),
            stop: CancellationToken::new(),
        };
        Self { drive, records }
    }

    /// Runs it to its end.
    async fn records(mut self) -> Vec<Record> {
        let live = self.drive.live.clone();
        drive(self.drive).await.unwrap();
        let mut records = Vec::new();
        while let Some(record) = self.records.recv().await {
            records.push(record);
        }
        assert_eq!(live.in_flight.load(Relaxed), 0);
        assert_eq!(live.scheduled.load(Relaxed), records.len() as u64);
        let ends = [&live.completed, &live.left, &live.failed].map(|counter| counter.load(Relaxed));
        assert_eq!(ends.iter().sum::<u64>(), records.len() as u64);
        records
    }
}

/// The one record of one request, which a server answers by `script`.
async fn one<F>(tenant: Tenant, turn: Turn, script: impl Fn(Conn, Asked) -> F + Copy + Send + Sync + 'static) -> Record
where
    F: Future<Output = ()> + Send + 'static,
{
    let stub = Stub::start(move |mut conn| async move {
        if let Some(asked) = conn.request().await {
            script(conn, asked).await;
        }
    })
    .await;
    let mut records = Case::new(&stub.url, tenant, once(turn)).records().await;
    assert_eq!(records.len(), 1);
    records.remove(0)
}

/// A server that answers each request with `WHOLE`, and lets `asked` see it before.
async fn serve(asked: impl Fn(&Asked) + Clone + Send + Sync + 'static) -> Stub {
    Stub::start(move |mut conn| {
        let asked = asked.clone();
        async move {
            while let Some(request) = conn.request().await {
                asked(&request);
                conn.whole(200, "", WHOLE).await;
            }
        }
    })
    .await
}

/// A server that reads requests, counts them and never answers.
async fn silent(seen: Arc<Notify>) -> Stub {
    Stub::start(move |mut conn| {
        let seen = seen.clone();
        async move {
            conn.request().await;
            seen.notify_one();
            conn.hung_up().await;
        }
    })
    .await
}

fn refusal(status: u16, code: &str) -> Refusal {
    Refusal { status, code: code.to_owned() }
}

#[tokio::test]
async fn a_complete_stream_is_recorded_with_all_its_moments() {
    let record = one(Tenant::default(), turn(), |mut conn, asked| async move {
        assert_eq!(asked.header("authorization"), Some("bearer sk-test"));
        assert_eq!(asked.header("x-stainless-read-timeout"), Some("600"));
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-queue-wait-ms: 42\r\nx-request-id: r1\r\n";
        conn.send(&format!("{head}transfer-encoding: chunked\r\n\r\n")).await;
        conn.chunk(": queued\n\ndata: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":null}}]}\n\n").await;
        conn.chunk("data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\"}}]}\n\n").await;
        conn.chunk(EVENT).await;
        for piece in [USAGE, DONE, ""] {
            conn.chunk(piece).await;
        }
        conn.hung_up().await;
    })
    .await;
    assert_eq!(record.ending, Ending::Complete);
    assert_eq!((record.chunks, record.gaps.len(), record.tries), (2, 1, 1));
    assert_eq!(record.usage, Some(Usage { prompt: 5, cached: 0, completion: 2 }));
    assert_eq!((record.tokens_seen, record.planned_prompt_tokens, record.planned_output_tokens), (2, 5, 8));
    assert_eq!(record.queue_wait, Some(Duration::from_millis(42)));
    assert_eq!(record.request_id.as_deref(), Some("r1"));
    assert_eq!(record.lie, None);
    let moments = [record.head, record.first_token, record.first_output_token].map(Option::unwrap);
    assert!(record.scheduled <= record.dispatched && record.dispatched <= record.sent && record.sent <= moments[0]);
    assert!(moments.is_sorted() && moments[1] + record.gaps[0] == record.last_token.unwrap());
    assert!(record.last_token.unwrap() <= record.ended);
}

#[tokio::test]
async fn each_surface_is_asked_at_its_path() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = heads.clone();
    let stub = serve(move |asked| {
        let path = asked.head.split(' ').nth(1).unwrap().to_owned();
        seen.lock().unwrap().push((path, asked.header("anthropic-version").is_some()));
    })
    .await;
    for (surface, path) in [
        (Surface::Chat, "/v1/chat/completions"),
        (Surface::Completions, "/v1/completions"),
        (Surface::Responses, "/v1/responses"),
        (Surface::Messages, "/v1/messages"),
        (Surface::Embeddings, "/v1/embeddings"),
        (Surface::Rerank, "/v1/rerank"),
    ] {
        Case::new(&stub.url, Tenant { surface, ..Tenant::default() }, once(turn())).records().await;
        assert_eq!(heads.lock().unwrap().pop().unwrap(), (path.to_owned(), surface == Surface::Messages));
    }
}

#[tokio::test]
async fn a_reply_in_one_piece_has_its_token_when_it_is_complete() {
    let record = one(Tenant::default(), Turn { streamed: false, ..turn() }, |mut conn, asked| async move {
        assert!(asked.body.contains("\"stream\":false"));
        conn.whole(200, "", WHOLE).await;
    })
    .await;
    assert_eq!((record.ending, record.chunks, record.gaps.len()), (Ending::Complete, 1, 0));
    assert!(record.first_token.is_some() && record.first_token == record.first_output_token);
    assert_eq!(record.tokens_seen, 2);
}

#[tokio::test]
async fn what_a_server_says_and_cannot_be_true_is_recorded() {
    let record = one(Tenant::default(), turn(), |mut conn, _| async move {
        conn.stream().await;
        for piece in [EVENT, EVENT, EVENT, USAGE, DONE, ""] {
            conn.chunk(piece).await;
        }
    })
    .await;
    assert_eq!(record.ending, Ending::Complete);
    assert_eq!(record.lie.as_deref(), Some("usage with 2 completion tokens for 3 events of text"));
}

#[tokio::test]
async fn an_error_status_is_a_refusal_with_its_code() {
    let record = one(Tenant::default(), turn(), |mut conn, _| async move {
        conn.whole(429, "", r#"{"error":{"code":"queue_full","type":"requests"}}"#).await;
    })
    .await;
    assert_eq!(record.ending, Ending::Refused(refusal(429, "queue_full")));
    assert!(record.head.is_some() && record.first_token.is_none());
}

#[tokio::test]
async fn an_error_in_a_stream_is_no_success() {
    let record = one(Tenant::default(), turn(), |mut conn, _| async move {
        conn.stream().await;
        conn.chunk(EVENT).await;
        conn.chunk("data: {\"error\":{\"code\":\"stream_idle_timeout\"}}\n\n").await;
        conn.hung_up().await;
    })
    .await;
    assert_eq!(record.ending, Ending::ErrorEvent(refusal(200, "stream_idle_timeout")));
    assert_eq!((record.chunks, record.tokens_seen, record.usage), (1, 1, None));
}

#[tokio::test]
async fn an_error_behind_a_good_status_is_no_success() {
    let record = one(Tenant::default(), Turn { streamed: false, ..turn() }, |mut conn, _| async move {
        conn.whole(200, "", "\n\n{\"error\":{\"code\":503,\"type\":\"unavailable_error\"}}").await;
    })
    .await;
    assert_eq!(record.ending, Ending::ErrorEvent(refusal(503, "unavailable_error")));
}

#[tokio::test]
async fn a_stream_without_its_end_is_cut() {
    let ends_well = one(Tenant::default(), turn(), |mut conn, _| async move {
        conn.stream().await;
        conn.chunk(EVENT).await;
        conn.chunk("").await;
    });
    assert_eq!(ends_well.await.ending, Ending::Cut);
    let breaks_off = one(Tenant::default(), turn(), |mut conn, _| async move {
        conn.stream().await;
        conn.chunk(EVENT).await;
    });
    let record = breaks_off.await;
    assert_eq!((record.ending, record.chunks), (Ending::Cut, 1));
    let no_reply = one(Tenant::default(), turn(), |conn, _| async move { drop(conn) });
    assert_eq!(no_reply.await.ending, Ending::Cut);
}

#[tokio::test]
async fn what_follows_the_announced_end_cannot_spoil_it() {
    let record = one(Tenant::default(), turn(), |mut conn, _| async move {
        conn.stream().await;
        conn.chunk(&format!("{EVENT}{USAGE}{DONE}")).await;
        // The connection breaks off before the body's own end.
    })
    .await;
    assert_eq!((record.ending, record.lie), (Ending::Complete, None));
}

#[tokio::test]
async fn what_cannot_be_understood_is_unreadable() {
    let whole = one(Tenant::default(), turn(), |mut conn, _| async move {
        conn.whole(200, "", "<html>").await;
    });
    assert_eq!(whole.await.ending, Ending::Unreadable);
    let event = one(Tenant::default(), turn(), |mut conn, _| async move {
        conn.stream().await;
        conn.chunk("data: {{\n\n").await;
        conn.hung_up().await;
    });
    assert_eq!(event.await.ending, Ending::Unreadable);
    let no_http = one(Tenant::default(), turn(), |mut conn, _| async move { conn.send("garbage\r\n\r\n").await });
    assert_eq!(no_http.await.ending, Ending::Unreadable);
}

#[tokio::test]
async fn who_cannot_be_reached_is_unreachable() {
    let (_port, url) = nobody();
    let records = Case::new(&url, Tenant::default(), once(turn())).records().await;
    assert_eq!((&records[0].ending, records[0].tries), (&Ending::Unreachable, 1));
}

#[tokio::test]
async fn a_client_that_hears_nothing_gives_up() {
    let stub = silent(Arc::default()).await;
    let tenant = Tenant { timeout: Duration::from_millis(30), ..Tenant::default() };
    let records = Case::new(&stub.url, tenant, once(turn())).records().await;
    assert_eq!(records[0].ending, Ending::TimedOut);
    assert!(records[0].ended - records[0].sent >= Duration::from_millis(30));
}

#[tokio::test]
async fn a_client_that_hears_nothing_more_gives_up_and_tries_no_more() {
    // Longer than a busy machine takes for the first event.
    let tenant = Tenant { timeout: Duration::from_millis(500), retries: 2, ..Tenant::default() };
    let record = one(tenant, turn(), |mut conn, asked| async move {
        assert_eq!(asked.header("x-stainless-read-timeout"), Some("0.5"));
        conn.stream().await;
        conn.chunk(EVENT).await;
        conn.hung_up().await;
    })
    .await;
    assert_eq!((record.ending, record.chunks, record.tries), (Ending::TimedOut, 1, 1));
}

#[tokio::test]
async fn a_client_leaves_after_so_many_events() {
    let leave = Some(Leave { after: None, after_chunks: Some(2) });
    let record = one(Tenant::default(), Turn { leave, ..turn() }, |mut conn, _| async move {
        conn.stream().await;
        conn.chunk(&EVENT.repeat(5)).await;
        conn.hung_up().await;
    })
    .await;
    assert_eq!((record.ending, record.chunks, record.tokens_seen), (Ending::Left, 2, 2));
}

#[tokio::test]
async fn a_client_leaves_after_a_time_whether_anything_has_come_or_not() {
    let after = Some(Duration::from_millis(20));
    let leave = Some(Leave { after, after_chunks: Some(1000) });
    let left = Arc::new(Notify::new());
    let told = left.clone();
    let stub = Stub::start(move |mut conn| {
        let told = told.clone();
        async move {
            conn.request().await;
            conn.hung_up().await;
            told.notify_one();
        }
    })
    .await;
    let records = Case::new(&stub.url, Tenant::default(), once(Turn { leave, ..turn() })).records().await;
    assert_eq!(records[0].ending, Ending::Left);
    assert!(Some(records[0].ended - records[0].sent) >= after);
    left.notified().await;
}

#[tokio::test]
async fn a_slow_reader_pauses_before_each_read() {
    let pause = Duration::from_millis(10);
    let record = one(Tenant::default(), Turn { slow_reader: Some(pause), ..turn() }, |mut conn, _| async move {
        conn.stream().await;
        for piece in [EVENT, EVENT, USAGE, DONE, ""] {
            conn.chunk(piece).await;
        }
        conn.hung_up().await;
    })
    .await;
    assert_eq!(record.ending, Ending::Complete);
    assert!(record.gaps[0] >= pause, "{:?}", record.gaps);
    assert!(record.ended - record.head.unwrap() >= 5 * pause);
}

#[tokio::test]
async fn refusals_are_tried_again_as_often_as_allowed() {
    let counts = Arc::new(Mutex::new(Vec::new()));
    let seen = counts.clone();
    let stub = Stub::start(move |mut conn| {
        let seen = seen.clone();
        async move {
            while let Some(asked) = conn.request().await {
                let count = asked.header("x-stainless-retry-count").unwrap().to_owned();
                seen.lock().unwrap().push(count.clone());
                match count.as_str() {
                    "0" => conn.whole(503, "retry-after-ms: 1\r\n", r#"{"error":{"code":"model_loading"}}"#).await,
                    "1" => conn.whole(429, "retry-after-ms: 1\r\n", "").await,
                    _ => conn.whole(200, "", WHOLE).await,
                }
            }
        }
    })
    .await;
    for (retries, ending) in [(2, Ending::Complete), (1, Ending::Refused(refusal(429, "")))] {
        let tenant = Tenant { retries, ..Tenant::default() };
        let records = Case::new(&stub.url, tenant, once(turn())).records().await;
        assert_eq!((&records[0].ending, records[0].tries), (&ending, retries + 1));
        let retried = [refusal(503, "model_loading"), refusal(429, "")];
        assert_eq!(records[0].retried, retried[..retries as usize]);
    }
    assert_eq!(*counts.lock().unwrap(), ["0", "1", "2", "0", "1"]);
}

#[tokio::test]
async fn a_refusal_that_says_so_is_not_tried_again() {
    let tenant = Tenant { retries: 2, ..Tenant::default() };
    let record = one(tenant, turn(), |mut conn, _| async move {
        conn.whole(429, "x-should-retry: false\r\n", r#"{"error":{"code":"insufficient_quota"}}"#).await;
    })
    .await;
    assert_eq!((record.ending, record.tries), (Ending::Refused(refusal(429, "insufficient_quota")), 1));
}

#[tokio::test]
async fn a_connection_that_breaks_before_a_reply_is_tried_again() {
    let stub = Stub::start(|mut conn| async move {
        conn.request().await;
        if conn.number > 0 {
            conn.whole(200, "", WHOLE).await;
        }
    })
    .await;
    let tenant = Tenant { retries: 1, ..Tenant::default() };
    let records = Case::new(&stub.url, tenant, once(turn())).records().await;
    assert_eq!((&records[0].ending, records[0].tries), (&Ending::Complete, 2));
    assert_eq!(records[0].retried, [refusal(0, "cut")]);
}

#[tokio::test]
async fn a_further_turn_holds_the_answer_and_follows_it() {
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let seen = bodies.clone();
    let stub = serve(move |asked| seen.lock().unwrap().push(asked.body.clone())).await;
    let pause = Duration::from_millis(15);
    let load = Load { session: sessions(vec![turn(), Turn { pause, ..turn() }]), ..at([0]) };
    let records = Case::new(&stub.url, Tenant::default(), load).records().await;
    assert_eq!(records.iter().map(|record| record.turn).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(records[1].scheduled, records[0].ended + pause);
    assert!(records[1].dispatched >= records[1].scheduled);
    assert_eq!(records[1].planned_prompt_tokens, 5 + 2 + 5, "what was said, answered and said");
    let second: Value = serde_json::from_str(&bodies.lock().unwrap()[1]).unwrap();
    let roles: Vec<&Value> = second["messages"].as_array().unwrap().iter().map(|message| &message["role"]).collect();
    assert_eq!(roles, ["user", "assistant", "user"]);
    assert_eq!(second["messages"][1]["content"], "a b");
}

#[tokio::test]
async fn a_session_ends_with_a_turn_that_fails() {
    let stub = Stub::start(|mut conn| async move {
        conn.request().await;
        conn.whole(400, "", "").await;
    })
    .await;
    let load = Load { session: sessions(vec![turn(), turn()]), ..at([0]) };
    let records = Case::new(&stub.url, Tenant::default(), load).records().await;
    assert_eq!(records.len(), 1);
}

#[tokio::test]
async fn an_open_loop_sends_at_its_moments() {
    let stub = serve(|_| {}).await;
    let mut case = Case::new(&stub.url, Tenant::default(), at([0, 3, 3, 20, 500]));
    case.drive.workload.duration = Duration::from_millis(500);
    let mut records = case.records().await;
    records.sort_by_key(|record| record.session);
    let scheduled: Vec<u128> = records.iter().map(|record| record.scheduled.as_millis()).collect();
    assert_eq!(scheduled, [0, 3, 3, 20], "what is due when the duration is over is not sent");
    assert!(records.iter().all(|record| record.dispatched >= record.scheduled && record.ending == Ending::Complete));
}

#[tokio::test]
async fn tenants_share_the_number_of_requests() {
    let stub = serve(|_| {}).await;
    let mut case = Case::new(&stub.url, Tenant::default(), at([0, 200, 400]));
    case.drive.workload.tenants.insert("b".to_owned(), Tenant::default());
    case.drive.loads.push(at([100, 300, 500]));
    case.drive.workload.requests = 4;
    let mut records = case.records().await;
    // Records come in the order in which requests end, which on a busy machine is another one.
    records.sort_by_key(|record| record.scheduled);
    let sent: Vec<(usize, u64)> = records.iter().map(|record| (record.tenant, record.session)).collect();
    assert_eq!(sent, [(0, 0), (1, 0), (0, 1), (1, 1)]);
}

#[tokio::test]
async fn users_of_a_closed_loop_are_ready_when_they_have_thought() {
    let stub = serve(|_| {}).await;
    let think_time = Arc::new(|number| Duration::from_millis(number % 3));
    let load = Load { starts: Starts::Users { users: 3, think_time }, session: sessions(vec![turn()]) };
    let mut case = Case::new(&stub.url, Tenant::default(), load);
    case.drive.workload.requests = 12;
    let live = case.drive.live.clone();
    let records = case.records().await;
    assert_eq!(records.len(), 12);
    assert!(live.most_in_flight.load(Relaxed) <= 3);
    for user in 0..3 {
        let of_user: Vec<&Record> = records.iter().filter(|record| record.session % 3 == user).collect();
        assert_eq!(of_user[0].scheduled, Duration::ZERO);
        for pair in of_user.windows(2) {
            let thought = Duration::from_millis(pair[0].session % 3);
            assert_eq!(pair[1].scheduled, pair[0].ended + thought);
            assert_eq!(pair[1].session, pair[0].session + 3);
        }
    }
}

#[tokio::test]
async fn the_last_request_does_not_wait_for_users_who_think() {
    let stub = serve(|_| {}).await;
    let think_time = Arc::new(|_| Duration::from_secs(50));
    let load = Load { starts: Starts::Users { users: 2, think_time }, session: sessions(vec![turn()]) };
    let mut case = Case::new(&stub.url, Tenant::default(), load);
    case.drive.workload.requests = 2;
    let clock = case.drive.clock;
    assert_eq!(case.records().await.len(), 2);
    assert!(clock.now() < Duration::from_secs(40));
}

#[tokio::test]
async fn what_is_due_while_all_places_are_taken_is_late_by_the_harness() {
    let stub = serve(|_| {}).await;
    let mut case = Case::new(&stub.url, Tenant::default(), at([0; 5]));
    case.drive.workload.max_in_flight = 1;
    let live = case.drive.live.clone();
    let records = case.records().await;
    assert_eq!(live.most_in_flight.load(Relaxed), 1);
    for pair in records.windows(2) {
        assert!(pair[1].scheduled <= pair[0].ended && pair[1].dispatched >= pair[0].ended);
    }
}

/// The point of an open loop: what a server's stall does to those who come meanwhile is not hidden by the wait of the
/// client for its connection.
#[tokio::test]
async fn a_stall_is_seen_from_the_scheduled_moments_and_hidden_from_the_sendings() {
    const REQUESTS: u64 = 20;
    let gate = Arc::new(Notify::new());
    let (opened, served) = (gate.clone(), Arc::new(AtomicUsize::new(0)));
    let stub = Stub::start(move |mut conn| {
        let (opened, served) = (opened.clone(), served.clone());
        async move {
            while conn.request().await.is_some() {
                // The first request meets a server that stalls; all others are answered at once.
                if served.fetch_add(1, Relaxed) == 0 {
                    opened.notified().await;
                }
                conn.whole(200, "", WHOLE).await;
            }
        }
    })
    .await;
    let tenant = Tenant { connections: 1, ..Tenant::default() };
    let case = Case::new(&stub.url, tenant, at((0..REQUESTS).map(|number| 5 * number)));
    let (live, clock) = (case.drive.live.clone(), case.drive.clock);
    let stall = async {
        while live.in_flight.load(Relaxed) < REQUESTS {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let opened = clock.now();
        gate.notify_one();
        opened
    };
    let (records, opened) = tokio::join!(case.records(), stall);
    assert_eq!(stub.accepted(), 1);
    let (mut seen, mut hidden) = (0, 0);
    for record in &records {
        assert_eq!(record.ending, Ending::Complete);
        assert!(record.dispatched <= opened, "the harness itself was not held up");
        let (from_schedule, from_send) = (record.ended - record.scheduled, record.ended - record.sent);
        // What was left of the stall when it was due.
        seen += u64::from(from_schedule >= opened - record.scheduled);
        hidden += u64::from(record.sent >= opened && from_send + (opened - record.scheduled) <= from_schedule);
    }
    assert_eq!(seen, REQUESTS, "from the schedule, each request shows the stall");
    assert_eq!(hidden, REQUESTS - 1, "from the sending, only the one that met it does");
}

#[tokio::test]
async fn stopping_ends_at_once_and_keeps_what_was_known() {
    let seen = Arc::new(Notify::new());
    let stub = silent(seen.clone()).await;
    let mut case = Case::new(&stub.url, Tenant::default(), at([0, 0, 0, 59_000]));
    case.drive.workload.max_in_flight = 1;
    let stop = case.drive.stop.clone();
    let clock = case.drive.clock;
    let (mut records, ()) = tokio::join!(case.records(), async {
        seen.notified().await;
        stop.cancel();
    });
    records.sort_by_key(|record| record.session);
    assert!(clock.now() < Duration::from_secs(50));
    let tries: Vec<u32> = records.iter().map(|record| record.tries).collect();
    assert_eq!(tries, [1, 0, 0], "what was due has a record, even if there was no place for it");
    assert!(records.iter().all(|record| record.ending == Ending::Abandoned));
}

#[tokio::test]
async fn what_does_not_end_in_the_drain_is_abandoned() {
    let stub = silent(Arc::default()).await;
    let mut case = Case::new(&stub.url, Tenant::default(), at([0, 1, 2]));
    case.drive.workload.duration = Duration::from_millis(10);
    case.drive.workload.drain = Duration::from_millis(10);
    let records = case.records().await;
    assert_eq!(records.len(), 3);
    assert!(records.iter().all(|record| record.ending == Ending::Abandoned && record.tries == 1));
    assert!(records.iter().all(|record| record.ended >= Duration::from_millis(20)));
}

#[tokio::test]
async fn a_summary_tells_whether_the_run_was_stopped() {
    for stopped in [false, true] {
        let stub = serve(|_| {}).await;
        let case = Case::new(&stub.url, Tenant::default(), at([0]));
        if stopped {
            case.drive.stop.cancel();
        }
        let summary = drive(case.drive).await.unwrap();
        assert_eq!(summary.stopped, stopped);
        assert!(summary.ended < Duration::from_secs(50));
        assert_eq!(summary.scheduled_until <= summary.ended, stopped, "it could have gone on");
    }
}

#[tokio::test]
async fn a_run_is_scheduled_until_its_last_request_is() {
    let stub = silent(Arc::default()).await;
    let mut case = Case::new(&stub.url, Tenant::default(), at([0, 20]));
    case.drive.workload.requests = 2;
    case.drive.workload.drain = Duration::from_millis(30);
    let summary = drive(case.drive).await.unwrap();
    assert!(summary.scheduled_until >= Duration::from_millis(20));
    assert!(summary.ended - summary.scheduled_until >= Duration::from_millis(30), "{summary:?}");
}

#[tokio::test]
async fn a_workload_is_sent_as_it_is_planned() {
    let stub = serve(|_| {}).await;
    let closed = Tenant { turns: Length::Fixed(2.0), ..Tenant::default() };
    let open = Tenant { arrival: Arrival::Constant { rate: 1000.0 }, ..Tenant::default() };
    let mut case = Case::new(&stub.url, closed, at([]));
    case.drive.workload.tenants.insert("b".to_owned(), open);
    case.drive.workload.requests = 40;
    case.drive.loads = loads(&case.drive.workload, &Vocabulary::estimated()).unwrap();
    let mut records = case.records().await;
    assert_eq!(records.len(), 40);
    records.retain(|record| record.tenant == 1);
    records.sort_by_key(|record| record.session);
    let moments: Vec<u128> = records.iter().map(|record| record.scheduled.as_millis()).collect();
    assert!(moments.windows(2).all(|pair| pair[1] == pair[0] + 1), "{moments:?}");
}

#[tokio::test]
async fn a_tenant_whose_requests_cannot_be_made_is_named() {
    let mut case = Case::new("http://localhost", Tenant::default(), at([0]));
    case.drive.keys = vec![Some("sk\n".to_owned())];
    assert!(format!("{:#}", drive(case.drive).await.unwrap_err()).starts_with("tenants.a: the API key"));
}

#[tokio::test]
async fn requests_were_scheduled_until_the_end_of_the_duration_even_if_all_are_over_before() {
    let stub = serve(|_| {}).await;
    let think_time = Arc::new(|_| Duration::from_secs(50));
    let closed = Load { starts: Starts::Users { users: 1, think_time }, session: sessions(vec![turn()]) };
    for load in [closed, at([0, 10])] {
        let mut case = Case::new(&stub.url, Tenant::default(), load);
        case.drive.workload.duration = Duration::from_millis(500);
        let summary = drive(case.drive).await.unwrap();
        assert_eq!(summary.scheduled_until, Duration::from_millis(500));
    }
}

#[tokio::test]
async fn a_reply_in_one_piece_where_a_stream_was_wanted_has_no_tokens_in_time() {
    let record = one(Tenant::default(), turn(), |mut conn, _| async move { conn.whole(200, "", WHOLE).await }).await;
    assert_eq!((&record.ending, record.streamed), (&Ending::Complete, false));
}

#[tokio::test]
async fn what_a_refused_try_told_is_not_told_of_the_next_one() {
    let stub = Stub::start(|mut conn| async move {
        conn.request().await;
        if conn.number == 0 {
            let headers = "x-request-id: r0\r\nx-queue-wait-ms: 7\r\nconnection: close\r\nretry-after-ms: 1\r\n";
            conn.whole(503, headers, "{}").await;
        }
    })
    .await;
    let tenant = Tenant { retries: 1, ..Tenant::default() };
    let records = Case::new(&stub.url, tenant, once(turn())).records().await;
    let record = &records[0];
    assert_eq!((&record.ending, record.tries), (&Ending::Cut, 2));
    assert_eq!((record.head, record.queue_wait, record.request_id.as_deref()), (None, None, None));
}

#[tokio::test]
async fn a_try_that_a_used_connection_swallowed_is_seen() {
    let stub = Stub::start(|mut conn| async move {
        conn.request().await;
        conn.whole(200, "", WHOLE).await;
        // The next one is read and gets no byte of a reply.
        conn.request().await;
    })
    .await;
    let mut records = Case::new(&stub.url, Tenant::default(), at([0, 200])).records().await;
    records.sort_by_key(|record| record.session);
    assert_eq!(records[0].retried, []);
    assert_eq!((&records[1].ending, &records[1].retried[..]), (&Ending::Complete, &[refusal(0, "cut")][..]));
}

#[tokio::test]
async fn a_request_whose_task_panics_is_missed() {
    let stub = serve(|_| {}).await;
    let session = sessions(vec![turn()]);
    let load = Load {
        session: Arc::new(move |number| if number == 1 { panic!("a fault of ours") } else { session(number) }),
        ..at([0, 1, 2])
    };
    let case = Case::new(&stub.url, Tenant::default(), load);
    assert_eq!(drive(case.drive).await.unwrap().lost, 1);
}

#[tokio::test]
async fn a_stream_without_an_end_is_given_up_as_a_lie() {
    let record = one(Tenant::default(), turn(), |mut conn, _| async move {
        conn.stream().await;
        for _ in 0..3000 {
            conn.chunk(EVENT).await;
        }
        conn.hung_up().await;
    })
    .await;
    assert_eq!((record.ending, record.chunks), (Ending::Unreadable, 1033));
    assert_eq!(record.lie.as_deref(), Some("more than 1032 events of content where 8 tokens were allowed"));
}
