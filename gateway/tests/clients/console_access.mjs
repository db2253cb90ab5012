// Whether everybody can use the console: axe-core finds nothing in any tab, in light and dark, on a desk and a phone;
// the keyboard reaches everything; nothing moves for who wants it quiet. The pictures of it are left in target/pages.
import assert from "node:assert/strict";
import {
  ADMIN_KEY, ADMIN_URL, API_KEY, PAGES, button, dialog, figure, number, open, packaged, quiet, region, rows, run, show,
  tab, tell, tries, until,
} from "./console.mjs";

const TABS = ["Now", "Tenants", "Keys", "Upstreams", "Try it"];
const SIZES = { desk: { width: 1200, height: 900 }, phone: { width: 375, height: 812 } };
const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];

/** No rule is broken, and nothing has to be moved sideways. */
async function holdsUp(page, name) {
  const broken = await page.evaluate(async (runOnly) => {
    const { violations } = await axe.run({ runOnly, resultTypes: ["violations"], reporter: "no-passes" });
    return violations;
  }, RULES);
  const why = ({ any, all, none }) => [...any, ...all, ...none].map(({ message }) => message).join(" ");
  const told = broken.flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html}\n${why(node)}`));
  assert.deepEqual(told, [], `${name}\n${told.join("\n")}`);
  const width = await page.evaluate(() => [document.scrollingElement.scrollWidth, innerWidth]);
  assert.ok(width[0] <= width[1], `${name} is ${width[0]} wide in a window of ${width[1]}`);
}

async function looksRight(page, names, visit) {
  for (const [size, viewport] of Object.entries(SIZES)) {
    await page.setViewportSize(viewport);
    for (const name of names) {
      await visit(name);
      for (const colorScheme of ["light", "dark"]) {
        // Nothing fades from one theme into the other while it is looked at.
        await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
        const picture = `console-${name.replace(" ", "-").toLowerCase()}-${size}-${colorScheme}.png`;
        await page.screenshot({ path: `${PAGES}/${picture}`, fullPage: true });
        await holdsUp(page, `${name}, ${size}, ${colorScheme}`);
      }
    }
  }
  await page.setViewportSize(SIZES.desk);
  await page.emulateMedia({ colorScheme: "light", reducedMotion: "no-preference" });
}

/** Nor in the narrowest window there is: a desk at 400 percent. */
async function fitsANarrowWindow(page) {
  await page.setViewportSize({ width: 320, height: 256 });
  for (const name of TABS) {
    await show(page, name);
    const width = await page.evaluate(() => document.scrollingElement.scrollWidth);
    assert.ok(width <= 320, `${name} is ${width} wide in a window of 320`);
  }
  await page.setViewportSize(SIZES.desk);
}

/** By Tab alone everything is reached that can be used, and it can be seen where one is. */
async function isReached(page, name) {
  const wanted = await page.evaluate(() => {
    const usable = "a[href], button, input, select, textarea, summary, [tabindex]";
    window.usable = [...document.querySelectorAll(usable)].filter((found) =>
      found.tabIndex >= 0 && !found.disabled && found.checkVisibility({ visibilityProperty: true }));
    document.activeElement.blur();
    return window.usable.map((found) => found.outerHTML.slice(0, 100));
  });
  const reached = new Set();
  for (let press = 0; press < 2 * wanted.length + 4 && reached.size < wanted.length; press++) {
    await page.keyboard.press("Tab");
    const now = await page.evaluate(() => {
      const found = document.activeElement;
      const style = getComputedStyle(found);
      const outlined = style.outlineStyle !== "none" && Number.parseFloat(style.outlineWidth) >= 1;
      const seen = outlined || style.boxShadow !== "none";
      return { at: window.usable.indexOf(found), seen, html: found.outerHTML.slice(0, 100) };
    });
    if (now.at < 0) continue;
    reached.add(now.at);
    assert.ok(now.seen, `${name}: the focus cannot be seen on ${now.html}`);
  }
  assert.deepEqual(wanted.filter((_, at) => !reached.has(at)), [], `${name}: not reached by Tab`);
}

async function tabsFollowTheArrows(page) {
  const chosen = async () => (await page.getByRole("tab", { selected: true }).allInnerTexts()).join();
  const press = async (key, name) => {
    await page.keyboard.press(key);
    assert.equal(await chosen(), name, key);
    assert.ok(await tab(page, name).evaluate((found) => found === document.activeElement), key);
    await page.getByRole("tabpanel", { name, exact: true }).waitFor();
  };
  await show(page, "Now");
  await tab(page, "Now").focus();
  for (const name of [...TABS.slice(1), TABS[0]]) await press("ArrowRight", name);
  await press("ArrowLeft", TABS.at(-1));
  await press("Home", TABS[0]);
  await press("End", TABS.at(-1));
}

/** A dialog takes the focus, keeps it, and gives it back. */
async function dialogsKeepTheFocus(page) {
  await show(page, "Keys");
  const revoke = page.getByRole("button", { name: /^Revoke/ }).first();
  await revoke.focus();
  await page.keyboard.press("Enter");
  await dialog(page).waitFor();
  await page.getByRole("dialog", { name: "Revoke key" }).waitFor();
  const where = () => page.evaluate(() => {
    const found = document.activeElement;
    return found === document.body ? "browser" : found.closest("dialog[open]") ? "dialog" : found.outerHTML;
  });
  assert.equal(await where(), "dialog");
  for (let press = 0; press < 6; press++) {
    await page.keyboard.press(press % 3 ? "Tab" : "Shift+Tab");
    // After the last one comes the browser's own window.
    assert.ok(["dialog", "browser"].includes(await where()), await where());
  }
  await holdsUp(page, "dialog");
  await page.screenshot({ path: `${PAGES}/console-dialog-desk-light.png` });
  await page.keyboard.press("Escape");
  await dialog(page).waitFor({ state: "hidden" });
  assert.ok(await revoke.evaluate((found) => found === document.activeElement), "the focus is back");
}

async function keepsStill(page) {
  await page.emulateMedia({ reducedMotion: "reduce" });
  for (const name of TABS) {
    await show(page, name);
    const moving = await page.evaluate(() => {
      const milliseconds = (time) => Number.parseFloat(time) * (time.includes("ms") ? 1 : 1000);
      const long = (times) => times.split(",").some((time) => milliseconds(time) > 1);
      const moves = (found) => {
        const style = getComputedStyle(found);
        return long(style.transitionDuration) || (style.animationName !== "none" && long(style.animationDuration));
      };
      return [...document.querySelectorAll("*")].filter(moves).map((found) => found.outerHTML.slice(0, 100));
    });
    assert.deepEqual(moving, [], name);
  }
  assert.equal(await page.evaluate(() => document.getAnimations().length), 0);
  await page.emulateMedia({ reducedMotion: "no-preference" });
}

/** Auto, light, dark, and it is remembered. */
async function theThemeIsChosen(page) {
  const theme = page.getByRole("button", { name: /^Theme/ });
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = await ground();
  await page.emulateMedia({ colorScheme: "dark" });
  const dark = await ground();
  assert.notEqual(dark, light, "auto follows the system");
  await theme.click();
  assert.equal(await ground(), light);
  await page.emulateMedia({ colorScheme: "light" });
  await theme.click();
  assert.equal(await ground(), dark);
  await page.reload();
  await tab(page, "Now").waitFor();
  assert.equal(await ground(), dark, "remembered");
  await theme.click();
  assert.equal(await ground(), light);
}

await run(async (browser) => {
  const { context, page, noted } = await open(browser, { colorScheme: "light" });
  await context.addInitScript({ path: packaged("axe-core/axe.min.js") });
  await page.goto(`${ADMIN_URL}/console`);
  await looksRight(page, ["Sign in"], () => page.getByLabel("Admin key").waitFor());
  await isReached(page, "Sign in");
  await page.getByLabel("Admin key").focus();
  await page.keyboard.type(ADMIN_KEY);
  await page.keyboard.press("Enter");
  await show(page, "Try it");
  await tries(page, API_KEY, "Tell me about rivers.", 3);
  await until("the answer is whole", async () => number(await figure(page, "Tokens")) === 3);
  await until("it is over", () => button(page, "Send").isEnabled());
  await tell("hold");
  await show(page, "Now");
  await until("the queue", async () => (await rows(region(page, "Queue"), "Position")).length === 3);
  await looksRight(page, TABS, (name) => show(page, name));
  await fitsANarrowWindow(page);
  for (const name of TABS) {
    await show(page, name);
    await isReached(page, name);
  }
  await tabsFollowTheArrows(page);
  await dialogsKeepTheFocus(page);
  await keepsStill(page);
  await theThemeIsChosen(page);
  quiet(noted);
});
