"""Which form of the log a client gets: by name, else by what it accepts; JSON unless a stream is asked for."""

import pytest
from werkzeug.datastructures import Headers

from server.errors import Problem
from server.web.transports.read_params import Form, accepted_form, read_form

SSE, NDJSON, JSON = Form.SSE, Form.NDJSON, Form.JSON


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/json", JSON),
        ("text/event-stream", SSE),
        ("application/x-ndjson", NDJSON),
        ("TEXT/Event-Stream", SSE),
        ("text/event-stream; charset=utf-8", SSE),
        ("text/event-stream;q=1", SSE),
        # Wildcards mean JSON, also such as a stream would match.
        ("text/*", JSON),
        ("application/*", JSON),
        ("text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8", JSON),
        # What browsers and clients really send beside it.
        ("text/event-stream, */*", SSE),
        ("application/json, text/event-stream", SSE),
        ("text/event-stream, application/json", SSE),
        ("application/x-ndjson, application/json", NDJSON),
        # Ranked below JSON it is not asked for.
        ("text/event-stream;q=0.5, application/json", JSON),
        ("application/json;q=0.9, text/event-stream;q=0.8", JSON),
        ("application/x-ndjson;q=0.1, */*;q=0.2", JSON),
        ("text/event-stream;q=0.8, application/json;q=0.5", SSE),
        ("text/event-stream;q=0.8, application/*;q=0.5", SSE),
        ("text/event-stream;q=0.5, application/json;q=0.5", SSE),
        # The most specific range counts: a JSON ranked low is not lifted by a wildcard.
        ("application/json;q=0.1, text/event-stream;q=0.5, */*", SSE),
        ("application/json;q=0, text/event-stream;q=0.5, */*;q=0.8", SSE),
        ("application/*;q=0.1, application/x-ndjson;q=0.5, */*", NDJSON),
        ("application/json;q=0.8, application/*;q=0.1, text/event-stream;q=0.5", JSON),
        # Refused.
        ("text/event-stream;q=0", JSON),
        ("text/event-stream;q=0, application/x-ndjson", NDJSON),
        ("text/event-stream;q=0.0, */*", JSON),
        # Between the two streams.
        ("text/event-stream, application/x-ndjson", SSE),
        ("application/x-ndjson, text/event-stream;q=0.9", NDJSON),
        ("application/x-ndjson;q=0.3, text/event-stream;q=0.2", NDJSON),
        # What is neither, and what is no list at all.
        ("text/html", JSON),
        ("text/event-streams", JSON),
        ("text", JSON),
        (",,;q=", JSON),
        ("\x00", JSON),
    ],
)
def test_what_is_accepted(accept: str, form: Form) -> None:
    assert accepted_form(accept) is form
    assert read_form(Headers({"Accept": accept}), {}) is form


def test_nothing_said_is_json() -> None:
    assert read_form(Headers(), {}) is JSON


@pytest.mark.parametrize("form", list(Form))
@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson", "application/json"])
def test_the_address_wins(form: Form, accept: str) -> None:
    assert read_form(Headers({"Accept": accept}), {"format": form.value}) is form


@pytest.mark.parametrize("name", ["", "SSE", "text/event-stream", "xml", "json ", "x" * 500, "é"])
def test_what_is_no_form(name: str) -> None:
    with pytest.raises(Problem) as caught:
        read_form(Headers(), {"format": name})
    assert (caught.value.status, caught.value.code) == (400, "invalid_format")
    assert "sse, ndjson, json" in caught.value.detail
    assert len(caught.value.detail) < 200
