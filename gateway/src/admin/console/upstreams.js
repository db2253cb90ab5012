// "Upstreams": the llama-servers and how they are.

import { count, UNKNOWN } from "./format.js";
import { Table } from "./table.js";

const MARKS = { ready: "good", loading: "warn", leaving: "warn", down: "bad", wedged: "bad" };

export class Upstreams {
  #table = new Table("upstreams-table", "upstreams-empty", ({ address }) => address, [
    { head: "Address", kind: "code", value: ({ address }) => address },
    { head: "State", value: ({ state }) => state, mark: ({ state }) => `badge ${MARKS[state] ?? "quiet"}` },
    { head: "Model", kind: "text", value: ({ model }) => model ?? UNKNOWN, under: aboutModel },
    {
      head: "Slots",
      kind: "number",
      value: ({ slots, slots_busy: busy }) => (slots > 0 ? `${count(busy)} / ${count(slots)}` : UNKNOWN),
      part: ({ slots, slots_busy: busy }) => (slots > 0 ? busy / slots : null),
    },
    { head: "Foreign", kind: "number", value: ({ foreign_requests: foreign }) => count(foreign) },
    { head: "Restarts", kind: "number", value: ({ restarts }) => count(restarts) },
    { head: "Problem", kind: "prose", value: ({ problem }) => problem ?? "none" },
  ]);

  show({ upstreams }) {
    this.#table.show(upstreams, "No llama-server is known.");
  }
}

function aboutModel({ build, context_tokens: context }) {
  const tokens = context === null || context === undefined ? "" : `${count(context)} tokens a slot`;
  return [build ?? "", tokens].filter(Boolean).join(", ");
}
