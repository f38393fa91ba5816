"""The demo provider in virtual time: its text, its rate, its parameters."""

from __future__ import annotations

import hashlib
import math
import random
import subprocess
import sys
from itertools import islice
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from server.message_parts import Content, FilePart, ImagePart, TextPart
from server.providers import BadParameters, Finish, Message, Prompt
from server.providers.demo import PACED_BATCH, UNPACED_BATCH, Demo, story, whole_story

from .answer_reader import ReadAnswer, prompt, read_answer, texts_in


async def read_demo(**parameters: Any) -> ReadAnswer:
    return await read_answer(Demo(), prompt("demo", "two words", "three more words", **parameters))


@given(st.integers(0, 2**63 - 1), st.integers(1, 300))
def test_short_answer_is_a_prefix_of_a_long_one(seed: int, count: int) -> None:
    whole = list(islice(story(seed), 300))
    assert list(islice(story(seed), count)) == whole[:count]
    text = "".join(whole)
    assert all(chunk.strip() and chunk.endswith((" ", "\n\n")) and not chunk.startswith(" ") for chunk in whole)
    assert not set(text) & set("_{}|")
    assert not any(slot in text for slot in ("ADJ", "THING", "PERSON", "PLACE", "WEATHER", "DID", "WHEN", "COUNT"))


@given(st.integers(0, 2**63 - 1), st.integers(1, 300))
def test_answer_ends_with_a_whole_sentence(seed: int, count: int) -> None:
    """At any length it has exactly `count` tokens, and it equals the story up to its last sentences."""
    read_demo = list(whole_story(seed, count))
    assert len(read_demo) == count
    assert read_demo[-1][-1] in ".”"
    assert all(
        chunk.strip() and chunk.endswith((" ", "\n\n")) and not chunk.startswith(" ") for chunk in read_demo[:-1]
    )
    longest = 20
    assert read_demo[: max(0, count - longest)] == list(islice(story(seed), max(0, count - longest)))
    assert read_demo == list(whole_story(seed, count))


def digest(count: int) -> str:
    return hashlib.sha256("".join(islice(story(1), count)).encode()).hexdigest()


def test_text_is_the_same_in_another_process() -> None:
    state = random.getstate()
    code = "import sys; from tests.providers.test_demo import digest; sys.stdout.write(digest(5000))"
    code = code.replace("tests.providers.test_demo", __name__)
    path = f"import sys; sys.path[:0] = {sys.path!r}; "
    other = subprocess.run([sys.executable, "-c", path + code], capture_output=True, text=True, check=True)
    assert other.stdout == digest(5000)
    assert random.getstate() == state


def test_text_is_fixed() -> None:
    """Replays are compared with it, so a change of the words or of Python must be noticed."""
    assert "".join(islice(story(1), 13)) == FIRST_WORDS


def test_paragraphs_and_seeds() -> None:
    text = "".join(islice(story(1), 5000))
    assert 50 < text.count("\n\n") < 200
    assert story(2) is not story(2)
    assert "".join(islice(story(2), 5000)) != text


async def test_defaults(autojump_clock: MockClock) -> None:
    start = trio.current_time()
    seen = await read_demo()
    assert trio.current_time() - start == pytest.approx(199 / 50)
    assert seen.texts == list(whole_story(1, 200))
    assert seen.finish == Finish("stop", {"input_tokens": 5, "output_tokens": 200})
    assert seen.repaired == 0


@pytest.mark.parametrize("rate", [0.5, 3, 49.9, 10_000])
async def test_tokens_come_at_the_rate(autojump_clock: MockClock, rate: float) -> None:
    async with Demo().open(prompt("demo", tokens=500, rate=rate)) as answer:
        start = trio.current_time()
        read_demo = 0
        while batch := await answer.receive():
            elapsed = trio.current_time() - start
            assert elapsed == pytest.approx((read_demo + len(batch) - 1) / rate)  # no drift
            read_demo += len(batch)
    assert read_demo == 500


async def test_late_reader_gets_all_due_tokens_at_once(autojump_clock: MockClock) -> None:
    async with Demo().open(prompt("demo", tokens=5000, rate=100)) as answer:
        assert len(await answer.receive()) == 1
        await trio.sleep(1.005)
        assert len(await answer.receive()) == 100
        assert len(await answer.receive()) == 1
        await trio.sleep(30)
        assert len(await answer.receive()) == PACED_BATCH


async def test_rate_0_is_unlimited_and_yields_to_other_tasks(nursery: trio.Nursery) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    nursery.start_soon(other)
    seen = await read_demo(tokens=1000, rate=0, seed=7)
    assert seen.texts == list(whole_story(7, 1000))
    assert {len(batch) for batch in seen.batches[:-1]} == {UNPACED_BATCH}
    assert turns >= len(seen.batches)
    nursery.cancel_scope.cancel()


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 2000), st.floats(0.001, 10_000), st.lists(st.floats(0, 10), min_size=1))
def test_number_of_tokens_is_exact(count: int, rate: float, naps: list[float]) -> None:
    async def main() -> None:
        texts: list[str] = []
        async with Demo().open(prompt("demo", tokens=count, rate=rate)) as answer:
            while batch := await answer.receive():
                texts += texts_in(batch)
                await trio.sleep(naps[len(texts) % len(naps)])
        assert texts == list(whole_story(1, count))

    trio.run(main, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"tokens": 0}, "1 to 100000"),
        ({"tokens": 100_001}, "1 to 100000"),
        ({"tokens": 1.0}, "whole number"),
        ({"tokens": True}, "whole number"),
        ({"tokens": "5"}, "whole number"),
        ({"tokens": None}, "whole number"),
        ({"rate": -0.1}, "0 to 10000"),
        ({"rate": 10_000.1}, "0 to 10000"),
        ({"rate": math.nan}, "0 to 10000"),
        ({"rate": math.inf}, "0 to 10000"),
        ({"rate": True}, "number"),
        ({"seed": -1}, "9223372036854775807"),
        ({"seed": 2**63}, "9223372036854775807"),
        ({"temperature": 1}, "tokens, rate, seed, calls and say"),
        ({"say": ""}, "a text of at most"),
        ({"say": " \n"}, "a text of at most"),
        ({"say": "x" * 20_001}, "a text of at most"),
        ({"say": 5}, "a text of at most"),
    ],
)
async def test_bad_parameters_name_the_field_and_the_limit(parameters: dict[str, Any], says: str) -> None:
    asked = prompt("demo", **parameters)
    with pytest.raises(BadParameters, match=says) as caught:
        Demo().check(asked)
    assert caught.value.field == f"parameters.{next(iter(parameters))}"
    with pytest.raises(BadParameters):
        async with Demo().open(asked):
            pytest.fail("opened")


@pytest.mark.parametrize(
    "parameters",
    [{}, {"tokens": 1}, {"tokens": 100_000}, {"rate": 0}, {"rate": 1e-9}, {"rate": 10_000}, {"seed": 2**63 - 1}],
)
def test_good_parameters(parameters: dict[str, Any]) -> None:
    Demo().check(prompt("demo", **parameters))


FIRST_WORDS = "Nobody at Café Solano had seen such a frost. So they hid the "


PNG = ImagePart("a" * 64, "image/png", 12_345)
PDF = FilePart("b" * 64, "application/pdf", 3_400_000, "a report.pdf", b"%PDF-")
ZIP = FilePart("c" * 64, "application/octet-stream", 1)


@pytest.mark.parametrize(
    ("contents", "told"),
    [
        ([(PNG,)], "You sent a PNG of 12 KB."),
        ([(TextPart("see"), PNG, PDF)], "You sent a PNG of 12 KB and a PDF “a report.pdf” of 5 bytes."),
        ([(PNG,), "see", (ZIP, PNG)], "You sent a PNG of 12 KB, a file of 1 byte and a PNG of 12 KB."),
    ],
)
async def test_it_says_which_files_it_was_sent(contents: list[Content], told: str) -> None:
    """And counts that as part of its answer: as many tokens as were asked for, and never half a sentence."""
    earlier = (Message("user", (PDF,)), Message("assistant", "Seen."))
    messages = (*earlier, *(Message("user", content) for content in contents))
    for tokens in (1, 40):
        answer = await read_answer(Demo(), Prompt("demo", messages, {"rate": 0, "tokens": tokens}))
        texts = answer.texts
        expected = told.split()
        assert "".join(texts).partition("\n\n")[0] == told
        assert texts[len(expected) :] == list(whole_story(1, max(0, tokens - len(expected))))
        assert answer.finish is not None
        assert answer.finish.usage is not None
        assert answer.finish.usage["output_tokens"] == len(texts) == max(tokens, len(expected))


async def test_files_of_earlier_questions_are_not_told_again() -> None:
    messages = (Message("user", (PNG,)), Message("assistant", "Seen."), Message("user", "and?"))
    answer = await read_answer(Demo(), Prompt("demo", messages, {"rate": 0, "tokens": 30}))
    assert answer.texts == list(whole_story(1, 30))
