// An operator at work, in front of a real llama-server: signs in, watches a stream, makes a key, tries it, takes it
// back, and goes on after a restart of the gateway.
import assert from "node:assert/strict";
import {
  ADMIN_KEY, ADMIN_URL, API_KEY, button, chat, dialog, figure, newKey, number, open, quiet, region, row, rows, run,
  seconds, show, signIn, tab, tell, tries, until,
} from "./console.mjs";

const stored = (page) => page.evaluate(() => ({ session: sessionStorage.length, cookies: document.cookie }));

async function signsIn(page, noted) {
  await page.goto(`${ADMIN_URL}/`);
  assert.equal(page.url(), `${ADMIN_URL}/console`);
  await page.getByRole("heading", { level: 1, name: "llama-gateway" }).waitFor();
  await signIn(page, "not-the-admin-key-of-the-tests");
  await page.getByRole("alert").filter({ hasText: /key/i }).waitFor();
  assert.deepEqual(await stored(page), { session: 0, cookies: "" }, "a wrong key is not kept");
  assert.equal(await tab(page, "Now").count(), 0);
  quiet(noted, 401);
  await signIn(page);
  await region(page, "Running").waitFor();
  assert.equal(await tab(page, "Now").getAttribute("aria-selected"), "true");
  assert.deepEqual(await stored(page), { session: 1, cookies: "" });
}

/** A stream is there, its tokens grow, and it is gone when its client has left. */
async function watchesAStream(page) {
  const running = region(page, "Running");
  const leave = new AbortController();
  const answer = await chat(API_KEY, { stream: true, max_tokens: 1500 }, leave.signal);
  const isThere = (found) => found.Tenant === "acme";
  const seen = [];
  const last = await until("three snapshots of it", async () => {
    const found = (await rows(running, "Output")).find(isThere);
    if (found && number(found.Output) !== seen.at(-1)) seen.push(number(found.Output));
    return seen.length >= 3 && found;
  });
  assert.deepEqual(seen, seen.toSorted((a, b) => a - b), "they grow");
  assert.deepEqual([answer.status, last.Surface, last.Phase], [200, "chat", "decode"]);
  assert.ok(number(last.Speed) > 0 && seconds(last.TTFT) >= 0 && seconds(last.Age) > 0, JSON.stringify(last));
  leave.abort();
  await until("it is gone", async () => !(await rows(running, "Output")).some(isThere));
}

/** The key that a dialog shows once. */
async function shownKey(page) {
  const shown = await newKey(page);
  await button(dialog(page), "Copy").click();
  await dialog(page).getByRole("status").filter({ hasText: /copied/i }).waitFor();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), shown);
  await button(dialog(page), "Done").click();
  await dialog(page).waitFor({ state: "hidden" });
  const kept = await page.evaluate(() => document.documentElement.outerHTML
    + [...document.querySelectorAll("input")].map((input) => input.value).join());
  assert.ok(!kept.includes(shown), "it is shown once");
  return shown;
}

async function createsAKey(page) {
  await show(page, "Keys");
  await page.getByLabel("Tenant", { exact: true }).fill("beta");
  await page.getByLabel("Label", { exact: true }).fill("of the browser");
  await page.getByLabel("Expires").fill("90d");
  await button(page, "Create key").click();
  const key = await shownKey(page);
  assert.equal((await chat(key)).status, 200);
  const found = await row(page, "Key id", (found) => found.Label === "of the browser");
  assert.deepEqual([found.Tenant, found.State], ["beta", "valid"]);
  assert.ok(key.startsWith(`sk-lgw-${found["Key id"]}-`) && found.Expires.length > 3, JSON.stringify(found));
  return { key, id: found["Key id"] };
}

async function rotates(page, { key, id }) {
  await button(page, `Rotate ${id}`).click();
  await button(dialog(page), "Rotate").click();
  const rotated = await shownKey(page);
  assert.notEqual(rotated, key);
  assert.equal((await chat(rotated)).status, 200);
  assert.equal((await chat(key)).status, 200, "the old secret is valid for a while");
  return { key: rotated, id };
}

async function triesTheKey(page, { key }) {
  await show(page, "Try it");
  await tries(page, key, "Tell me about rivers.", 20);
  await until("the answer is whole", async () => number(await figure(page, "Tokens")) === 20);
  assert.ok((await region(page, "Answer").innerText()).length > 20);
  assert.ok(seconds(await figure(page, "TTFT")) > 0);
  assert.ok(number(await figure(page, "Tokens per second")) > 0);

  await tries(page, key, "Tell me a very long story.", 1500);
  await until("it has begun", async () => number(await figure(page, "Tokens")) > 5);
  // A screen reader is to read the answer when it is whole, not token by token.
  const spoken = region(page, "Answer").locator("[aria-live=polite]");
  assert.equal(await spoken.getAttribute("aria-busy"), "true");
  await button(page, "Stop").click();
  assert.equal(await spoken.getAttribute("aria-busy"), "false");
  assert.ok(await button(page, "Send").isEnabled());
  const then = await figure(page, "Tokens");
  await show(page, "Now");
  await until("nothing runs", async () => (await rows(region(page, "Running"), "Output")).length === 0);
  await show(page, "Try it");
  assert.equal(await figure(page, "Tokens"), then, "nothing came after the stop");
}

async function revokes(page, { key, id }, noted) {
  await show(page, "Keys");
  await button(page, `Revoke ${id}`).click();
  await button(dialog(page), "Cancel").click();
  assert.equal((await chat(key)).status, 200, "nothing happens before it is confirmed");
  await button(page, `Revoke ${id}`).click();
  await button(dialog(page), "Revoke").click();
  await row(page, "Key id", (found) => found["Key id"] === id && found.State === "revoked");
  const refused = await chat(key);
  assert.deepEqual([refused.status, (await refused.json()).error.code], [401, "invalid_api_key"]);
  assert.equal(await button(page, `Revoke ${id}`).count(), 0, "it cannot be revoked twice");

  quiet(noted);
  await show(page, "Try it");
  await tries(page, key, "Tell me about rivers.", 20);
  await page.getByRole("alert").filter({ hasText: "invalid_api_key" }).waitFor();
  assert.ok(await tab(page, "Try it").isVisible(), "a refused API key does not sign the operator out");
  quiet(noted, 401);
}

async function staysInItsTab(page, context) {
  await page.reload();
  await tab(page, "Now").waitFor();
  const other = await context.newPage();
  await other.goto(`${ADMIN_URL}/console`);
  await other.getByLabel("Admin key").waitFor();
  await other.close();
  await button(page, "Sign out").click();
  await page.getByLabel("Admin key").waitFor();
  assert.deepEqual(await stored(page), { session: 0, cookies: "" });
  const kept = await page.evaluate(() => JSON.stringify({ ...localStorage }));
  assert.ok(!kept.includes(ADMIN_KEY), kept);
  assert.equal(await page.getByLabel("Admin key").inputValue(), "");
  await page.reload();
  await page.getByLabel("Admin key").waitFor();
}

async function isSignedOutByANewAdminKey(page, noted) {
  await signIn(page);
  await show(page, "Keys");
  quiet(noted);
  await tell("admin-key another-admin-key-of-the-tests");
  await tab(page, "Tenants").click();
  await page.getByLabel("Admin key").waitFor();
  assert.equal((await stored(page)).session, 0);
  quiet(noted, 401);
  await signIn(page, "another-admin-key-of-the-tests");
  await show(page, "Now");
}

async function survivesARestart(page, noted) {
  quiet(noted);
  const banner = page.getByRole("status").filter({ hasText: "Reconnecting" });
  assert.ok(!(await banner.isVisible()));
  await tell("stop");
  await banner.waitFor();
  await tell("start");
  await banner.waitFor({ state: "hidden" });
  // What failed in between is no complaint.
  noted.loads.length = 0;
  const answer = await chat(API_KEY, { stream: true, max_tokens: 100 });
  await row(region(page, "Running"), "Output", (found) => found.Tenant === "acme");
  await answer.text();
}

await run(async (browser) => {
  const { context, page, noted } = await open(browser, { permissions: ["clipboard-read", "clipboard-write"] });
  await signsIn(page, noted);
  await watchesAStream(page);
  const key = await rotates(page, await createsAKey(page));
  await triesTheKey(page, key);
  await revokes(page, key, noted);
  await staysInItsTab(page, context);
  await isSignedOutByANewAdminKey(page, noted);
  await survivesARestart(page, noted);
  quiet(noted);
  assert.ok(noted.requests > 10);
});
