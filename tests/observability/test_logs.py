"""Log lines: JSON for machines, text for people, one line each; also what libraries say, also exceptions."""

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar, copy_context
from typing import Any, Literal

import pytest
import structlog
import trio

from server.observability import logs

Form = Literal["json", "text"]
Written = Callable[[], str]
FORMS: list[Form] = ["json", "text"]


@pytest.fixture(autouse=True)
def unconfigured() -> Iterator[None]:
    """Afterwards nobody has configured anything."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str]) -> Written:
    """What was written to standard error since it was last asked; to standard output nothing ever is."""

    def read() -> str:
        found = capsys.readouterr()
        assert found.out == ""
        return found.err

    return read


def objects(text: str) -> list[dict[str, Any]]:
    """The lines as a log collector reads them: each is one JSON object."""
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_of_json(written: Written) -> None:
    logs.configure("json")
    logs.get("streams").info("stream ended", stream="conv_1", tokens=3, why='a "quoted"\nline')
    (line,) = objects(written())
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "stream ended",
        "logger": "streams",
        "level": "info",
        "stream": "conv_1",
        "tokens": 3,
        "why": 'a "quoted"\nline',
    }


def test_what_json_does_not_know_is_no_error(written: Written) -> None:
    logs.configure("json")
    logs.get("x").info("odd", value=object(), raw=b"\xff", error=ValueError("v"))
    (line,) = objects(written())
    assert "object object" in line["value"]


def test_a_line_for_people(written: Written) -> None:
    logs.configure("text")
    logs.get("streams").warning("stream ended", stream="conv_1")
    (line,) = written().splitlines()
    for part in ("warning", "stream ended", "conv_1", "streams"):
        assert part in line
    with pytest.raises(json.JSONDecodeError):
        json.loads(line)


def test_debug_lines_are_left_out(written: Written) -> None:
    logs.configure("json")
    logs.get("x").debug("chatter")
    assert written() == ""


@pytest.mark.parametrize(("terminal", "text"), [(True, True), (False, False)])
def test_auto_is_text_on_a_terminal(
    terminal: bool, text: bool, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    logs.configure("auto")
    logs.get("x").info("hello")
    assert written().startswith("{") is not text


@pytest.mark.parametrize("form", FORMS)
def test_libraries_speak_in_the_same_form_and_once(form: Form, written: Written) -> None:
    """Configured twice, as by a test or a reload, there is still one handler."""
    logs.configure(form)
    logs.configure(form)
    assert len(logging.getLogger().handlers) == 1
    logging.getLogger("hypercorn").warning("odd request from %s", "somebody")
    logging.getLogger("hypercorn").info("chatter")
    text = written()
    assert text.count("\n") == 1
    assert "odd request from somebody" in text
    if form == "json":
        (found,) = objects(text)
        assert (found["event"], found["level"]) == ("odd request from somebody", "warning")
        assert "timestamp" in found


def fail() -> None:
    """Something of ours that breaks."""
    secret = "".join(["hunt", "er2"])
    raise ValueError("broken" + secret[:0])


def test_an_exception_is_part_of_its_line(written: Written) -> None:
    logs.configure("json")
    try:
        fail()
    except ValueError as error:
        logs.get("web").error("request failed", exc_info=error)
        logs.get("web").exception("request failed")
        logging.getLogger("hypercorn").exception("app failed")
    lines = objects(written())
    assert [line["event"] for line in lines] == ["request failed", "request failed", "app failed"]
    for line in lines:
        assert line["level"] == "error"
        assert line["exception"].startswith("Traceback (most recent call last):")
        assert line["exception"].endswith("ValueError: broken")
        assert "in fail" in line["exception"]
        assert "exc_info" not in line


@pytest.mark.parametrize("form", FORMS)
def test_a_trace_shows_no_values(form: Form, written: Written) -> None:
    """Local variables hold keys and what people said; no line may."""
    logs.configure(form)
    try:
        fail()
    except ValueError:
        logs.get("web").exception("request failed")
        logging.getLogger("hypercorn").exception("app failed")
    text = written()
    assert "broken" in text
    assert "hunter2" not in text


def test_a_group_of_exceptions_shows_its_parts(written: Written) -> None:
    logs.configure("json")
    logs.get("x").error("failed", exc_info=ExceptionGroup("two", [ValueError("one"), KeyError("other")]))
    (line,) = objects(written())
    assert "ValueError: one" in line["exception"]
    assert "KeyError: 'other'" in line["exception"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "trouble", [OSError(28, "No space left on device"), BrokenPipeError(), ValueError("closed")]
)
def test_a_line_that_cannot_be_written_ends_nothing(
    form: Form, trouble: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, or a reader of the lines that has gone, is no reason to fail a request."""

    def fail(*_: object) -> int:
        raise trouble

    logs.configure(form)
    monkeypatch.setattr(sys.stderr, "write", fail)
    monkeypatch.setattr(sys.stderr, "flush", fail)
    logs.get("web").info("hello")


@pytest.mark.parametrize(
    ("terminal", "no_color", "coloured"), [(True, "", True), (True, "1", False), (False, "", False)]
)
def test_colours_are_for_terminals(
    terminal: bool, no_color: str, coloured: bool, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a file their codes are noise; who wants none on a terminal says so (https://no-color.org)."""
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    logs.configure("text")
    logs.get("x").warning("hello", why="a")
    logging.getLogger("hypercorn").warning("odd")
    assert ("\x1b[" in written()) is coloured


@pytest.mark.parametrize("form", FORMS)
async def test_what_is_bound_is_in_every_line_of_the_task(form: Form, written: Written) -> None:
    """And of the tasks it starts, of libraries too; but in no line of any other."""
    logs.configure(form)

    async def asker(name: str) -> None:
        logs.bind(request=name)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(say)
        logging.getLogger("hypercorn").warning("odd")

    async def say() -> None:
        logs.get("x").info("said")

    async with trio.open_nursery() as nursery:
        for name in ("req_1", "req_2"):
            nursery.start_soon(asker, name)
    assert written().count("req_1") == 2
    logs.get("x").info("outside")
    assert "req_" not in written()


async def test_what_is_detached_carries_the_ids_and_nothing_else(written: Written) -> None:
    """Else a run would keep its request alive, with all that was sent."""
    logs.configure("json")
    body: ContextVar[str] = ContextVar("body", default="none")
    plain = copy_context()
    seen: list[str] = []

    async def run() -> None:
        seen.append(body.get())
        logs.get("x").info("run finished")
        logs.bind(generation="gen_1")

    async with trio.open_nursery() as runs, trio.open_nursery() as requests:

        async def ask(name: str) -> None:
            body.set("large")
            logs.bind(request=name)
            logs.detached(plain).run(runs.start_soon, run)

        for name in ("req_1", "req_2"):
            requests.start_soon(ask, name)
    found = objects(written())
    assert sorted(line["request"] for line in found) == ["req_1", "req_2"]
    assert all("generation" not in line for line in found)
    assert seen == ["none", "none"]
    assert "request" not in plain.run(structlog.contextvars.get_contextvars)
