// The demo of the front page: one answer, read as server-sent events, cut and resumed as the visitor likes.
// It uses the public API alone: POST /v1/generations, the events of its conversation, and its snapshot.

const QUESTION = { model: "demo", input: "Tell me a story.", ephemeral: true };
const TOKENS = 240, RATE = 15; // tokens, tokens a second: 16 seconds, enough to cut and to reconnect
const ENDS = ["generation.completed", "generation.failed", "generation.cancelled"];
const POLL = 300; // milliseconds between two looks at the log while the connection is cut

const [startButton, cutButton, reconnectButton, statusLine, here, head, opened, answer, cells, connectionList, verdict] =
  ["start", "cut", "reconnect", "status", "here", "head", "opened", "answer", "cells", "connections", "verdict"]
    .map((id) => document.getElementById(id));

let run = null; // the answer on the page, made by `begin`
let keyWanted = false;

startButton.addEventListener("click", start);
cutButton.addEventListener("click", cut);
reconnectButton.addEventListener("click", reconnect);

onSession = (state) => {
  keyWanted = state !== "open";
  document.getElementById("open").hidden = keyWanted;
  if (!run) startButton.disabled = state === "out";
  if (!run) say(state === "out" ? "Sign in first." : "Ready.");
};

async function start() {
  // A click that disables its own button would lose the keyboard's place: the focus goes to the next button.
  startButton.disabled = true;
  say("Asking …");
  try {
    begin(await ask());
  } catch (error) {
    say(`The question was not taken: ${error.message}`);
    startButton.disabled = false;
    return;
  }
  connect();
  cutButton.focus();
}

async function ask() {
  const parameters = { tokens: TOKENS, rate: RATE, seed: 1 + Math.floor(Math.random() * 1_000_000) };
  const response = await fetch(`${PREFIX}/v1/generations`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...QUESTION, parameters }),
  });
  const body = await response.json();
  if (response.status === 401) askWho();
  if (!response.ok) throw new Error(body.detail);
  return body;
}

function begin(snapshot) {
  const snapshotPath = `${PREFIX}/v1/generations/${snapshot.id}`;
  // The conversation's events have every position from 1; a generation's leave out those of its neighbours.
  const eventsPath = `${PREFIX}/v1/conversations/${snapshot.conversation}/events`;
  run = { snapshotPath, eventsPath, source: null, connection: null, received: [], last: 0, head: 0, lateUntil: 0,
    opened: 0, timer: 0 };
  answer.replaceChildren();
  cells.replaceChildren();
  connectionList.replaceChildren();
  verdict.hidden = true;
  document.getElementById("command").textContent =
    `curl -N -H 'Accept: text/event-stream' ${keyWanted ? '-H "Authorization: Bearer $TOKENTAPE_KEY" ' : ""}` +
    `${location.origin}${snapshotPath}/events`;
  document.getElementById("more").hidden = false;
  count();
}

function connect() {
  const source = (run.source = new EventSource(`${run.eventsPath}?after=${run.last}`));
  source.onopen = () => {
    run.opened += 1;
    run.connection = { after: run.last, first: 0, line: connectionList.appendChild(document.createElement("li")) };
    tell("open");
    if (run.opened > 1) say(`Reconnected: asked for the events after ${run.last}.`);
    else say("Connected. Now cut the connection.");
    if (run.lateUntil === Infinity) look();
    count();
  };
  source.onmessage = ({ data }) => take(JSON.parse(data), data);
  source.onerror = () => {
    if (run.connection) tell("lost");
    run.connection = null;
    run.lateUntil = Infinity; // until `look` has found out how far the log is
    if (source.readyState === EventSource.CLOSED) refused();
    else say("The connection broke. The browser reconnects by itself, with the last id that it has.");
  };
  cutButton.disabled = false;
  reconnectButton.disabled = true;
}

// An EventSource ends for good on any answer but 200. Most likely the session is over: signed in again, the page goes on.
function refused() {
  say("The server refused the connection. Sign in if it asks for a key, then reconnect.");
  cutButton.disabled = true;
  reconnectButton.disabled = false;
  askWho();
}

function cut() {
  run.source.close();
  if (run.connection) tell("cut");
  run.connection = null;
  cutButton.disabled = true;
  reconnectButton.disabled = false;
  reconnectButton.focus();
  say(`Cut after event ${run.last}. The server goes on writing.`);
  run.timer = setInterval(look, POLL);
}

async function reconnect() {
  reconnectButton.disabled = true;
  clearInterval(run.timer);
  await look();
  run.lateUntil = run.head;
  connect();
  cutButton.focus();
}

// Asks the snapshot how far the log is. Reading it gives this page no event.
async function look() {
  const looked = run;
  try {
    const response = await fetch(looked.snapshotPath);
    const { position } = await response.json();
    if (looked !== run || !response.ok) return;
    run.head = Math.max(run.head, position);
    if (run.lateUntil === Infinity) run.lateUntil = position;
    draw();
    count();
  } catch {
    // The server is away: the counter stays where it was.
  }
}

function take(event, text) {
  run.received.push(event);
  run.last = event.position;
  run.head = Math.max(run.head, event.position);
  const late = event.position <= run.lateUntil;
  if (event.type === "token") write(event.delta, late);
  run.connection.first ||= event.position;
  tell("open");
  draw(event.position, late);
  count();
  document.getElementById("newest").textContent = `data: ${text}\nid: ${event.position}`;
  if (ENDS.includes(event.type)) finish(event);
}

function write(text, late) {
  const following = answer.scrollHeight - answer.scrollTop - answer.clientHeight < 40;
  const kind = late ? "MARK" : "SPAN";
  const part = answer.lastChild?.nodeName === kind ? answer.lastChild : answer.appendChild(document.createElement(kind));
  part.append(text);
  if (following) answer.scrollTop = answer.scrollHeight;
}

// One cell for each position in the log; `received` is filled.
function draw(received, late) {
  while (cells.childElementCount < run.head) {
    cells.appendChild(document.createElement("i")).className = "cell missing";
  }
  if (received) cells.children[received - 1].className = late ? "cell late" : "cell";
}

function count() {
  here.textContent = run.last;
  head.textContent = run.head;
  head.classList.toggle("behind", run.head > run.last);
  opened.textContent = run.opened;
}

function tell(state) {
  const { after, first, line } = run.connection;
  const asked = after ? `Asked for the events after ${after}` : "Asked for all events";
  const got = first ? `got ${first} to ${run.last}` : "got none yet";
  const end = { open: "", cut: ", was cut by you", lost: ", broke", end: ", read to the end" }[state];
  line.textContent = `${asked}, ${got}${end}.`;
}

// No event of this answer comes after `last`. What this page has is compared with the whole log.
async function finish(last) {
  run.source.close();
  clearInterval(run.timer);
  tell("end");
  cutButton.disabled = true;
  startButton.disabled = false;
  startButton.textContent = "Start another";
  if (document.activeElement === document.body || document.activeElement === cutButton) startButton.focus();
  try {
    const response = await fetch(`${run.eventsPath}?after=0&limit=5000`, { headers: { Accept: "application/json" } });
    const { events } = await response.json();
    const same = JSON.stringify(events) === JSON.stringify(run.received);
    verdict.textContent = same
      ? `Compared with the log: all ${events.length} events are here, in order, each once, over ${connections(run.opened)}.`
      : `Compared with the log: ${events.length} events there, ${run.received.length} here, and they differ.`;
    verdict.classList.toggle("wrong", !same);
    verdict.hidden = false;
    say(last.error ? `The answer failed: ${last.error.message}.` : "The answer is complete.");
  } catch (error) {
    say(`The answer has ended. The log could not be read: ${error.message}`);
  }
}

function connections(number) {
  return number === 1 ? "one connection" : `${number} connections`;
}

function say(text) {
  statusLine.textContent = text;
}
