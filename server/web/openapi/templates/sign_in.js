"use strict";
// Signs the visitor in where the server wants a key: the key goes away in one request, and the answer's cookie, which no
// script can read, stands for it from then on. Where no key is wanted, nothing of this is seen.

const PREFIX = document.documentElement.dataset.prefix;
const SESSION = `${PREFIX}/v1/session`;
const [sessionPlace, signInForm, keyField, signedIn, who, signOutButton, sessionTrouble] =
  ["session", "sign-in", "key", "signed-in", "who", "sign-out", "session-trouble"].map((id) => document.getElementById(id));

let onSession = () => {}; // called with "open" (no key is wanted), "out" or "in"

signInForm.addEventListener("submit", signIn);
signOutButton.addEventListener("click", signOut);
// Another tab may have signed in or out, and a session ends: looked at again when somebody looks at the page.
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && !sessionPlace.hidden) askWho();
});
addEventListener("DOMContentLoaded", () => askWho());

// Asks who is signed in, and shows it.
async function askWho() {
  let answer, told = {};
  try {
    answer = await fetch(SESSION);
    if (answer.ok) told = await answer.json();
  } catch {
    return; // the server is away: what the page shows stays as it was
  }
  if (answer.status !== 401 && !answer.ok) return;
  const state = answer.status === 401 ? "out" : told.subject === "anonymous" ? "open" : "in";
  sessionPlace.hidden = state === "open";
  signInForm.hidden = state !== "out";
  signedIn.hidden = state !== "in";
  if (state === "in") {
    const until = told.expires_at ? `, until ${new Date(told.expires_at).toLocaleString()}` : "";
    who.textContent = `Signed in as ${told.subject} of ${told.tenant}: ${told.scopes.join(", ")}${until}.`;
  }
  onSession(state);
}

async function signIn(submitted) {
  submitted.preventDefault();
  const key = keyField.value.trim();
  const headers = { Authorization: `Bearer ${key}`, "Content-Type": "application/json" };
  await sent({ method: "POST", headers, body: "{}" });
  keyField.select();
}

async function signOut() {
  await sent({ method: "DELETE" });
}

async function sent(init) {
  sessionTrouble.hidden = true;
  try {
    const answer = await fetch(SESSION, init);
    if (!answer.ok) throw new Error((await answer.json()).detail);
    keyField.value = "";
  } catch (error) {
    sessionTrouble.textContent = error.message;
    sessionTrouble.hidden = false;
  }
  await askWho();
}
