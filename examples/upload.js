// Sends a file to the server: its bytes, and nothing else. Knows the wire and no page. Copy it, with tape.js.

import { backoff } from "./tape.js";

const TRIES = 8;

// What the server says of it: {digest, media_type, size, created_at}. Sent again where no whole answer came; the same
// bytes have the same digest, so it is stored once. Throws an Error with the problem's `code` and its `detail` as the
// message. `session`: of session.js.
export async function upload(server, file, session) {
  const headers = { "Content-Type": "application/octet-stream", ...session?.headers }; // the server looks for itself
  for (let tries = 1; ; tries++) {
    try {
      const answer = await fetch(`${server}/v1/files`, { method: "POST", headers, body: file });
      const told = await answer.json();
      if (answer.ok) return told;
      if (answer.status !== 503 || tries === TRIES) throw Object.assign(new Error(told.detail), { code: told.code });
    } catch (error) {
      if (error.code) throw error;
      if (tries === TRIES) throw new Error(`No answer from ${server}. Does it run, and does it allow this page (--allowed-origins)?`);
    }
    await new Promise((done) => setTimeout(done, backoff(tries - 1)));
  }
}
