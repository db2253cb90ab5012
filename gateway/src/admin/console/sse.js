// Server-sent events out of bytes that come in pieces, by the rules of the HTML standard. EventSource cannot be used:
// it sends no `Authorization`.

/** Takes bytes, gives events `{event, data}` and comments `{comment}`. */
export class EventReader {
  #decoder = new TextDecoder();
  #line = "";
  #afterReturn = false;
  #event = "";
  #data = [];

  /** What the next bytes complete. */
  push(bytes) {
    const found = [];
    let text = this.#decoder.decode(bytes, { stream: true });
    if (text === "") return found;
    // The line feed of a pair may be in another piece than its carriage return.
    if (this.#afterReturn && text.startsWith("\n")) text = text.slice(1);
    this.#afterReturn = text === "" ? false : text.endsWith("\r");
    const lines = text.split(/\r\n|\r|\n/);
    lines[0] = this.#line + lines[0];
    this.#line = lines.pop();
    for (const line of lines) this.#take(line, found);
    return found;
  }

  #take(line, found) {
    if (line === "") {
      if (this.#data.length > 0) found.push({ event: this.#event || "message", data: this.#data.join("\n") });
      this.#event = "";
      this.#data = [];
      return;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (colon === 0) found.push({ comment: value });
    else if (field === "event") this.#event = value;
    else if (field === "data") this.#data.push(value);
  }
}

/** The events of an answer, as they come. Leaving the loop ends the request. */
export async function* eventsOf(response) {
  const parser = new EventReader();
  const reader = response.body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parser.push(value);
    }
  } finally {
    // It fails where the connection is lost, which whoever reads has learnt already.
    reader.cancel().catch(() => {});
  }
}
