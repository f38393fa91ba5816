// Two ways to one document. Its summary is a job of a minute: the page polls it, and shows how far it is. Its answers come
// word by word: the page reads the conversation's log as a stream. Whoever opens the address sees the same.

import { byId, make, showState, tell, textOf } from "../elements.js";
import { EventLog } from "../events.js";
import { Poll } from "../poll.js";
import { enter, Session } from "../session.js";
import { conversationOf, post, serverOf } from "../tape.js";
import { upload } from "../upload.js";

const EVERY = 2000; // milliseconds
const answers = new Map(); // a paragraph for each answer, by generation
let server, session, opened;
let unanswered = null; // a message whose answer could not be asked for: sent once more, it is not posted twice

// The job first, then a conversation for the questions, which knows the job by its metadata.
byId("start").onsubmit = async (submitted) => {
  submitted.preventDefault();
  tell(byId("trouble"));
  const { document: chosen, model, rate } = byId("start").elements;
  const button = byId("start").querySelector("button");
  button.disabled = true;
  try {
    const file = chosen.files[0];
    const input = { model: model.value.trim(), rate: Number(rate.value) };
    if (file) input.document = (await upload(server, file, session)).digest;
    const job = await post(server, "/v1/generations", { workflow: "doc_summ", input }, session);
    const title = (file?.name ?? "The Handbook of Port Amber").slice(0, 200);
    const conversation = await post(server, "/v1/conversations", { title, metadata: { job: job.id, input } }, session);
    history.pushState(null, "", `#${conversation.id}`);
    follow(conversation.id);
  } catch (error) {
    enter(session, byId("session")); // was it the key?
    tell(byId("trouble"), error);
  }
  button.disabled = false;
};

byId("question").onsubmit = async (submitted) => {
  submitted.preventDefault();
  tell(byId("trouble"));
  const { text } = byId("question").elements;
  const path = `/v1/conversations/${conversationOf(new URL(location))}`;
  const asked = text.value;
  text.value = "";
  try {
    if (unanswered?.content !== asked) unanswered = await post(server, `${path}/messages`, { role: "user", content: asked }, session);
    const input = { ...opened.input, question: unanswered.position };
    await post(server, `${path}/generations`, { workflow: "doc_ask", input, if_running: "queue" }, session);
    unanswered = null;
  } catch (error) {
    text.value ||= asked;
    tell(byId("trouble"), error);
  }
};

function follow(conversation) {
  byId("start").hidden = true;
  byId("summary").hidden = byId("fresh").hidden = false;
  const event = (one) => shown[one.type]?.(one);
  const state = (name, why) => {
    if (name === "over") enter(session, byId("session")); // was it the key?
    showState(byId("state"), name, why);
  };
  new EventLog(server, `/v1/conversations/${conversation}/events`, { event, state }, session);
}

// One function for each type of event; types it does not know it passes by.
const shown = {
  "conversation.started"(event) {
    opened = event.metadata ?? {};
    if (!/^gen_[0-9A-Za-z]{1,64}$/.test(opened.job)) return tell(byId("trouble"), new Error("This conversation is about no document."));
    byId("name").textContent = event.title;
    byId("foot").hidden = false; // before, it was not known which document is asked
    const state = (name, why) => name === "over" && why !== "done" && tell(byId("trouble"), new Error(`The summary: ${why}.`));
    new Poll(server, `/v1/generations/${opened.job}`, { snapshot, state }, session, 0, EVERY);
  },
  "message.posted": (event) => say("person", textOf(event.content)),
  "generation.requested": (event) => answers.set(event.generation, say("answer", "")),
  "generation.started": (event) => (answers.get(event.generation).textContent = ""), // after a crash the answer begins anew
  token: (event) => answers.get(event.generation).append(event.delta),
  "generation.failed": (event) => answers.get(event.generation).append(make("span", { className: "trouble" }, event.error.message)),
};

function say(kind, text) {
  const p = make("p", { className: kind }, text);
  byId("chat").append(p);
  p.scrollIntoView({ block: "nearest" });
  return p;
}

// The job as it stands. What is polled is always whole: nothing has to be kept from one time to the next.
function snapshot({ status, progress, text, result, error, waiting_for }) {
  if (progress) {
    Object.assign(byId("bar"), { max: progress.total, value: progress.done });
    byId("count").textContent = `${progress.done} of ${progress.total} ${progress.unit}: ${progress.stage}`;
  }
  if (waiting_for) byId("count").textContent += `, waiting for a decision (${waiting_for})`;
  const lines = text.split("\n").filter((line) => /^Page \d+: /.test(line));
  byId("pages").replaceChildren(
    ...lines.map((line) => {
      const [page, ...said] = line.split(": ");
      return make("li", {}, make("b", {}, page), `: ${said.join(": ")}`);
    }),
  );
  if (result) {
    byId("whole").textContent = result.whole;
    byId("whole").hidden = byId("all").open = false;
    byId("count").textContent = `All ${result.pages.length} pages are summarised.`;
  } else if (status === "failed") tell(byId("trouble"), new Error(error.message));
  else if (status === "cancelled") byId("count").textContent += ", stopped";
}

addEventListener("hashchange", () => location.reload());
byId("fresh").href = location.pathname + location.search;
try {
  server = serverOf(new URL(location));
  session = new Session(server);
  const conversation = conversationOf(new URL(location));
  if (!(await enter(session, byId("session")))) showState(byId("state"), "over", "not signed in");
  else if (conversation) follow(conversation);
  else byId("start").hidden = false;
} catch (error) {
  tell(byId("trouble"), error);
}
