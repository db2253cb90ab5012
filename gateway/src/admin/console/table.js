// Tables that are filled again and again: a row stays the same element as long as its key is there, so that focus and
// selected text stay, too.

import { byId, element, setAttribute, setText } from "./dom.js";

/** More rows than people read; a filter shows the others. */
const MOST_ROWS = 200;
/** Characters of a text that is probably cut where it is shown. */
const LONG_TEXT = 60;

/**
 * A column is `{head, value(item)}`, and may have `kind` ("text": what somebody wrote, "prose": the same, never cut,
 * "word", "number", "code"), `under(item)`: a line below, `part(item)`: a bar from 0 to 1, `mark(item)`: a class of the
 * value, `title(item)`; or instead of all these `controls(key, cell)`: `{node, update(item)}`.
 */
export class Table {
  #table;
  #scroll;
  #body = element("tbody", { role: "rowgroup" });
  #empty;
  #columns;
  #keyOf;
  #rows = new Map();

  /** Fills the table `id`; what stands in `emptyId` is shown in its place while nothing is there. */
  constructor(id, emptyId, keyOf, columns) {
    this.#table = byId(id);
    this.#scroll = this.#table.parentElement;
    this.#empty = byId(emptyId);
    this.#columns = columns;
    this.#keyOf = keyOf;
    const heads = columns.map(({ head, kind }) =>
      element("th", { scope: "col", role: "columnheader", class: kind ?? "word" }, head));
    this.#table.append(
      element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...heads)),
      this.#body,
    );
    this.#scroll.setAttribute("role", "group");
    this.#scroll.setAttribute("aria-label", this.#table.caption.textContent);
  }

  /** Shows these items, in this order, or says what there is instead; gives how many of them are shown. */
  show(items, otherwise) {
    const shown = items.slice(0, MOST_ROWS);
    this.#keepOnly(new Set(shown.map(this.#keyOf)));
    let place = this.#body.firstElementChild;
    for (const item of shown) {
      const key = this.#keyOf(item);
      const row = this.#rows.get(key) ?? this.#add(key);
      row.update(item);
      if (row.node === place) place = place.nextElementSibling;
      else this.#body.insertBefore(row.node, place);
    }
    setText(this.#empty, otherwise);
    this.#empty.hidden = shown.length > 0;
    this.#scroll.hidden = shown.length === 0;
    // Whoever has no mouse scrolls by the keyboard, where there is anything to scroll.
    const scrolls = this.#scroll.scrollWidth > this.#scroll.clientWidth;
    setAttribute(this.#scroll, "tabindex", scrolls ? 0 : null);
    return shown.length;
  }

  /** Before rows are put in their places: none is to be moved only because one above it has gone. */
  #keepOnly(keys) {
    for (const [key, row] of this.#rows) {
      if (keys.has(key)) continue;
      row.node.remove();
      this.#rows.delete(key);
    }
  }

  #add(key) {
    const cells = this.#columns.map((column, at) => cellOf(column, at === 0, key));
    const row = {
      node: element("tr", { role: "row" }, ...cells.map(({ node }) => node)),
      update: (item) => cells.forEach((cell) => cell.update(item)),
    };
    this.#rows.set(key, row);
    return row;
  }
}

function cellOf(column, isFirst, key) {
  const attributes = { class: column.kind ?? "word", "data-head": column.head };
  const node = isFirst
    ? element("th", { scope: "row", role: "rowheader", ...attributes })
    : element("td", { role: "cell", ...attributes });
  if (column.controls) {
    const controls = column.controls(key, node);
    node.append(controls.node);
    return { node, update: controls.update };
  }
  const value = node.appendChild(element(column.kind === "code" ? "code" : "span"));
  if (column.kind === "text") value.dir = "auto";
  const under = column.under && node.appendChild(element("span", { class: "under" }));
  const bar = column.part && element("span");
  if (bar) node.append(element("span", { class: "bar", "aria-hidden": "true" }, bar));
  const update = (item) => {
    const text = column.value(item);
    setText(value, text);
    if (column.kind === "text") setAttribute(value, "title", text.length > LONG_TEXT ? text : null);
    if (column.mark) setAttribute(value, "class", column.mark(item));
    if (column.title) setAttribute(value, "title", column.title(item));
    if (under) setText(under, column.under(item));
    if (bar) showPart(bar, column.part(item));
  };
  return { node, update };
}

function showPart(bar, part) {
  bar.parentElement.hidden = part === null;
  if (part === null) return;
  const width = `${Math.round(Math.min(1, Math.max(0, part)) * 100)}%`;
  if (bar.style.width !== width) bar.style.width = width;
  bar.className = part < 0.1 ? "little" : "";
}

/** Calls `changed` with what is typed into a filter. */
export function filter(id, changed) {
  byId(id).addEventListener("input", ({ target }) => changed(target.value.trim().toLowerCase()));
}

/** Says that there is more than what is shown. */
export function tellMore(id, shown, total, hint) {
  setText(byId(id), shown < total ? `${shown} of ${total} are shown. ${hint}`.trim() : "");
}
