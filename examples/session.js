// Signs a page in where its server wants a key. Knows the API's session and ticket, and no page but its own form. Copy it.
//
// On the server's own origin the key is exchanged for a cookie that no script can read, and is not kept. From another
// origin it stays in this tab until the tab is closed. It goes to the server that it was typed in for and to no other, in
// a header; a WebSocket takes a ticket instead, which is good for one conversation and for one minute.

export class Session {
  // `wanted`: whether the server wants a key; known after `who`.
  constructor(server) {
    Object.assign(this, { server, foreign: server !== location.origin, wanted: false });
  }

  get #place() {
    return `key for ${this.server}`;
  }

  // What every request of this page to the server carries.
  get headers() {
    const key = this.foreign && sessionStorage.getItem(this.#place);
    return key ? { Authorization: `Bearer ${key}` } : {};
  }

  // Who is signed in: {tenant, subject, scopes, expires_at}. null where the server wants a key and has none, or another.
  async who() {
    const answer = await fetch(`${this.server}/v1/session`, { headers: this.headers });
    if (answer.status === 401) {
      this.wanted = true;
      sessionStorage.removeItem(this.#place);
      return null;
    }
    const told = answer.ok ? await answer.json() : {};
    this.wanted = answer.ok && told.subject !== "anonymous";
    return told;
  }

  // Throws an Error that says why the key was refused.
  async signIn(key) {
    const headers = { Authorization: `Bearer ${key}`, "Content-Type": "application/json" };
    const init = this.foreign ? { headers } : { method: "POST", headers, body: "{}" };
    const answer = await fetch(`${this.server}/v1/session`, init);
    if (!answer.ok) throw new Error((await answer.json()).detail);
    if (this.foreign) sessionStorage.setItem(this.#place, key);
  }

  async signOut() {
    if (this.foreign) return sessionStorage.removeItem(this.#place);
    await fetch(`${this.server}/v1/session`, { method: "DELETE" });
  }

  // The subprotocols with which a WebSocket of this conversation is opened. Throws an Error with the problem's `code`.
  async protocols(conversation) {
    if (!("Authorization" in this.headers)) return ["tokentape.v1"]; // no key is wanted, or the cookie goes along
    const headers = { ...this.headers, "Content-Type": "application/json" };
    const init = { method: "POST", headers, body: JSON.stringify({ transport: "websocket" }) };
    const answer = await fetch(`${this.server}/v1/conversations/${conversation}/tickets`, init);
    const told = await answer.json();
    if (!answer.ok) throw Object.assign(new Error(told.detail), { code: told.code, final: answer.status < 429 });
    return ["tokentape.v1", `tokentape.ticket.${told.ticket}`];
  }
}

// Shows in `place` who is signed in, or a form if the server wants a key. Says whether the page may go on.
export async function enter(session, place) {
  let who;
  try {
    who = await session.who();
  } catch {
    return true; // the server is away: whoever talks to it next says so
  }
  // A form that is there stays: somebody may be typing into it while the page asks again.
  if (who === null && place.querySelector("form") !== null) return false;
  place.replaceChildren(...(who === null ? [form(session)] : session.wanted ? [line(session, who)] : []));
  return who !== null;
}

const make = (name, fields, ...inside) => {
  const element = Object.assign(document.createElement(name), fields);
  element.append(...inside);
  return element;
};

function form(session) {
  const key = make("input", { type: "password", required: true, autocomplete: "off", spellcheck: false, maxLength: 16384, placeholder: "tt_key_…" });
  const trouble = make("p", { className: "trouble", hidden: true });
  const button = make("button", { className: "main", textContent: "Sign in" });
  trouble.setAttribute("role", "alert");
  const sent = make("form", { className: "ask" }, make("label", {}, `Key for ${session.server}`, key), button, trouble);
  sent.onsubmit = async (submitted) => {
    submitted.preventDefault();
    button.disabled = true;
    try {
      await session.signIn(key.value.trim());
      location.reload(); // all that was refused is asked for again
    } catch (error) {
      trouble.textContent = error.message;
      trouble.hidden = button.disabled = false;
      key.select();
    }
    button.disabled = false;
  };
  return sent;
}

function line(session, { tenant, subject, scopes }) {
  const out = make("button", { className: "link", textContent: "Sign out" });
  out.onclick = async () => {
    await session.signOut();
    location.reload();
  };
  return make("p", { className: "soft" }, `Signed in as ${subject} of ${tenant}, may ${scopes.join(", ")}. `, out);
}
