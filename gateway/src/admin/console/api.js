// The admin API. Every request carries the key in a header that the page sets itself: there is no cookie, so a page of
// another origin has nothing to ride on.

/** The gateway answered, and not with what was asked for. */
export class Refused extends Error {
  constructor(status, error, headers) {
    super(error.message || `The gateway answered with status ${status}.`);
    this.status = status;
    this.code = error.code || error.type || `http_${status}`;
    this.param = error.param ?? null;
    this.retryAfter = Number(headers.get("retry-after")) || null;
  }

  /** Whether the admin key is of no use (any more). */
  get isOfAdminKey() {
    return this.status === 401 || this.code === "admin_disabled" || this.code === "foreign_origin";
  }
}

/** No answer came. */
export class Unreachable extends Error {
  constructor() {
    super("The gateway cannot be reached; hint: is the port-forward still running?");
  }
}

export class Api {
  #key;
  #refused;

  /** `refused` is told when the admin key is not taken. */
  constructor(key, refused) {
    this.#key = key;
    this.#refused = refused;
  }

  /** The answer of a GET. */
  get(path) {
    return this.#json(path, {});
  }

  /** The answer of a POST. */
  post(path, body) {
    return this.#json(path, { method: "POST", body: JSON.stringify(body) });
  }

  async #json(path, options) {
    try {
      const response = await this.open(path, options);
      return await response.json();
    } catch (error) {
      if (error instanceof Refused && error.isOfAdminKey) this.#refused(error);
      // A body that breaks off is no answer either.
      throw error instanceof TypeError || error instanceof SyntaxError ? new Unreachable() : error;
    }
  }

  /** An answer whose body is still to be read. */
  async open(path, { headers = {}, ...options }) {
    const sent = { ...headers, authorization: `Bearer ${this.#key}` };
    if (options.body !== undefined) sent["content-type"] = "application/json";
    const careful = { cache: "no-store", credentials: "omit", redirect: "error" };
    let response;
    try {
      response = await fetch(path, { ...options, ...careful, headers: sent });
    } catch (error) {
      throw error.name === "AbortError" ? error : new Unreachable();
    }
    if (!response.ok) throw new Refused(response.status, await errorOf(response), response.headers);
    return response;
  }
}

/** The error of an answer; what is no JSON comes from something between the page and the gateway. */
async function errorOf(response) {
  const answer = await response.json().catch(() => null);
  return answer?.error ?? {};
}

/** What to tell people of an error. */
export function explain(error) {
  if (!(error instanceof Refused)) return error.message;
  const again = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
  return `${error.message} (${error.code})${again}`;
}

/** Why the admin key is not taken, with what to do. */
export function explainSignOut(error) {
  if (error.code === "admin_disabled") {
    return `${error.message} Hint: set admin.key_file to a file with a key; it counts at once.`;
  }
  if (error.code === "foreign_origin") return error.message;
  return "The gateway does not take this admin key. Hint: it stands in the file of admin.key_file.";
}
