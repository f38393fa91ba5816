// Runs one client program of docs/clients*.md for many addresses at once: node run.mjs PROGRAM '["http://…", …]'.
//
// Prints a JSON line [index, event] for each event that the program shows, [index, null] when its `follow`
// returned and [index, "what"] when it threw. It never ends the process: one that goes on running means that
// a program still holds a connection or a timer, and that is what the tests want to know.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [program, urls] = process.argv.slice(2);

if (readFileSync(program, "utf8").includes("fetch_event_source")) {
  // The library asks for a browser's window and document; others would take these for a browser.
  globalThis.window = globalThis;
  globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
}

const { follow } = await import(pathToFileURL(program));
const tell = (index, what) => console.log(JSON.stringify([index, what]));
for (const [index, url] of JSON.parse(urls).entries()) {
  Promise.resolve()
    .then(() => follow(url, (event) => tell(index, event)))
    .then(
      () => tell(index, null),
      (error) => tell(index, String(error)),
    );
}
