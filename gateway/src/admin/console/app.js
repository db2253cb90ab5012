// The console: signing in and out, the tabs, and what all of them share.

import { Api, explain, explainSignOut, Refused } from "./api.js";
import { byId, setAttribute, setText, tabs } from "./dom.js";
import { duration, moment } from "./format.js";
import { Keys } from "./keys.js";
import { Live } from "./live.js";
import { Now } from "./now.js";
import { Tenants } from "./tenants.js";
import { Try } from "./try.js";
import { Upstreams } from "./upstreams.js";

const STORED_KEY = "llama-gateway-admin-key";
const STORED_FAREWELL = "llama-gateway-signed-out";
const THEMES = ["auto", "light", "dark"];

/** What there is while somebody is signed in. */
class Session {
  #views;
  #stream;
  #live = null;
  #lost = false;
  #open = "now";

  constructor(api, refused) {
    this.#views = {
      now: new Now(),
      tenants: new Tenants(api),
      keys: new Keys(api),
      upstreams: new Upstreams(),
      try: new Try(api),
    };
    this.#stream = new Live(api, {
      snapshot: (live) => this.#take(live),
      lost: () => this.#lose(),
      refused,
    });
  }

  /** A hidden page asks for nothing. */
  watch() {
    if (document.hidden) this.#stream.stop();
    else this.#stream.start();
  }

  end() {
    this.#stream.stop();
    this.#views.try.stop();
  }

  open(name) {
    this.#open = name;
    this.#views[name].opened?.();
    this.#show();
    this.resize();
  }

  resize() {
    if (this.#open === "tenants") this.#views.tenants.resize();
    else this.#show();
  }

  #take(live) {
    this.#live = live;
    this.#lost = false;
    this.#views.now.remember(live);
    this.#show();
  }

  #lose() {
    this.#lost = true;
    this.#tell();
  }

  #show() {
    this.#tell();
    if (this.#live) this.#views[this.#open].show?.(this.#live);
  }

  #tell() {
    setText(byId("banner"), bannerOf(this.#live, this.#lost));
    if (!this.#live) return;
    const { at, gateway } = this.#live;
    setText(byId("about"), `version ${gateway.version}, up ${duration(at - gateway.started)}`);
  }
}

/** What concerns everybody who looks at the page. */
function bannerOf(live, lost) {
  if (lost) return live ? `Reconnecting. What you see is of ${moment(live.at)}.` : "Reconnecting.";
  if (live?.gateway.draining) return "The gateway is shutting down: new requests are refused.";
  if (live && !live.gateway.ledger_healthy) return "The ledger cannot be written; hint: see the gateway's log.";
  return "";
}

let session = null;

function begin(key) {
  session = new Session(new Api(key, signOut), signOut);
  byId("console").hidden = false;
  byId("sign-out").hidden = false;
  tabs(document.querySelector("[role=tablist]"), (name) => {
    history.replaceState(null, "", `#${name}`);
    document.title = `${byId(`tab-${name}`).textContent} · llama-gateway`;
    session.open(name);
  })(location.hash.slice(1));
  document.addEventListener("visibilitychange", () => session.watch());
  new ResizeObserver(() => session.resize()).observe(byId("console"));
  session.watch();
}

/** Ends the session; `error`: why, if it was not by the button. The page is loaded anew, so that nothing that was shown
 * is left in it. */
function signOut(error) {
  session.end();
  sessionStorage.removeItem(STORED_KEY);
  if (error instanceof Refused) sessionStorage.setItem(STORED_FAREWELL, explainSignOut(error));
  location.reload();
}

function showSignIn() {
  const [main, field, problem] = ["sign-in", "admin-key", "sign-in-problem"].map(byId);
  main.hidden = false;
  field.focus();
  setText(problem, sessionStorage.getItem(STORED_FAREWELL) ?? "");
  sessionStorage.removeItem(STORED_FAREWELL);
  field.form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const submit = field.form.querySelector("button");
    submit.disabled = true;
    setText(problem, "");
    const key = field.value.trim();
    const wrong = await check(key);
    submit.disabled = false;
    setAttribute(field, "aria-invalid", wrong ? "true" : null);
    if (wrong) {
      setText(problem, wrong);
      field.focus();
      return;
    }
    field.value = "";
    main.hidden = true;
    sessionStorage.setItem(STORED_KEY, key);
    begin(key);
    byId("tab-now").parentElement.querySelector("[aria-selected=true]").focus();
  });
}

/** What is wrong with a key; null: nothing. */
async function check(key) {
  if (!/^[\x21-\x7e]+$/.test(key)) return "The admin key has graphic ASCII characters only, at least 16 of them.";
  try {
    await new Api(key, () => {}).get("/v1/live");
    return null;
  } catch (error) {
    return error instanceof Refused && error.isOfAdminKey ? explainSignOut(error) : explain(error);
  }
}

function showTheme(theme) {
  document.documentElement.dataset.theme = theme;
  setText(byId("theme"), `Theme: ${theme}`);
}

byId("theme").addEventListener("click", () => {
  const theme = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length];
  localStorage.setItem("theme", theme);
  showTheme(theme);
});
byId("sign-out").addEventListener("click", signOut);
showTheme(document.documentElement.dataset.theme);
const remembered = sessionStorage.getItem(STORED_KEY);
if (remembered) begin(remembered);
else showSignIn();
