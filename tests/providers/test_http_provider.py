"""Both HTTP providers against the fake: every behaviour, every error code, and the key that is never shown."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Iterator
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from server.providers import ArgumentsDelta, Finish, Reasoning, Timeouts, UpstreamError

from .answer_reader import finish, prompt, provider_on, read_answer, whole_call
from .fake_provider import FakeProvider
from .fake_wire_formats import words


@pytest.mark.parametrize(
    ("model", "texts", "end", "repaired"),
    [
        ("ok-0", [], finish(0), 0),
        ("ok-200", words(200), finish(200), 0),
        ("packed", words(100), finish(100), 0),
        ("split", words(20), finish(20), 0),
        ("crlf", words(10), finish(10), 0),
        ("comments", words(10), finish(10), 0),
        ("bom", words(10), finish(10), 0),
        ("multiline", words(10), finish(10), 0),
        ("until-close", words(10), finish(10), 0),
        ("length", words(10), finish(10), 0),
        ("early-hints", words(10), finish(10), 0),
        ("empty-content", ["", "t0 ", "", "t1 "], finish(4), 0),
        ("surrogate", ["a", "", "😀", "b"], finish(4), 0),
        ("lone-surrogate", ["", "\ufffdword", "", "\ufffd"], finish(3), 2),
        ("nul", ["a\ufffd", "b"], finish(2), 1),
        ("invalid-utf8", ["a\ufffd", "b"], finish(2), 1),
        ("usage-with-finish", words(10), finish(10, "length"), 0),
        ("echo", ["say ", "it  ", "again"], finish(3), 0),
    ],
)
async def test_whole_answers(
    fake: FakeProvider, provider: str, model: str, texts: list[str], end: Finish, repaired: int
) -> None:
    seen = await read_answer(provider_on(fake, provider), prompt(model, "first", "say it  again"))
    assert (seen.texts, seen.finish, seen.error, seen.repaired) == (texts, end, None, repaired)
    assert not fake.log[0].closed_by_client


@pytest.mark.parametrize(
    ("model", "texts", "code", "retryable", "says"),
    [
        ("cut-after-3", words(3), "upstream_cut", True, "closed"),
        ("cut-after-0", [], "upstream_cut", True, "closed"),
        ("reset-after-3", words(3), "upstream_cut", True, "broke"),
        ("malformed-after-3", words(3), "upstream_malformed", False, '{"choices": ['),
        ("malformed-after-0", [], "upstream_malformed", False, '{"choices": ['),
        ("error-object", words(3), "upstream_error", True, "the model fell over"),
        ("refused-object", [], "upstream_error", False, "no"),
        ("status-400", [], "upstream_bad_request", False, "the fake says no"),
        ("status-401", [], "upstream_unauthorized", False, "the fake says no"),
        ("status-403", [], "upstream_unauthorized", False, "the fake says no"),
        ("status-404", [], "upstream_bad_request", False, "the fake says no"),
        ("status-422", [], "upstream_bad_request", False, "the fake says no"),
        ("status-429", [], "upstream_rate_limited", True, "the fake says no"),
        ("status-500", [], "upstream_unavailable", True, "the fake says no"),
        ("status-503", [], "upstream_unavailable", True, "the fake says no"),
        ("status-529", [], "upstream_unavailable", True, "the fake says no"),
        ("quota", [], "upstream_rate_limited", False, "no money"),
        ("redirect", [], "upstream_bad_request", False, "a redirect"),
        ("html", [], "upstream_malformed", False, "text/html, no event stream"),
        ("html", [], "upstream_malformed", False, "It begins: Welcome to nginx"),
        ("gzip", [], "upstream_malformed", False, "gzip"),
    ],
)
async def test_failures(
    fake: FakeProvider, provider: str, model: str, texts: list[str], code: str, retryable: bool, says: str
) -> None:
    seen = await read_answer(provider_on(fake, provider), prompt(model))
    assert seen.texts == texts
    assert seen.error is not None
    assert (seen.error.code, seen.error.retryable) == (code, retryable)
    assert says in seen.error.message
    assert not {"127.0.0.1", str(fake.port)} & set(re.split(r"[\s:/]", seen.error.message)), (
        "it is for all readers"
    )
    assert seen.error.retry_after == (1 if model in ("status-429", "status-503") else None)


@pytest.mark.parametrize(
    ("model", "count", "code", "limit"),
    [
        ("stall-after-3", 3, "upstream_stalled", Timeouts().idle),
        ("stall-after-0", 0, "upstream_stalled", Timeouts().idle),
        ("silent", 0, "upstream_timeout", Timeouts().first_byte),
        ("finish-then-stall", 3, None, Timeouts().tail),
        ("finish-then-signs", 3, None, Timeouts().tail),
    ],
)
async def test_time_limits(
    fake: FakeProvider, provider: str, clock: MockClock, model: str, count: int, code: str | None, limit: float
) -> None:
    start = trio.current_time()
    seen = await read_answer(provider_on(fake, provider), prompt(model))
    assert seen.texts == words(count)
    assert (seen.error.code if seen.error else None) == code
    assert (seen.finish.reason if seen.finish else None) == (None if code else "stop")
    assert trio.current_time() - start == pytest.approx(limit)


@pytest.mark.parametrize("model", ["no-done", "no-usage"])
async def test_answer_without_usage(fake: FakeProvider, provider: str, model: str) -> None:
    seen = await read_answer(provider_on(fake, provider), prompt(model))
    assert seen.texts == words(10)
    # Anthropic tells the input, and a first count of the output, at the start.
    assert seen.finish == Finish("stop", None if provider == "openai" else {"input_tokens": 7, "output_tokens": 1})


async def test_reasoning_comes_before_the_text(fake: FakeProvider, provider: str) -> None:
    seen = await read_answer(provider_on(fake, provider), prompt("reasoning"))
    chunks = [chunk for batch in seen.batches for chunk in batch]
    assert chunks == [Reasoning("let me "), Reasoning("think"), *words(3)]
    assert seen.finish == finish(3)


async def test_tool_calls_are_assembled(fake: FakeProvider, provider: str) -> None:
    seen = await read_answer(provider_on(fake, provider), prompt("tools"))
    calls = (whole_call(provider, "call_a", "search", '{"q": "😀"}'), whole_call(provider, "call_b", "now", "{}"))
    assert (seen.texts, seen.repaired) == (["t0 "], 0)
    assert seen.non_text_chunks == [
        ArgumentsDelta(0, "search", '{"q": '),
        ArgumentsDelta(1, "now", "{}"),
        ArgumentsDelta(0, "search", '"😀"}'),
    ]
    assert seen.finish == replace(finish(1, "tool_calls"), tool_calls=calls)


async def test_receive_after_the_end_repeats_it(fake: FakeProvider, provider: str) -> None:
    for model in ("cut-after-1", "status-400", "malformed-after-1"):
        async with provider_on(fake, provider).open(prompt(model)) as answer:
            errors: list[str] = []
            while len(errors) < 2:
                try:
                    await answer.receive()
                except UpstreamError as error:
                    errors.append(error.code)
            assert errors[0] == errors[1]
    async with provider_on(fake, provider).open(prompt("ok-1")) as answer:
        while await answer.receive():
            continue
        assert await answer.receive() == ()


async def test_receive_returns_everything_that_arrived(fake: FakeProvider, provider: str) -> None:
    seen = await read_answer(provider_on(fake, provider), prompt("length"))
    assert seen.batches == [words(10)]
    seen = await read_answer(provider_on(fake, provider), prompt("packed"))
    assert len(seen.batches) <= 10


# The key


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG):
        yield caplog


@pytest.mark.parametrize(
    "model", ["leak-key", "status-401", "status-500", "cut-after-1", "malformed-after-1", "redirect"]
)
async def test_the_key_is_never_shown(
    fake: FakeProvider, provider: str, everything_logged: pytest.LogCaptureFixture, model: str
) -> None:
    key = "sk-hunter2-hunter2"
    asked = provider_on(fake, provider, key=key)
    seen = await read_answer(asked, prompt(model))
    assert seen.error is not None
    async with asked.open(prompt("ok-1")) as answer:
        shown = [repr(answer), repr(vars(answer)), repr(asked), repr(vars(asked))]
    shown += [repr(seen), repr(seen.error), str(seen.error), seen.error.message, repr(seen.error.args)]
    shown += traceback.format_exception(seen.error)
    shown += [everything_logged.text, repr(fake.log)]
    for text in shown:
        assert "hunter2" not in text
    assert fake.log[0].authorization == "wrong"
