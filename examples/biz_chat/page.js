// The coach for one: it is only read while it answers, so events come over server-sent events, and questions go by POST.

import { byId, showState, stayAtEnd, tell } from "../elements.js";
import { EventLog } from "../events.js";
import { enter, Session } from "../session.js";
import { conversationOf, post, serverOf } from "../tape.js";
import { begin, message, offerSituations, question } from "./asking.js";
import { Coaching } from "./coaching.js";

const coaching = new Coaching(byId("feed"));
let server, session, conversation;

const trouble = (error) => tell(byId("trouble"), error);
const send = (what, body) => post(server, `/v1/conversations/${conversation}/${what}`, body, session);

byId("call").onsubmit = async (submitted) => {
  submitted.preventDefault();
  trouble();
  try {
    conversation = await begin(server, session, "You");
    history.pushState(null, "", `#${conversation}`);
    follow();
  } catch (error) {
    enter(session, byId("session")); // was it the key?
    trouble(error);
  }
};

byId("more").onsubmit = async (submitted) => {
  submitted.preventDefault();
  trouble();
  const { content } = byId("more").elements;
  const said = content.value;
  content.value = "";
  try {
    await send("messages", message(said, "You"));
    await send("generations", question(coaching.asked));
  } catch (error) {
    content.value ||= said; // nothing that was written is lost
    trouble(error);
  }
};

byId("stop").onclick = () => coaching.running && post(server, `/v1/generations/${coaching.running}/cancel`, {}, session).catch(trouble);

function follow() {
  byId("call").hidden = true;
  byId("foot").hidden = byId("fresh").hidden = false;
  const event = (one) => {
    coaching.take(one);
    byId("more").querySelector("button").disabled = Boolean(coaching.running);
    byId("stop").hidden = !coaching.running;
  };
  new EventLog(server, `/v1/conversations/${conversation}/events`, { event, state }, session);
}

function state(name, why) {
  if (name === "over") enter(session, byId("session")); // was it the key?
  showState(byId("state"), name, why);
}

stayAtEnd(byId("feed"));
offerSituations(byId("call"));
addEventListener("hashchange", () => location.reload());
byId("fresh").href = location.pathname + location.search;
try {
  server = serverOf(new URL(location));
  session = new Session(server);
  conversation = conversationOf(new URL(location));
  if (!(await enter(session, byId("session")))) state("over", "not signed in");
  else if (conversation) follow();
  else byId("call").hidden = false;
} catch (error) {
  trouble(error);
}
