// Who decided what: the calls of one conversation, or of the newest ones, read from the log and shown as they stand there.
// It reads pages of JSON, which a key with the scope `audit` may do, and follows nothing: reload to look again.

import { byId, make, showState, tell } from "../elements.js";
import { enter, Session } from "../session.js";
import { backoff, conversationOf, serverOf } from "../tape.js";
import { hasUnseen, visible } from "../visible.js";

const TYPES = "tool.proposed,tool.approval,tool.decided,tool.started,tool.finished";
const NEWEST = 20; // conversations, where the address names none
const TRIES = 8;
let server, session;

async function get(path) {
  for (let tries = 0; ; tries++) {
    try {
      const answer = await fetch(server + path, { headers: session.headers, cache: "no-store" });
      const told = await answer.json(); // cut in the middle, it throws
      if (answer.ok) return told;
      if (answer.status < 500 && answer.status !== 429) throw Object.assign(new Error(told.detail), { final: true });
    } catch (error) {
      if (error.final) throw error;
      if (tries === TRIES) throw new Error(`No answer from ${server}.`);
    }
    showState(byId("state"), "away");
    await new Promise((done) => setTimeout(done, backoff(tries)));
  }
}

async function read(conversation) {
  const calls = new Map();
  for (let page = { next: 0, up_to_date: false }; !page.up_to_date; ) {
    page = await get(`/v1/conversations/${conversation}/events?after=${page.next}&limit=1000&types=${TYPES}`);
    for (const event of page.events) {
      if (event.type === "tool.proposed") calls.set(event.call, { proposed: event, decisions: [], started: null, finished: null });
      else if (event.type === "tool.started") calls.get(event.call).started = event;
      else if (event.type === "tool.finished") calls.get(event.call).finished = event;
      else calls.get(event.call).decisions.push(event);
    }
  }
  for (const call of calls.values()) show(conversation, call);
}

const when = (at) => make("time", { dateTime: at, textContent: `${at.slice(0, 10)} ${at.slice(11, 19)} UTC` });
const json = (value) => make("pre", { textContent: visible(JSON.stringify(value, null, 1)) });
const digest = (text) => make("small", { className: "digest soft code", textContent: `SHA-256 ${text}` });

function show(conversation, { proposed, decisions, started, finished }) {
  const card = byId("call").content.firstElementChild.cloneNode(true);
  const last = decisions.at(-1);
  const facts = card.querySelector("dl");
  const say = (name, ...told) => facts.append(make("dt", { textContent: name }), make("dd", {}, ...told));
  const given = [proposed, ...decisions].map((event) => event.arguments ?? null);
  card.id = proposed.call;
  card.querySelector(".name").textContent = visible(proposed.name);
  card.querySelector(".unseen").hidden = !hasUnseen(JSON.stringify([proposed.name, given]));

  say("proposed", when(proposed.at), json(proposed.arguments), digest(proposed.arguments_digest));
  if (!proposed.needs_approval) say("asked", "nobody: the tool's rule wants no approval of this call");
  let ran = proposed; // the newest arguments: a decision that changed them has them
  for (const event of decisions) {
    const modified = event.arguments_digest !== event.proposed_digest;
    const what = event.decision === "rejected" ? "rejected" : modified ? "modified" : "approved";
    const rest = event.remaining ? `, ${event.remaining} more to approve` : "";
    const told = [make("b", { textContent: visible(event.by) }), " ", when(event.at), rest, visible(event.reason ? `: ${event.reason}` : "")];
    say(what, ...told, ...(modified ? [json(event.arguments), digest(event.arguments_digest)] : []));
    if (event.arguments) ran = event;
  }
  if (started) say("ran", when(started.at), json(ran.arguments), digest(last?.arguments_digest ?? proposed.arguments_digest));
  if (finished?.error) say("error", visible(`${finished.error.code}: ${finished.error.message}`));
  else if (finished) say("result", when(finished.at), json(finished.result ?? null));
  else if (!started && !last) say("decided", "by nobody yet");

  const state = finished ? (finished.error ? "failed" : "finished") : started ? "started" : (last?.decision ?? "waits");
  card.classList.add(state);
  card.querySelector(".status").textContent = last ? (last.decision ?? "waits for more approvals") : proposed.needs_approval ? "waits" : "nobody asked";
  say("log", make("a", { href: `page.html${location.search}#${conversation}`, textContent: conversation }), ` position ${proposed.position}`);
  byId("calls").append(card);
}

addEventListener("hashchange", () => location.reload());
try {
  server = serverOf(new URL(location));
  session = new Session(server);
  const one = conversationOf(new URL(location));
  if (await enter(session, byId("session"))) {
    const names = one ? [one] : (await get(`/v1/conversations?limit=${NEWEST}`)).conversations.map(({ id }) => id);
    for (const name of names) await read(name);
    byId("none").hidden = byId("calls").childElementCount > 0;
    showState(byId("state"), "over", "done");
  } else showState(byId("state"), "over", "not signed in");
} catch (error) {
  showState(byId("state"), "over", "failed");
  enter(session, byId("session")); // was it the key?
  tell(byId("trouble"), error);
}
