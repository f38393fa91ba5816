// Marks as they come, and a slider. A change counts from the next sentence on; the log says where both stand.

import { enter, Session } from "../session.js";
import { conversationOf, post, serverOf, Tape } from "../tape.js";

const $ = (id) => document.getElementById(id);
const rows = []; // those that have a mark, in the order of the sentences
const waiting = []; // changes that no sentence has begun with yet
let server, session, tape, running;
let current = 0; // the sentence that is being graded

function tell(error) {
  $("trouble").textContent = error ? error.message : "";
  $("trouble").hidden = !error;
}

function add(list, text, kind = "") {
  const item = Object.assign(document.createElement("li"), { className: kind, textContent: text });
  list.append(item);
  return item;
}

// One function for each type of event; types it does not know it passes by.
const shown = {
  "generation.requested"(event) {
    if (event.workflow !== "live_grading") return;
    running = event.generation;
    turn(event.steering.strictness);
  },
  "generation.started"() {
    for (const row of rows) row.querySelector(".remark").textContent = ""; // after a crash they are said anew
  },
  progress(event) {
    current = event.done;
    Object.assign($("bar"), { max: event.total, value: event.done });
    if (rows[current] || event.done === event.total) return;
    for (const change of waiting.splice(0)) {
      change.item.className = "works";
      change.item.textContent = `${change.text} In effect from sentence ${current + 1} on, position ${event.position}.`;
    }
  },
  "step.finished"(event) {
    const { sentence, mark, strictness } = event.result;
    const row = add($("marks"), "");
    const kind = mark >= 8 ? "good" : mark >= 5 ? "fair" : "bad";
    row.append(
      Object.assign(document.createElement("b"), { className: kind, textContent: mark, title: `${mark} of 10` }),
      Object.assign(document.createElement("p"), { textContent: sentence }),
      Object.assign(document.createElement("p"), { className: "remark" }),
    );
    row.querySelector(".remark").dataset.strictness = strictness;
    rows.push(row);
  },
  token: (event) => rows[current]?.querySelector(".remark").append(event.delta),
  "steering.changed"(event) {
    turn(event.value);
    $("changes").querySelector(".none")?.remove();
    const text = `Position ${event.position}: ${event.by} sets ${event.value}.`;
    waiting.push({ text, item: add($("changes"), `${text} Waits for the next sentence.`, "waits") });
  },
  result(event) {
    $("average").textContent = `Average ${event.value.average} of 10`;
    $("average").hidden = false;
  },
  "generation.completed": () => end(),
  "generation.failed": (event) => end(new Error(event.error.message)),
  "generation.cancelled": (event) => end(new Error(`Stopped by ${event.by}.`)),
};

function turn(value) {
  $("strictness").textContent = $("slider").value = value;
}

function end(error) {
  running = undefined;
  for (const change of waiting.splice(0)) change.item.textContent = `${change.text} No sentence was left.`;
  tell(error);
}

$("slider").oninput = ({ target }) => ($("strictness").textContent = target.value);
$("slider").onchange = ({ target }) => {
  tell();
  tape.send("steer", { generation: running, name: "strictness", value: Number(target.value) }).catch(tell);
};

$("essay").onsubmit = async (submitted) => {
  submitted.preventDefault();
  tell();
  const { text, pace } = $("essay").elements;
  try {
    const input = { text: text.value, pace: Number(pace.value) };
    const run = await post(server, "/v1/generations", { workflow: "live_grading", input }, session);
    history.pushState(null, "", `#${run.conversation}`); // whoever opens this address sees the same
    follow(run.conversation);
  } catch (error) {
    enter(session, $("session")); // was it the key?
    tell(error.code ? error : new Error(`No answer from ${server}. Does it run, and does it allow this page (--allowed-origins)?`));
  }
};

function follow(conversation) {
  $("essay").hidden = true;
  $("grading").hidden = $("foot").hidden = $("fresh").hidden = false;
  const event = (one) => {
    shown[one.type]?.(one);
    $("slider").disabled = !running;
  };
  tape = new Tape(server, conversation, { event, state }, "", session);
}

function state(name, why) {
  if (name === "over") enter(session, $("session")); // was it the key?
  const words = { connecting: "connecting", reading: "reading", live: "live", away: "away, coming back", over: `over: ${why}` };
  $("state").dataset.state = name;
  $("state").textContent = words[name];
}

addEventListener("hashchange", () => location.reload());
$("fresh").href = location.pathname + location.search;
try {
  server = serverOf(new URL(location));
  session = new Session(server);
  const conversation = conversationOf(new URL(location));
  if (!(await enter(session, $("session")))) state("over", "not signed in");
  else if (conversation) follow(conversation);
  else $("essay").hidden = false;
} catch (error) {
  tell(error);
}
