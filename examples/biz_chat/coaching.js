// A conversation with the coach on the screen, event by event, whatever brings the events. Both pages use it.
//
// What is told the coach while it answers (`deliver: "now"`) is `queued` until the answer has it, then `applied`: from that
// place in the text on. An answer that ends first returns it: the next one knows it. All of it comes from the log.

import { make, textOf } from "../elements.js";

const WORDS = { queued: "queued: the coach hears it in a moment", applied: "applied", returned: "returned: the answer was over first, the next one knows it" };

export class Coaching {
  // `feed`: where it is shown.
  constructor(feed) {
    this.feed = feed;
    this.running = null; // the generation that answers
    this.asked = {}; // how the last answer was asked for: `model`, and the demo's `rate`
    this.answers = new Map(); // by generation
    this.notes = new Map(); // messages for a running answer, by their id
  }

  // Takes the next event; types it does not know it passes by.
  take(event) {
    this.#shown[event.type]?.(event);
  }

  #shown = {
    "message.posted": (event) => {
      if (event.role !== "user") return;
      const paragraph = make("p", { className: "rep", textContent: textOf(event.content) });
      const said = this.#say(event.author ?? "Somebody", paragraph);
      if (event.deliver !== "now") return;
      const status = make("small", { className: "status" });
      status.setAttribute("role", "status");
      said.append(status);
      this.notes.set(event.message, { into: event.into, status, who: event.author ?? "Somebody", text: textOf(event.content) });
      this.#set(event.message, event.into && !this.answers.get(event.into)?.over ? "queued" : "returned");
    },
    "message.applied": (event) => {
      const answer = this.answers.get(event.generation);
      this.#set(event.message, "applied");
      const { who, text } = this.notes.get(event.message);
      const mark = make("mark", { textContent: `${who}: ${text}`, title: `The answer knows it from position ${event.position} on.` });
      answer.marks.push({ at: answer.length, mark });
      answer.text.append(mark);
    },
    "generation.requested": (event) => {
      this.running = event.generation;
      this.asked = { model: event.model, rate: event.parameters.rate };
      const text = make("p", { className: "coach writing" });
      this.answers.set(event.generation, { text, length: 0, marks: [], later: [], over: false });
      this.#say(`Coach (${event.model})`, text);
    },
    "generation.started": (event) => {
      if (event.attempt === 1) return;
      // Behind a crash the text is said anew, and what was put into it stands at the same places.
      const answer = this.answers.get(event.generation);
      Object.assign(answer, { length: 0, later: [...answer.marks] });
      answer.text.replaceChildren();
    },
    token: ({ generation, delta }) => {
      const answer = this.answers.get(generation);
      while (answer.later.length && answer.later[0].at <= answer.length + delta.length) {
        const { at, mark } = answer.later.shift();
        const before = delta.slice(0, at - answer.length);
        answer.text.append(before, mark);
        answer.length += before.length;
        delta = delta.slice(before.length);
      }
      answer.text.append(delta);
      answer.length += delta.length;
    },
    "tool.finished": (event) => {
      if (event.error || !event.result.facts) return;
      const facts = event.result.facts.map((fact) => make("li", { textContent: fact }));
      const card = make("details", { className: "card" }, make("summary", { textContent: `Battle card: ${event.result.objection}` }), make("ul", {}, ...facts));
      this.answers.get(event.generation).text.before(card);
    },
    "generation.completed": (event) => this.#end(event),
    "generation.failed": (event) => this.#end(event, `No answer: ${event.error.message}`),
    "generation.cancelled": (event) => this.#end(event, `Stopped by ${event.by}.`),
  };

  #say(who, ...inside) {
    const said = make("div", { className: "said" }, make("small", { className: "soft", textContent: who }), ...inside);
    this.feed.append(said);
    return said;
  }

  #set(message, status) {
    const { status: place } = this.notes.get(message);
    place.dataset.status = status;
    place.textContent = WORDS[status];
  }

  #end({ generation }, why = "") {
    const answer = this.answers.get(generation);
    answer.over = true;
    answer.text.classList.remove("writing");
    if (why) answer.text.after(make("p", { className: "trouble", textContent: why }));
    if (this.running === generation) this.running = null;
    for (const [message, { into, status }] of this.notes) {
      if (into === generation && status.dataset.status === "queued") this.#set(message, "returned");
    }
  }
}
