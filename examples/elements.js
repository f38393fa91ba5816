// What the pages share on the screen: elements, troubles, and the state of their connection. Knows no wire.

export const byId = (id) => document.getElementById(id);

// make("p", { className: "soft" }, "text", element …)
export function make(name, fields = {}, ...inside) {
  const element = Object.assign(document.createElement(name), fields);
  element.append(...inside);
  return element;
}

// What a message says, as one text. Its content is a text, or a list of parts: texts, images and other files. A part of a
// type that this page does not know is named, not shown.
export function textOf(content) {
  if (typeof content === "string") return content;
  return content.map((part) => (part.type === "text" ? part.text : `[${[part.type, part.name, part.media_type].filter(Boolean).join(" ")}]`)).join("\n\n");
}

// Shows an error in its place, or hides it.
export function tell(place, error = null) {
  place.textContent = error ? error.message : "";
  place.hidden = !error;
}

// Shows the state that Tape, EventLog and Poll tell.
export function showState(place, name, why) {
  const words = { away: "away, coming back", over: why === "done" ? "done" : `over: ${why}` };
  place.dataset.state = why === "done" ? "done" : name;
  place.textContent = words[name] ?? name;
}

// Lets a link lead to the same server as this page: `?server=` goes along.
for (const link of document.querySelectorAll("a[data-follow]")) link.href += location.search;

// Whoever reads at the end of a feed that grows stays there; nobody is moved who reads further up.
export function stayAtEnd(feed) {
  const bottom = () => document.documentElement.scrollHeight;
  let atEnd = true;
  addEventListener("scroll", () => (atEnd = innerHeight + scrollY > bottom() - 80), { passive: true });
  new ResizeObserver(() => {
    if (atEnd && !feed.contains(document.activeElement)) scrollTo({ top: bottom(), behavior: "instant" });
  }).observe(feed);
}
