"""A shelf for articles: takes the webhook of a finished job, or the article itself from a client that polls.

    WEBHOOK_SECRET=whsec_… python -m content_forge.receiver         or WEBHOOK_PUBLIC_KEYS=whpk_…,whpk_…

    POST /hook             the webhook of Tokentape, signed (Standard Webhooks 1.0: v1 and v1a)
    PUT  /articles/gen_…   an article, from the n8n workflow

Owns the check of the signature, and the files `articles/gen_….json`. A job is told more than once when the answer
to an earlier try was lost; the file of its article has the job's name, so there is one of each. Must not know how
a client asked for the article. `TOKENTAPE_URL` and `TOKENTAPE_KEY` say where articles are read.
"""

import base64
import json
import os
import re
import sys
import time
from collections.abc import Mapping
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks import Webhook, WebhookVerificationError

SECRET = os.environ.get("WEBHOOK_SECRET")
PUBLIC_KEYS = [text for text in os.environ.get("WEBHOOK_PUBLIC_KEYS", "").split(",") if text]
MAX_AGE = 300
"""Seconds. An older message may be one that somebody recorded and sends again."""
SERVER = os.environ.get("TOKENTAPE_URL", "http://127.0.0.1:8000")
SHELF = Path(os.environ.get("CONTENT_FORGE_SHELF", "articles"))
MAX_BODY = 1_000_000
"""Bytes of a request."""
JOB = re.compile(r"gen_[0-9A-HJKMNP-TV-Z]{26}")


class Receiver(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_POST(self) -> None:
        """The end of a job. Whatever is not answered with 2xx is sent again, for 17 hours."""
        body = self._body()
        if body is None:
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        if not is_signed(headers, body, SECRET, PUBLIC_KEYS):
            self._answer(401, "The signature is missing, wrong, or more than five minutes old.")
            return
        told = json.loads(body)
        job = str(told["data"]["generation"])
        if not JOB.fullmatch(job):
            self._answer(400, "data.generation is no id of a job.")
            return
        if told["type"] == "generation.completed":
            try:
                shelve(job, fetch(f"/v1/generations/{job}")["result"])
            except (OSError, HTTPException, ValueError) as error:
                # 410 says: do not send it again. With 503 it comes again in some seconds.
                gone = isinstance(error, HTTPError) and error.code in (404, 410)
                self._answer(410 if gone else 503, "The article is gone." if gone else "It cannot be read now.")
                return
        print(told["type"], job, flush=True)
        self._answer(204)

    def do_PUT(self) -> None:
        """An article, from a client that has it already. Listen on loopback only: anybody may bring one."""
        body = self._body()
        if body is None:
            return
        job = self.path.removeprefix("/articles/")
        try:
            article = json.loads(body)
        except ValueError:
            self._answer(400, "An article is a JSON object.")
            return
        if not JOB.fullmatch(job) or not isinstance(article, dict):
            self._answer(404, "Articles are at /articles/gen_…")
            return
        self._answer(201 if shelve(job, article) else 200)

    def _body(self) -> bytes | None:
        size = self.headers.get("Content-Length", "")
        if not (size.isascii() and size.isdigit() and int(size) <= MAX_BODY):
            self.close_connection = True
            self._answer(413, f"Content-Length has to say how many bytes come, {MAX_BODY} at most.")
            return None
        body = self.rfile.read(int(size))
        if len(body) < int(size):  # cut: there is nobody to answer
            self.close_connection = True
            return None
        return body

    def _answer(self, status: int, text: str = "") -> None:
        body = text.encode()
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Silent: what matters is printed."""


def is_signed(headers: Mapping[str, str], body: bytes, secret: str | None, public_keys: list[str]) -> bool:
    """Whether the server signed it: with the secret that it shares (v1), or with its private key (v1a)."""
    if secret is not None:
        try:
            Webhook(secret).verify(body, dict(headers))
            return True
        except (WebhookVerificationError, ValueError):  # a ValueError: what came is no signature at all
            pass
    at = headers.get("webhook-timestamp", "")
    if not (at.isascii() and at.isdigit()) or abs(time.time() - int(at)) > MAX_AGE:
        return False
    signed = f"{headers.get('webhook-id', '')}.{at}.".encode() + body
    for signature in headers.get("webhook-signature", "").split(" "):
        kind, _, text = signature.partition(",")
        for key in public_keys if kind == "v1a" else ():
            try:
                read_key(key).verify(base64.b64decode(text, validate=True), signed)
                return True
            except (InvalidSignature, ValueError):
                continue
    return False


def read_key(text: str) -> Ed25519PublicKey:
    """A public key as the server gives it. Raises `ValueError`."""
    return Ed25519PublicKey.from_public_bytes(base64.b64decode(text.removeprefix("whpk_"), validate=True))


def fetch(path: str) -> Any:
    """JSON from the server.

    Raises `HTTPError`, an `OSError`, where it refuses; `OSError` where it is away; `HTTPException` or `ValueError`
    for half an answer.
    """
    key = os.environ.get("TOKENTAPE_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with urlopen(Request(SERVER + path, headers=headers), timeout=20) as answer:
        return json.loads(answer.read())


def shelve(job: str, article: Any) -> bool:
    """Writes the article of a job; whether it was not there before. A file is whole or not there at all."""
    SHELF.mkdir(parents=True, exist_ok=True)
    place = SHELF / f"{job}.json"
    new = not place.exists()
    part = SHELF / f"{job}.{os.getpid()}.part"
    part.write_text(json.dumps(article, indent=2, ensure_ascii=False), encoding="utf-8")
    part.replace(place)
    return new


def main() -> None:
    """Serves on a port of 127.0.0.1: 8002, or the one that is named."""
    if SECRET is None and not PUBLIC_KEYS:
        raise SystemExit(
            "Set WEBHOOK_SECRET to the secret of the server, or WEBHOOK_PUBLIC_KEYS to its public keys."
        )
    for key in PUBLIC_KEYS:
        read_key(key)  # a wrong one is noticed now
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8002
    server = ThreadingHTTPServer(("127.0.0.1", port), Receiver)
    print(f"http://127.0.0.1:{server.server_port}/hook, articles in {SHELF}/", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
