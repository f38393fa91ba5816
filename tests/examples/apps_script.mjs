// Google Apps Script around a script: its services as far as the script uses them, and the web app on a port.
// `node apps_script.mjs Code.gs`: JSON lines in, {properties} or {call, arguments}; a JSON line out for each, {port} for
// the first one, and {rows, properties, answers} for calls. Knows no script.
//
// As Google does it: UrlFetchApp waits for the answer, and throws where there is none; a web app is given no headers; what
// ContentService makes is answered with a redirect, what HtmlService makes with 200.

import { execFileSync } from "node:child_process";
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import vm from "node:vm";

const properties = new Map();
const sheets = new Map();
const answers = []; // the statuses that the web app gave
const warnings = [];
const contents = []; // what ContentService made, to be fetched behind the redirect
let locked = false;

function fetchNow(url, options) {
  const given = ["-s", "-S", "--noproxy", "*", "--max-time", "30", "-X", options.method.toUpperCase(), "-w", "\n%{http_code}", "--data-binary", "@-"];
  if (options.method === "get") given.splice(given.indexOf("--data-binary"), 2);
  for (const [name, text] of Object.entries(options.headers ?? {})) given.push("-H", `${name}: ${text}`);
  if (options.contentType) given.push("-H", `Content-Type: ${options.contentType}`);
  const out = execFileSync("curl", [...given, url], { input: options.payload ?? "", encoding: "utf8", stdio: ["pipe", "pipe", "pipe"] });
  const end = out.lastIndexOf("\n");
  const [text, status] = [out.slice(0, end), Number(out.slice(end + 1))];
  if (status >= 400 && !options.muteHttpExceptions) throw new Error(`Request failed: ${status}`);
  return { getResponseCode: () => status, getContentText: () => text };
}

class Sheet {
  rows = [];
  appendRow = (row) => this.rows.push(row);
  getDataRange = () => ({ getValues: () => (this.rows.length ? this.rows.map((row) => [...row]) : [[""]]) });
}

const store = {
  getProperty: (name) => properties.get(name) ?? null,
  setProperty: (name, text) => void properties.set(name, String(text)),
  deleteProperty: (name) => void properties.delete(name),
  getProperties: () => Object.fromEntries(properties),
};
const book = {
  getSheetByName: (name) => sheets.get(name) ?? null,
  insertSheet: (name) => sheets.set(name, new Sheet()).get(name),
};
const services = {
  UrlFetchApp: { fetch: fetchNow },
  PropertiesService: { getScriptProperties: () => store },
  SpreadsheetApp: { getActiveSpreadsheet: () => book, flush() {} },
  Utilities: { getUuid: randomUUID },
  ContentService: {
    MimeType: { JSON: "JSON" },
    createTextOutput: (text) => ({ kind: "content", text, setMimeType() { return this; } }),
  },
  HtmlService: { createHtmlOutput: (text) => ({ kind: "html", text }) },
  LockService: {
    getScriptLock: () => ({
      waitLock() {
        if (locked) throw new Error("Lock timeout");
        locked = true;
      },
      releaseLock: () => (locked = false),
    }),
  },
  console: { warn: (text) => warnings.push(text) },
};
const script = vm.createContext(services);
vm.runInContext(readFileSync(process.argv[2], "utf8"), script, { filename: process.argv[2] });

const webApp = createServer(async (request, response) => {
  const url = new URL(request.url, "http://127.0.0.1");
  let body = "";
  for await (const part of request.setEncoding("utf8")) body += part;
  const answer = (status, headers, text) => {
    answers.push(status);
    response.writeHead(status, headers).end(text);
  };
  const echo = /^\/echo\/(\d+)$/.exec(url.pathname);
  if (echo) return response.writeHead(200, { "Content-Type": "application/json" }).end(contents[echo[1]]);
  const event = { parameter: Object.fromEntries(url.searchParams), postData: { contents: body, type: request.headers["content-type"] } };
  const made = request.method === "POST" ? script.doPost(event) : script.doGet(event);
  if (made.kind === "html") return answer(200, { "Content-Type": "text/html" }, made.text);
  contents.push(made.text);
  answer(302, { Location: `/echo/${contents.length - 1}` }, "Moved Temporarily");
});
await new Promise((ready) => webApp.listen(0, "127.0.0.1", ready));
console.log(JSON.stringify({ port: webApp.address().port }));

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  for (const [name, text] of Object.entries(asked.properties ?? {})) properties.set(name, text);
  if (asked.call) script[asked.call](...(asked.arguments ?? []));
  const rows = sheets.get("Articles")?.rows ?? [];
  console.log(JSON.stringify({ rows, properties: Object.fromEntries(properties), answers, warnings }));
}
webApp.close();
