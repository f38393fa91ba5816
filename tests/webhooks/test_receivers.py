"""The receivers of `docs/webhooks.md`, run as they stand: what they take, and every forgery that they refuse."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest
import trio
from pydantic import SecretStr

from server.config.webhook_signing_keys import new_signing_key
from server.webhooks import webhook_messages
from server.webhooks.retry_schedule import WebhookOptions
from tests.harness.http import http_client
from tests.harness.servers import ROOT, free_port

from .webhook_process import SECRET

KEY, OTHER = new_signing_key(), new_signing_key()
SECRETS = {"v1": SecretStr(SECRET), "v1a": None, "both": SecretStr(SECRET)}
KEYS = {"v1": (), "v1a": (KEY,), "both": (OTHER, KEY)}
KNOWN = {"v1": {"WEBHOOK_SECRET": SECRET}, "v1a": {"WEBHOOK_PUBLIC_KEYS": KEY.public_text}}
"""What a receiver that checks one kind of signature is given."""
MESSAGE = "msg_1_7"
BODY = json.dumps(
    {"type": "generation.waiting", "data": {"waiting_for": "approval", "snapshot": "/v1/generations/gen_1é"}},
    ensure_ascii=False,
).encode()
Headers = dict[str, str]


@dataclass
class RunningReceiver:
    """A receiver's process. `output`: the file that it prints to."""

    url: str
    output: Path

    async def post(self, headers: Mapping[str, str], body: bytes = BODY) -> int:
        """The status of its answer."""
        async with http_client() as client:
            return (await client.post(self.url, headers=dict(headers), content=body)).status_code


@asynccontextmanager
async def receiver(language: str, env: Mapping[str, str], folder: Path) -> AsyncIterator[RunningReceiver]:
    """The receiver of the page in this language, ready."""
    page = (ROOT / "docs" / "webhooks.md").read_text(encoding="utf-8")
    fence, name = {"python": ("python", "receiver.py"), "js": ("js", "receiver.mjs")}[language]
    found = re.search(rf"^```{fence}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert found is not None
    (folder / name).write_text(found[1], encoding="utf-8")
    port, output = free_port(), folder / "printed.txt"
    running = _start(sys.executable if language == "python" else "node", name, port, env, output)
    try:
        with trio.fail_after(30):
            while True:
                assert running.poll() is None, output.read_text()
                try:
                    await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                    break
                except OSError:
                    await trio.sleep(0.02)
        yield RunningReceiver(f"http://127.0.0.1:{port}/", output)
    finally:
        running.kill()
        running.wait()


def _start(program: str, name: str, port: int, env: Mapping[str, str], output: Path) -> subprocess.Popen[bytes]:
    known = {"PATH": "/usr/local/bin:/usr/bin:/bin", "PORT": str(port), **env}
    with output.open("wb") as printed:
        return subprocess.Popen(
            [program, name], cwd=output.parent, env=known, stdout=printed, stderr=subprocess.STDOUT
        )


def signed(kind: str, at: datetime | None = None, message: str = MESSAGE, body: bytes = BODY) -> Headers:
    """The headers of a message as a server signs it."""
    options = WebhookOptions(secret=SECRETS[kind], keys=KEYS[kind])
    return dict(webhook_messages.headers(options, message, at or datetime.now(UTC), body))


def _by_a_stranger() -> Headers:
    options = WebhookOptions(secret=SecretStr("whsec_" + "A" * 32), keys=(OTHER,))
    return dict(webhook_messages.headers(options, MESSAGE, datetime.now(UTC), BODY))


FORGERIES: dict[str, Callable[[str], tuple[Headers, bytes]]] = {
    "another body": lambda kind: (signed(kind), BODY + b" "),
    "another id": lambda kind: ({**signed(kind), "webhook-id": "msg_1_8"}, BODY),
    "another time": lambda kind: (
        {**signed(kind), "webhook-timestamp": str(int(datetime.now(UTC).timestamp()) - 7)},
        BODY,
    ),
    "a recording": lambda kind: (signed(kind, datetime.now(UTC) - timedelta(minutes=6)), BODY),
    "of the future": lambda kind: (signed(kind, datetime.now(UTC) + timedelta(minutes=6)), BODY),
    "no time": lambda kind: ({**signed(kind), "webhook-timestamp": ""}, BODY),
    "other keys": lambda _kind: (_by_a_stranger(), BODY),
    "no signature": lambda kind: ({**signed(kind), "webhook-signature": ""}, BODY),
    "not base64": lambda kind: ({**signed(kind), "webhook-signature": "v1,!!! v1a,!!!"}, BODY),
    "a short one": lambda kind: ({**signed(kind), "webhook-signature": "v1,AAAA v1a,AAAA v1 v1a"}, BODY),
    "an unknown kind": lambda kind: (
        {**signed(kind), "webhook-signature": signed(kind)["webhook-signature"].replace("v1", "v9")},
        BODY,
    ),
    "kinds exchanged": lambda kind: (
        {
            **signed(kind),
            "webhook-signature": signed(kind)["webhook-signature"].replace("v1a,", "x,").replace("v1,", "v1a,")
            if kind == "v1"
            else signed(kind)["webhook-signature"].replace("v1a,", "v1,"),
        },
        BODY,
    ),
}


@pytest.mark.parametrize("checks", KNOWN)
@pytest.mark.parametrize("language", ["python", "js"])
async def test_what_is_signed_is_taken_and_nothing_else(language: str, checks: str, tmp_path: Path) -> None:
    """Also beside a signature of the other kind, and one by an unknown key; a repetition acts once."""
    async with receiver(language, KNOWN[checks], tmp_path) as running:
        for name, forged in FORGERIES.items():
            headers, body = forged(checks)
            assert await running.post(headers, body) == 401, name
        assert running.output.read_text() == ""
        assert await running.post(signed(checks)) == 204
        assert await running.post(signed(checks)) == 204
        assert await running.post(signed("both", message="msg_1")) == 204
        printed = running.output.read_text(encoding="utf-8").splitlines()
    assert printed == ["generation.waiting approval /v1/generations/gen_1é"] * 2


@pytest.mark.parametrize("language", ["python", "js"])
async def test_a_receiver_that_knows_nothing_takes_nothing(language: str, tmp_path: Path) -> None:
    async with receiver(language, {}, tmp_path) as running:
        assert await running.post(signed("both")) == 401


@pytest.mark.parametrize("language", ["python", "js"])
async def test_while_the_key_is_changed(language: str, tmp_path: Path) -> None:
    """A receiver with the old key, the new key or both takes what both have signed."""
    for number, known in enumerate((KEY.public_text, OTHER.public_text, f"{KEY.public_text},{OTHER.public_text}")):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with receiver(language, {"WEBHOOK_PUBLIC_KEYS": known}, folder) as running:
            assert await running.post(signed("both")) == 204


def test_httpx_sends_the_bytes_that_are_signed() -> None:
    """Else the forgeries above would be refused for another reason than theirs."""
    assert httpx2.Request("POST", "http://x/", content=BODY).content == BODY
