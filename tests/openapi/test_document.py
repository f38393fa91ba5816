"""The document itself: valid, whole, and about the routes, codes and events that there are."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest
from quart_trio import QuartTrio
from schemathesis.specs.openapi import definitions

from eventstore.memory_backend import MemoryBackend
from eventstore.model import NewEvent
from server import event_types, ids
from server.auth.authenticator import Authenticator
from server.auth.limits.limit_list import LimitList
from server.auth.limits.rate_limiter import RateLimiter
from server.auth.memory_auth_store import MemoryAuthStore
from server.config import Settings
from server.event_types import EventType
from server.web.app import build
from server.web.openapi import document
from server.web.openapi.component_schemas import PREFIX
from server.web.openapi.problem_codes import CODES
from server.wire_formats import SUBPROTOCOL
from tests.harness.servers import ROOT
from tests.runtime.runtime_process import process

from .contract import validator

GENERATION = "gen_" + "0" * 26


def test_it_is_openapi() -> None:
    """By the specification's own schema; and every schema in it is one."""
    errors = [str(error) for error in definitions.OPENAPI_31_VALIDATOR.iter_errors(document())]
    assert errors == []
    for schema in document()["components"]["schemas"].values():
        jsonschema_rs.meta.validate(schema)


def test_every_reference_leads_somewhere_and_every_component_is_used() -> None:
    text = json.dumps(document())
    used = set(re.findall(r'"\$ref": "#/components/(\w+)/([\w-]+)"', text))
    there = {(kind, name) for kind, named in document()["components"].items() for name in named}
    for path in document()["paths"].values():
        for operation in path.values():
            used |= {("securitySchemes", name) for need in operation["security"] for name in need}
    assert used == there


async def test_its_operations_are_the_routes_of_the_server() -> None:
    """Method by method; a WebSocket's handshake is a GET."""
    store = MemoryAuthStore()
    async with process(MemoryBackend().process()) as runtime:
        app: Any = build(runtime, Settings(), Authenticator(store), RateLimiter(LimitList(), store))
    while not isinstance(app, QuartTrio):
        app = getattr(app, "framework", None) or app._app
    routes = set()
    for rule in app.url_map.iter_rules():
        assert rule.rule == "/" or not rule.rule.endswith("/")
        kind = "generation" if rule.rule.startswith("/v1/generations") else "conversation"
        path = re.sub(r"<(\w+:)?name>", "{" + kind + "}", rule.rule).replace("<call:call>", "{call}")
        path = path.replace("<file:digest>", "{digest}")
        routes |= {(method, path) for method in ({"GET"} if rule.websocket else rule.methods or set())}
    told = {(method.upper(), path) for path, methods in document()["paths"].items() for method in methods}
    assert {route for route in routes if route[0] not in ("HEAD", "OPTIONS")} == told


def test_operations_are_named_once_and_have_an_example() -> None:
    operations = [one for methods in document()["paths"].values() for one in methods.values()]
    assert len({one["operationId"] for one in operations}) == len(operations)
    for one in operations:
        assert one["x-codeSamples"] or one["operationId"] == "docs", one["operationId"]
        for sample in one["x-codeSamples"]:
            assert "$U" in sample["source"]
            assert "'$U" not in sample["source"], "a shell puts nothing in there"


def test_links_lead_to_operations_and_their_parameters() -> None:
    operations = {one["operationId"]: one for methods in document()["paths"].values() for one in methods.values()}
    links = [
        link
        for one in operations.values()
        for response in one["responses"].values()
        for link in response.get("links", {}).values()
    ]
    assert links
    for link in links:
        target = operations[link["operationId"]]
        known = {ref["$ref"].rpartition("/")[2] for ref in target["parameters"]}
        assert link["parameters"].keys() <= known
        if "requestBody" in link:
            asked = target["requestBody"]["content"]["application/json"]["schema"]["$ref"].removeprefix(PREFIX)
            assert link["requestBody"].keys() >= set(document()["components"]["schemas"][asked]["required"])


def test_every_event_type_has_a_schema() -> None:
    event = document()["components"]["schemas"]["Event"]
    assert set(event["discriminator"]["mapping"]) == {kind.value for kind in EventType}
    assert {one["$ref"] for one in event["oneOf"]} == set(event["discriminator"]["mapping"].values())
    for kind, ref in event["discriminator"]["mapping"].items():
        schema = document()["components"]["schemas"][ref.removeprefix(PREFIX)]
        assert schema["properties"]["type"] == {"enum": [kind]}


MESSAGE, CALL, DIGEST = "msg_" + "0" * 26, "call_" + "0" * 26, "0" * 64
SOON = datetime(2026, 11, 22, 10, tzinfo=UTC)
WRITTEN: list[NewEvent] = [
    event_types.conversation_started("A title", {"a": [1]}, "acme"),
    event_types.conversation_started(None, None),
    event_types.message_posted(MESSAGE, "user", "", "Ada", "anonymous"),
    event_types.message_posted(MESSAGE, "tool", "x", None, "anonymous"),
    event_types.message_posted(MESSAGE, "user", "x", None, "anonymous", "now", GENERATION),
    event_types.message_applied(GENERATION, MESSAGE),
    event_types.generation_requested(
        GENERATION,
        model="demo",
        parameters={"tokens": 1},
        tools=["refund", {"name": "look", "description": "Looks."}],
        on_crash="restart",
        if_running="interrupt",
        budget={"tokens": 100, "cost": 0.5},
        by="anonymous",
    ),
    event_types.generation_requested(
        GENERATION,
        workflow="grading",
        input=[1],
        parameters={},
        steering={"strictness": 0.5},
        ephemeral=True,
        by="anonymous",
    ),
    event_types.generation_started(GENERATION, 1, "worker-1"),
    event_types.generation_interrupted(GENERATION, 0, "worker_lost"),
    event_types.generation_interrupted(GENERATION, 1, "server_stopped"),
    event_types.token(GENERATION, ""),
    event_types.reasoning(GENERATION, "Let me see."),
    event_types.tool_arguments(GENERATION, CALL, '{"order', "refund"),
    event_types.tool_arguments(GENERATION, CALL, '": 17}'),
    event_types.step_finished(GENERATION, "step look 1", None),
    event_types.tool_proposed(
        GENERATION,
        CALL,
        name="refund",
        arguments={"order": 17},
        arguments_digest=DIGEST,
        needs_approval=True,
        step="answer",
        client=True,
        expires_at=SOON,
        hidden_characters=["U+202E", "U+E0041"],
        approvers=2,
        another_person=True,
    ),
    event_types.tool_proposed(
        GENERATION, CALL, name="look", arguments={}, arguments_digest=DIGEST, needs_approval=False, step="answer"
    ),
    event_types.tool_approval(
        GENERATION, CALL, proposed_digest=DIGEST, arguments_digest=DIGEST, remaining=1, by="Ada"
    ),
    event_types.tool_approval(
        GENERATION,
        CALL,
        proposed_digest=DIGEST,
        arguments_digest=DIGEST,
        remaining=2,
        by="Ada",
        arguments={"order": 8},
        reason="fine",
        hidden_characters=["U+200B"],
    ),
    *(
        event_types.tool_decided(
            GENERATION,
            CALL,
            decision=decision,
            proposed_digest=DIGEST,
            arguments={},
            arguments_digest=DIGEST,
            reason=reason,
            by="anonymous",
            hidden_characters=["U+200B"] if decision == "modified" else (),
            approvals=["Ada", "anonymous"] if decision == "approved" else (),
        )
        for decision, reason in (("approved", None), ("rejected", "no"), ("modified", None))
    ),
    event_types.tool_started(GENERATION, CALL),
    event_types.tool_finished(GENERATION, CALL, {"result": None}, "anonymous"),
    event_types.tool_finished(GENERATION, CALL, {"error": {"code": "x", "message": "y"}}),
    event_types.steering_changed(GENERATION, "strictness", 0.8, "anonymous"),
    event_types.budget_reached(GENERATION, "tokens", 100, 103),
    event_types.budget_reached(GENERATION, "cost", 0.5, 0.51),
    event_types.budget_raised(GENERATION, 200, None, "anonymous"),
    event_types.budget_raised(GENERATION, None, 1.5, "anonymous"),
    event_types.progress(GENERATION, 12, 47, "pages", "reading"),
    event_types.progress(GENERATION, 0.5, 1, "", None),
    event_types.result(GENERATION, None),
    event_types.generation_completed(GENERATION, "stop", {"input_tokens": 1, "cost": 0.25}, 5),
    event_types.generation_completed(GENERATION, "refusal", None, None, "I will not."),
    event_types.generation_failed(GENERATION, "upstream_cut", "It went away.", retryable=True),
    event_types.generation_failed(
        GENERATION, "workflow_failed", "It failed.", retryable=False, reference=ids.new_id("ref")
    ),
    event_types.generation_cancelled(GENERATION, "enough", "anonymous"),
    event_types.generation_cancelled(GENERATION, None, "anonymous"),
]


def as_told(event: NewEvent) -> dict[str, Any]:
    """The object that clients get of it."""
    return {
        "position": 1,
        "type": event.type,
        "at": "2026-11-22T10:00:00.123456Z",
        **({"generation": event.tag} if event.tag else {}),
        **msgspec.json.decode(event.data),
    }


@pytest.mark.parametrize("event", WRITTEN, ids=lambda event: event.type)
def test_what_is_written_is_as_described(event: NewEvent) -> None:
    validator("Event").validate(as_told(event))


@pytest.mark.parametrize("kind", [kind.value for kind in EventType])
def test_the_fields_of_a_type_are_those_that_are_written(kind: str) -> None:
    """To the field: none that is not described, none that never comes, and required is what always comes."""
    told = [as_told(event) for event in WRITTEN if event.type == kind]
    assert told, "a type that nothing here writes"
    ref = document()["components"]["schemas"]["Event"]["discriminator"]["mapping"][kind]
    described = document()["components"]["schemas"][ref.removeprefix(PREFIX)]
    assert set.union(*map(set, told)) == described["properties"].keys()
    assert set.intersection(*map(set, told)) == set(described["required"])
    for name in described["required"]:
        with pytest.raises(jsonschema_rs.ValidationError):
            validator("Event").validate({field: value for field, value in told[0].items() if field != name})


@pytest.mark.parametrize("prefix", ["conv", "gen", "msg", "call"])
def test_ids_look_as_described(prefix: str) -> None:
    for _ in range(50):
        assert re.fullmatch(ids.id_pattern(prefix), ids.new_id(prefix))
        assert ids.is_valid_id(ids.new_id(prefix), prefix)


def problems_in(source: Path) -> Iterator[tuple[int, str]]:
    """Status and code of every problem that a file makes; a code made of a name begins as it is written."""
    for node in ast.walk(ast.parse(source.read_text())):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Problem"):
            continue
        match node.args[:2]:
            case [ast.Constant(value=int(status)), ast.Constant(value=str(code))]:
                yield status, code
            case [ast.Constant(value=int(status)), ast.JoinedStr(values=[ast.Constant(value=str(code)), _])]:
                yield status, code


def test_every_code_of_the_source_is_described_with_its_status() -> None:
    """And none that the source does not know."""
    made = {found for file in (ROOT / "server").rglob("*.py") for found in problems_in(file)}
    named = {code for _, code in made if code != "invalid_"}
    assert len(named) > 20
    assert {(status, code) for status, code in made if code != "invalid_"} <= {
        (status, code) for code, (status, _) in CODES.items()
    }
    of_a_parameter = {"invalid_before", "invalid_limit", "invalid_pad", "invalid_wait", "invalid_chunks"}
    assert set(CODES) - named == {*of_a_parameter, "method_not_allowed"}


def test_every_code_is_promised_somewhere() -> None:
    """But for those of the WebSocket, and of what no operation is: a wrong method."""
    told = json.dumps(document()["paths"])
    silent = {code for code in CODES if f'"{code}"' not in told}
    assert silent == {"method_not_allowed", "invalid_author", "key_required", "unknown_command"}


def test_the_websocket_is_told_with_the_subprotocol_that_is_spoken() -> None:
    (operation,) = (one["get"] for path, one in document()["paths"].items() if path.endswith("/ws"))
    assert operation["x-websocket"]["subprotocol"] == SUBPROTOCOL
    assert f"`{SUBPROTOCOL}`" in operation["description"]
