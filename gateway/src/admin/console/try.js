// "Try it": a chat as the holder of a key sends it. It counts as any other.

import { explain, Refused } from "./api.js";
import { chatBody, Tally } from "./chat.js";
import { byId, setAttribute, setText } from "./dom.js";
import { count, duration, rate, UNKNOWN } from "./format.js";
import { eventsOf } from "./sse.js";

export class Try {
  #api;
  #running = null;

  constructor(api) {
    this.#api = api;
    byId("try-form").onsubmit = (event) => {
      event.preventDefault();
      this.#send();
    };
    byId("try-stop").onclick = () => this.stop();
  }

  /** Ends what runs: the gateway sees its client leave. */
  stop() {
    this.#running?.abort();
  }

  async #send() {
    if (this.#running) return;
    const fields = ["try-key", "try-prompt", "try-tokens"].map(byId);
    const [key, prompt, tokens] = fields.map(({ value }) => value.trim());
    const missing = fields.find((field) => field.value.trim() === "" || !field.validity.valid);
    for (const field of fields) setAttribute(field, "aria-invalid", field === missing ? "true" : null);
    if (missing) {
      const isNumber = missing.id === "try-tokens";
      const needed = isNumber ? "Max tokens is a whole number from 1 on." : "An API key and a prompt are needed.";
      setText(byId("try-problem"), needed);
      missing.focus();
      return;
    }
    this.#begin();
    const tally = new Tally(performance.now());
    try {
      await this.#read(tally, key, chatBody(prompt, Number(tokens)));
      if (tally.error) this.#end(tally, "Failed.", `${tally.error.message} (${tally.error.code ?? tally.error.type})`);
      else if (!tally.finished) this.#end(tally, "Failed.", "The answer broke off; hint: the gateway's log tells why.");
      else this.#end(tally, tally.finishReason === "length" ? "Complete: max tokens were reached." : "Complete.", "");
    } catch (error) {
      if (this.#running.signal.aborted) this.#end(tally, "Stopped.", "");
      else if (error instanceof Refused) this.#end(tally, "Refused.", explain(error));
      else this.#end(tally, "Failed.", "The connection was lost; hint: is the port-forward still running?");
    }
  }

  #begin() {
    this.#running = new AbortController();
    byId("try-stop").disabled = false;
    // A button that is disabled loses the focus to nothing.
    if (document.activeElement === byId("try-send")) byId("try-stop").focus();
    byId("try-send").disabled = true;
    byId("try-answer").ariaBusy = "true";
    setText(byId("try-problem"), "");
    setText(byId("try-id"), "");
    setText(byId("try-state"), "Sent.");
    show(new Tally(0));
  }

  #end(tally, state, problem) {
    tally.position = null;
    show(tally);
    setText(byId("try-state"), state);
    setText(byId("try-problem"), problem);
    this.#running = null;
    byId("try-send").disabled = false;
    if (document.activeElement === byId("try-stop")) byId("try-send").focus();
    byId("try-stop").disabled = true;
    byId("try-answer").ariaBusy = "false";
  }

  async #read(tally, key, body) {
    const response = await this.#api.open("/v1/console/try", {
      method: "POST",
      headers: { "x-try-key": headerText(key) },
      body: JSON.stringify(body),
      signal: this.#running.signal,
    });
    setText(byId("try-id"), `Request ${response.headers.get("x-request-id") ?? UNKNOWN}`);
    let drawn = false;
    for await (const event of eventsOf(response)) {
      tally.take(event, performance.now());
      // Many tokens may come between two frames.
      if (drawn) continue;
      drawn = true;
      requestAnimationFrame(() => {
        drawn = false;
        if (this.#running) show(tally);
      });
    }
  }
}

/** A header holds no other characters: a key that has some is nobody's, and the gateway is to say so. */
function headerText(key) {
  return /^[\x21-\x7e]+$/.test(key) ? key : "not-a-key";
}

function show(tally) {
  const { thoughts, text, position, expectedWait, ttft, tokens, promptTokens, tokensPerSecond } = tally;
  byId("try-thoughts").hidden = thoughts === "";
  append(byId("try-thoughts"), thoughts);
  append(byId("try-text"), text);
  setText(byId("try-ttft"), duration(ttft));
  setText(byId("try-count"), count(tokens));
  const ofPrompt = promptTokens === null ? "" : `; ${count(promptTokens)} of the prompt`;
  setText(byId("try-prompt-tokens"), `generated${ofPrompt}`);
  setText(byId("try-speed"), rate(tokensPerSecond));
  setText(byId("try-position"), count(position));
  setText(byId("try-wait"), position === null ? "while waiting" : waitOf(expectedWait));
  if (position !== null) setText(byId("try-state"), "Waiting for a slot.");
  else if (ttft !== null) setText(byId("try-state"), "Answering.");
}

/** Whole seconds come from the gateway. */
function waitOf(seconds) {
  if (seconds === null) return "the wait is not known";
  return seconds === 0 ? "less than a second to wait" : `about ${duration(seconds)} to wait`;
}

/** Adds what is new, so that text which somebody has selected stays selected. */
function append(node, text) {
  if (!text.startsWith(node.textContent)) node.textContent = "";
  const rest = text.slice(node.textContent.length);
  if (rest === "") return;
  if (node.firstChild) node.firstChild.appendData(rest);
  else node.append(rest);
}
