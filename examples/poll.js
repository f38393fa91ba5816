// One snapshot, asked for again and again until what it shows is over. What did not change is not sent again (ETag), and
// the server says when to come back (Retry-After). Knows the wire and no page. Copy it, with tape.js.

import { backoff } from "./tape.js";

const EVERY = 2000; // milliseconds, where the server does not say
const PATIENCE = 20_000; // milliseconds of an answer, beyond those it is held for
const PASSING = new Set([408, 425, 429]); // of 4xx: come back later
const TERMINAL = new Set(["completed", "failed", "cancelled"]);

export class Poll {
  #timer = 0;
  #failures = 0;
  #tag = null;
  #asking = null; // what ends the request that is under way
  #closed = false;
  #now = () => document.hidden || this.#ask(); // back in sight, or online: not at the next time, at once

  // `path`: /v1/generations/gen_…, or of a conversation. `on`: snapshot(snapshot) for each that is new;
  // state("polling" | "away" | "over", why), with "done" as why when the generation has ended.
  // `session`: of session.js. `wait`: seconds for which the server may hold a request until something changes.
  // `every`: milliseconds from one time to the next, where the page and not the server is to say.
  constructor(server, path, on, session = null, wait = 0, every = 0) {
    Object.assign(this, { server, path, on, session, wait, every });
    addEventListener("online", this.#now);
    document.addEventListener("visibilitychange", this.#now);
    this.#ask();
  }

  // For good: no snapshot comes after it, no timer and no listener stays.
  close() {
    this.#end("closed");
  }

  async #ask() {
    if (this.#closed) return;
    clearTimeout(this.#timer);
    this.#asking?.abort();
    const asking = (this.#asking = new AbortController());
    const slow = setTimeout(() => asking.abort(), PATIENCE + 1000 * this.wait);
    let pause;
    try {
      pause = await this.#fetch(asking);
      this.#failures = 0;
    } catch (error) {
      if (asking === this.#asking && error.final) this.#end(error.message);
      if (asking === this.#asking && !this.#closed) this.on.state("away");
      pause = Math.max(error.wait ?? 0, backoff(this.#failures++));
    } finally {
      clearTimeout(slow);
    }
    // A page that nobody sees asks nobody; it does so at once when it is seen again.
    if (asking === this.#asking && !this.#closed && !document.hidden) this.#timer = setTimeout(() => this.#ask(), pause);
  }

  // Asks once. Returns the milliseconds until the next time.
  async #fetch(asking) {
    const headers = { ...this.session?.headers };
    if (this.#tag) headers["If-None-Match"] = this.#tag;
    if (this.wait) headers.Prefer = `wait=${this.wait}`;
    const answer = await fetch(this.server + this.path, { headers, signal: asking.signal, cache: "no-store" });
    const wait = 1000 * (Number(answer.headers.get("Retry-After")) || 0);
    if (!answer.ok && answer.status !== 304) {
      const told = await answer.json().catch(() => ({}));
      const final = answer.status < 500 && !PASSING.has(answer.status);
      throw Object.assign(new Error(told.code ?? `status ${answer.status}`), { final, wait });
    }
    const snapshot = answer.status === 304 ? null : await answer.json(); // cut in the middle, it throws
    if (asking !== this.#asking || this.#closed) return 0;
    this.on.state("polling");
    if (snapshot !== null) {
      this.#tag = answer.headers.get("ETag");
      this.on.snapshot(snapshot);
      if (TERMINAL.has(snapshot.status)) this.#end("done");
    }
    return this.wait ? 0 : this.every || wait || EVERY;
  }

  #end(why) {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#timer);
    removeEventListener("online", this.#now);
    document.removeEventListener("visibilitychange", this.#now);
    this.#asking?.abort();
    this.on.state("over", why);
  }
}
