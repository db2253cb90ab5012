// The stream of snapshots: kept open while the page is seen, opened anew when it is lost.

import { Refused } from "./api.js";
import { eventsOf } from "./sse.js";

const SHORTEST_WAIT_MS = 1000;
const LONGEST_WAIT_MS = 15_000;
/** Snapshots come every second: after so long a silence the connection is dead, though nobody has said so. */
const SILENCE_MS = 8000;

/** How long to wait before the next try. `random`: from 0 to 1, so that many pages do not come back at once. */
export function backoff(tries, random) {
  const wait = Math.min(SHORTEST_WAIT_MS * 2 ** Math.max(0, tries - 1), LONGEST_WAIT_MS);
  return wait * (0.75 + random / 4);
}

export class Live {
  #api;
  #told;
  #stopping = null;

  /** `told` has `snapshot(live)`, `lost()` and `refused(error)`. */
  constructor(api, told) {
    this.#api = api;
    this.#told = told;
  }

  /** Opens the stream and keeps it open. */
  start() {
    if (this.#stopping) return;
    this.#stopping = new AbortController();
    this.#keepOpen(this.#stopping.signal);
  }

  /** Closes it until the next start. */
  stop() {
    this.#stopping?.abort();
    this.#stopping = null;
  }

  async #keepOpen(stopped) {
    for (let tries = 0; !stopped.aborted; ) {
      let refusal = null;
      await this.#readOnce(stopped, () => (tries = 0)).catch((error) => (refusal = error));
      if (stopped.aborted) return;
      if (refusal instanceof Refused && refusal.isOfAdminKey) {
        this.stop();
        this.#told.refused(refusal);
        return;
      }
      tries += 1;
      this.#told.lost();
      await sleep(backoff(tries, Math.random()), stopped);
    }
  }

  /** A fault of the page is none of the connection. */
  #show(data) {
    try {
      this.#told.snapshot(JSON.parse(data));
    } catch (error) {
      reportError(error);
    }
  }

  async #readOnce(stopped, came) {
    const silence = new AbortController();
    let alarm = setTimeout(() => silence.abort(), SILENCE_MS);
    try {
      const signal = AbortSignal.any([stopped, silence.signal]);
      const response = await this.#api.open("/v1/live/events", { signal });
      for await (const { event, data } of eventsOf(response)) {
        clearTimeout(alarm);
        alarm = setTimeout(() => silence.abort(), SILENCE_MS);
        if (event !== "live" || stopped.aborted) continue;
        came();
        this.#show(data);
      }
    } finally {
      clearTimeout(alarm);
    }
  }
}

/** Waits, or until it is stopped. */
function sleep(milliseconds, stopped) {
  return new Promise((wake) => {
    setTimeout(wake, milliseconds);
    stopped.addEventListener("abort", wake, { once: true });
  });
}
