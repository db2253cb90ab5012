// What a streamed chat completion tells, event by event. Times are in milliseconds, and given by the caller.

/** The body that is sent. The model is whichever there is. */
export function chatBody(prompt, maxTokens) {
  return {
    messages: [{ role: "user", content: prompt }],
    max_tokens: maxTokens,
    stream: true,
    stream_options: { include_usage: true },
  };
}

/** The figures of one answer. */
export class Tally {
  text = "";
  thoughts = "";
  /** How many are before it in the queue; null: it is not (known to be) waiting. */
  position = null;
  expectedWait = null;
  error = null;
  finished = false;
  finishReason = null;
  #sent;
  #first = null;
  #last = null;
  #pieces = 0;
  #usage = null;

  constructor(sent) {
    this.#sent = sent;
  }

  /** Takes an event or a comment of the stream. */
  take({ comment, data }, at) {
    if (comment !== undefined) this.#comment(comment);
    else if (data === "[DONE]") this.finished = true;
    else this.#chunk(JSON.parse(data), at);
  }

  #comment(comment) {
    const [, position, wait] = /^queued position=(\d+)(?: eta=(\d+))?/.exec(comment) ?? [];
    this.position = position === undefined ? null : Number(position);
    this.expectedWait = wait === undefined ? null : Number(wait);
  }

  #chunk(chunk, at) {
    this.position = null;
    if (chunk.error) {
      this.error = chunk.error;
      return;
    }
    this.#usage = chunk.usage ?? this.#usage;
    const [choice] = chunk.choices ?? [];
    this.finishReason = choice?.finish_reason ?? this.finishReason;
    const { content, reasoning_content: thought } = choice?.delta ?? {};
    if (!content && !thought) return;
    this.text += content ?? "";
    this.thoughts += thought ?? "";
    this.#first ??= at;
    this.#last = at;
    this.#pieces += 1;
  }

  /** Seconds until the first token came. */
  get ttft() {
    return this.#first === null ? null : (this.#first - this.#sent) / 1000;
  }

  /** Tokens that were generated: pieces of text until the usage tells. */
  get tokens() {
    return this.#usage?.completion_tokens ?? (this.#first === null ? null : this.#pieces);
  }

  get promptTokens() {
    return this.#usage?.prompt_tokens ?? null;
  }

  /** Tokens a second after the first one. */
  get tokensPerSecond() {
    const seconds = (this.#last - this.#first) / 1000;
    return seconds > 0 ? (this.tokens - 1) / seconds : null;
  }
}
