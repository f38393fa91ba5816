// The desk of the article studio: jobs and their articles, whoever asked for them. It polls, as its other clients do.
// Every three seconds one request says which conversations have moved; only jobs that moved are looked at again.

import { byId, make, showState, tell } from "../elements.js";
import { Poll } from "../poll.js";
import { enter, Session } from "../session.js";
import { backoff, post, serverOf } from "../tape.js";

const EVERY = 3000; // milliseconds
const NEWEST = 30; // conversations that are looked at
const WORKS = new Set(["queued", "running", "waiting"]);
const seen = new Map(); // the position at which each conversation was looked at
const rows = new Map(); // the list's items, by job
let server, session, poll, timer;
let failures = 0;
let looking = false;

async function get(path) {
  const answer = await fetch(server + path, { headers: session.headers, cache: "no-store" });
  const told = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(told.detail), { final: answer.status === 401 || answer.status === 403 });
  return told;
}

async function look() {
  if (looking) return;
  looking = true;
  clearTimeout(timer);
  let pause = EVERY;
  try {
    const { conversations } = await get(`/v1/conversations?limit=${NEWEST}`);
    for (const { id, position } of conversations.reverse()) {
      if (seen.get(id) === position) continue;
      const { generations, position: at } = await get(`/v1/conversations/${id}`);
      for (const job of generations) if (job.workflow === "content_forge") show(job);
      seen.set(id, at);
    }
    failures = 0;
    showState(byId("state"), "polling");
  } catch (error) {
    if (error.final) {
      showState(byId("state"), "over", error.message);
      return enter(session, byId("session")); // was it the key?
    }
    showState(byId("state"), "away");
    pause = backoff(failures++);
  } finally {
    looking = false;
  }
  if (!document.hidden) timer = setTimeout(look, pause);
}

// A row of the list.
function show(job) {
  const row = rows.get(job.id) ?? byId("job").content.firstElementChild.cloneNode(true);
  if (!rows.has(job.id)) {
    rows.set(job.id, row);
    byId("jobs").prepend(row);
    byId("none").hidden = true;
    Object.assign(row.querySelector("a"), { href: `#${job.id}`, textContent: job.input.topic });
    mark();
  }
  row.className = job.status;
  row.querySelector(".status").textContent = describe(job);
}

function describe({ status, progress }) {
  return WORKS.has(status) && progress ? `${progress.done} of ${progress.total} sections` : status;
}

// The job that the address names behind its #.
function open() {
  poll?.close();
  const id = /^#(gen_[0-9A-Za-z]{1,64})$/.exec(location.hash)?.[1];
  byId("article").hidden = true;
  mark();
  if (!id) return;
  const state = (name, why) => why === "not_found" && tell(byId("trouble"), new Error("The server knows no such job."));
  poll = new Poll(server, `/v1/generations/${id}`, { snapshot: read, state }, session);
}

function read(job) {
  if (job.workflow !== "content_forge") return tell(byId("trouble"), new Error("That is no article."));
  const works = WORKS.has(job.status);
  const { progress, result, error } = job;
  byId("article").hidden = false;
  byId("title").textContent = result?.title ?? job.input.topic;
  byId("about").textContent = [describe(job), result && `${result.words} words`, error?.message].filter(Boolean).join(" · ");
  byId("bar").hidden = !works || !progress;
  if (progress) Object.assign(byId("bar"), { max: progress.total, value: progress.done });
  byId("cancel").hidden = !works;
  byId("cancel").onclick = () => post(server, `/v1/generations/${job.id}/cancel`, {}, session).then(read, (error) => tell(byId("trouble"), error));
  const parts = result
    ? result.sections.flatMap(({ heading, text }) => [make("h3", { textContent: heading }), make("p", { textContent: text })])
    : job.text.trim() ? [make("p", { textContent: job.text.trim() })] : []; // so far
  byId("body").replaceChildren(...parts);
  show(job);
}

function mark() {
  for (const [id, row] of rows) row.querySelector("a").setAttribute("aria-current", String(location.hash === `#${id}`));
}

byId("order").onsubmit = async (submitted) => {
  submitted.preventDefault();
  tell(byId("trouble"));
  const button = byId("order").querySelector("button");
  const input = Object.fromEntries(new FormData(byId("order")));
  for (const name of ["sections", "words"]) input[name] = Number(input[name]);
  button.disabled = true;
  try {
    const job = await post(server, "/v1/generations", { workflow: "content_forge", input }, session); // once, through cuts
    location.hash = job.id;
    look();
  } catch (error) {
    enter(session, byId("session")); // was it the key?
    tell(byId("trouble"), error);
  }
  button.disabled = false;
};

addEventListener("hashchange", open);
addEventListener("online", look);
document.addEventListener("visibilitychange", () => document.hidden || look());
try {
  server = serverOf(new URL(location));
  session = new Session(server);
  if (await enter(session, byId("session"))) {
    open();
    look();
  } else {
    byId("order").hidden = true;
    showState(byId("state"), "over", "not signed in");
  }
} catch (error) {
  tell(byId("trouble"), error);
}
