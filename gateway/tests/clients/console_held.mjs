// Requests that stand still, so that every number that the console shows of them can be compared: two run, three wait.
import assert from "node:assert/strict";
import {
  ADMIN_KEY, ADMIN_URL, button, enter, figure, number, open, quiet, region, row, rows, run, seconds, show, tell, tries,
  until,
} from "./console.mjs";

async function live() {
  const answer = await fetch(`${ADMIN_URL}/v1/live`, { headers: { authorization: `Bearer ${ADMIN_KEY}` } });
  return answer.json();
}
const running = (page) => rows(region(page, "Running"), "Output");
const queue = (page) => rows(region(page, "Queue"), "Position");
const waiting = (page, count) => until(`${count} wait`, async () => {
  const found = await queue(page);
  return found.length === count && found;
});

async function showsWhatRuns(page) {
  const found = await until("two run", async () => {
    const lines = await running(page);
    return lines.length === 2 && lines.every((line) => number(line.Output) === 5) && lines;
  });
  for (const line of found) {
    assert.deepEqual([line.Tenant, line.Surface, line.Phase, number(line.Prompt)], ["acme", "chat", "decode", 7]);
    assert.ok(seconds(line.TTFT) >= 0 && seconds(line.Age) >= 0, JSON.stringify(line));
  }
  const tiles = await page.getByRole("tabpanel", { name: "Now" }).innerText();
  assert.match(tiles, /2\s*(\/|of)\s*2/, "slots");
  assert.match(tiles, /ready/i);
}

async function showsWhoWaits(page) {
  const found = await waiting(page, 3);
  const told = await live();
  assert.equal(told.waiting_total, 3);
  const words = (list, tenant, group) => list.map((line) => `${line[tenant]} ${line[group]}`);
  const shown = words(found, "Tenant", "Class");
  assert.deepEqual(shown, words(told.waiting, "tenant", "class"), "in the order of the queue");
  assert.deepEqual(shown.toSorted(), ["beta interactive", "gamma batch", "small standard"]);
  const places = found.map((line) => number(line.Position));
  assert.deepEqual(places, told.waiting.map((line) => line.position));
  for (const [at, line] of found.entries()) {
    assert.ok(told.waiting[at].expected_wait_seconds !== null, "what ran before tells how fast it goes");
    assert.ok(seconds(line.Expected) >= 0 && seconds(line.Waited) >= 0, JSON.stringify(line));
  }
  assert.match(await region(page, "Queue").innerText(), /drain\w*\W+.*\d/is);
  const before = seconds(found[0].Waited);
  await until("the wait grows", async () => seconds((await queue(page))[0].Waited) > before);
}

/** Who tries while all slots are taken sees its place, and can go away. */
async function waitsAndLeaves(page, noted) {
  await show(page, "Try it");
  await tries(page, await tell("key delta"), "Tell me about rivers.", 3);
  await until("its place", async () => number(await figure(page, "Queue position")) >= 0);
  assert.equal((await live()).waiting_total, 4);
  await button(page, "Stop").click();
  await show(page, "Now");
  await waiting(page, 3);
  quiet(noted);
  // Of this tenant one may wait, and one does.
  await show(page, "Try it");
  await tries(page, await tell("key small"), "Tell me about rivers.", 3);
  const alert = page.getByRole("alert").filter({ hasText: "queue_full" });
  await alert.waitFor();
  assert.ok((await alert.innerText()).length > "queue_full".length + 20, "its message, too");
  quiet(noted, 429);
  assert.ok(await button(page, "Send").isEnabled());
}

/** What is typed and what has the focus stays while the numbers change. */
async function leavesTheReaderInPeace(page) {
  await show(page, "Now");
  const theme = page.getByRole("button", { name: /^Theme/ });
  await theme.focus();
  for (let change = 0; change < 2; change++) {
    const before = (await queue(page))[0].Waited;
    await until("new numbers", async () => (await queue(page))[0].Waited !== before);
  }
  assert.ok(await theme.evaluate((found) => found === document.activeElement));
}

async function followsARelease(page) {
  await tell("release 0");
  await until("it goes on", async () => (await running(page)).some((line) => number(line.Output) === 12));
  assert.equal((await running(page)).filter((line) => number(line.Output) === 5).length, 1, "the other one stands");
  await tell("release 0");
  await waiting(page, 2);
  await row(region(page, "Running"), "Output", (line) => line.Tenant !== "acme");
}

async function showsReplicas(page) {
  await show(page, "Upstreams");
  const found = await until("both", async () => {
    const lines = await rows(page, "Address");
    return lines.length === 2 && lines.some((line) => line.State === "ready") && lines;
  });
  const ready = found.find((line) => line.State === "ready");
  assert.deepEqual([ready.Model, number(ready.Foreign), number(ready.Restarts)], ["stub", 0, 0]);
  const down = found.find((line) => line !== ready);
  assert.equal(down.State, "down");
  assert.ok(down.Problem.length > 5, JSON.stringify(down));
}

async function showsWhatTenantsUsed(page) {
  await show(page, "Tenants");
  const found = await row(page, "Requests", (line) => line.Tenant === "acme");
  assert.ok(number(found.Requests) >= 4, JSON.stringify(found));
  assert.match(found["Left today"], /of 100,000$/);
}

await run(async (browser) => {
  const { page, noted } = await open(browser);
  await tell("hold");
  await enter(page);
  await showsWhatRuns(page);
  await showsWhoWaits(page);
  await waitsAndLeaves(page, noted);
  await leavesTheReaderInPeace(page);
  await showsReplicas(page);
  await showsWhatTenantsUsed(page);
  await show(page, "Now");
  await followsARelease(page);
  quiet(noted);
});
