// Walks an n8n workflow node by node, as n8n does: one item, real requests, retries, loops, and the real waits.
// `node n8n_walker.mjs workflow.json`: one JSON line {trigger, item, settings} in; a line {node, output | error} for each
// node that ran, and {end} out. Knows n8n's nodes as their sources describe their parameters, and no workflow.
// `settings` are values of the node "Settings" that a person types into it.

import { readFileSync } from "node:fs";
import { request } from "node:http";

const workflow = JSON.parse(readFileSync(process.argv[2], "utf8"));
const nodes = new Map(workflow.nodes.map((node) => [node.name, node]));
const { trigger, item, settings } = JSON.parse(readFileSync(0, "utf8"));
const outputs = new Map(); // the newest output of each node
const execution = { id: "231" };
const MAX_STEPS = 500;

// A parameter that begins with = is text with {{ expressions }}; a single expression keeps its type.
function value(given, json) {
  if (Array.isArray(given)) return given.map((one) => value(one, json));
  if (given !== null && typeof given === "object") return Object.fromEntries(Object.entries(given).map(([name, one]) => [name, value(one, json)]));
  if (typeof given !== "string" || !given.startsWith("=")) return given;
  const text = given.slice(1);
  const whole = /^\{\{(.*)\}\}$/s.exec(text);
  if (whole && !whole[1].includes("{{")) return evaluate(whole[1], json);
  return text.replace(/\{\{(.*?)\}\}/gs, (_, expression) => String(evaluate(expression, json)));
}

function evaluate(expression, json) {
  const $ = (name) => {
    if (!nodes.has(name)) throw new Error(`no node is called ${name}`);
    if (!outputs.has(name)) throw new Error(`${name} has not run`);
    return { first: () => ({ json: outputs.get(name) }) };
  };
  const $now = { toFormat: (format) => ({ cccc: "Friday", "yyyy-MM-dd": "2026-11-27" })[format] };
  return new Function("$json", "$", "$execution", "$now", `return (${expression});`)(json, $, execution, $now);
}

const kinds = {
  scheduleTrigger: () => [item],
  webhook: () => [item],
  set(json, { assignments, includeOtherFields }, node) {
    const types = { string: String, number: Number, boolean: Boolean };
    const made = includeOtherFields ? { ...json } : {};
    for (const { name, value: given, type } of assignments.assignments) made[name] = types[type](given);
    return [node.name === "Settings" ? { ...made, ...settings } : made];
  },
  async httpRequest(_, { method = "GET", url, sendHeaders, headerParameters, sendBody, specifyBody, jsonBody, options }) {
    const headers = {};
    if (sendHeaders) for (const { name, value: given } of headerParameters.parameters) headers[name] = given;
    let sent = "";
    if (sendBody) {
      if (specifyBody !== "json") throw new Error(`a body by ${specifyBody} is not walked`);
      headers["Content-Type"] = "application/json";
      sent = typeof jsonBody === "string" ? JSON.stringify(JSON.parse(jsonBody)) : JSON.stringify(jsonBody);
    }
    const { statusCode, statusMessage, headers: told, text } = await ask(url, { method, headers, timeout: options.timeout ?? 300_000 }, sent);
    const { neverError = false, fullResponse = false } = options.response?.response ?? {};
    if ((statusCode < 200 || statusCode > 299) && !neverError) throw new Error(`status ${statusCode}: ${text}`);
    const body = told["content-type"]?.includes("application/json") ? JSON.parse(text || "{}") : { data: text };
    return [fullResponse ? { body, headers: told, statusCode, statusMessage } : body];
  },
  if(json, { conditions }) {
    const met = conditions.conditions.map(({ leftValue, rightValue, operator: { type, operation } }) => {
      if (typeof leftValue !== type) throw new Error(`${JSON.stringify(leftValue)} is no ${type}`); // typeValidation: strict
      return { "boolean true": () => leftValue, "string equals": () => leftValue === rightValue }[`${type} ${operation}`]();
    });
    const yes = conditions.combinator === "and" ? met.every(Boolean) : met.some(Boolean);
    return yes ? [json, null] : [null, json];
  },
  async wait(json, { amount, unit }) {
    if (unit !== "seconds" || !(amount > 0)) throw new Error(`waits for ${amount} ${unit}`);
    await new Promise((done) => setTimeout(done, 1000 * amount));
    return [json];
  },
  stopAndError(_, { errorMessage }) {
    throw Object.assign(new Error(errorMessage), { final: true });
  },
};

// On a connection of its own. (Node's fetch forgets a request whose connection is cut in the wrong moment.)
function ask(url, options, body) {
  return new Promise((resolve, reject) => {
    const asked = request(url, { ...options, agent: false }, (answer) => {
      let text = "";
      answer.setEncoding("utf8").on("data", (part) => (text += part)).on("error", reject);
      answer.on("end", () => resolve({ statusCode: answer.statusCode, statusMessage: answer.statusMessage, headers: answer.headers, text }));
    });
    asked.on("error", reject).on("timeout", () => asked.destroy(new Error("timeout"))).end(body);
  });
}

async function execute(node, json) {
  const tries = node.retryOnFail ? Math.min(5, node.maxTries ?? 3) : 1; // n8n allows five
  for (let made = 1; ; made++) {
    try {
      const kind = kinds[node.type.replace("n8n-nodes-base.", "")];
      return await kind(json, value(node.parameters, json), node);
    } catch (error) {
      if (error.final || made === tries) throw error;
      await new Promise((done) => setTimeout(done, Math.min(5000, node.waitBetweenTries ?? 1000)));
    }
  }
}

const tell = (line) => console.log(JSON.stringify(line));
let [name, json] = [trigger, {}];
for (let steps = 0; name; steps++) {
  if (steps === MAX_STEPS) throw new Error("the workflow does not end");
  const node = nodes.get(name);
  let branches;
  try {
    branches = await execute(node, json);
  } catch (error) {
    tell({ node: name, error: error.message });
    break;
  }
  const branch = branches.findIndex((one) => one !== null);
  json = branches[branch];
  outputs.set(name, json);
  tell({ node: name, output: json });
  const following = workflow.connections[name]?.main[branch] ?? [];
  if (following.length > 1) throw new Error(`${name} leads to several nodes`);
  name = following[0]?.node;
}
tell({ end: true });
