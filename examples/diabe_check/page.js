// For a phone on a bad network: whatever gets lost is asked for again. Sending twice does no harm (the picture has a
// digest, the request a key), and each poll brings the whole state, so a lost one costs three seconds and nothing else.

import { byId, make, showState, tell } from "../elements.js";
import { Poll } from "../poll.js";
import { enter, Session } from "../session.js";
import { post, serverOf } from "../tape.js";
import { upload } from "../upload.js";

const EVERY = 3000; // milliseconds
const STAGES = ["reading the picture", "understanding the label", "counting the portion"];
let server, session;

byId("start").onsubmit = async (submitted) => {
  submitted.preventDefault();
  tell(byId("trouble"));
  const { picture, portion, model } = byId("start").elements;
  const button = byId("start").querySelector("button");
  button.disabled = true;
  showState(byId("state"), "connecting");
  try {
    const input = { portion_grams: Number(portion.value), model: model.value.trim() };
    if (picture.files[0]) input.picture = (await upload(server, picture.files[0], session)).digest;
    const run = await post(server, "/v1/generations", { workflow: "diabe_check", input }, session);
    history.pushState(null, "", `#${run.id}`); // a page that the phone has thrown away finds its scan again
    follow(run.id);
  } catch (error) {
    enter(session, byId("session")); // was it the key?
    tell(byId("trouble"), error);
  }
  button.disabled = false;
};

byId("start").elements.picture.onchange = ({ target }) => {
  const picture = byId("preview");
  if (picture.src.startsWith("blob:")) URL.revokeObjectURL(picture.src);
  picture.src = target.files[0] ? URL.createObjectURL(target.files[0]) : "label.png";
  picture.alt = target.files[0] ? "Your picture" : "The label of a pack of oat biscuits";
};

function follow(run) {
  byId("start").hidden = true;
  byId("scan").hidden = byId("fresh").hidden = false;
  const state = (name, why) => {
    showState(byId("state"), name, why);
    if (name !== "over" || why === "done") return;
    enter(session, byId("session")); // was it the key?
    tell(byId("trouble"), new Error(`This scan cannot be read: ${why}.`));
  };
  new Poll(server, `/v1/generations/${run}`, { snapshot, state }, session, 0, EVERY);
}

// All that is known, each time.
function snapshot({ progress, result, status, error }) {
  const done = progress?.done ?? 0;
  byId("stages").replaceChildren(
    ...STAGES.map((name, number) => {
      const works = number === done && (status === "running" || status === "queued");
      const item = make("li", { className: number < done ? "done" : works ? "works" : "" }, name);
      if (works) item.setAttribute("aria-current", "step");
      return item;
    }),
  );
  if (status === "failed") tell(byId("trouble"), new Error(error.message));
  if (status === "cancelled") tell(byId("trouble"), new Error("This scan was stopped."));
  if (result) show(result);
}

function show({ portion_grams, rows, exchanges, doubts }) {
  byId("portion").textContent = `${portion_grams} g`;
  byId("table").caption.textContent = "What is in it";
  byId("table").tBodies[0].replaceChildren(
    ...rows.map(({ name, unit, per_100, portion }) => {
      const head = make("th", { scope: "row" }, name);
      return make("tr", {}, head, make("td", {}, `${per_100} ${unit}`), make("td", {}, `${portion} ${unit}`));
    }),
  );
  byId("exchanges").textContent = `${exchanges} carbohydrate exchanges of 10 g`;
  byId("exchanges").hidden = exchanges === null;
  byId("doubts").replaceChildren(...doubts.map((doubt) => make("li", {}, doubt)));
  byId("doubts").hidden = doubts.length === 0;
  byId("table").hidden = byId("advice").hidden = false;
}

addEventListener("hashchange", () => location.reload());
byId("fresh").href = location.pathname + location.search;
try {
  server = serverOf(new URL(location));
  session = new Session(server);
  const run = location.hash.slice(1);
  if (run && !/^gen_[0-9A-Za-z]{1,64}$/.test(run)) throw new Error("This address names no scan: behind the # stands gen_…");
  if (!(await enter(session, byId("session")))) showState(byId("state"), "over", "not signed in");
  else if (run) follow(run);
  else byId("start").hidden = false;
} catch (error) {
  tell(byId("trouble"), error);
}
