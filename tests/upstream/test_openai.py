"""The OpenAI upstream against the fake provider: every behaviour, every code, and the key."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Iterator
from dataclasses import replace

import pytest
import trio
from pydantic import SecretStr
from trio.testing import MockClock

from server.upstream import BadParameters, Finish, Limits, OpenAISettings, UpstreamError, Upstreams
from server.upstream.openai import OpenAI

from .asking import ask, finish, prompt, upstream
from .fake_openai import Fake
from .fake_wire import words


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
        ("no-done", words(10), Finish("stop", None), 0),
        ("no-usage", words(10), Finish("stop", None), 0),
        ("usage-with-finish", words(10), finish(10, "length"), 0),
        ("echo", ["say ", "it  ", "again"], finish(3), 0),
    ],
)
async def test_whole_answers(fake: Fake, model: str, texts: list[str], end: Finish, repaired: int) -> None:
    seen = await ask(upstream(fake), prompt(model, "first", "say it  again"))
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
        ("quota", [], "upstream_rate_limited", False, "no money"),
        ("redirect", [], "upstream_bad_request", False, "https://elsewhere.example/v1"),
        ("html", [], "upstream_malformed", False, "text/html"),
        ("gzip", [], "upstream_malformed", False, "gzip"),
    ],
)
async def test_failures(fake: Fake, model: str, texts: list[str], code: str, retryable: bool, says: str) -> None:
    seen = await ask(upstream(fake), prompt(model))
    assert seen.texts == texts
    assert seen.error is not None
    assert (seen.error.code, seen.error.retryable) == (code, retryable)
    assert says in seen.error.message
    assert seen.error.retry_after == (1 if model in ("status-429", "status-503") else None)


@pytest.mark.parametrize(
    ("model", "count", "code", "limit"),
    [
        ("stall-after-3", 3, "upstream_stalled", Limits().idle),
        ("stall-after-0", 0, "upstream_stalled", Limits().idle),
        ("silent", 0, "upstream_timeout", Limits().first_byte),
        ("finish-then-stall", 3, None, Limits().tail),
    ],
)
async def test_silence(
    fake: Fake, clock: MockClock, model: str, count: int, code: str | None, limit: float
) -> None:
    start = trio.current_time()
    seen = await ask(upstream(fake), prompt(model))
    assert seen.texts == words(count)
    assert (seen.error.code if seen.error else None) == code
    assert seen.finish == (None if code else Finish("stop", None))
    assert trio.current_time() - start == pytest.approx(limit)


async def test_an_error_is_told_again_and_a_finish_too(fake: Fake) -> None:
    for model in ("cut-after-1", "status-400", "malformed-after-1"):
        async with upstream(fake).open(prompt(model)) as answer:
            errors: list[str] = []
            while len(errors) < 2:
                try:
                    await answer.receive()
                except UpstreamError as error:
                    errors.append(error.code)
            assert errors[0] == errors[1]
    async with upstream(fake).open(prompt("ok-1")) as answer:
        while await answer.receive():
            continue
        assert await answer.receive() == ()


async def test_all_that_has_arrived_comes_in_one_receive(fake: Fake) -> None:
    seen = await ask(upstream(fake), prompt("length"))
    assert seen.batches == [words(10)]
    seen = await ask(upstream(fake), prompt("packed"))
    assert len(seen.batches) <= 10


# The request


async def test_the_request(fake: Fake) -> None:
    await ask(upstream(fake), prompt("ok-1", "é", temperature=0))
    record = fake.log[0]
    assert record.path == "/v1/chat/completions"
    assert record.authorization == "right"
    assert record.body == {
        "model": "ok-1",
        "messages": [{"role": "user", "content": "é"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
    }
    assert record.headers["accept-encoding"] == "identity"
    assert record.headers["accept"] == "text/event-stream"
    assert record.headers["host"] == f"127.0.0.1:{fake.port}"


async def test_without_a_key_none_is_sent(fake: Fake) -> None:
    assert (await ask(upstream(fake, key=None), prompt("ok-1"))).error is None
    assert fake.log[0].authorization == "absent"


async def test_the_messages_arrive_as_they_were(fake: Fake) -> None:
    seen = await ask(upstream(fake), prompt("echo-history", "a", "😀"))
    sent = [{"role": "user", "content": "a"}, {"role": "user", "content": "😀"}]
    assert json.loads("".join(seen.texts)) == sent


async def test_bad_parameters_open_nothing(fake: Fake) -> None:
    asked = prompt("ok-1", stream=False)
    with pytest.raises(BadParameters):
        upstream(fake).check(asked)
    with pytest.raises(BadParameters):
        async with upstream(fake).open(asked):
            pytest.fail("opened")
    upstream(fake).check(prompt("ok-1", temperature=1))
    assert fake.accepted == 0


async def test_through_the_registry(fake: Fake) -> None:
    found, name = Upstreams(openai=OpenAISettings(base_url=fake.base_url)).resolve("openai/ok-3")
    assert (await ask(found, prompt(name))).texts == words(3)


# The key


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG):
        yield caplog


@pytest.mark.parametrize(
    "model", ["leak-key", "status-401", "status-500", "cut-after-1", "malformed-after-1", "redirect"]
)
async def test_the_key_is_never_shown(fake: Fake, everything_logged: pytest.LogCaptureFixture, model: str) -> None:
    key = "sk-hunter2-hunter2"
    asked = upstream(fake, key=key)
    seen = await ask(asked, prompt(model))
    assert seen.error is not None
    async with asked.open(prompt("ok-1")) as answer:
        shown = [repr(answer), repr(vars(answer)), repr(asked), repr(vars(asked))]
    shown += [repr(seen), repr(seen.error), str(seen.error), seen.error.message, repr(seen.error.args)]
    shown += traceback.format_exception(seen.error)
    shown += [everything_logged.text, repr(fake.log)]
    for text in shown:
        assert "hunter2" not in text
    assert fake.log[0].authorization == "wrong"


def test_the_settings_do_not_show_it() -> None:
    settings = OpenAISettings(api_key=SecretStr("hunter2"))
    assert "hunter2" not in repr(settings) + str(settings) + settings.model_dump_json()


def test_a_prompt_is_not_changed() -> None:
    asked = prompt("ok-1", temperature=1)
    before = replace(asked)
    OpenAI(OpenAISettings()).check(asked)
    assert asked == before
