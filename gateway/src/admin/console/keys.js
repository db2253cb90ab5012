// "Keys": who may use the gateway. What is changed here is a line of the gateway's log, as by any other way.

import { explain } from "./api.js";
import { ask, byId, element, setText } from "./dom.js";
import { ago, moment, parseTime, UNKNOWN } from "./format.js";
import { filter, Table, tellMore } from "./table.js";

const REFRESH_MS = 10_000;
const MARKS = { valid: "good", expired: "warn", revoked: "bad" };

export class Keys {
  #api;
  #keys = null;
  #now = 0;
  #asked = -Infinity;
  #wanted = "";
  #creating = false;
  #table = new Table("keys-table", "keys-empty", ({ id }) => id, [
    { head: "Key id", kind: "code", value: ({ id }) => id },
    { head: "Tenant", kind: "text", value: ({ tenant }) => tenant },
    { head: "Label", kind: "text", value: ({ label }) => label || UNKNOWN, under: scopeOf },
    {
      head: "State",
      value: ({ state }) => state,
      mark: ({ state }) => `badge ${MARKS[state] ?? "quiet"}`,
      under: (key) => this.#aboutState(key),
    },
    { head: "Policy", kind: "text", value: ({ policy }) => policy ?? UNKNOWN },
    { head: "Expires", value: ({ expires }) => (expires ? moment(parseTime(expires)) : "never") },
    {
      head: "Last used",
      value: ({ last_used: used }) => (used ? ago(parseTime(used), this.#now) : "never"),
      title: ({ last_used: used }) => (used ? moment(parseTime(used)) : null),
    },
    { head: "Actions", controls: (id, cell) => this.#controls(id, cell) },
  ]);

  constructor(api) {
    this.#api = api;
    filter("keys-filter", (wanted) => {
      this.#wanted = wanted;
      this.#fill();
    });
    byId("create-key").onsubmit = (event) => {
      event.preventDefault();
      this.#create(event.target);
    };
  }

  show(live) {
    this.#now = live.at;
    this.#fill();
    if (performance.now() - this.#asked > REFRESH_MS) this.#refresh();
  }

  /** The tab is opened: what it shows is to be of now. */
  opened() {
    this.#asked = -Infinity;
  }

  async #refresh() {
    const asked = performance.now();
    this.#asked = asked;
    try {
      const { data } = await this.#api.get("/v1/keys");
      // A later question has a later answer.
      if (asked !== this.#asked) return;
      this.#keys = data.sort(newestFirst);
      setText(byId("keys-problem"), "");
      this.#fill();
    } catch (error) {
      setText(byId("keys-problem"), `The keys cannot be read. ${explain(error)}`);
    }
  }

  #fill() {
    if (!this.#keys) return;
    const has = (text) => text.toLowerCase().includes(this.#wanted);
    const texts = ({ id, tenant, label, state, policy }) => [id, tenant, label, state, policy ?? ""];
    const found = this.#keys.filter((key) => texts(key).some(has));
    const shown = this.#table.show(found, this.#keys.length > 0 ? "No key has this in it." : "There is no key.");
    tellMore("keys-more", shown, found.length, "Filter to see the others.");
  }

  #aboutState({ declared, state, previous_until: until }) {
    if (declared) return "declared in a file";
    const end = parseTime(until);
    return state === "valid" && end > this.#now ? `the old secret, too, until ${moment(end)}` : "";
  }

  #controls(id, cell) {
    const button = (word) => element("button", { type: "button", "aria-label": `${word} ${id}` }, word);
    const [rotate, revoke] = [button("Rotate"), button("Revoke")];
    rotate.onclick = () => this.#rotate(this.#key(id));
    revoke.onclick = () => this.#revoke(this.#key(id));
    const none = element("span", { class: "quiet" });
    cell.classList.add("controls");
    return {
      node: element("div", {}, rotate, revoke, none),
      update: ({ declared, state }) => {
        rotate.hidden = declared || state === "revoked";
        // What a revoked key runs can still be ended.
        revoke.hidden = declared || state === "revoked";
        setText(none, rotate.hidden ? "none" : "");
      },
    };
  }

  #key(id) {
    return this.#keys.find((key) => key.id === id);
  }

  async #create(form) {
    const typed = Object.entries(Object.fromEntries(new FormData(form))).map(([name, text]) => [name, text.trim()]);
    const body = Object.fromEntries(typed.filter(([name, text]) => text !== "" || name === "tenant"));
    const problem = byId("create-problem");
    setText(problem, "");
    for (const field of form.elements) field.removeAttribute("aria-invalid");
    // Its button is not disabled meanwhile: it would lose the focus.
    if (this.#creating) return;
    this.#creating = true;
    try {
      const made = await this.#api.post("/v1/keys", body);
      form.reset();
      this.#done(`The key ${made.id} has been made.`);
      await showSecret(made, "Its holder sends it as Authorization: Bearer KEY.");
    } catch (error) {
      setText(problem, explain(error));
      const field = error.param && form.elements[error.param];
      if (field) {
        field.setAttribute("aria-invalid", "true");
        field.focus();
      }
    } finally {
      this.#creating = false;
    }
  }

  async #rotate(key) {
    name("rotate", key);
    byId("rotate-overlap").value = "24h";
    if (await ask(byId("rotate")) !== "yes") return;
    const overlap = byId("rotate-overlap").value.trim();
    await this.#change(async () => {
      const made = await this.#api.post(`/v1/keys/${encodeURIComponent(key.id)}/rotate`, overlap ? { overlap } : {});
      this.#done(`The key ${key.id} has another secret.`);
      await showSecret(made, `The old secret is valid until ${moment(parseTime(made.previous_until))}.`);
    });
  }

  async #revoke(key) {
    name("revoke", key);
    byId("revoke-streams").checked = false;
    if (await ask(byId("revoke")) !== "yes") return;
    const body = { end_streams: byId("revoke-streams").checked };
    await this.#change(async () => {
      await this.#api.post(`/v1/keys/${encodeURIComponent(key.id)}/revoke`, body);
      this.#done(`The key ${key.id} has been revoked.`);
      // Its buttons go away.
      byId("keys-title").focus();
    });
  }

  async #change(work) {
    setText(byId("keys-problem"), "");
    try {
      await work();
    } catch (error) {
      setText(byId("keys-problem"), explain(error));
    }
  }

  #done(text) {
    setText(byId("keys-done"), text);
    this.#refresh();
  }
}

/** Puts a key's names into a dialog. */
function name(dialog, { id, tenant }) {
  setText(byId(`${dialog}-id`), id);
  setText(byId(`${dialog}-tenant`), tenant);
}

/** Shows a secret until it is said to be done with; then the page has it no more. */
async function showSecret({ key }, note) {
  const [text, told] = [byId("new-key-text"), byId("new-key-note")];
  setText(text, key);
  setText(told, note);
  byId("new-key-done").onclick = () => byId("new-key").close();
  byId("new-key-copy").onclick = async () => {
    try {
      await navigator.clipboard.writeText(key);
      setText(told, "Copied.");
    } catch {
      // Browsers give the clipboard to pages of this machine and of https only.
      getSelection().selectAllChildren(text);
      setText(told, "This page may not use the clipboard. The key is selected: copy it by the keyboard.");
    }
  };
  await ask(byId("new-key"));
  setText(text, "");
  byId("new-key-copy").onclick = null;
}

/** What a key is for, if not for everything. */
function scopeOf({ surfaces, models, networks }) {
  const parts = [["only", surfaces], ["of", models], ["from", networks]];
  return parts.filter(([, list]) => list?.length > 0).map(([word, list]) => `${word} ${list.join(", ")}`).join("; ");
}

/** Declared keys have no time at which they were made. */
function newestFirst(a, b) {
  return (parseTime(b.created) ?? 0) - (parseTime(a.created) ?? 0) || (a.id < b.id ? -1 : 1);
}
