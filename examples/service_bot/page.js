// The operator's page: the log of one conversation made visible, event by event, and decisions sent back.
// What is shown comes from the log alone, never from what was clicked: so every operator sees the same.

import { textOf } from "../elements.js";
import { enter, Session } from "../session.js";
import { conversationOf, post, serverOf, Tape } from "../tape.js";
import { hasUnseen, visible } from "../visible.js";

const $ = (id) => document.getElementById(id);
const cards = new Map(); // a card and its proposal, by call
let server, session, tape, running, paragraph;
let again = null; // behind a crash: what the run has said once more, until it says something new

const pretty = (value) => visible(typeof value === "string" ? value : JSON.stringify(value, null, 2));
const tell = (place, error) => { place.textContent = error ? error.message : ""; place.hidden = !error; };

function add(element) {
  $("feed").append(element);
  paragraph = null;
  return element;
}

function line(kind, text, who = "") {
  const p = document.createElement("p");
  p.className = kind;
  p.textContent = text;
  if (who) p.prepend(Object.assign(document.createElement("small"), { className: "soft", textContent: who }));
  return add(p);
}

// One function for each type of event; types it does not know it passes by.
const shown = {
  "message.posted": (event) => line("person", textOf(event.content), event.author ?? event.by),
  "generation.requested"(event) {
    if (event.workflow !== "service_bot") return;
    running = event.generation;
    line("person", event.input.text, `Customer, order ${event.input.order}`);
  },
  "generation.started"(event) {
    if (event.attempt === 1) return;
    // It says once more what was said in the turns that it had finished: that stands there already.
    for (const old of document.querySelectorAll(".says:not(.whole)")) old.remove();
    again = "";
    line("happened", `Another server goes on (attempt ${event.attempt}).`);
  },
  "generation.interrupted": (event) => line("happened bad", `Interrupted: ${event.reason}.`),
  token(event) {
    const text = again === null ? event.delta : unsaid(event.delta);
    if (!text) return;
    paragraph ??= line("says", "");
    paragraph.append(text);
  },
  "step.finished"() {
    for (const said of document.querySelectorAll(".says")) said.classList.add("whole"); // kept, whatever happens
    paragraph = null; // the next turn's words are another paragraph
  },
  "tool.proposed": propose,
  "tool.approval"(event) {
    const found = cards.get(event.call);
    if (event.arguments_digest !== found.digest) found.show(event); // who modifies it is the first to approve the new ones
    found.approvals.push(event.by);
    const decision = found.card.querySelector(".decision");
    decision.textContent = visible(`approved by ${found.approvals.join(", ")}; ${event.remaining} more to approve${event.reason ? `: ${event.reason}` : ""}`);
    decision.hidden = false;
  },
  "tool.decided"(event) {
    const { card } = cards.get(event.call);
    set(card, event.decision);
    card.querySelector(".arguments").textContent = pretty(event.arguments);
    if (hasUnseen(JSON.stringify(event.arguments))) card.querySelector(".unseen").hidden = false;
    card.querySelector(".digest").textContent = `SHA-256 ${event.arguments_digest}`;
    const decision = card.querySelector(".decision");
    const people = event.approvals?.join(", ") ?? event.by;
    decision.textContent = visible(`${event.decision} by ${people}${event.reason ? `: ${event.reason}` : ""}`);
    decision.hidden = false;
  },
  "tool.started": (event) => set(cards.get(event.call).card, "started"),
  "tool.finished"(event) {
    const { card } = cards.get(event.call);
    set(card, event.error ? "failed" : "finished");
    const outcome = card.querySelector(".outcome");
    outcome.textContent = event.error ? `${event.error.code}: ${event.error.message}` : pretty(event.result);
    outcome.hidden = false;
  },
  result: (event) => line("happened", `Refunded: ${event.value.refunded} cents. Ticket closed: ${event.value.closed ? "yes" : "no"}.`),
  "generation.completed": () => end("The agent is done."),
  "generation.failed": (event) => end(`Failed: ${event.error.message}`, "bad"),
  "generation.cancelled": (event) => end(`Stopped by ${event.by}.`, "bad"),
};

// What of a run's words behind a crash does not stand on the page yet.
function unsaid(delta) {
  again += delta;
  const before = [...document.querySelectorAll(".says")].map((said) => said.textContent).join("");
  if (before.startsWith(again)) return "";
  const text = again.slice(again.startsWith(before) ? before.length : 0);
  again = null;
  return text;
}

function end(text, kind = "") {
  running = undefined;
  for (const { card } of cards.values()) if (card.classList.contains("waits")) set(card, "left undecided");
  line(`happened ${kind}`, text);
}

function set(card, status) {
  card.className = `card ${status}`;
  card.querySelector(".status").textContent = status === "waits" ? "waits for you" : status;
  card.querySelector("form").hidden = status !== "waits";
  card.querySelector(".arguments").hidden = status === "waits";
  const waiting = [...document.querySelectorAll(".card.waits")];
  $("waiting").hidden = waiting.length === 0;
  $("waiting").textContent = `${waiting.length} waiting`;
}

function propose(event) {
  const card = $("card").content.firstElementChild.cloneNode(true);
  const [edit, reason, trouble] = [".edit", ".reason", ".trouble"].map((name) => card.querySelector(name));
  const buttons = [...card.querySelectorAll("button")];
  let proposed;
  const call = { card, approvals: [], digest: "", show };
  cards.set(event.call, call);
  card.id = event.call;
  card.querySelector(".name").textContent = visible(event.name);
  card.querySelector(".people").textContent = event.approvers > 1 ? `${event.approvers} people have to approve it` : "";
  if (event.expires_at) card.querySelector(".until").textContent = `until ${new Date(event.expires_at).toLocaleTimeString()}`;
  show(event);
  add(card);
  set(card, event.needs_approval ? "waits" : "proposed");

  // What is to be approved: as proposed, or as somebody modified it. Earlier approvals were of something else.
  function show({ arguments: given, arguments_digest }) {
    proposed = pretty(given);
    Object.assign(call, { approvals: [], digest: arguments_digest });
    card.querySelector(".unseen").hidden = !hasUnseen(event.name) && !hasUnseen(JSON.stringify(given));
    card.querySelector(".arguments").textContent = edit.value = proposed;
    card.querySelector(".digest").textContent = `SHA-256 ${arguments_digest}`;
    allow();
  }

  // Who has changed something cannot approve by mistake what stood there before.
  function allow() {
    for (const button of buttons) button.disabled = button.value === (edit.value === proposed ? "modified" : "approved");
  }
  const decide = async (decision) => {
    tell(trouble);
    for (const button of buttons) button.disabled = true;
    try {
      await tape.send("decide", {
        generation: event.generation,
        call: event.call,
        decision,
        proposed_digest: call.digest, // what was seen: of anything else the server says no
        ...(decision === "modified" && { arguments: JSON.parse(edit.value) }),
        ...(reason.value && { reason: reason.value }),
      });
    } catch (error) {
      tell(trouble, error);
    }
    allow();
  };
  edit.oninput = allow;
  card.querySelector("form").onsubmit = () => false; // Enter in a field decides nothing
  for (const button of buttons) button.onclick = () => decide(button.value);
}

$("waiting").onclick = () => {
  const first = document.querySelector(".card.waits");
  first.scrollIntoView({ block: "center" });
  first.querySelector("button").focus({ preventScroll: true });
};

$("ticket").onsubmit = async (submitted) => {
  submitted.preventDefault();
  tell($("trouble"));
  try {
    const input = Object.fromEntries(new FormData($("ticket")));
    const run = await post(server, "/v1/generations", { workflow: "service_bot", input }, session);
    history.pushState(null, "", `#${run.conversation}`); // whoever opens this address sees the same
    follow(run.conversation);
  } catch (error) {
    enter(session, $("session")); // was it the key?
    tell($("trouble"), error.code ? error : new Error(`No answer from ${server}. Does it run, and does it allow this page (--allowed-origins)?`));
  }
};

$("note").onsubmit = async (submitted) => {
  submitted.preventDefault();
  const { author, content } = $("note").elements;
  const said = { role: "user", content: content.value, ...(author.value && { author: author.value }) };
  content.value = "";
  await tape.send("post", said).then(() => tell($("trouble")), (error) => tell($("trouble"), error));
};
$("note").elements.author.onchange = ({ target }) => {
  localStorage.setItem("author", target.value);
  tape.author = target.value;
  tape.connect(); // under the new name
};

$("stop").onclick = () => running && tape.send("cancel", { generation: running }).catch((error) => tell($("trouble"), error));

function follow(conversation) {
  $("ticket").hidden = true;
  $("foot").hidden = $("fresh").hidden = $("audit").hidden = false;
  $("audit").href = `audit.html${location.search}#${conversation}`;
  const event = (one) => {
    shown[one.type]?.(one);
    for (const button of $("note").querySelectorAll("button")) button.disabled = !running;
  };
  tape = new Tape(server, conversation, { event, state, presence }, $("note").elements.author.value, session);
}

function state(name, why) {
  if (name === "over") enter(session, $("session")); // was it the key?
  const words = { connecting: "connecting", reading: "reading", live: "live", away: "away, coming back", over: `over: ${why}` };
  $("state").dataset.state = name;
  $("state").textContent = words[name];
}

function presence({ you, count, people }) {
  const others = people.filter((person) => person.connection !== you).map((person) => person.author).filter(Boolean);
  const nameless = count - 1 - others.length;
  if (nameless > 0) others.push(nameless === 1 ? "one person without a name" : `${nameless} people without a name`);
  $("people").textContent = others.length ? `Also here: ${others.join(", ")}` : "";
}

// Whoever reads at the end stays there; nobody is moved who reads further up, or writes in a card.
let atEnd = true;
const bottom = () => document.documentElement.scrollHeight;
addEventListener("scroll", () => (atEnd = innerHeight + scrollY > bottom() - 80), { passive: true });
new ResizeObserver(() => {
  if (atEnd && !$("feed").contains(document.activeElement)) scrollTo({ top: bottom(), behavior: "instant" });
}).observe($("feed"));

addEventListener("hashchange", () => location.reload());
$("fresh").href = location.pathname + location.search;
$("note").elements.author.value = localStorage.getItem("author") ?? "";
try {
  server = serverOf(new URL(location));
  session = new Session(server);
  const conversation = conversationOf(new URL(location));
  if (!(await enter(session, $("session")))) state("over", "not signed in");
  else if (conversation) follow(conversation);
  else $("ticket").hidden = false;
} catch (error) {
  tell($("trouble"), error);
}
