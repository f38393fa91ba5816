// The coach for two who are on the same call. Both talk to it while it answers, so it is a WebSocket: what one of them hears
// from the customer is put into the running answer (`deliver: "now"`), and both see what became of it.

import { byId, showState, stayAtEnd, tell } from "../elements.js";
import { enter, Session } from "../session.js";
import { conversationOf, serverOf, Tape } from "../tape.js";
import { begin, message, offerSituations, question } from "./asking.js";
import { Coaching } from "./coaching.js";

const coaching = new Coaching(byId("feed"));
let server, session, tape;

const trouble = (error) => tell(byId("trouble"), error);

byId("call").onsubmit = async (submitted) => {
  submitted.preventDefault();
  trouble();
  const author = byId("call").elements.author.value;
  remember(author);
  try {
    const conversation = await begin(server, session, author);
    history.pushState(null, "", `#${conversation}`); // whoever opens this address is on the same call
    follow(conversation);
  } catch (error) {
    enter(session, byId("session")); // was it the key?
    trouble(error);
  }
};

// One field and one button for both: while the coach answers it is told, else asked.
byId("note").onsubmit = async (submitted) => {
  submitted.preventDefault();
  trouble();
  const { author, content } = byId("note").elements;
  const said = content.value;
  content.value = "";
  try {
    const now = submitted.submitter.value === "tell";
    await tape.send("post", { ...message(said, author.value), ...(now && { deliver: "now" }) });
    if (!now) await tape.send("generate", question(coaching.asked));
  } catch (error) {
    content.value ||= said; // nothing that was written is lost
    trouble(error);
  }
};

byId("note").elements.author.onchange = ({ target }) => {
  remember(target.value);
  tape.author = target.value;
  tape.connect(); // under the new name
};

byId("stop").onclick = () => coaching.running && tape.send("cancel", { generation: coaching.running }).catch(trouble);

function remember(author) {
  localStorage.setItem("author", author);
  byId("call").elements.author.value = byId("note").elements.author.value = author;
}

function follow(conversation) {
  byId("call").hidden = true;
  byId("foot").hidden = byId("fresh").hidden = false;
  const event = (one) => {
    coaching.take(one);
    const send = byId("note").querySelector("button");
    send.value = coaching.running ? "tell" : "ask";
    send.textContent = coaching.running ? "Tell the coach now" : "Ask";
    byId("stop").hidden = !coaching.running;
  };
  tape = new Tape(server, conversation, { event, state, presence }, byId("note").elements.author.value, session);
}

function state(name, why) {
  if (name === "over") enter(session, byId("session")); // was it the key?
  showState(byId("state"), name, why);
}

function presence({ you, people, count }) {
  const others = people.filter((one) => one.connection !== you).map((one) => one.author ?? "somebody");
  byId("people").textContent = count === 1 ? "Nobody else is here" : `Also here: ${others.join(", ")}`;
}

stayAtEnd(byId("feed"));
offerSituations(byId("call"));
addEventListener("hashchange", () => location.reload());
byId("fresh").href = location.pathname + location.search;
remember(localStorage.getItem("author") ?? "");
try {
  server = serverOf(new URL(location));
  session = new Session(server);
  const conversation = conversationOf(new URL(location));
  if (!(await enter(session, byId("session")))) state("over", "not signed in");
  else if (conversation) follow(conversation);
  else byId("call").hidden = false;
} catch (error) {
  trouble(error);
}
