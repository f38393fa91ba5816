"""What a reader is told while nobody can say who it is, or whose the conversation is: the database is away."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.auth.principal import ALL_SCOPES
from tests.generations.fake_upstream import FOREVER, FakeUpstream

from .asgi import web
from .signed_requests import SignedApp, bearer, cookie

HUNG = FakeUpstream(("a",), FOREVER)
FORMS: dict[str, dict[str, str]] = {
    "sse": {"Accept": "text/event-stream"},
    "ndjson": {"Accept": "application/x-ndjson"},
    "json": {},
}


@pytest.mark.parametrize("spelling", ["", "/"], ids=["dispatcher", "framework"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("away", ["log", "credentials", "credentials, by cookie"])
async def test_a_reader_is_told_to_come_back(
    away: str, form: str, spelling: str, autojump_clock: MockClock
) -> None:
    """An `EventSource` gives up for ever on a status, so it is told by a 200 and its cursor; others by a 503."""
    log = MemoryBackend()
    async with web(log.process(), HUNG, require_keys=True) as app:
        signed = bearer(await SignedApp(app).key(ALL_SCOPES)).headers
        run = (await app.post("/v1/generations", {"model": "fake", "input": "x"}, signed)).json
    async with web(log.process(), require_keys=True, patience=0.1) as app:
        made = SignedApp(app)
        key = await made.key(ALL_SCOPES)
        signed = cookie(await made.session(key)).headers if "cookie" in away else bearer(key).headers
        if away == "log":
            await made.principal(key)
            log.available = False
        else:
            app.keys.available = False
        for path in (f"/v1/conversations/{run['conversation']}", f"/v1/generations/{run['id']}"):
            headers = {**signed, **FORMS[form], "Last-Event-ID": "2"}
            answer = await app.ask("GET", f"{path}/events{spelling}", headers, whole=True)
            if form == "sse":
                assert answer.status == 200, answer.body
                assert answer.ended
                assert answer.body.startswith(b"id: 2\nretry: ")
                assert answer.headers["content-type"] == "text/event-stream"
                assert answer.headers["cache-control"] == "no-store"
            else:
                assert (answer.status, answer.code) == (503, "unavailable")
                assert answer.headers["retry-after"]
            refused = await app.upgrade(f"/v1/conversations/{run['conversation']}/ws{spelling}", signed)
            assert (refused.accepted, refused.status, refused.code) == (False, 503, "unavailable")
            assert (await app.ask("GET", path + spelling, {**signed, **FORMS[form]})).status == 503


async def test_too_many_wrong_credentials_are_not_told_to_come_back() -> None:
    """Not even an `EventSource`: what it sends stays wrong."""
    async with web(require_keys=True) as app:
        path = "/v1/conversations/conv_" + "0" * 26 + "/events"
        answers = [
            await app.ask("GET", path, {"Authorization": f"Bearer tt_key_{number}", **FORMS["sse"]})
            for number in range(11)
        ]
        assert [answer.status for answer in answers] == [401] * 10 + [429]
        assert answers[-1].code == "too_many_attempts"
        assert answers[-1].headers["retry-after"]
        good = bearer(await SignedApp(app).key(ALL_SCOPES)).headers
        assert (await app.ask("GET", path, good)).status == 404
