"""How the failure of a run is reported: which error of an exception group counts, and with which message."""

from collections.abc import MutableMapping
from typing import Any

import asyncpg
import pytest
import trio
import trio.testing
from pydantic import BaseModel, ValidationError

from eventstore import Fenced, KeyReused, StoreUnavailable
from server import ids
from server.generations.run.run_errors import (
    MAX_MESSAGE,
    RunFailed,
    failure_from,
    is_fault,
    root_fault,
    terminal_failure,
)
from server.providers import BadParameters, UpstreamError
from server.workflows import ToolError
from tests.conversations.event_builders import rows

from .run_owner import fields

FENCED, AWAY, BROKEN = Fenced("s", "w", "epoch"), StoreUnavailable("away"), ValueError("broken")


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (BROKEN, BROKEN),
        (ExceptionGroup("", [BROKEN, KeyError("x")]), BROKEN),
        (ExceptionGroup("", [BROKEN, AWAY]), AWAY),
        (ExceptionGroup("", [AWAY, ExceptionGroup("", [BROKEN, FENCED])]), FENCED),
        (BaseExceptionGroup("", [SystemExit(1), AWAY]), AWAY),
    ],
)
def test_root_fault_of_a_group(error: BaseException, counts: BaseException) -> None:
    """A store error comes before all others: without the store nothing else can be recorded."""
    assert root_fault(error) is counts


def test_store_refusal_comes_before_app_errors() -> None:
    refusal = KeyReused("s")
    assert root_fault(ExceptionGroup("", [BROKEN, refusal])) is refusal


async def test_cancellation_and_interrupt_are_raised_again(autojump_clock: trio.testing.MockClock) -> None:
    caught: list[BaseException] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as cancelled:
            caught.append(cancelled)
            raise
    for error in (caught[0], KeyboardInterrupt()):
        assert not is_fault(error)
        assert not is_fault(BaseExceptionGroup("", [BROKEN, BaseExceptionGroup("", [error])]))
    assert is_fault(BROKEN)
    assert is_fault(SystemExit(1))
    assert is_fault(BaseExceptionGroup("", [SystemExit(1), BROKEN]))


@pytest.mark.parametrize(
    ("error", "code", "message", "retryable"),
    [
        (UpstreamError("upstream_cut", "It broke.", retryable=True), "upstream_cut", "It broke.", True),
        (UpstreamError("upstream_refused", "No.", retryable=False), "upstream_refused", "No.", False),
        (BadParameters("parameters.t", "is bad"), "invalid_parameters", "parameters.t: is bad", False),
        (RunFailed("too_many_turns", "Too many."), "too_many_turns", "Too many.", False),
        (RunFailed("x", "\0\udc00"), "x", "\ufffd\ufffd", False),
        (RunFailed("x", "é" * 9_000), "x", "é" * MAX_MESSAGE, False),
    ],
)
def test_terminal_failure_of_each_error(
    error: UpstreamError | BadParameters | RunFailed, code: str, message: str, retryable: bool
) -> None:
    named, new = terminal_failure("gen_1", error)
    assert (named, new.type, new.tag) == (code, "generation.failed", "gen_1")
    (event,) = rows([new])
    assert fields(event) == {"error": {"code": code, "message": message}, "retryable": retryable}


SECRET = "postgres://ada:pw@10.0.0.5/db"
"""What an operator would not tell: an address, a name, a path, a row."""


class Row(BaseModel):
    email: int


def invalid() -> ValidationError:
    try:
        Row.model_validate({"email": SECRET})
    except ValidationError as error:
        return error
    raise AssertionError


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError(SECRET)


FAULTS = [
    OSError(111, "Connection refused", SECRET),
    ConnectionRefusedError(SECRET),
    asyncpg.UniqueViolationError(f"Key (email)=({SECRET}) already exists."),
    invalid(),
    KeyError(SECRET),
    ValueError(SECRET),
    AssertionError(SECRET),
    RuntimeError("\0\udc00" + SECRET),
    UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, SECRET),
    SystemExit(SECRET),
    Unspeakable(),
    ExceptionGroup(SECRET, [ValueError(SECRET), KeyError(SECRET)]),
    type(f"Of{SECRET}", (Exception,), {})(),
]


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
def test_exception_message_is_never_in_the_event(
    error: BaseException, lines: list[MutableMapping[str, Any]]
) -> None:
    """The event has a reference, under which the server's own log holds the exception."""
    failure = failure_from("tool_failed", "The tool failed.", root_fault(error), error, tool="refund")
    assert failure["code"] == "tool_failed"
    assert ids.is_valid_id(failure["reference"], "ref")
    assert failure["message"] == f"The tool failed. The server's log says why, under {failure['reference']}."
    (line,) = lines
    assert (line["event"], line["reference"], line["tool"]) == ("the tool failed", failure["reference"], "refund")
    assert line["exc_info"] is error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ToolError("No such order."), "No such order."),
        (ToolError(), "The tool failed."),
        (ToolError("\0\udc00"), "\ufffd\ufffd"),
        (ToolError("é" * 9_000), "é" * MAX_MESSAGE),
        (ExceptionGroup(SECRET, [ToolError("No such order.")]), "No such order."),
        (UpstreamError("upstream_cut", "The provider hung up."), "The provider hung up."),
        (RunFailed("too_many_turns", "Too many."), "Too many."),
    ],
)
def test_messages_of_app_errors_are_in_the_event(
    error: Exception, words: str, lines: list[MutableMapping[str, Any]]
) -> None:
    assert failure_from("tool_failed", "The tool failed.", root_fault(error), error) == {
        "code": "tool_failed",
        "message": words,
    }
    assert not lines


def test_upstream_detail_is_in_the_servers_log_only(lines: list[MutableMapping[str, Any]]) -> None:
    """It is found there by the reference."""
    _, new = terminal_failure(
        "gen_1", UpstreamError("upstream_unavailable", "It cannot be reached.", detail=SECRET)
    )
    (event,) = rows([new])
    error = fields(event)["error"]
    assert error.pop("reference") == lines[0]["reference"]
    assert error == {"code": "upstream_unavailable", "message": "It cannot be reached."}
    assert lines[0]["detail"] == SECRET
    failure = failure_from(
        "tool_failed", "The tool failed.", UpstreamError("upstream_cut", "It hung up.", detail=SECRET)
    )
    assert failure == {"code": "tool_failed", "message": "It hung up.", "reference": lines[1]["reference"]}
    assert lines[1]["detail"] == SECRET
