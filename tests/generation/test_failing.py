"""How a run's failure is told: which fault of a group counts, and in which words."""

import pytest
import trio
import trio.testing

from eventstore import Fenced, KeyReused, StoreUnavailable
from server.generation.failing import MOST_TOLD, RunFailed, failed, fault_in, in_words, is_fault
from server.upstream import BadParameters, UpstreamError

from .owning import fields
from .rows import rows

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
def test_the_one_that_counts(error: BaseException, counts: BaseException) -> None:
    """The store's before all others: with it gone, nothing else can be told."""
    assert fault_in(error) is counts


def test_any_refusal_of_the_store_counts_before_the_apps_own() -> None:
    refusal = KeyReused("s")
    assert fault_in(ExceptionGroup("", [BROKEN, refusal])) is refusal


async def test_what_has_to_go_on_upwards(autojump_clock: trio.testing.MockClock) -> None:
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
        (RunFailed("x", "é" * 9_000), "x", "é" * MOST_TOLD, False),
    ],
)
def test_what_is_told(
    error: UpstreamError | BadParameters | RunFailed, code: str, message: str, retryable: bool
) -> None:
    told, new = failed("gen_1", error)
    assert (told, new.type, new.tag) == (code, "generation.failed", "gen_1")
    (event,) = rows([new])
    assert fields(event) == {"error": {"code": code, "message": message}, "retryable": retryable}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (BROKEN, "ValueError: broken"),
        (ValueError(), "ValueError"),
        (ValueError("\0\udc00"), "ValueError: \ufffd\ufffd"),
        (ValueError("é" * 9_000), f"ValueError: {'é' * 9_000}"[:MOST_TOLD]),
    ],
)
def test_an_apps_fault_in_words(fault: BaseException, words: str) -> None:
    assert in_words(fault) == words
