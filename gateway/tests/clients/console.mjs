// What the tests of the browser console share: a Chromium that is watched, the console as people find their way in it,
// and a line to the test in Rust that started all this.
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { delimiter, join } from "node:path";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

export const { ADMIN_URL, ADMIN_KEY, PUBLIC_URL, API_KEY, PAGES } = process.env;

/** How long anything may take before a test fails, in milliseconds: generous, since the machine may be busy. */
const PATIENCE = 30_000;

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Has the test in Rust do what only it can, such as `release 0`; gives what it answers. */
export async function tell(order) {
  console.log(`> ${order}`);
  return (await answers.next()).value;
}

/** Asks until there is an answer that counts. */
export async function until(what, poll) {
  const end = Date.now() + PATIENCE;
  for (;;) {
    const value = await poll();
    if (value) return value;
    assert.ok(Date.now() < end, `never happened: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** `$CHROMIUM`, or `chromium` in the path. */
function binary() {
  const inPath = process.env.PATH.split(delimiter).map((folder) => join(folder, "chromium")).find(existsSync);
  const found = process.env.CHROMIUM ?? inPath;
  assert.ok(found, "Chromium is missing; hint: apt-get install chromium, or set CHROMIUM to the binary of a Chromium");
  return found;
}

/** Runs a test with a browser of its own and ends the process. */
export async function run(test, ...further) {
  const browser = await chromium.launch({
    executablePath: binary(),
    args: ["--no-sandbox", "--disable-dev-shm-usage", ...further],
  });
  try {
    await test(browser);
  } catch (error) {
    const pages = browser.contexts().flatMap((context) => context.pages());
    await pages.at(-1)?.screenshot({ path: `${PAGES}/console-failed.png` });
    throw error;
  } finally {
    await browser.close();
  }
  process.exit();
}

/** A new window in which every complaint of the browser and every request to somewhere else is noted. */
export async function open(browser, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1200, height: 900 }, ...options });
  context.setDefaultTimeout(PATIENCE);
  const noted = { faults: [], loads: [], requests: 0 };
  await context.addInitScript(() => {
    addEventListener("securitypolicyviolation", (event) => {
      console.error(`policy: ${event.effectiveDirective} ${event.blockedURI} ${event.sample}`);
    });
  });
  context.on("request", (request) => {
    noted.requests += 1;
    const { origin, protocol } = new URL(request.url());
    if (origin !== new URL(ADMIN_URL).origin && protocol !== "data:") noted.faults.push(`request to ${request.url()}`);
  });
  context.on("console", (message) => {
    if (!["error", "warning"].includes(message.type())) return;
    // The browser says this of each answer that is an error, also of one that was wanted.
    const kind = message.text().startsWith("Failed to load resource") ? noted.loads : noted.faults;
    kind.push(`${message.text()} (${message.location().url})`);
  });
  context.on("weberror", (error) => noted.faults.push(`thrown: ${error.error().stack}`));
  context.on("dialog", (dialog) => {
    noted.faults.push(`dialog: ${dialog.message()}`);
    return dialog.dismiss();
  });
  return { context, page: await context.newPage(), noted };
}

/** Nothing but these statuses was refused since the last look, and the browser had nothing else to say. */
export function quiet(noted, ...statuses) {
  assert.deepEqual(noted.faults, []);
  const says = (load, status) => load.includes(`status of ${status} `);
  assert.deepEqual(noted.loads.filter((load) => !statuses.some((status) => says(load, status))), []);
  for (const status of statuses) assert.ok(noted.loads.some((load) => says(load, status)), `nothing was a ${status}`);
  noted.loads.length = 0;
}

export const button = (place, name) => place.getByRole("button", { name, exact: true });
export const region = (page, name) => page.getByRole("region", { name, exact: true });
export const tab = (page, name) => page.getByRole("tab", { name, exact: true });
export const dialog = (page) => page.getByRole("dialog");

export async function signIn(page, key = ADMIN_KEY) {
  await page.getByLabel("Admin key").fill(key);
  await button(page, "Sign in").click();
}

/** The console, signed in, with the tab "Now". */
export async function enter(page) {
  await page.goto(`${ADMIN_URL}/console`);
  await signIn(page);
  await region(page, "Running").waitFor();
}

export async function show(page, name) {
  await tab(page, name).click();
  await page.getByRole("tabpanel", { name, exact: true }).waitFor();
}

/** The rows of the table with that column, as objects by the names of the columns; none while it is not shown. */
export function rows(place, column) {
  return place.locator("table:visible").evaluateAll((tables, wanted) => {
    const words = (row) => [...row.cells].map((cell) => cell.innerText.trim().split("\n")[0]);
    const found = tables.map((table) => [words(table.tHead.rows[0]), table]).find(([names]) => names.includes(wanted));
    if (!found) return [];
    const [names, table] = found;
    return [...table.tBodies].flatMap((body) => [...body.rows])
      .map((row) => Object.fromEntries(words(row).map((word, at) => [names[at], word])));
  }, column);
}

/** The first row of which this holds, once there is one. */
export function row(place, column, holds) {
  return until(`a row by its ${column}`, async () => (await rows(place, column)).find(holds));
}

/** The number at the beginning of a text such as `1,234 tokens`. */
export const number = (text) => Number.parseFloat(text.replaceAll(/[,\s\u00a0\u202f]/g, ""));

/** The key that was just made, as its dialog shows it. */
export async function newKey(page) {
  const key = await dialog(page).getByText(/^sk-lgw-/).innerText();
  assert.match(key, /^sk-lgw-[a-z2-7]{8}-[a-z2-7]{59}$/);
  return key;
}

/** Sends a prompt from the tab "Try it". */
export async function tries(page, key, prompt, tokens) {
  await page.getByLabel("API key").fill(key);
  await page.getByLabel("Prompt").fill(prompt);
  await page.getByLabel("Max tokens").fill(`${tokens}`);
  await button(page, "Send").click();
}

/** A figure of the tab "Try it". */
export const figure = (page, name) => page
  .locator("dl > *, dl")
  .filter({ has: page.getByText(name, { exact: true }) })
  .last().locator("dd").first().innerText();

/** The seconds of a time such as `850 ms`, `1.5 s` or `2 min 5 s`. */
export function seconds(text) {
  const units = { ms: 0.001, s: 1, min: 60, h: 3600, d: 86_400 };
  const parts = [...text.matchAll(/([\d.]+)\s*(ms|s|min|h|d)\b/g)];
  return parts.length === 0 ? Number.NaN : parts.reduce((sum, [, size, unit]) => sum + size * units[unit], 0);
}

/** A chat of the public listener, as a client sends it. */
export function chat(key, further = {}, signal = undefined) {
  return fetch(`${PUBLIC_URL}/v1/chat/completions`, {
    method: "POST",
    signal,
    headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
    body: JSON.stringify({
      model: "any", messages: [{ role: "user", content: "Tell me about rivers." }], max_tokens: 4, temperature: 0,
      ...further,
    }),
  });
}

/** The text of a file of a package. */
export const packaged = (path) => createRequire(import.meta.url).resolve(path);
