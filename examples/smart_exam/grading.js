// Feedback as it is written, and a slider that changes it in the middle of a sentence. The log says from where on.

import { byId, make, showState, tell } from "../elements.js";
import { enter, Session } from "../session.js";
import { conversationOf, post, serverOf, Tape } from "../tape.js";

const rows = []; // one for each sentence that was begun
const waiting = []; // changes that are not in effect yet
let server, session, tape, running;

const trouble = (error) => tell(byId("trouble"), error);

// One function for each type of event; types it does not know it passes by.
const shown = {
  "generation.requested"(event) {
    if (event.workflow !== "live_grading") return;
    running = event.generation;
    turn(event.steering.strictness);
  },
  "generation.started"() {
    if (rows.length) rows.at(-1).remark.textContent = ""; // after a crash the sentence that was begun is graded anew
  },
  progress(event) {
    Object.assign(byId("bar"), { max: event.total, value: event.done });
    heard();
    if (event.done === event.total || rows.length > event.done) return;
    const row = { number: make("b", { textContent: "…" }), remark: make("p", { className: "remark" }) };
    byId("marks").append(make("li", {}, row.number, make("p", { textContent: event.stage }), row.remark));
    rows.push(row);
  },
  token(event) {
    for (const change of waiting.filter((one) => one.heard)) {
      waiting.splice(waiting.indexOf(change), 1);
      change.item.className = "works";
      change.item.textContent = `${change.text} In effect from position ${event.position} on, in sentence ${rows.length}.`;
    }
    heard();
    rows.at(-1).remark.append(event.delta);
  },
  "step.finished"(event) {
    heard();
    const { mark, strictness } = event.result;
    const { number, remark } = rows.at(-1);
    Object.assign(number, { textContent: mark, title: `${mark} of 10`, className: mark >= 8 ? "good" : mark >= 5 ? "fair" : "bad" });
    remark.dataset.strictness = strictness;
  },
  "steering.changed"(event) {
    turn(event.value);
    byId("changes").querySelector(".none")?.remove();
    const text = `Position ${event.position}: ${event.by} sets ${event.value}.`;
    const item = make("li", { className: "waits", textContent: text });
    byId("changes").append(item);
    waiting.push({ text, item, heard: false });
  },
  result(event) {
    byId("average").textContent = `Average ${event.value.average} of 10`;
    byId("average").hidden = false;
  },
  "generation.completed": () => end(),
  "generation.failed": (event) => end(new Error(event.error.message)),
  "generation.cancelled": (event) => end(new Error(`Stopped by ${event.by}.`)),
};

// The run knows of a change when it has written its next event; what it writes then is under the new value.
function heard() {
  for (const change of waiting) change.heard = true;
}

function turn(value) {
  byId("strictness").textContent = byId("slider").value = value;
}

function end(error) {
  running = undefined;
  for (const change of waiting.splice(0)) change.item.textContent = `${change.text} Nothing was left to grade.`;
  trouble(error);
}

byId("slider").oninput = ({ target }) => (byId("strictness").textContent = target.value);
byId("slider").onchange = ({ target }) => {
  trouble();
  tape.send("steer", { generation: running, name: "strictness", value: Number(target.value) }).catch(trouble);
};

byId("essay").onsubmit = async (submitted) => {
  submitted.preventDefault();
  trouble();
  const { text, pace } = byId("essay").elements;
  try {
    const input = { text: text.value, pace: Number(pace.value) };
    const run = await post(server, "/v1/generations", { workflow: "live_grading", input }, session);
    history.pushState(null, "", `#${run.conversation}`); // whoever opens this address sees the same
    follow(run.conversation);
  } catch (error) {
    enter(session, byId("session")); // was it the key?
    trouble(error);
  }
};

function follow(conversation) {
  byId("essay").hidden = true;
  byId("grading").hidden = byId("foot").hidden = byId("fresh").hidden = false;
  const event = (one) => {
    shown[one.type]?.(one);
    byId("slider").disabled = !running;
  };
  tape = new Tape(server, conversation, { event, state }, "", session);
}

function state(name, why) {
  if (name === "over") enter(session, byId("session")); // was it the key?
  showState(byId("state"), name, why);
}

addEventListener("hashchange", () => location.reload());
byId("fresh").href = location.pathname + location.search;
try {
  server = serverOf(new URL(location));
  session = new Session(server);
  const conversation = conversationOf(new URL(location));
  if (!(await enter(session, byId("session")))) state("over", "not signed in");
  else if (conversation) follow(conversation);
  else byId("essay").hidden = false;
} catch (error) {
  trouble(error);
}
