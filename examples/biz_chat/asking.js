// How both pages ask the coach: the request for an answer, and the form that begins a conversation.

import { byId } from "../elements.js";
import { post } from "../tape.js";
import { FOLLOW_UP, RULES, SITUATIONS } from "./situations.js";

// The body of a request for an answer to what was said last. `rate`: words a second of the demo. `on_crash`: if the server
// dies in the middle, another one goes on.
export function question({ model, rate }, situation = null) {
  const says = situation === null ? FOLLOW_UP : SITUATIONS[situation].says;
  const calls = situation === null ? [] : [{ name: "battle_card", arguments: { objection: situation } }];
  return {
    model,
    tools: ["battle_card"],
    on_crash: "restart",
    ...(model === "demo" && { parameters: { say: says, calls, rate } }),
  };
}

// Fills the form with the situations; a chosen one is asked about as it stands, or in other words.
export function offerSituations(form) {
  const { situation, question } = form.elements;
  situation.onchange = () => (question.value = SITUATIONS[situation.value].question);
  situation.onchange();
}

// What somebody says, as a message that bears a name.
export const message = (content, author) => ({ role: "user", content, ...(author && { author }) });

// Begins a conversation as the form says, in which `author` asks the coach; its id.
export async function begin(server, session, author) {
  const { situation, question: asked, model, rate } = byId("call").elements;
  const made = await post(server, "/v1/conversations", { title: `Call: ${situation.value}` }, session);
  const path = `/v1/conversations/${made.id}`;
  await post(server, `${path}/messages`, { role: "system", content: RULES }, session);
  await post(server, `${path}/messages`, message(asked.value, author), session);
  await post(server, `${path}/generations`, question({ model: model.value, rate: Number(rate.value) }, situation.value), session);
  return made.id;
}
