// The console's parts that need no browser; started by a Rust test.

import assert from "node:assert/strict";
import test from "node:test";

const file = (name) => new URL(`../../src/admin/console/${name}.js`, import.meta.url).href;
const format = await import(file("format"));
const { EventReader, eventsOf } = await import(file("sse"));
const { ticks, place, linePath, colour } = await import(file("plot"));
const { foldUsage, leftOf, midnight, topSeries, usagePath, withLive } = await import(file("usage"));
const { Tally, chatBody } = await import(file("chat"));
const { Live, backoff } = await import(file("live"));
const { Api, Refused, Unreachable, explain, explainSignOut } = await import(file("api"));
const { speedOf } = await import(file("now"));

const bytes = (text) => new TextEncoder().encode(text);

test("numbers are grouped, and what is not known is a dash", () => {
  assert.deepEqual([0, 1234567, 12.6].map(format.count), ["0", "1,234,567", "13"]);
  for (const unknown of [null, undefined, NaN, Infinity, "12"]) {
    for (const show of [format.count, format.compact, format.rate, format.speed, format.duration, format.moment]) {
      assert.equal(show(unknown), "–", `${show.name}(${unknown})`);
    }
  }
  assert.deepEqual([0, 950, 1200, 34e6, 2.5e9].map(format.compact), ["0", "950", "1.2 k", "34 M", "2.5 G"]);
  assert.deepEqual([0, 9.84, 99.94, 99.96, 1234].map(format.rate), ["0.0", "9.8", "99.9", "100", "1,234"]);
  assert.equal(format.speed(9.84), "9.8 tok/s");
});

test("times have their two largest units", () => {
  const shown = { 0: "0 ms", 0.05: "50 ms", 0.9996: "1.0 s", 9.94: "9.9 s", 9.96: "10 s", 59.4: "59 s", 59.6: "1 min" };
  Object.assign(shown, { 212.5: "3 min 33 s", 3600: "1 h", 11040: "3 h 4 min", 86399.7: "1 d", 190000: "2 d 4 h" });
  for (const [seconds, text] of Object.entries(shown)) assert.equal(format.duration(Number(seconds)), text);
  assert.equal(format.duration(-1), "0 ms", "clocks differ");
  const at = format.parseTime("2026-11-27T14:03:22Z");
  assert.equal(format.moment(at), "2026-11-27 14:03 UTC");
  assert.deepEqual([null, undefined, "soon"].map(format.parseTime), [null, null, null]);
  assert.deepEqual([-5, 59, 60, 7200, 86400 * 3].map((passed) => format.ago(at, at + passed)), ["just now", "just now", "1 min ago", "2 h ago", "3 d ago"]);
  assert.deepEqual([0, 1, 2000].map((number) => format.plural(number, "stream")), ["0 streams", "1 stream", "2,000 streams"]);
});

const STREAM = ": queued position=3 eta=12\r\n\r\nevent: live\ndata: {\"a\":\ndata:\"ä€😀\"}\nid: 7\n\ndata: one\r\rdata\n\nevent: none\n\ndata: [DONE]\n\ndata: cut";
const EVENTS = [
  { comment: "queued position=3 eta=12" },
  { event: "live", data: "{\"a\":\n\"ä€😀\"}" },
  { event: "message", data: "one" },
  { event: "message", data: "" },
  { event: "message", data: "[DONE]" },
];

test("events are the same wherever the bytes are cut", () => {
  const whole = bytes(STREAM);
  for (let cut = 0; cut <= whole.length; cut += 1) {
    const reader = new EventReader();
    const found = [...reader.push(whole.slice(0, cut)), ...reader.push(whole.slice(cut))];
    assert.deepEqual(found, EVENTS, `cut at ${cut}`);
  }
  const reader = new EventReader();
  assert.deepEqual([...whole].flatMap((byte) => reader.push(Uint8Array.of(byte))), EVENTS);
});

test("whoever stops reading ends the request", async () => {
  let cancelled = false;
  const body = new ReadableStream({
    start: (stream) => stream.enqueue(bytes("data: 1\n\ndata: 2\n\n")),
    cancel: () => { cancelled = true; },
  });
  for await (const { data } of eventsOf({ body })) {
    assert.equal(data, "1");
    break;
  }
  assert.ok(cancelled);
});

test("axes have round values and hold whatever there is", () => {
  assert.deepEqual(ticks(7.3), [0, 2, 4, 6, 8]);
  assert.deepEqual(ticks(0), [0, 0.5]);
  assert.deepEqual(ticks(0.3), [0, 0.1, 0.2, 0.3]);
  for (const most of [0.001, 1, 3, 19.99, 20, 3.7e9]) {
    const marks = ticks(most);
    assert.ok(marks.at(-1) >= most && marks.length <= 6, `${most}: ${marks}`);
  }
  assert.deepEqual([-1, 0, 5, 10, 11].map((value) => place(value, [0, 10], [100, 0])), [100, 100, 50, 0, 0]);
  assert.equal(place(3, [0, 0], [7, 9]), 7, "an axis of nothing");
});

test("a line is broken where nothing was known", () => {
  const points = [1, 2, 9, 10].map((at) => ({ at, value: at * 2 }));
  assert.equal(linePath(points, 3, (at) => at, (value) => value), "M1.0 2.0L2.0 4.0M9.0 18.0L10.0 20.0");
  assert.equal(linePath([], 3, Number, Number), "");
});

const bucket = (start_time, ...results) => ({ start_time, results });
const result = (project_id, input_tokens, output_tokens, num_model_requests = 1) => ({ project_id, input_tokens, output_tokens, num_model_requests });

test("use is folded by tenant and hour, over both kinds of pages", () => {
  const start = midnight(1767225600 + 5000);
  assert.equal(start, 1767225600);
  assert.equal(usagePath("embeddings", start), "/v1/organization/usage/embeddings?start_time=1767225600&end_time=1767312000&bucket_width=1h&limit=24&group_by=project_id");
  const completions = { data: [bucket(start, result("acme", 10, 5, 2)), bucket(start + 3600, result("acme", 1, 1), result("__proto__", 7, 0)), bucket(start + 86400, result("acme", 99, 99))] };
  const embeddings = { data: [bucket(start + 3600, { project_id: "acme", input_tokens: 100, num_model_requests: 3 })] };
  const [acme, other, ...none] = foldUsage([completions, embeddings], start);
  assert.deepEqual([acme.tenant, acme.requests, acme.prompt, acme.output, acme.tokens], ["acme", 6, 111, 6, 117]);
  assert.deepEqual(acme.values.slice(0, 3), [15, 102, 0]);
  assert.deepEqual([other.tenant, other.tokens, none.length], ["__proto__", 7, 0]);
  assert.deepEqual(foldUsage([{ data: [] }], start), []);
});

test("eight tenants have a series each, the others one together", () => {
  const start = 0;
  const results = Array.from({ length: 11 }, (_, at) => result(`t${String(at).padStart(2, "0")}`, 1000 - at, 0));
  const series = topSeries(foldUsage([{ data: [bucket(start, ...results, result("none", 0, 0))] }], start));
  assert.deepEqual(series.map(({ name }) => name), ["t00", "t01", "t02", "t03", "t04", "t05", "t06", "t07", "3 others"]);
  assert.equal(series.at(-1).values[0], 992 + 991 + 990);
  assert.deepEqual([series[0], series[7], series[8]].map(colour), ["s0", "s1", "others"]);
});

test("what is left is never below nothing", () => {
  assert.equal(leftOf(null), null);
  assert.deepEqual(leftOf({ limit: 100, used: 30 }), { most: 100, left: 70, part: 0.7 });
  assert.deepEqual(leftOf({ limit: 100, used: 130 }), { most: 100, left: 0, part: 0 });
  assert.deepEqual(leftOf({ capacity: 60, left: -6 }), { most: 60, left: 0, part: 0 });
  assert.deepEqual(leftOf({ limit: 0, used: 0 }), { most: 0, left: 0, part: 0 });
});

test("tenants that have used nothing yet are shown while something goes on", () => {
  const used = foldUsage([{ data: [bucket(0, result("acme", 5, 5), result("globex", 1, 1))] }], 0);
  const rows = withLive(used, [{ tenant: "new", running: 1 }, { tenant: "globex", running: 2 }]);
  assert.deepEqual(rows.map(({ tenant, tokens, live }) => [tenant, tokens, live?.running]), [["acme", 10, undefined], ["globex", 2, 2], ["new", 0, 1]]);
});

test("the speed is that of all streams, and of those in prefill it is nothing", () => {
  assert.equal(speedOf({ running: [{ tokens_per_second: 9.5 }, { tokens_per_second: null }, { tokens_per_second: 1 }] }), 10.5);
  assert.equal(speedOf({ running: [] }), 0);
});

const chunk = (choice, further = {}) => ({ event: "message", data: JSON.stringify({ choices: choice ? [choice] : [], ...further }) });

test("a chat tells its place, its text, its tokens and its times", () => {
  const tally = new Tally(1000);
  tally.take({ comment: "queued position=3 eta=12" }, 1100);
  assert.deepEqual([tally.position, tally.expectedWait, tally.ttft, tally.tokens], [3, 12, null, null]);
  tally.take({ comment: "queued position=1" }, 1200);
  assert.deepEqual([tally.position, tally.expectedWait], [1, null]);
  tally.take({ comment: "keep-alive" }, 1300);
  assert.equal(tally.position, null);
  tally.take(chunk({ delta: { role: "assistant", content: null } }), 1400);
  assert.equal(tally.ttft, null);
  tally.take(chunk({ delta: { reasoning_content: "Hm" } }), 1500);
  tally.take(chunk({ delta: { content: "Riv" } }), 2000);
  tally.take(chunk({ delta: { content: "ers" }, finish_reason: "stop" }), 2500);
  assert.deepEqual([tally.ttft, tally.thoughts, tally.text, tally.tokens, tally.tokensPerSecond], [0.5, "Hm", "Rivers", 3, 2]);
  tally.take(chunk(null, { usage: { completion_tokens: 11, prompt_tokens: 7 } }), 2600);
  assert.deepEqual([tally.tokens, tally.promptTokens, tally.tokensPerSecond, tally.finished], [11, 7, 10, false]);
  tally.take({ event: "message", data: "[DONE]" }, 2700);
  assert.deepEqual([tally.finished, tally.finishReason, tally.error], [true, "stop", null]);
});

test("an error within a stream is kept, and one token has no speed", () => {
  const tally = new Tally(0);
  tally.take(chunk({ delta: { content: "x" } }), 10);
  assert.equal(tally.tokensPerSecond, null);
  tally.take({ event: "message", data: "{\"error\":{\"message\":\"Gone.\",\"code\":\"backend_error\"}}" }, 20);
  assert.deepEqual([tally.error.code, tally.finished], ["backend_error", false]);
  assert.deepEqual(chatBody("Hi", 5).max_tokens, 5);
});

/** `fetch` for as long as a test runs. */
function answering(t, ...answers) {
  const asked = [];
  t.mock.method(globalThis, "fetch", async (path, options) => {
    asked.push({ path, ...options });
    const answer = answers.shift();
    if (answer === undefined) throw new TypeError("network");
    return answer;
  });
  return asked;
}

const refusal = (status, code, headers = {}) => new Response(JSON.stringify({ error: { message: "No.", type: "x", param: "tenant", code } }), { status, headers });

test("the key goes into a header and nowhere else", async (t) => {
  const asked = answering(t, new Response("{\"ok\":1}"));
  assert.deepEqual(await new Api("secret", () => {}).post("/v1/keys", { tenant: "acme" }), { ok: 1 });
  const [{ path, method, headers, body, credentials, cache, redirect }] = asked;
  assert.deepEqual([path, method, body, credentials, cache, redirect], ["/v1/keys", "POST", "{\"tenant\":\"acme\"}", "omit", "no-store", "error"]);
  assert.deepEqual(headers, { authorization: "Bearer secret", "content-type": "application/json" });
});

test("refusals have their code and what to do, and those of the admin key end the session", async (t) => {
  const told = [];
  const api = new Api("secret", (error) => told.push(error.code));
  answering(t, refusal(400, null), refusal(429, "queue_full", { "retry-after": "7" }), refusal(401, "invalid_api_key"), refusal(403, "admin_disabled"), refusal(403, "foreign_origin"), new Response("<h1>", { status: 502 }), new Response("{\"cut"));
  const error = async () => api.get("/x").then(() => assert.fail(), (it) => it);
  const plain = await error();
  assert.ok(plain instanceof Refused);
  assert.deepEqual([plain.code, plain.param, explain(plain)], ["x", "tenant", "No. (x)"]);
  assert.equal(explain(await error()), "No. (queue_full) Try again in 7 s.");
  assert.deepEqual(told, []);
  assert.match(explainSignOut(await error()), /does not take this admin key.*admin\.key_file/);
  assert.match(explainSignOut(await error()), /Hint: set admin\.key_file/);
  assert.equal(explainSignOut(await error()), "No.");
  assert.deepEqual(told, ["invalid_api_key", "admin_disabled", "foreign_origin"]);
  assert.equal(explain(await error()), "The gateway answered with status 502. (http_502)");
  assert.ok(await error() instanceof Unreachable, "an answer that breaks off");
  assert.ok(await error() instanceof Unreachable, "no answer");
});

test("waits grow, up to a bound, and differ", () => {
  assert.deepEqual([1, 2, 3, 4, 5, 50].map((tries) => backoff(tries, 1)), [1000, 2000, 4000, 8000, 15000, 15000]);
  assert.equal(backoff(1, 0), 750);
});

const snapshots = (...ats) => new Response(ats.map((at) => `event: live\ndata: {"at":${at}}\n\n`).join(""));
/** Lets everything run that waits for nothing but its turn. */
const settle = () => new Promise((done) => setImmediate(done));

test("a lost stream is opened again, and one that is refused is not", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const asked = answering(t, snapshots(1, 2), undefined, snapshots(3), refusal(401, "invalid_api_key"));
  const told = [];
  const live = new Live(new Api("secret", () => {}), {
    snapshot: ({ at }) => told.push(at),
    lost: () => told.push("lost"),
    refused: (error) => told.push(error.status),
  });
  live.start();
  live.start();
  for (let turn = 0; turn < 40; turn += 1) {
    await settle();
    t.mock.timers.tick(1000);
  }
  assert.deepEqual(told, [1, 2, "lost", "lost", 3, "lost", 401]);
  assert.deepEqual([...new Set(asked.map(({ path }) => path))], ["/v1/live/events"]);
});

test("a stream that is silent is lost, and one that was stopped is not", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const told = [];
  t.mock.method(globalThis, "fetch", async (_, { signal }) => {
    const body = new ReadableStream({ start: (stream) => signal.addEventListener("abort", () => stream.error(signal.reason)) });
    return new Response(body);
  });
  const live = new Live(new Api("secret", () => {}), { snapshot: () => {}, lost: () => told.push("lost"), refused: () => {} });
  live.start();
  await settle();
  t.mock.timers.tick(7999);
  await settle();
  assert.deepEqual(told, []);
  t.mock.timers.tick(1);
  await settle();
  assert.deepEqual(told, ["lost"]);
  live.stop();
  t.mock.timers.tick(60_000);
  await settle();
  assert.deepEqual(told, ["lost"]);
});
