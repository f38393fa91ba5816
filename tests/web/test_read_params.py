"""The parameters of a read, in tables: cursor, format, page size, stream options and waiting time."""

import math

import pytest
from werkzeug.datastructures import Headers

from server.problem import Problem
from server.web.transports.polling import preference_applied
from server.web.transports.read_params import (
    DEFAULT_LIMIT,
    MAX_LIMIT,
    MAX_WAIT,
    NOW,
    PLAIN,
    Form,
    StreamOptions,
    accepted_form,
    parse_cursor,
    read_count,
    read_cursor,
    read_form,
    read_limit,
    read_stream_options,
    read_wait,
    resolve_cursor,
)

SSE, NDJSON, JSON = Form.SSE, Form.NDJSON, Form.JSON
BAD_CURSORS = [
    "-1",
    "+1",
    "1.0",
    "1e3",
    " 1",
    "1 ",
    "0x1",
    "1_0",
    "NOW",
    "next",
    "١",
    "²",
    "1\n",
    "\0",
    "a" * 500,
]


@pytest.mark.parametrize(
    ("header", "after", "cursor"),
    [
        (None, None, 0),
        (None, "0", 0),
        (None, "17", 17),
        (None, "now", NOW),
        (None, "007", 7),
        ("17", None, 17),
        ("now", None, NOW),
        ("0", None, 0),
        # A reconnecting EventSource sends both: its own memory is the newer one.
        ("17", "3", 17),
        ("3", "17", 3),
        ("0", "17", 0),
        ("17", "now", 17),
        ("17", "nonsense", 17),
        # It sends an empty one when the id was reset: as if there were none.
        ("", "3", 3),
        ("", None, 0),
        (None, "", 0),
        ("", "", 0),
        (None, "9" * 18, 10**18 - 1),
        (None, "9" * 19, 10**18),
        (None, "1" * 5_000, 10**18),
    ],
)
def test_the_cursor(header: str | None, after: str | None, cursor: int) -> None:
    headers = Headers() if header is None else Headers({"Last-Event-ID": header})
    assert read_cursor(headers, {} if after is None else {"after": after}) == cursor


@pytest.mark.parametrize("text", BAD_CURSORS)
def test_invalid_cursors(text: str) -> None:
    """In the header too, however good the parameter; an empty one is none."""
    with pytest.raises(Problem) as caught:
        read_cursor(Headers(), {"after": text})
    assert (caught.value.status, caught.value.code) == (400, "invalid_cursor")
    assert caught.value.detail.isascii() or "≥" in caught.value.detail
    assert len(caught.value.detail) < 250
    if "\n" not in text:
        with pytest.raises(Problem):
            read_cursor(Headers({"Last-Event-ID": text}), {"after": "1"})


@pytest.mark.parametrize(
    ("cursor", "head", "position"), [(0, 0, 0), (0, 9, 0), (9, 9, 9), (5, 9, 5), (NOW, 9, 9), (NOW, 0, 0)]
)
def test_a_cursor_within_the_log(cursor: int, head: int, position: int) -> None:
    assert resolve_cursor(cursor, head) == position


@pytest.mark.parametrize(("cursor", "head"), [(1, 0), (10, 9), (10**18, 9)])
def test_a_cursor_past_the_head(cursor: int, head: int) -> None:
    with pytest.raises(Problem) as caught:
        resolve_cursor(cursor, head)
    problem = caught.value
    assert (problem.status, problem.code, problem.extra) == (400, "cursor_ahead", {"head": head})
    assert str(head) in problem.detail


def test_a_number_that_is_too_long_is_ahead_and_not_invalid() -> None:
    with pytest.raises(Problem) as caught:
        resolve_cursor(parse_cursor("1" * 100), 10**17)
    assert caught.value.code == "cursor_ahead"


@pytest.mark.parametrize(
    ("text", "limit"), [(None, DEFAULT_LIMIT), ("1", 1), ("0010", 10), (str(MAX_LIMIT), MAX_LIMIT)]
)
def test_the_limit(text: str | None, limit: int) -> None:
    assert read_limit({} if text is None else {"limit": text}) == limit


@pytest.mark.parametrize("text", ["0", "-1", "5001", "", "all", "1.5", "²", " 7", "9" * 100])
def test_invalid_limits(text: str) -> None:
    """The refusal says which limit, and how much it is."""
    with pytest.raises(Problem) as caught:
        read_limit({"limit": text})
    problem = caught.value
    assert (problem.status, problem.code, problem.extra) == (400, "invalid_limit", {"limit": 5000})
    assert "1 to 5000" in problem.detail


@pytest.mark.parametrize(
    ("args", "options"),
    [
        ({}, PLAIN),
        ({"pad": "4096"}, StreamOptions(pad=4096)),
        ({"named": "1"}, StreamOptions(named=True)),
        ({"pad": "65536", "named": "1"}, StreamOptions(65_536, named=True)),
        ({"named": "0"}, PLAIN),
        ({"named": ""}, PLAIN),
    ],
)
def test_stream_options(args: dict[str, str], options: StreamOptions) -> None:
    assert read_stream_options(args) == options


@pytest.mark.parametrize("pad", ["0", "65537", "", "4k"])
def test_invalid_pads(pad: str) -> None:
    with pytest.raises(Problem) as caught:
        read_stream_options({"pad": pad})
    assert (caught.value.code, caught.value.extra) == ("invalid_pad", {"limit": 65_536})


@pytest.mark.parametrize("named", ["true", "yes", "2", " 1", "token"])
def test_invalid_named(named: str) -> None:
    """Said, not taken for no: the client's listeners would wait for names that never come."""
    with pytest.raises(Problem) as caught:
        read_stream_options({"named": named})
    assert (caught.value.status, caught.value.code) == (400, "invalid_named")


def test_other_counts_have_their_own_names() -> None:
    assert read_count({"pad": "4096"}, "pad", 0, 65_536) == 4096
    with pytest.raises(Problem) as caught:
        read_count({"pad": "65537"}, "pad", 0, 65_536)
    assert caught.value.code == "invalid_pad"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("20", 20),
        ("0.5", 0.5),
        ("50", 50),
        ("51", MAX_WAIT),
        ("1e9", MAX_WAIT),
        ("-0", 0),
        (".5", 0.5),
        ("5e-1", 0.5),
    ],
)
def test_the_wait_parameter(text: str, seconds: float) -> None:
    """It is not a preference, so none is said to be applied."""
    assert read_wait(Headers({"Prefer": "wait=7"}), {"wait": text}) == (seconds, False)


@pytest.mark.parametrize(
    "text", ["", "-1", "nan", "inf", "-inf", "soon", "1,5", "0x10", "1_0", " 1", "1 ", "+1", "1.", "infinity", "١"]
)
def test_invalid_waits(text: str) -> None:
    with pytest.raises(Problem) as caught:
        read_wait(Headers(), {"wait": text})
    assert (caught.value.status, caught.value.code) == (400, "invalid_wait")
    assert "50" in caught.value.detail


@pytest.mark.parametrize(
    ("prefer", "seconds", "applied"),
    [
        ([], 0, None),
        (["wait=20"], 20, "wait=20"),
        (["wait=0"], 0, "wait=0"),
        (["wait=100"], 50, "wait=50"),
        (["Wait=20"], 20, "wait=20"),
        (['wait="20"'], 20, "wait=20"),
        (["wait = 20"], 20, "wait=20"),
        (["respond-async, wait=10"], 10, "wait=10"),
        (["respond-async", "wait=10"], 10, "wait=10"),
        (["wait=10; foo=bar, return=minimal"], 10, "wait=10"),
        (["wait=10, wait=20"], 10, "wait=10"),
        # Malformed preferences are as if they were not there (RFC 7240 section 2).
        (["wait"], 0, None),
        (["wait="], 0, None),
        (["wait=-1"], 0, None),
        (["wait=1.5"], 0, None),
        (["wait=soon"], 0, None),
        (["wait=" + "9" * 20], 0, None),
        (["waiting=10"], 0, None),
        (["respond-async"], 0, None),
        ([",;,="], 0, None),
    ],
)
def test_the_prefer_header(prefer: list[str], seconds: float, applied: str | None) -> None:
    headers = {"prefer": ", ".join(prefer)} if prefer else {}
    wait = read_wait(headers, {})
    assert wait == (seconds, applied is not None)
    assert dict(preference_applied(wait)) == ({} if applied is None else {b"preference-applied": applied.encode()})


def test_no_wait_is_longer_than_promised() -> None:
    assert all(read_wait(Headers(), {"wait": str(10.0**power)})[0] <= 50 < math.inf for power in range(10))


@pytest.mark.parametrize("digits", ["1" * 100_000, "." + "1" * 100_000, "1e" + "1" * 100_000, "-" + "1" * 100_000])
def test_a_wait_of_very_many_digits_is_judged_at_once(digits: str) -> None:
    """With a pattern that tries several ways this would hold up the process for many minutes."""
    with pytest.raises(Problem):
        read_wait(Headers(), {"wait": digits + "x"})


# -- the format


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
def test_the_format_of_an_accept_header(accept: str, form: Form) -> None:
    assert accepted_form(accept) is form
    assert read_form(Headers({"Accept": accept}), {}) is form


def test_without_parameter_and_header_it_is_json() -> None:
    assert read_form(Headers(), {}) is JSON


@pytest.mark.parametrize("form", list(Form))
@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson", "application/json"])
def test_the_format_parameter_wins_over_accept(form: Form, accept: str) -> None:
    assert read_form(Headers({"Accept": accept}), {"format": form.value}) is form


@pytest.mark.parametrize("name", ["", "SSE", "text/event-stream", "xml", "json ", "x" * 500, "é"])
def test_unknown_formats_are_refused(name: str) -> None:
    with pytest.raises(Problem) as caught:
        read_form(Headers(), {"format": name})
    assert (caught.value.status, caught.value.code) == (400, "invalid_format")
    assert "sse, ndjson, json" in caught.value.detail
    assert len(caught.value.detail) < 200
