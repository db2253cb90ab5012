// Plots in SVG. What they show stands beside them in text or in a table, too.

import { element, setAttribute, setText, shape } from "./dom.js";
import { compact, count } from "./format.js";

const LEFT = 46;
const RIGHT = 10;
const TOP = 10;
const BOTTOM = 22;
const HEIGHT = 170;
/** Series that are told apart by a colour each. */
export const MOST_SERIES = 8;

/** The values beside an axis from 0 to a round value not below `most`, about five of them. */
export function ticks(most) {
  const rough = most > 0 ? most / 4 : 0.25;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((it) => it * power >= rough * 0.9999) ?? 10);
  const steps = Math.max(1, Math.ceil(most / step - 1e-9));
  // Sums of steps such as 0.1 are not exact.
  return Array.from({ length: steps + 1 }, (_, at) => Number((at * step).toPrecision(12)));
}

/** Where a value stands between two ends of the axis, in pixels. */
export function place(value, [from, to], [start, end]) {
  const part = to > from ? (value - from) / (to - from) : 0;
  return start + Math.min(1, Math.max(0, part)) * (end - start);
}

/** The path of a line; it is broken where nothing is known for longer than `gap`. */
export function linePath(points, gap, x, y) {
  let before = null;
  return points.map(({ at, value }) => {
    const command = before === null || at - before > gap ? "M" : "L";
    before = at;
    return `${command}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
  }).join("");
}

/** The last so many seconds of a value. */
export class LinePlot {
  #seconds;
  #gap;
  #box;
  #svg = shape("svg", { role: "img", height: HEIGHT, class: "chart" });
  #grid = shape("g");
  #line = shape("path", { class: "line" });
  #area = shape("path", { class: "area" });
  #drawn = "";

  constructor(box, { seconds, gap }) {
    [this.#box, this.#seconds, this.#gap] = [box, seconds, gap];
    this.#svg.append(this.#grid, this.#area, this.#line);
    box.append(this.#svg);
  }

  /** Draws `points` (`{at, value}`, the oldest first) up to `now`. */
  show(points, now, label) {
    const width = Math.max(200, this.#box.clientWidth);
    const marks = ticks(Math.max(1, ...points.map(({ value }) => value)));
    const x = (at) => place(at, [now - this.#seconds, now], [LEFT, width - RIGHT]);
    const y = (value) => place(value, [0, marks.at(-1)], [HEIGHT - BOTTOM, TOP]);
    this.#axes(width, marks, y);
    const path = linePath(points, this.#gap, x, y);
    setAttribute(this.#line, "d", path || null);
    setAttribute(this.#area, "d", areaOf(path, HEIGHT - BOTTOM) || null);
    setAttribute(this.#svg, "aria-label", label);
  }

  #axes(width, marks, y) {
    const wanted = `${width} ${marks}`;
    if (wanted === this.#drawn) return;
    this.#drawn = wanted;
    setAttribute(this.#svg, "viewBox", `0 0 ${width} ${HEIGHT}`);
    const minutes = this.#seconds / 60;
    const every = width < 420 ? 2 : 1;
    const times = Array.from({ length: Math.floor(minutes / every) + 1 }, (_, at) => {
      const passed = at * every;
      const anchor = passed === 0 ? "end" : passed === minutes ? "start" : "middle";
      const label = passed === 0 ? "now" : `−${passed} min`;
      return text(place(minutes - passed, [0, minutes], [LEFT, width - RIGHT]), HEIGHT - 5, label, anchor);
    });
    this.#grid.replaceChildren(...rules(marks, width, y, compact), ...times);
  }
}

/** The same path closed along the ground, part by part. */
function areaOf(path, ground) {
  return path.split("M").filter(Boolean).map((part) => {
    const points = part.split("L");
    const [first, last] = [points[0].split(" ")[0], points.at(-1).split(" ")[0]];
    return `M${first} ${ground}L${part}L${last} ${ground}Z`;
  }).join("");
}

function rules(marks, width, y, format) {
  return marks.flatMap((mark) => [
    shape("path", { class: "rule", d: `M${LEFT} ${y(mark).toFixed(1)}H${width - RIGHT}` }),
    text(LEFT - 8, y(mark) + 4, format(mark), "end"),
  ]);
}

function text(x, y, label, anchor) {
  return shape("text", { x: x.toFixed(1), y: y.toFixed(1), "text-anchor": anchor }, label);
}

/** The class of a series' colour. */
export function colour(series, at) {
  return series.others ? "others" : `s${at % MOST_SERIES}`;
}

/** Bars by hour, `series` (`{name, values}`) on top of each other. */
export function drawBars(box, legend, series, label) {
  const width = Math.max(200, box.clientWidth);
  const hours = 24;
  const sums = Array.from({ length: hours }, (_, hour) => series.reduce((sum, { values }) => sum + values[hour], 0));
  const marks = ticks(Math.max(1, ...sums));
  const y = (value) => place(value, [0, marks.at(-1)], [HEIGHT - BOTTOM, TOP]);
  const step = (width - LEFT - RIGHT) / hours;
  const every = step < 22 ? 6 : 3;
  const svg = shape("svg", { role: "img", "aria-label": label, height: HEIGHT, class: "chart" });
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  svg.append(...rules(marks, width, y, compact));
  for (let hour = 0; hour < hours; hour += 1) {
    const left = LEFT + hour * step;
    if (hour % every === 0) svg.append(text(left, HEIGHT - 5, clock(hour), "start"));
    const [x, across] = [(left + 1).toFixed(1), Math.max(1, step - 2).toFixed(1)];
    svg.append(...stack(series, hour, y).map(({ from, to, name, value, kind }) =>
      shape("rect", { class: kind, x, width: across, y: to.toFixed(1), height: (from - to).toFixed(1) },
        shape("title", {}, `${clock(hour)}, ${isolated(name)}: ${count(value)} tokens`))));
  }
  box.replaceChildren(svg);
  legend.replaceChildren(...series.map((one, at) =>
    element("li", {}, element("span", { class: `key ${colour(one, at)}` }), element("bdi", {}, one.name))));
}

/** A name that may be written from right to left, within a sentence. */
function isolated(name) {
  return `\u2068${name}\u2069`;
}

/** The bars of one hour from the ground up, with a gap of a pixel between them where there is room. */
function stack(series, hour, y) {
  let ground = 0;
  return series.flatMap((one, at) => {
    const value = one.values[hour];
    if (value <= 0) return [];
    const [from, to] = [y(ground), y(ground + value)];
    ground += value;
    return [{ from: from - to > 2 ? from - 1 : from, to, name: one.name, value, kind: colour(one, at) }];
  });
}

/** The hour as it is written: 07:00. */
export function clock(hour) {
  return `${String(hour).padStart(2, "0")}:00`;
}

/** The same bars as a table: hours down, series across. */
export function fillHours(table, series) {
  const heads = ["Hour", ...series.map(({ name }) => name)];
  const isUsed = (hour) => series.some(({ values }) => values[hour] > 0);
  const rows = Array.from({ length: 24 }, (_, hour) => hour).filter(isUsed);
  const row = (hour) => element("tr", {},
    element("th", { scope: "row", class: "text" }, clock(hour)),
    ...series.map(({ values }) => element("td", { class: "number" }, count(values[hour]))));
  for (const part of table.querySelectorAll("thead, tbody")) part.remove();
  table.append(
    element("thead", {}, element("tr", {}, ...heads.map((head, at) =>
      element("th", { scope: "col", class: at === 0 ? "text" : "number" }, element("bdi", {}, head))))),
    element("tbody", {}, ...rows.map(row)),
  );
}
