"""The JSON of one event: its fields, their order, and any text unchanged on one line."""

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given

from eventstore import Event, NewEvent
from server import event_types
from server.wire_formats import encode_event
from tests.conversations.event_builders import (
    STORABLE_TEXT,
    cancelled,
    completed,
    failed,
    no_deadline,
    requested,
    rows,
    said,
    started,
)
from tests.conversations.log_strategies import logs

AT = datetime(2026, 11, 22, 10, 0, 0, 123456, tzinfo=UTC)
ODD = ["", '"', "\\", '\\"', "\n", "\r", "\r\n", "\t", "\x01", "\x1f", "\x7f", "\x85", "\u2028", "\u2029"]
ODD += ["ü", "\U0001f600", "\ufeff", "\ufffd", "data: x\n\n", "id: 9", "</script>", '{"a":1}', "\u200d", " "]


def parsed_fields(event: Event) -> dict[str, Any]:
    """The object as a client reads it."""
    found: dict[str, Any] = json.loads(encode_event(event))
    return found


def test_example_of_the_contract() -> None:
    event = Event(17, "token", AT, "gen_1", '{"delta":"The "}')
    assert encode_event(event) == (
        b'{"position":17,"type":"token","at":"2026-11-22T10:00:00.123456Z","generation":"gen_1","delta":"The "}'
    )


@pytest.mark.parametrize(
    ("new", "names"),
    [
        (event_types.conversation_started(None, None), []),
        (event_types.conversation_started("T", {"a": 1}), ["title", "metadata"]),
        (said("m", "hi"), ["message", "role", "content", "by"]),
        (requested("gen_1"), ["generation", "model", "parameters", "by"]),
        (started("gen_1"), ["generation", "attempt", "worker"]),
        (event_types.token("gen_1", "x"), ["generation", "delta"]),
        (completed("gen_1"), ["generation", "finish_reason", "usage", "ttft_ms"]),
        (failed("gen_1"), ["generation", "error", "retryable"]),
        (cancelled("gen_1"), ["generation", "by"]),
    ],
)
def test_field_order_of_each_event_type(new: NewEvent, names: list[str]) -> None:
    (event,) = rows([new])
    assert list(parsed_fields(event)) == ["position", "type", "at", *names]


def test_event_without_data_and_generation() -> None:
    assert parsed_fields(Event(1, "t", AT, None, "{}")) == {
        "position": 1,
        "type": "t",
        "at": "2026-11-22T10:00:00.123456Z",
    }
    assert parsed_fields(Event(1, "t", AT, "gen_1", "{}"))["generation"] == "gen_1"


@pytest.mark.parametrize(
    ("microsecond", "text"), [(0, "10:00:00.000000Z"), (1, "10:00:00.000001Z"), (999_999, "10:00:00.999999Z")]
)
def test_time_always_has_microseconds(microsecond: int, text: str) -> None:
    """One form, so that times compare as texts."""
    assert (
        parsed_fields(Event(1, "t", AT.replace(microsecond=microsecond), None, "{}"))["at"] == f"2026-11-22T{text}"
    )


@pytest.mark.parametrize("text", ODD)
def test_unusual_texts_are_unchanged(text: str) -> None:
    for new, name in (
        (event_types.token("gen_1", text), "delta"),
        (said("m", text), "content"),
        (event_types.conversation_started(text, {text: text}), "title"),
        (event_types.generation_cancelled("gen_1", text, "anonymous"), "reason"),
    ):
        (event,) = rows([new])
        assert parsed_fields(event)[name] == text
        assert not re.search(rb"[\x00-\x1f]", encode_event(event)), "a control character would end the line"


@no_deadline
@given(text=STORABLE_TEXT)
def test_any_text_is_unchanged(text: str) -> None:
    (event,) = rows([event_types.token("gen_1", text)])
    assert parsed_fields(event)["delta"] == text
    assert not {b"\n", b"\r"} & set(encode_event(event))


@no_deadline
@given(log=logs())
def test_object_is_the_columns_and_the_data(log: list[Event]) -> None:
    for event in log:
        if event.data == "??":
            continue
        own = {"position": event.position, "type": event.type, "at": event.at.isoformat().replace("+00:00", "Z")}
        tag = {} if event.tag is None else {"generation": event.tag}
        assert parsed_fields(event) == {**json.loads(event.data), **own, **tag}


def test_event_is_encoded_once() -> None:
    """All readers of the shared tail send the same bytes."""
    (event,) = rows([event_types.token("gen_1", "x")])
    assert encode_event(event) is encode_event(event)


def test_other_memoized_values_are_kept() -> None:
    (event,) = rows([event_types.token("gen_1", "x")])
    event.memo = {"theirs": b"bytes"}
    assert parsed_fields(event)["delta"] == "x"
    assert event.memo["theirs"] == b"bytes"


@pytest.mark.parametrize("result", [{"carry": "the app's own"}, {"carry": {"deep": ["carry"]}}, '"carry"', None])
def test_what_a_provider_wants_back_reaches_no_client(result: Any) -> None:
    """Only the event's own field is left out: a result may use the same name."""
    for carry in ({"answer": {"signature": "secret"}}, None):
        new = event_types.step_finished("gen_1", "answer/1", result, carry)
        (event,) = rows([new])
        found = parsed_fields(event)
        assert "carry" not in found
        assert "secret" not in encode_event(event).decode()
        assert found["result"] == result
