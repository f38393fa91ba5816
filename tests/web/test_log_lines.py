"""Log lines say who made a request, and never what they signed in with."""

from __future__ import annotations

from typing import Any

import pytest
import structlog

from server.auth.principal import ALL_SCOPES
from server.observability import logs
from server.web.edge.authorization import SECURE_COOKIE
from server.web.edge.http_messages import RequestIds

from .asgi import web
from .signed_requests import SignedApp, ask, bearer, cookie, every_route, subprotocol, ticketed


@pytest.mark.parametrize("spelling", ["", "/"], ids=["dispatcher", "framework"])
async def test_a_fault_names_tenant_subject_and_credential(monkeypatch: pytest.MonkeyPatch, spelling: str) -> None:
    """By either way to an endpoint, for a read, a command, and a WebSocket."""
    async with web(require_keys=True) as app:
        made = SignedApp(app)
        await made.fill()
        key = await made.key(ALL_SCOPES)
        path = f"/v1/conversations/{made.names['conversation', 'own']}"
        lines: list[dict[str, object]] = []

        class Log:
            def error(self, what: str, exc_info: object) -> None:
                lines.append(structlog.contextvars.get_contextvars())

        async def fail(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr("server.web.edge.problem_json.log", Log())
        for name in ("conversation", "head"):
            monkeypatch.setattr(app.runtime, name, fail)
        monkeypatch.setattr(app.runtime.commands, "post_message", fail)
        assert (await app.ask("GET", path + spelling, bearer(key).headers)).status == 500
        message = {"role": "user", "content": "x"}
        assert (await app.post(f"{path}/messages{spelling}", message, bearer(key).headers)).status == 500
        assert (await app.upgrade(f"{path}/ws{spelling}", bearer(key).headers)).status == 500
        assert len(lines) == 3
        for line in lines:
            assert line["tenant"] == "acme"
            assert line["subject"] == line["credential"] == key.id
            assert str(line["request"]).startswith("req_")
            assert key.text not in repr(line)


async def test_what_a_request_binds_is_gone_after_it() -> None:
    """One task serves the requests of a connection in turn: the next one may be somebody else's."""

    async def app(*_: object) -> None:
        logs.bind(tenant="acme", subject="ann", credential="key_x")

    scope: Any = {"type": "http", "headers": []}
    with logs.bound(connection="1"):
        await RequestIds(app)(scope, None, None)  # type: ignore[arg-type]  # nothing is received or sent
        assert structlog.contextvars.get_contextvars() == {"connection": "1"}


async def test_no_credential_is_in_a_line_a_metric_or_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    """Of every route, by every way to sign in, with good and with bad ones."""
    async with web(require_keys=True, trusted_proxies=("127.0.0.1",)) as app:
        made = SignedApp(app)
        await made.fill()
        key = await made.key(ALL_SCOPES)
        secrets = {key.text, key.text.partition("_")[2]}
        answers = []
        for route in every_route(app):
            name = made.name(route, "own")
            session = await made.session(key)
            ways = [bearer(key), cookie(session, SECURE_COOKIE), bearer(session), cookie(key.text)]
            secrets.add(session)
            if route.is_stream:
                for way in (ticketed, subprotocol):
                    ticket = await made.ticket(key, route, name, ["read"])
                    secrets.add(ticket)
                    ways += [way(ticket), way(ticket), way(key.text)]
            for signed in ways:
                answer = await ask(app, route, name, signed)
                if not route.rule.endswith(("/session", "/tickets")):
                    answers.append(f"{answer.headers} {answer.body!r} {answer.frames} {answer.subprotocol}")
        metrics = (await app.ask("GET", "/metrics")).body.decode()
        said = capsys.readouterr()
        for secret in secrets:
            assert secret not in said.out + said.err
            assert secret not in metrics
            assert not any(secret in answer for answer in answers)
