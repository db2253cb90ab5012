// "Now": what runs, who waits, and how fast it goes.

import { byId, element, setAttribute, setText } from "./dom.js";
import { count, duration, plural, rate, speed } from "./format.js";
import { LinePlot } from "./plot.js";
import { Table, tellMore } from "./table.js";

const KEPT_SECONDS = 300;
/** Snapshots come every second; where none came for longer, nothing is known. */
const GAP_SECONDS = 3;

const READINESS = {
  ready: ["ready", "good"],
  loading: ["loading", "warn"],
  wedged: ["wedged", "bad"],
  unreachable: ["unreachable", "bad"],
  draining: ["draining", "warn"],
};

export class Now {
  #points = [];
  #waits = new Map();
  #plot = new LinePlot(byId("speed-plot"), { seconds: KEPT_SECONDS, gap: GAP_SECONDS });
  #running = new Table("running", "running-empty", ({ request_id: id }) => id, [
    { head: "Tenant", kind: "text", value: ({ tenant }) => tenant },
    { head: "Key", kind: "code", value: ({ key_id: id }) => id },
    { head: "Surface", value: ({ surface }) => surface },
    {
      head: "Phase",
      value: ({ phase }) => phase,
      mark: ({ phase }) => `badge ${phase === "decode" ? "good" : "quiet"}`,
    },
    {
      head: "Prompt",
      kind: "number",
      value: ({ prompt_tokens: tokens }) => count(tokens),
      title: ({ cached_tokens: cached }) => `${count(cached)} of them from the cache`,
    },
    { head: "Output", kind: "number", value: ({ completion_tokens: tokens }) => count(tokens) },
    { head: "Speed", kind: "number", value: ({ tokens_per_second: tokens }) => speed(tokens) },
    { head: "TTFT", kind: "number", value: ({ ttft_seconds: time }) => duration(time) },
    {
      head: "Age",
      kind: "number",
      value: ({ age_seconds: age }) => duration(age),
      title: ({ queue_wait_seconds: wait }) => `${duration(wait)} of it in the queue`,
    },
    { head: "Upstream", kind: "code", value: ({ upstream }) => upstream ?? "" },
    { head: "Request", kind: "code", value: ({ request_id: id }) => id },
  ]);
  #queue = new Table("queue", "queue-empty", ({ request_id: id }) => id, [
    { head: "Position", kind: "number", value: ({ position }) => count(position) },
    { head: "Tenant", kind: "text", value: ({ tenant }) => tenant },
    { head: "Class", value: (one) => one.class },
    { head: "Waited", kind: "number", value: ({ waited_seconds: time }) => duration(time) },
    { head: "Expected", kind: "number", value: ({ expected_wait_seconds: time }) => duration(time) },
    { head: "Key", kind: "code", value: ({ key_id: id }) => id },
    { head: "Surface", value: ({ surface }) => surface },
    { head: "Prompt", kind: "number", value: ({ prompt_tokens: tokens }) => count(tokens) },
    { head: "Request", kind: "code", value: ({ request_id: id }) => id },
  ]);

  /** Keeps what the plot shows, whether it is seen or not. */
  remember(live) {
    this.#points.push({ at: live.at, value: speedOf(live) });
    this.#points = this.#points.filter(({ at }) => at > live.at - KEPT_SECONDS);
  }

  show(live) {
    this.#tiles(live);
    this.#drawSpeed(live);
    const running = this.#running.show(live.running, "Nothing is running.");
    tellMore("running-more", running, live.running_total, "The others are younger.");
    setText(byId("drain"), live.waiting_total > 0 ? duration(live.queue.drain_seconds) : "nothing to drain");
    for (const [name, wait] of Object.entries(live.queue.expected_wait_seconds)) this.#showWait(name, wait);
    const waiting = this.#queue.show(live.waiting, "Nobody waits.");
    tellMore("queue-more", waiting, live.waiting_total, "The others are behind them.");
  }

  #tiles({ at, gateway, upstreams, queue, waiting_total: waiting, running_total: running, ...live }) {
    const slots = upstreams.reduce((sum, { slots }) => sum + (slots ?? 0), 0);
    const busy = upstreams.reduce((sum, { slots_busy: busy }) => sum + (busy ?? 0), 0);
    setText(byId("tile-slots"), `${count(busy)} / ${count(slots)}`);
    setText(byId("note-slots"), `${plural(running, "request")} running`);
    setText(byId("tile-waiting"), count(waiting));
    setText(byId("note-waiting"), waiting > 0 ? `${duration(queue.drain_seconds)} to drain` : "the queue is empty");
    setText(byId("tile-speed"), rate(speedOf(live)));
    setText(byId("note-speed"), `of ${plural(live.running.filter(isGenerating).length, "stream")}`);
    const [word, mark] = READINESS[gateway.draining ? "draining" : gateway.readiness] ?? [gateway.readiness, "quiet"];
    setText(byId("tile-readiness"), word);
    setAttribute(byId("tile-readiness"), "class", `value is-${mark}`);
    const connections = plural(gateway.open_connections, "connection");
    setText(byId("note-readiness"), `up ${duration(at - gateway.started)}, ${connections}`);
  }

  /** What a class has to wait. The classes are configured, and stay as long as the gateway runs. */
  #showWait(name, wait) {
    if (!this.#waits.has(name)) {
      const value = element("dd");
      byId("waits").append(element("div", {}, element("dt", {}, `Expected wait, ${name}`), value));
      this.#waits.set(name, value);
    }
    setText(this.#waits.get(name), wait === 0 ? "none" : duration(wait));
  }

  #drawSpeed(live) {
    const [now, most] = [speedOf(live), Math.max(...this.#points.map(({ value }) => value))];
    const label = `Tokens a second in the last 5 minutes: ${rate(now)} now, ${rate(most)} at most`;
    this.#plot.show(this.#points, live.at, label);
  }
}

const isGenerating = ({ tokens_per_second: tokens }) => tokens !== null;

/** Tokens a second of all streams together. */
export function speedOf({ running }) {
  return running.reduce((sum, { tokens_per_second: tokens }) => sum + (tokens ?? 0), 0);
}
