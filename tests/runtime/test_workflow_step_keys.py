"""Idempotency keys of workflow steps: a step may run twice, and its key lets the called service notice that."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.generations.run_context import Run, idempotency_key, with_key
from server.workflows import Workflow, tool

from .run_commands import ended, kinds, play, started
from .runtime_process import app, process
from .tool_examples import ORDER, wants


async def test_repeated_step_has_the_same_key(autojump_clock: MockClock) -> None:
    """The process dies after the step ran and before it was recorded.

    Another step of the same name has another key.
    """
    paid: list[str] = []

    async def pay(key: str) -> int:
        paid.append(key)
        if len(paid) == 1:
            await trio.sleep_forever()  # done, and the process dies before that is recorded
        return len(paid)

    async def work(run: Run) -> list[int]:
        return [await run.step("pay", pay), await run.step("pay", pay)]

    log = MemoryBackend()
    registry = app(Workflow("w", work))
    async with process(log.process(), registry=registry) as here:
        async with process(log.process(), registry=registry) as lost:
            run = await play(lost)
            await started(lost, run)
            while not paid:
                await trio.sleep(0.1)
        found = await ended(here, run)
    assert paid == [f"{run[1]}/step%20pay%201", f"{run[1]}/step%20pay%201", f"{run[1]}/step%20pay%202"]
    assert found.result == [2, 3]
    assert kinds(log, run).count("step.finished") == 2


def _plain(key: str) -> str:
    return key


def _none() -> str:
    return "none"


def _default(key: str = "default") -> str:
    return key


def _two(amount: int, key: str) -> str:
    return f"{amount} {key}"


def _named(*, idempotency_key: str) -> str:
    return idempotency_key


def _any(*given: str, **named: str) -> str:
    return " ".join((*given, *named.values())) or "none"


class _Callable:
    def __call__(self, key: str) -> str:
        return key


@pytest.mark.parametrize(
    ("do", "told"),
    [
        (_plain, "k"),
        (_none, "none"),
        (_default, "default"),
        (functools.partial(_two, 5), "5 k"),
        (functools.partial(_two, 5, "mine"), "5 mine"),
        (functools.partial(_two, key="mine"), "k mine"),
        (_named, "k"),
        (_any, "none"),
        (_Callable(), "k"),
        (lambda key: key, "k"),
        (lambda given=7: given, 7),
        (dict, {}),
    ],
)
def test_key_is_passed_to_functions_that_require_it(do: Callable[..., Any], told: Any) -> None:
    """Only a function with one more required argument gets the key.

    A parameter with a default is never overwritten.
    """
    assert with_key(do, "k")() == told


@pytest.mark.parametrize("name", ["pay", "Pay 2", "ü", "a/b", "x" * 100, "a\nb", 'say "no"', "%20", "pay é" * 20])
def test_key_fits_into_a_header(name: str) -> None:
    """And it is short enough for services that allow 255 characters."""
    key = idempotency_key("gen_" + "0" * 26, f"step {name} 1")
    assert key.isascii()
    assert all("!" <= one <= "~" and one not in '",;' for one in key)
    assert len(key) <= 150
    assert key == idempotency_key("gen_" + "0" * 26, f"step {name} 1")


def test_keys_of_different_steps_differ() -> None:
    names = ["step a 1", "step a 2", "step a%201 1", "step a/1 1", "step a 1 in call_1", "step a.1", "step ä 1"]
    assert len({idempotency_key("gen_1", name) for name in names}) == len(names)


async def test_key_of_a_step_inside_a_tool_names_the_call(autojump_clock: MockClock) -> None:
    """The call is part of it: each call's steps are its own."""
    keys: list[str] = []

    @tool(approval="never")
    async def refund(run: Run, order: int) -> None:
        """Gives money back."""
        await run.step("pay", lambda key: keys.append(key))

    log = MemoryBackend()
    async with process(log.process(), wants(ORDER, ORDER), registry=app(refund)) as here:
        run = await play(here, model="fake", tools=("refund",))
        await ended(here, run)
    assert len(set(keys)) == 2
    assert all(key.startswith(f"{run[1]}/step%20pay%201%20in%20call_") for key in keys)
