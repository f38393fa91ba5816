// One log over server-sent events, through any cut: it resumes behind the last event that it gave out.
// By fetch, not by EventSource: that can send no key, and is not told why it was refused. Knows the wire and no page.
// Copy it, with tape.js.

import { backoff, newKey } from "./tape.js";

// The server sends a comment every 15 seconds. Where so many milliseconds bring nothing, the connection is dead.
const SILENCE = 40_000;
const PASSING = new Set([408, 425, 429]); // of 4xx: come back later

export class EventLog {
  #reading = null; // what ends the request that is under way
  #timer = 0;
  #failures = 0;
  #came = false; // whether this connection brought an event
  #retry = 0; // what the server asked for, in milliseconds
  #closed = false;
  #online = () => this.connect(); // a phone that woke up does not know that its connection is dead

  // `path`: /v1/conversations/conv_…/events or /v1/generations/gen_…/events, with a query if wanted.
  // `on`: event(event) for each, in order, once; state("connecting" | "live" | "away" | "over", why), with "done" as
  // why where a generation's log is complete. `session`: of session.js.
  // With `body` it is a POST to /v1/generations or /v1/conversations/conv_…/generations, whose answer is the new
  // generation's log: the first token needs no second request. Sent again, it attaches to the same generation.
  constructor(server, path, on, session = null, body = undefined) {
    Object.assign(this, { server, path, on, session, position: 0 });
    this.init = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
    this.headers = body === undefined ? {} : { "Content-Type": "application/json", "Idempotency-Key": newKey() };
    addEventListener("online", this.#online);
    this.connect();
  }

  // For good: no event comes after it, no timer and no listener stays.
  close() {
    this.#end("closed");
  }

  connect() {
    if (this.#closed) return;
    clearTimeout(this.#timer);
    this.#reading?.abort();
    const reading = (this.#reading = new AbortController());
    this.#came = false;
    this.on.state("connecting");
    this.#read(reading).catch((error) => {
      if (reading !== this.#reading || this.#closed) return; // another request has taken its place
      if (error.final) return this.#end(error.message);
      this.on.state("away");
      // A cut in the middle of a log that comes: at once. Refused, or nothing came: when the server says, or later.
      const wait = this.#came ? backoff(0) : Math.max(error.wait || this.#retry, backoff(this.#failures++));
      this.#timer = setTimeout(() => this.connect(), wait);
    });
  }

  // Returns when the log is complete, else throws.
  async #read(reading) {
    const headers = { Accept: "text/event-stream", ...this.headers, ...this.session?.headers };
    if (this.position) headers["Last-Event-ID"] = this.position;
    let silence = setTimeout(() => reading.abort(), SILENCE);
    try {
      const answer = await fetch(this.server + this.path, { ...this.init, headers, signal: reading.signal, cache: "no-store" });
      if (answer.status === 204) return this.#end("done"); // everything was read before
      if (!answer.ok) throw await refusal(answer);
      this.on.state("live");
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      const frame = { data: [], id: null };
      for (let rest = ""; ; ) {
        const { value, done } = await reader.read();
        if (done) throw new Error("The stream ended before the log did.");
        clearTimeout(silence);
        silence = setTimeout(() => reading.abort(), SILENCE);
        const lines = (rest + value).split("\n");
        rest = lines.pop(); // not whole yet
        for (const line of lines) {
          if (reading !== this.#reading || this.#closed) return;
          if (this.#hear(line.replace(/\r$/, ""), frame)) return this.#end("done");
        }
      }
    } finally {
      clearTimeout(silence);
    }
  }

  // One line; whether it ended the log.
  #hear(line, frame) {
    const [, name, value] = /^([^:]*):? ?(.*)$/.exec(line);
    if (line !== "") {
      if (name === "data") frame.data.push(value);
      else if (name === "id") frame.id = Number(value);
      else if (name === "retry") this.#retry = Number(value);
      return false;
    }
    const data = frame.data.splice(0).join("\n");
    if (data === "[DONE]") return true;
    if (data !== "") {
      const event = JSON.parse(data);
      if (event.position > this.position) {
        this.#came = true;
        this.#failures = 0;
        this.position = event.position;
        this.on.event(event);
      }
    } else if (frame.id > this.position) this.position = frame.id; // where `after=now` starts from
    frame.id = null;
    return false;
  }

  #end(why) {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#timer);
    removeEventListener("online", this.#online);
    this.#reading?.abort();
    this.on.state("over", why);
  }
}

// An Error of a refused request: `final`, or with `wait` in milliseconds.
async function refusal(answer) {
  const told = await answer.json().catch(() => ({}));
  const final = answer.status < 500 && !PASSING.has(answer.status);
  const wait = 1000 * (Number(answer.headers.get("Retry-After")) || 0);
  return Object.assign(new Error(told.code ?? `status ${answer.status}`), { final, wait });
}
