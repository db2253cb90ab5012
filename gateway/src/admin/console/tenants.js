// "Tenants": what each used today, and what it may still use.

import { explain } from "./api.js";
import { byId, setText } from "./dom.js";
import { count, UNKNOWN } from "./format.js";
import { drawBars, fillHours } from "./plot.js";
import { filter, Table, tellMore } from "./table.js";
import { foldUsage, leftOf, midnight, topSeries, usagePath, withLive } from "./usage.js";

/** The ledger is asked that often while the tab is seen. */
const REFRESH_MS = 30_000;
/** And after so long where it gave no answer. */
const AGAIN_MS = 5000;

export class Tenants {
  #api;
  #used = null;
  #live = null;
  #asked = -Infinity;
  #wanted = "";
  #table = new Table("tenants-table", "tenants-empty", ({ tenant }) => tenant, [
    { head: "Tenant", kind: "text", value: ({ tenant }) => tenant },
    { head: "Requests", kind: "number", value: ({ requests }) => count(requests) },
    { head: "Tokens", kind: "number", value: ({ tokens }) => count(tokens) },
    { head: "Prompt", kind: "number", value: ({ prompt }) => count(prompt) },
    { head: "Output", kind: "number", value: ({ output }) => count(output) },
    { head: "Running", kind: "number", value: ({ live }) => count(live?.running ?? 0) },
    { head: "Waiting", kind: "number", value: ({ live }) => count(live?.waiting ?? 0) },
    left("Left this minute", (live) => live.tokens_per_minute),
    left("Left today", (live) => live.day),
    left("Left this month", (live) => live.month),
  ]);

  constructor(api) {
    this.#api = api;
    filter("tenants-filter", (wanted) => {
      this.#wanted = wanted;
      this.#fill();
    });
  }

  show(live) {
    this.#live = live;
    this.#fill();
    if (performance.now() - this.#asked > REFRESH_MS) this.#refresh(live.at);
  }

  /** The tab is opened: what it shows is to be of now. */
  opened() {
    this.#asked = -Infinity;
  }

  async #refresh(at) {
    this.#asked = performance.now();
    const start = midnight(at);
    try {
      const paths = ["completions", "embeddings"].map((kind) => usagePath(kind, start));
      const pages = await Promise.all(paths.map((path) => this.#api.get(path)));
      this.#used = foldUsage(pages, start);
      setText(byId("usage-problem"), "");
      setText(byId("usage-day"), `${new Date(start * 1000).toISOString().slice(0, 10)}, UTC`);
      this.#draw();
      this.#fill();
    } catch (error) {
      this.#asked = performance.now() - REFRESH_MS + AGAIN_MS;
      setText(byId("usage-problem"), `The use of today cannot be read. ${explain(error)}`);
    }
  }

  #draw() {
    if (!this.#used) return;
    const series = topSeries(this.#used);
    const tokens = this.#used.reduce((sum, one) => sum + one.tokens, 0);
    const label = `Tokens by hour, stacked by tenant: ${count(tokens)} today; the table below has the numbers`;
    drawBars(byId("usage-plot"), byId("usage-legend"), series, label);
    fillHours(byId("usage-hours"), series);
  }

  /** The window is another one: bars are as wide as there is room. */
  resize() {
    this.#draw();
  }

  #fill() {
    if (!this.#used) return;
    const rows = withLive(this.#used, this.#live.tenants);
    const found = rows.filter(({ tenant }) => tenant.toLowerCase().includes(this.#wanted));
    const nobody = rows.length > 0 ? "No tenant has this in its name." : "No tenant has used anything today.";
    const shown = this.#table.show(found, nobody);
    tellMore("tenants-more", shown, found.length, "Filter to see the others.");
  }
}

/** A column of what is left of a limit. */
function left(head, of) {
  const limit = ({ live }) => live && leftOf(of(live));
  return {
    head,
    kind: "number",
    value: (row) => {
      const found = limit(row);
      if (found) return `${count(Math.floor(found.left))} of ${count(found.most)}`;
      return row.live ? "no limit" : UNKNOWN;
    },
    mark: (row) => (limit(row) ? "" : "quiet"),
    part: (row) => limit(row)?.part ?? null,
  };
}
