"""Log lines: JSON for machines and text for people, one line each, also from libraries and with exceptions."""

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
def _reset_logging() -> Iterator[None]:
    """Removes the logging configuration after each test."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def stderr_text(capsys: pytest.CaptureFixture[str]) -> Written:
    """What was written to standard error since the last call; nothing is ever written to standard output."""

    def read() -> str:
        found = capsys.readouterr()
        assert found.out == ""
        return found.err

    return read


def parse_lines(text: str) -> list[dict[str, Any]]:
    """The lines as a log collector reads them: each is one JSON object."""
    return [json.loads(line) for line in text.splitlines()]


def test_json_line(stderr_text: Written) -> None:
    logs.configure("json")
    logs.get("streams").info("stream ended", stream="conv_1", tokens=3, why='a "quoted"\nline')
    (line,) = parse_lines(stderr_text())
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "stream ended",
        "logger": "streams",
        "level": "info",
        "stream": "conv_1",
        "tokens": 3,
        "why": 'a "quoted"\nline',
    }


def test_values_without_a_json_form_are_written(stderr_text: Written) -> None:
    logs.configure("json")
    logs.get("x").info("odd", value=object(), raw=b"\xff", error=ValueError("v"))
    (line,) = parse_lines(stderr_text())
    assert "object object" in line["value"]


def test_text_line(stderr_text: Written) -> None:
    logs.configure("text")
    logs.get("streams").warning("stream ended", stream="conv_1")
    (line,) = stderr_text().splitlines()
    for part in ("warning", "stream ended", "conv_1", "streams"):
        assert part in line
    with pytest.raises(json.JSONDecodeError):
        json.loads(line)


def test_debug_lines_are_left_out(stderr_text: Written) -> None:
    logs.configure("json")
    logs.get("x").debug("chatter")
    assert stderr_text() == ""


@pytest.mark.parametrize(("terminal", "text"), [(True, True), (False, False)])
def test_auto_is_text_on_a_terminal(
    terminal: bool, text: bool, stderr_text: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    logs.configure("auto")
    logs.get("x").info("hello")
    assert stderr_text().startswith("{") is not text


@pytest.mark.parametrize("form", FORMS)
def test_library_lines_have_the_same_form_once(form: Form, stderr_text: Written) -> None:
    """Configured twice, as by a test or a reload, there is still one handler."""
    logs.configure(form)
    logs.configure(form)
    assert len(logging.getLogger().handlers) == 1
    logging.getLogger("hypercorn").warning("odd request from %s", "somebody")
    logging.getLogger("hypercorn").info("chatter")
    text = stderr_text()
    assert text.count("\n") == 1
    assert "odd request from somebody" in text
    if form == "json":
        (found,) = parse_lines(text)
        assert (found["event"], found["level"]) == ("odd request from somebody", "warning")
        assert "timestamp" in found


def raise_value_error() -> None:
    """Our own code raises."""
    secret = "".join(["hunt", "er2"])
    raise ValueError("broken" + secret[:0])


def test_exception_is_part_of_its_line(stderr_text: Written) -> None:
    logs.configure("json")
    try:
        raise_value_error()
    except ValueError as error:
        logs.get("web").error("request failed", exc_info=error)
        logs.get("web").exception("request failed")
        logging.getLogger("hypercorn").exception("app failed")
    lines = parse_lines(stderr_text())
    assert [line["event"] for line in lines] == ["request failed", "request failed", "app failed"]
    for line in lines:
        assert line["level"] == "error"
        assert line["exception"].startswith("Traceback (most recent call last):")
        assert line["exception"].endswith("ValueError: broken")
        assert "in raise_value_error" in line["exception"]
        assert "exc_info" not in line


@pytest.mark.parametrize("form", FORMS)
def test_traceback_shows_no_values(form: Form, stderr_text: Written) -> None:
    """Local variables hold keys and messages."""
    logs.configure(form)
    try:
        raise_value_error()
    except ValueError:
        logs.get("web").exception("request failed")
        logging.getLogger("hypercorn").exception("app failed")
    text = stderr_text()
    assert "broken" in text
    assert "hunter2" not in text


def test_exception_group_shows_its_parts(stderr_text: Written) -> None:
    logs.configure("json")
    logs.get("x").error("failed", exc_info=ExceptionGroup("two", [ValueError("one"), KeyError("other")]))
    (line,) = parse_lines(stderr_text())
    assert "ValueError: one" in line["exception"]
    assert "KeyError: 'other'" in line["exception"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "trouble", [OSError(28, "No space left on device"), BrokenPipeError(), ValueError("closed")]
)
def test_failed_write_raises_nothing(form: Form, trouble: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, or a log reader that is gone, is no reason to fail a request."""

    def raise_value_error(*_: object) -> int:
        raise trouble

    logs.configure(form)
    monkeypatch.setattr(sys.stderr, "write", raise_value_error)
    monkeypatch.setattr(sys.stderr, "flush", raise_value_error)
    logs.get("web").info("hello")


@pytest.mark.parametrize(
    ("terminal", "no_color", "coloured"), [(True, "", True), (True, "1", False), (False, "", False)]
)
def test_colours_are_for_terminals(
    terminal: bool, no_color: str, coloured: bool, stderr_text: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a file their codes are noise; who wants none on a terminal says so (https://no-color.org)."""
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    logs.configure("text")
    logs.get("x").warning("hello", why="a")
    logging.getLogger("hypercorn").warning("odd")
    assert ("\x1b[" in stderr_text()) is coloured


@pytest.mark.parametrize("form", FORMS)
async def test_bound_ids_are_in_every_line_of_the_task(form: Form, stderr_text: Written) -> None:
    """Also in lines of its child tasks and of libraries, and of no other task."""
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
    assert stderr_text().count("req_1") == 2
    logs.get("x").info("outside")
    assert "req_" not in stderr_text()


async def test_detached_task_keeps_only_the_ids(stderr_text: Written) -> None:
    """Otherwise a run would keep its request in memory, with its body."""
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
    found = parse_lines(stderr_text())
    assert sorted(line["request"] for line in found) == ["req_1", "req_2"]
    assert all("generation" not in line for line in found)
    assert seen == ["none", "none"]
    assert "request" not in plain.run(structlog.contextvars.get_contextvars)
