// One conversation over a WebSocket, through any cut: it resumes behind its last position, and commands act once.
// Knows the wire and no page. Copy it.

// Servers that a link may name by `?server=`, such as "https://tape.example.org", besides the page's own origin and port
// 8000 of its host. A link must not choose whom the page talks to, and gives its keys to: all others are refused.
export const SERVERS = [];

// The address is wrong, unknown or too old, or the key is no longer good, or not for this: coming back does not help.
const FINAL = new Set([4400, 4401, 4403, 4404, 4410]);
const FIRST_WAIT = 250, LONGEST_WAIT = 4000; // milliseconds

const TRIES = 5;

export const newKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

// The server that the page's address names, else port 8000 of the page's own host. Throws an Error on any other.
export function serverOf(address, allowed = SERVERS) {
  const usual = `${address.protocol}//${address.hostname}:8000`;
  const named = address.searchParams.get("server");
  if (named === null) return usual;
  const { origin } = URL.canParse(named) ? new URL(named) : {};
  if (![usual, address.origin, ...allowed].includes(origin)) {
    throw new Error(`This page does not talk to ${origin ?? "that"}: it is not one of SERVERS in tape.js.`);
  }
  return origin;
}

// The conversation that the page's address names behind its #, or null. Whatever stands there goes into a path.
export const conversationOf = (address) => named(address, "conversation", "conv");

// The same for pages that show one generation.
export const generationOf = (address) => named(address, "generation", "gen");

function named(address, what, prefix) {
  const name = address.hash.slice(1);
  if (!name) return null;
  if (!/^[a-z]+_[0-9A-Za-z]{1,64}$/.test(name) || !name.startsWith(`${prefix}_`)) {
    throw new Error(`This address names no ${what}: behind the # stands ${prefix}_…`);
  }
  return name;
}

// A POST; its JSON. Sent again where no whole answer came, under the same key, so that it acts once. Throws an Error:
// with the problem's `code` and its `detail` as the message, or, without a `code`, that nobody answers.
// `session`: of session.js.
export async function post(server, path, body, session) {
  const headers = { "Content-Type": "application/json", "Idempotency-Key": newKey(), ...session?.headers };
  const init = { method: "POST", headers, body: JSON.stringify(body) };
  for (let tries = 1; ; tries++) {
    try {
      const answer = await fetch(server + path, init);
      const told = await answer.json();
      if (answer.ok) return told;
      if (answer.status !== 503 || tries === TRIES) throw Object.assign(new Error(told.detail), { code: told.code });
    } catch (error) {
      if (error.code) throw error;
      if (tries === TRIES) throw new Error(`No answer from ${server}. Does it run, and does it allow this page (--allowed-origins)?`);
    }
    await new Promise((done) => setTimeout(done, backoff(tries - 1)));
  }
}

// Milliseconds to wait after so many failures in a row: longer each time, and not the same for all pages.
export function backoff(failures) {
  return Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** failures) * (0.5 + Math.random() / 2);
}

export class Tape {
  #socket = null;
  #timer = 0;
  #failures = 0;
  #commands = new Map(); // sent and not answered yet, by id
  #count = 0;
  #rewinding = false;
  #closed = false;
  #attempt = 0;
  #online = () => this.connect(); // a phone that woke up does not know that its socket is dead

  // `on`: event(event) for each, in order, once; state("connecting" | "reading" | "live" | "away" | "over", why);
  // presence({you, count, people}). `session`: of session.js, where the server may want a key.
  constructor(server, conversation, on, author = "", session = null) {
    Object.assign(this, { server, conversation, on, author, session, position: 0 });
    addEventListener("online", this.#online);
    this.connect();
  }

  // For good: no event comes after it, no timer and no listener stays. What was sent and not answered is rejected.
  close() {
    this.#end("closed");
  }

  connect() {
    if (this.#closed) return;
    clearTimeout(this.#timer);
    const before = this.#socket;
    this.#socket = null;
    before?.close();
    this.#rewinding = false;
    this.on.state("connecting");
    const attempt = ++this.#attempt;
    if (!this.session) return this.#open(["tokentape.v1"]);
    this.session.protocols(this.conversation).then(
      (protocols) => attempt === this.#attempt && this.#open(protocols),
      (error) => attempt === this.#attempt && (error.final ? this.#end(error.code) : this.#lost()),
    );
  }

  #open(protocols) {
    if (this.#closed) return;
    const query = new URLSearchParams({ after: this.position, ...(this.author && { author: this.author }) });
    const address = `${this.server.replace(/^http/, "ws")}/v1/conversations/${this.conversation}/ws?${query}`;
    const socket = (this.#socket = new WebSocket(address, protocols));
    socket.onmessage = ({ data }) => socket === this.#socket && this.#hear(JSON.parse(data));
    socket.onclose = ({ code, reason }) => socket === this.#socket && this.#lost(code, reason);
  }

  // Sends a command: a promise of the reply's body. Sent again after a cut, with the same key, it acts once.
  send(verb, fields) {
    const command = { id: `c${++this.#count}`, key: newKey(), do: verb, ...fields };
    if (this.#closed) return Promise.reject(new Error("The conversation is closed."));
    return new Promise((resolve, reject) => {
      this.#commands.set(command.id, { command, resolve, reject });
      if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(command));
    });
  }

  #lost(code, reason) {
    if (FINAL.has(code)) return this.#end(reason);
    this.on.state("away");
    this.#timer = setTimeout(() => this.connect(), backoff(this.#failures++));
  }

  #end(why) {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#timer);
    removeEventListener("online", this.#online);
    const socket = this.#socket;
    this.#socket = null; // what it still says is of no socket of ours
    socket?.close();
    for (const { reject } of this.#commands.values()) reject(new Error(`Not answered: ${why}.`));
    this.#commands.clear();
    this.on.state("over", why);
  }

  #hear(frame) {
    if (frame.kind === "event") return this.#take(frame.event);
    if (frame.kind === "presence") return this.on.presence?.(frame);
    if (frame.kind === "caught_up") return this.on.state("live");
    if (frame.kind === "hello") {
      this.#failures = 0;
      this.on.state("reading");
      for (const { command } of this.#commands.values()) this.#socket.send(JSON.stringify(command));
    } else if (frame.id === "resync") {
      // Refused, it would be refused again: each further event would ask anew, for ever.
      if (frame.kind === "error") return this.#end(frame.code);
      this.#rewinding = false;
    } else {
      const asked = this.#commands.get(frame.id);
      this.#commands.delete(frame.id);
      if (frame.kind === "reply") asked?.resolve(frame.body);
      else asked?.reject(Object.assign(new Error(frame.detail), { code: frame.code }));
    }
  }

  #take(event) {
    if (this.#rewinding || event.position <= this.position) return; // on its way before the rewind, or seen already
    if (event.position > this.position + 1) {
      // A hole: what stands behind it is shown after what is in it.
      this.#rewinding = true;
      return this.#socket.send(JSON.stringify({ id: "resync", do: "resync", after: this.position }));
    }
    this.position = event.position;
    this.on.event(event);
  }
}
