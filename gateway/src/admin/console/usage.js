// The use of today, out of the pages of the organization usage API.

import { MOST_SERIES } from "./plot.js";

const HOUR = 3600;
const DAY = 24 * HOUR;

/** Midnight before a moment, in UTC: when quotas begin anew. */
export function midnight(seconds) {
  return Math.floor(seconds / DAY) * DAY;
}

/** Where to ask for a kind of use ("completions", "embeddings") of the day that began then. */
export function usagePath(kind, start) {
  const day = `start_time=${start}&end_time=${start + DAY}&bucket_width=1h&limit=24`;
  return `/v1/organization/usage/${kind}?${day}&group_by=project_id`;
}

/** What each tenant used: by name, `{tenant, requests, prompt, output, tokens, values}`, the most tokens first. */
export function foldUsage(pages, start) {
  const tenants = new Map();
  for (const bucket of pages.flatMap((page) => page.data)) {
    const hour = Math.floor((bucket.start_time - start) / HOUR);
    if (hour < 0 || hour >= 24) continue;
    for (const result of bucket.results) {
      const used = tenants.get(result.project_id) ?? nothing(result.project_id);
      tenants.set(used.tenant, used);
      const [prompt, output] = [result.input_tokens ?? 0, result.output_tokens ?? 0];
      used.requests += result.num_model_requests ?? 0;
      used.prompt += prompt;
      used.output += output;
      used.tokens += prompt + output;
      used.values[hour] += prompt + output;
    }
  }
  return [...tenants.values()].sort((a, b) => b.tokens - a.tokens || (a.tenant < b.tenant ? -1 : 1));
}

function nothing(tenant) {
  return { tenant, requests: 0, prompt: 0, output: 0, tokens: 0, values: Array(24).fill(0) };
}

/** The largest tenants as a series each, all others as one. */
export function topSeries(used) {
  const withTokens = used.filter(({ tokens }) => tokens > 0);
  const named = ({ tenant, values }) => ({ name: tenant, values, others: false });
  const series = withTokens.slice(0, MOST_SERIES).map(named);
  const rest = withTokens.slice(MOST_SERIES);
  if (rest.length > 0) {
    const values = Array.from({ length: 24 }, (_, hour) => rest.reduce((sum, one) => sum + one.values[hour], 0));
    series.push({ name: `${rest.length} others`, values, others: true });
  }
  return series;
}

/** What is left of a limit (`{limit, used}` or `{capacity, left}`): number and part; null where there is none. */
export function leftOf(limit) {
  if (!limit) return null;
  const most = limit.limit ?? limit.capacity;
  const left = Math.max(0, limit.left ?? most - limit.used);
  return { most, left, part: most > 0 ? left / most : 0 };
}

/** Those who used something today, and those of whom something is going on or limited. */
export function withLive(used, live) {
  const now = new Map(live.map((tenant) => [tenant.tenant, tenant]));
  const rows = used.map((one) => ({ ...one, live: now.get(one.tenant) ?? null }));
  const known = new Set(used.map(({ tenant }) => tenant));
  const others = live.filter(({ tenant }) => !known.has(tenant)).sort((a, b) => (a.tenant < b.tenant ? -1 : 1));
  return [...rows, ...others.map((tenant) => ({ ...nothing(tenant.tenant), live: tenant }))];
}
