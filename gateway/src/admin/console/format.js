// Numbers and times as people read them. What is not known is a dash.

export const UNKNOWN = "–";

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat("en-US", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const short = new Intl.NumberFormat("en-US", { maximumFractionDigits: 1 });

const isKnown = (value) => typeof value === "number" && Number.isFinite(value);

/** 1,234,567 */
export function count(value) {
  return isKnown(value) ? whole.format(value) : UNKNOWN;
}

/** For axes: 950, 1.2 k, 34 M */
export function compact(value) {
  if (!isKnown(value)) return UNKNOWN;
  for (const [size, unit] of [[1e9, " G"], [1e6, " M"], [1e3, " k"]]) {
    if (Math.abs(value) >= size) return short.format(value / size) + unit;
  }
  return short.format(value);
}

/** A number of something a second: 9.8, 123 */
export function rate(value) {
  if (!isKnown(value)) return UNKNOWN;
  return value < 99.95 ? tenths.format(value) : whole.format(value);
}

/** The speed of a stream. */
export function speed(value) {
  return isKnown(value) ? `${rate(value)} tok/s` : UNKNOWN;
}

/** A time in seconds, by its two largest units. */
export function duration(seconds) {
  if (!isKnown(seconds)) return UNKNOWN;
  const positive = Math.max(0, seconds);
  if (positive < 0.9995) return `${Math.round(positive * 1000)} ms`;
  if (positive < 9.95) return `${tenths.format(positive)} s`;
  const total = Math.round(positive);
  if (total < 60) return `${total} s`;
  if (total < 3600) return two(total, 60, "min", 1, "s");
  if (total < 86_400) return two(total, 3600, "h", 60, "min");
  return two(total, 86_400, "d", 3600, "h");
}

function two(total, large, largeUnit, small, smallUnit) {
  const rest = Math.floor((total % large) / small);
  const first = `${whole.format(Math.floor(total / large))} ${largeUnit}`;
  return rest > 0 ? `${first} ${rest} ${smallUnit}` : first;
}

/** A moment in seconds since 1970, in UTC as in the gateway's log. */
export function moment(seconds) {
  if (!isKnown(seconds)) return UNKNOWN;
  return `${new Date(seconds * 1000).toISOString().slice(0, 16).replace("T", " ")} UTC`;
}

/** The seconds since 1970 of a time as the API writes it; null where there is none. */
export function parseTime(text) {
  const milliseconds = Date.parse(text ?? "");
  return Number.isNaN(milliseconds) ? null : milliseconds / 1000;
}

/** How long ago, roughly. */
export function ago(seconds, now) {
  if (!isKnown(seconds)) return UNKNOWN;
  const passed = now - seconds;
  for (const [size, unit] of [[86_400, "d"], [3600, "h"], [60, "min"]]) {
    if (passed >= size) return `${whole.format(Math.floor(passed / size))} ${unit} ago`;
  }
  return "just now";
}

/** Such as "1 request", "2 requests". */
export function plural(number, word) {
  return `${count(number)} ${word}${number === 1 ? "" : "s"}`;
}
