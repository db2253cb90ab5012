// Pages of other origins try what a browser lets them, while the operator is signed in beside them: they learn nothing
// and change nothing.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { ADMIN_KEY, ADMIN_URL, enter, quiet, open, run, until } from "./console.mjs";

/** What runs in the foreign page: each attempt gives what it got, which must be nothing. */
async function attempts({ admin, key }) {
  const nothing = (promise) => promise.then((answer) => (answer.type === "opaque" ? null : "an answer"), () => null);
  const fails = (element, attribute, path) => new Promise((resolve) => {
    element.onload = () => resolve("it was loaded");
    element.onerror = () => resolve(null);
    element[attribute] = admin + path;
    document.body.append(element);
  });
  const make = JSON.stringify({ tenant: "evil" });
  const headers = { authorization: `Bearer ${key}` };
  const keys = `${admin}/v1/keys`;
  return {
    "simple fetch": await nothing(fetch(`${admin}/v1/live`)),
    "opaque fetch": await nothing(fetch(`${admin}/v1/live`, { mode: "no-cors" })),
    "opaque fetch of the metrics": await nothing(fetch(`${admin}/metrics`, { mode: "no-cors" })),
    "fetch of the metrics": await nothing(fetch(`${admin}/metrics`)),
    "fetch with the admin key": await nothing(fetch(keys, { headers })),
    "fetch with cookies": await nothing(fetch(keys, { credentials: "include" })),
    "simple post": await nothing(fetch(keys, { method: "POST", body: make })),
    "opaque post": await nothing(fetch(keys, { method: "POST", mode: "no-cors", body: make })),
    "post with the admin key": await nothing(fetch(keys, { method: "POST", headers, body: make })),
    "opaque try": await nothing(fetch(`${admin}/v1/console/try`, { method: "POST", mode: "no-cors", body: "{}" })),
    "event source": await new Promise((resolve) => {
      const source = new EventSource(`${admin}/v1/live/events`);
      source.onerror = () => resolve(source.close() ?? null);
      source.onmessage = () => resolve("an event");
    }),
    "picture of data": await fails(new Image(), "src", "/v1/live"),
    "picture of the console": await fails(new Image(), "src", "/console/icon.svg"),
    "script of the console": await fails(document.createElement("script"), "src", "/console/app.js"),
    "worker": await new Promise((resolve) => {
      try {
        new Worker(`${admin}/console/app.js`).onerror = () => resolve(null);
      } catch {
        resolve(null);
      }
    }),
  };
}

/** A form is sent without asking: its answer comes into a frame. */
async function postsAForm(page, answered) {
  await page.evaluate((admin) => {
    const frame = Object.assign(document.createElement("iframe"), { name: "answer" });
    const form = Object.assign(document.createElement("form"), {
      method: "POST", action: `${admin}/v1/keys`, enctype: "text/plain", target: "answer",
    });
    form.append(Object.assign(document.createElement("input"), { name: '{"tenant":"evil","label":"', value: '"}' }));
    document.body.append(frame, form);
    form.submit();
  }, ADMIN_URL);
  await until("the form is answered", () => answered.some((line) => line.startsWith("POST /v1/keys document")));
}

async function framesTheConsole(page) {
  await page.evaluate((admin) => {
    const frame = Object.assign(document.createElement("iframe"), { name: "console", src: `${admin}/console` });
    document.body.append(frame);
  }, ADMIN_URL);
  const frame = await until("the frame", () => page.frame("console"));
  await until("it is refused", () => frame.url().startsWith("chrome-error:"));
}

/** A window that was opened is a stranger to its opener. */
async function opensTheConsole(page) {
  const opened = page.waitForEvent("popup");
  await page.evaluate((admin) => {
    window.opened = window.open(`${admin}/console`);
  }, ADMIN_URL);
  const popup = await opened;
  await popup.getByLabel("Admin key").waitFor();
  assert.equal(await popup.evaluate(() => window.opener), null);
  assert.ok(await page.evaluate(() => window.opened.closed), "its opener has lost it");
}

/** A link to data is refused, too: nobody needs one. */
async function linksToData(page) {
  await page.evaluate((admin) => location.assign(`${admin}/v1/keys`), ADMIN_URL);
  await page.waitForURL(`${ADMIN_URL}/v1/keys`);
}

async function attacks(page, foreign) {
  const answered = [];
  const note = (response) => {
    const request = response.request();
    const { origin, pathname } = new URL(request.url());
    if (origin !== ADMIN_URL || !pathname.startsWith("/v1/")) return;
    answered.push(`${request.method()} ${pathname} ${request.resourceType()} ${response.status()}`);
  };
  page.on("response", note);
  await page.goto(foreign);
  const got = await page.evaluate(attempts, { admin: ADMIN_URL, key: ADMIN_KEY });
  for (const [attempt, result] of Object.entries(got)) assert.equal(result, null, `${foreign}: ${attempt}`);
  await postsAForm(page, answered);
  await framesTheConsole(page);
  await opensTheConsole(page);
  await linksToData(page);
  // Refused for its origin, not for its key. What the browser itself has kept back is not among them.
  assert.deepEqual(answered, [
    "GET /v1/live fetch 403", "POST /v1/keys fetch 403", "POST /v1/console/try fetch 403", "POST /v1/keys document 403",
    "GET /v1/keys document 403",
  ], foreign);
  page.off("response", note);
}

/** A name that was made to point here gets the console as anybody does, and has no key: there are no cookies. */
async function isReboundTo(page) {
  await page.goto(`http://rebound.example:${new URL(ADMIN_URL).port}/console`);
  await page.getByLabel("Admin key").waitFor();
  const got = await page.evaluate(async () => ({
    status: (await fetch("/v1/keys")).status, session: sessionStorage.length, cookies: document.cookie,
  }));
  assert.deepEqual(got, { status: 401, session: 0, cookies: "" });
}

const server = createServer((_, answer) => {
  answer.setHeader("content-type", "text/html");
  answer.end("<!doctype html><title>foreign</title><link rel=icon href='data:,'><body>");
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const { port } = server.address();

await run(async (browser) => {
  const { context, page, noted } = await open(browser);
  await enter(page);
  quiet(noted);
  // To the browser the first is the same site, the second another one.
  const foreign = await context.newPage();
  for (const host of ["127.0.0.1", "evil.example"]) await attacks(foreign, `http://${host}:${port}/`);
  await isReboundTo(foreign);
  assert.ok(await page.getByRole("tab", { name: "Now" }).isVisible(), "the operator is still there");
}, "--host-resolver-rules=MAP *.example 127.0.0.1");
