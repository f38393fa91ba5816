// The tutor: a plain chat. Answers come over server-sent events, questions go by POST; nothing of it is on the server
// but the log. So it needs no workflow, and whoever opens this address sees the same.

import { byId, make, showState, stayAtEnd, tell, textOf } from "../elements.js";
import { EventLog } from "../events.js";
import { enter, Session } from "../session.js";
import { conversationOf, post, serverOf } from "../tape.js";
import { demoParameters } from "./demo_lesson.js";

const RULES = (subject) =>
  `You are a patient tutor, and the subject is: ${subject}. Answer a student's question in a few sentences, then ask one back.`;
const answers = new Map(); // the paragraph of each answer, by generation
let server, session, conversation, running, model;

const trouble = (error) => tell(byId("trouble"), error);

function say(kind, who, text = "") {
  const paragraph = make("p", { className: kind, textContent: text });
  byId("feed").append(make("div", { className: "said" }, make("small", { className: "soft", textContent: who }), paragraph));
  return paragraph;
}

function end(event, why = "") {
  if (event.generation === running) running = undefined;
  const answer = answers.get(event.generation);
  answer.classList.remove("writing");
  if (why) answer.after(make("p", { className: "trouble", textContent: why }));
}

// One function for each type of event; types it does not know it passes by.
const shown = {
  "message.posted": (event) => event.role === "user" && say("student", event.author ?? "You", textOf(event.content)),
  "generation.requested"(event) {
    running = event.generation;
    model = event.model;
    answers.set(running, say("tutor writing", `Tutor (${model})`));
  },
  "generation.started": (event) => (answers.get(event.generation).textContent = ""), // after a crash it is said anew
  token: (event) => answers.get(event.generation).append(event.delta),
  "generation.completed": (event) => end(event),
  "generation.failed": (event) => end(event, `No answer: ${event.error.message}`),
  "generation.cancelled": (event) => end(event, "Stopped."),
};

// `on_crash`: if the server dies in the middle, another one asks the model again, from the beginning.
function ask(content) {
  const parameters = model === "demo" ? demoParameters(answers.size) : {};
  const asked = { model, input: content, parameters, on_crash: "restart" };
  return post(server, `/v1/conversations/${conversation}/generations`, asked, session);
}

byId("lesson").onsubmit = async (submitted) => {
  submitted.preventDefault();
  trouble();
  const { subject, question, model: asked } = byId("lesson").elements;
  try {
    const made = await post(server, "/v1/conversations", { title: subject.value }, session);
    conversation = made.id;
    model = asked.value;
    await post(server, `/v1/conversations/${conversation}/messages`, { role: "system", content: RULES(subject.value) }, session);
    await ask(question.value);
    history.pushState(null, "", `#${conversation}`);
    follow();
  } catch (error) {
    enter(session, byId("session")); // was it the key?
    trouble(error);
  }
};

byId("question").onsubmit = async (submitted) => {
  submitted.preventDefault();
  trouble();
  const { content } = byId("question").elements;
  const said = content.value;
  content.value = "";
  await ask(said).catch((error) => {
    content.value ||= said; // nothing that was written is lost
    trouble(error);
  });
};

byId("stop").onclick = () => running && post(server, `/v1/generations/${running}/cancel`, {}, session).catch(trouble);

function follow() {
  byId("lesson").hidden = true;
  byId("foot").hidden = byId("fresh").hidden = false;
  const event = (one) => {
    shown[one.type]?.(one);
    byId("question").querySelector("button").disabled = Boolean(running);
    byId("stop").hidden = !running;
  };
  new EventLog(server, `/v1/conversations/${conversation}/events`, { event, state }, session);
}

function state(name, why) {
  if (name === "over") enter(session, byId("session")); // was it the key?
  showState(byId("state"), name, why);
}

stayAtEnd(byId("feed"));
addEventListener("hashchange", () => location.reload());
byId("fresh").href = location.pathname + location.search;
try {
  server = serverOf(new URL(location));
  session = new Session(server);
  conversation = conversationOf(new URL(location));
  if (!(await enter(session, byId("session")))) state("over", "not signed in");
  else if (conversation) follow();
  else byId("lesson").hidden = false;
} catch (error) {
  trouble(error);
}
