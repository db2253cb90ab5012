// Every word that the console shows is an attack: it stays text. A proxy puts the words into the answers of the
// gateway, which itself would not take most of them as names.
import assert from "node:assert/strict";
import { createServer, request } from "node:http";

const EVIL = [
  "<img src=x onerror=alert(1)>",
  "</script><script>alert(1)</script>",
  "\"><svg/onload=alert(1)>'",
  "javascript:alert(1)",
  "{{constructor.constructor('alert(1)')()}}",
  "\u202Etxt.exe\u2066",
  "W".repeat(200),
];

let next = 0;
/** Words that the gateway makes up itself; everything else comes from people or from llama-server. */
const KEPT = new Set([
  "object", "key", "id", "key_id", "request_id", "version", "readiness", "state", "phase", "surface",
]);

/** The same with an attack in front of each word. */
function spoil(value, name) {
  if (Array.isArray(value)) return value.map((inner) => spoil(inner, name));
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, spoil(inner, key)]));
  }
  const isWord = typeof value === "string" && !KEPT.has(name) && !/^\d{4}-\d\d-\d\dT/.test(value);
  return isWord ? `${EVIL[next++ % EVIL.length]}${value}` : value;
}

/** Passes on the answer of the gateway with its words spoiled. */
function pass(from, to) {
  const kind = from.headers["content-type"] ?? "";
  const { "content-length": _, "transfer-encoding": _too, ...headers } = from.headers;
  to.writeHead(from.statusCode, headers);
  if (!kind.includes("json") && !kind.includes("event-stream")) return from.pipe(to);
  let rest = "";
  const line = (text) => text.replace(/(?<=^|^data: )\{.*\}$/, (json) => JSON.stringify(spoil(JSON.parse(json))));
  from.setEncoding("utf8");
  from.on("data", (piece) => {
    const lines = (rest + piece).split("\n");
    rest = lines.pop();
    to.write(lines.map((text) => `${line(text)}\n`).join(""));
  });
  from.on("end", () => to.end(line(rest)));
}

async function proxy(gateway) {
  const { hostname, port } = new URL(gateway);
  const server = createServer((asked, answer) => {
    const { method, url: path, headers } = asked;
    const passed = request({ hostname, port, method, path, headers }, (from) => pass(from, answer));
    passed.on("error", () => answer.destroy());
    answer.on("close", () => passed.destroy());
    asked.pipe(passed);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return `http://127.0.0.1:${server.address().port}`;
}

const gateway = process.env.ADMIN_URL;
process.env.ADMIN_URL = await proxy(gateway);
const {
  API_KEY, PAGES, button, chat, dialog, enter, newKey, open, quiet, region, run, show, tries, until,
} = await import("./console.mjs");

/** Text is all that there is: no element and no attribute that the console does not make itself. */
async function isText(page, name) {
  const strange = await page.evaluate(() => [...document.querySelectorAll("*")].filter((found) =>
    found.matches("img:not([src='/console/icon.svg']), body script, iframe, object, embed, base, a[href^=javascript]")
    || [...found.attributes].some((attribute) => attribute.name.startsWith("on"))).map((found) => found.outerHTML));
  assert.deepEqual(strange, [], name);
}

const isAttacked = (place) => until("there is an attack", async () => {
  const text = await place.innerText();
  return EVIL.some((evil) => text.includes(evil));
});

/** All tabs hold what they are given, also on a phone. */
async function showsAll(page) {
  for (const name of ["Now", "Tenants", "Keys", "Upstreams"]) {
    await show(page, name);
    await isAttacked(page.getByRole("tabpanel", { name, exact: true }));
    await isText(page, name);
    await page.setViewportSize({ width: 375, height: 812 });
    const width = await page.evaluate(() => document.scrollingElement.scrollWidth);
    assert.ok(width <= 375, `${name} is ${width} wide`);
    await page.screenshot({ path: `${PAGES}/console-hostile-${name.toLowerCase()}.png`, fullPage: true });
    await page.setViewportSize({ width: 1200, height: 900 });
  }
}

/** What the gateway itself takes or refuses: labels, and names that mean something to JavaScript. */
async function makesKeys(page, noted) {
  await show(page, "Keys");
  const fill = async (tenant, label) => {
    await page.getByLabel("Tenant", { exact: true }).fill(tenant);
    await page.getByLabel("Label", { exact: true }).fill(label);
    await button(page, "Create key").click();
  };
  await fill(EVIL[0], "");
  await page.getByRole("alert").filter({ hasText: EVIL[0] }).waitFor();
  quiet(noted, 400);
  await isText(page, "a refusal");
  for (const tenant of ["__proto__", "constructor"]) {
    await fill(tenant, `${EVIL[1]} ${EVIL[5]}`);
    const key = await newKey(page);
    await isText(page, "a new key");
    await button(dialog(page), "Done").click();
    await dialog(page).waitFor({ state: "hidden" });
    await show(page, "Try it");
    await tries(page, key, EVIL.join(" "), 8);
    await isAttacked(region(page, "Answer"));
    await until("the end", () => button(page, "Send").isEnabled());
    await isText(page, "an answer");
    await show(page, "Keys");
  }
  await button(page, /^Revoke/).first().click();
  await isText(page, "a question");
  await page.screenshot({ path: `${PAGES}/console-hostile-dialog.png` });
  await button(dialog(page), "Cancel").click();
}

await run(async (browser) => {
  const { page, noted } = await open(browser);
  await enter(page);
  await makesKeys(page, noted);
  // One runs and one waits as long as they are looked at.
  const leave = new AbortController();
  const asked = [1, 2].map(() => chat(API_KEY, { stream: true, max_tokens: 1500 }, leave.signal));
  await asked[0];
  await showsAll(page);
  leave.abort();
  await Promise.allSettled(asked);
  await page.reload();
  await page.getByRole("tab", { name: "Now" }).waitFor();
  await isText(page, "after a reload");
  quiet(noted);
});
