// Papers to grade: each is uploaded, then a job grades them, and the page asks how far it is. Close it and come back by its
// address: the job does not care who asks, and asking costs no grading.

import { byId, make, showState, tell } from "../elements.js";
import { Poll } from "../poll.js";
import { enter, Session } from "../session.js";
import { generationOf, post, serverOf } from "../tape.js";
import { upload } from "../upload.js";

const SAMPLES = ["harbours.pdf", "lighthouses.pdf", "tides.pdf"];
const MAX_PAPERS = 30;
let server, session;

const trouble = (error) => tell(byId("trouble"), error);

async function samples() {
  const answers = await Promise.all(SAMPLES.map((name) => fetch(`samples/${name}`)));
  return Promise.all(answers.map(async (answer, number) => new File([await answer.blob()], SAMPLES[number])));
}

byId("batch").onsubmit = async (submitted) => {
  submitted.preventDefault();
  trouble();
  const { papers: chosen, strictness } = byId("batch").elements;
  const button = byId("batch").querySelector("button");
  button.disabled = true;
  byId("upload").hidden = false;
  try {
    const files = chosen.files.length ? [...chosen.files] : await samples();
    if (files.length > MAX_PAPERS) throw new Error(`These are ${files.length} papers; ${MAX_PAPERS} are the most.`);
    const papers = [];
    for (const file of files) {
      byId("upload").textContent = `Uploading ${file.name}, ${papers.length + 1} of ${files.length}`;
      papers.push({ name: file.name, file: (await upload(server, file, session)).digest });
    }
    const input = { papers, strictness: Number(strictness.value) };
    const run = await post(server, "/v1/generations", { workflow: "batch_grading", input }, session);
    history.pushState(null, "", `#${run.id}`); // whoever opens this address sees the same
    follow(run.id);
  } catch (error) {
    enter(session, byId("session")); // was it the key?
    trouble(error);
  }
  button.disabled = false;
  byId("upload").hidden = true;
};

// The snapshot is the whole truth each time: nothing is kept from the one before.
function snapshot({ status, progress, text, result, error }) {
  if (progress) {
    Object.assign(byId("bar"), { max: progress.total || 1, value: progress.done });
    byId("done").textContent = `${progress.done} of ${progress.total} ${progress.unit}${progress.stage ? `: ${progress.stage}` : ""}`;
  }
  byId("lines").replaceChildren(...text.split("\n").filter(Boolean).map((line) => make("li", { textContent: line })));
  byId("lines").hidden = Boolean(result);
  if (result) table(result.papers);
  if (status === "failed") trouble(new Error(error.message));
  if (status === "cancelled") trouble(new Error("It was stopped."));
}

function table(papers) {
  const cell = (textContent) => make("td", { textContent });
  const say = ({ mark, sentence, remarks }) => (mark === 10 ? "No fault was found." : `${mark}/10: “${sentence}” ${remarks.join(" ")}`);
  const rows = papers.map(({ name, pages, average, worst, trouble: why }) =>
    make("tr", {}, make("th", { scope: "row", textContent: name }), cell(average ?? "–"), cell(pages),
      cell(why ?? say(worst))));
  byId("papers").replaceChildren(...rows);
  byId("papers").closest("div").hidden = false;
}

function follow(generation) {
  byId("batch").hidden = true;
  byId("job").hidden = byId("fresh").hidden = false;
  new Poll(server, `/v1/generations/${generation}`, { snapshot, state }, session);
}

function state(name, why) {
  if (name === "over" && why !== "done") enter(session, byId("session")); // was it the key?
  showState(byId("state"), name, why);
}

addEventListener("hashchange", () => location.reload());
byId("fresh").href = location.pathname + location.search;
try {
  server = serverOf(new URL(location));
  session = new Session(server);
  const generation = generationOf(new URL(location));
  if (!(await enter(session, byId("session")))) state("over", "not signed in");
  else if (generation) follow(generation);
  else byId("batch").hidden = false;
} catch (error) {
  trouble(error);
}
