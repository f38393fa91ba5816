"""The fold: the state that each event leaves behind, by hand; and what it does not fold."""

import msgspec
import pytest

from eventstore import NewEvent
from server import events
from server.generation.fold import OutOfOrder, fold
from server.generation.state import Conversation, Generation, Message
from server.generation.states import ImpossibleMove, Status

from .rows import cancelled, completed, failed, moment, requested, rows, said, started

NEW = Conversation("conv_1")
OPEN = events.conversation_started("Tea", {"kind": "chat"})


def folded(*news: NewEvent) -> Conversation:
    """The state after these, from the very first."""
    return fold(NEW, rows(news))


def only(*news: NewEvent) -> Generation:
    """The one generation after these."""
    (found,) = folded(OPEN, requested("gen_A"), *news).generations
    return found


def test_nothing_folds_to_what_was() -> None:
    assert fold(NEW, []) is NEW


def test_a_conversation_starts() -> None:
    assert folded(OPEN) == Conversation("conv_1", 1, "Tea", {"kind": "chat"}, moment(1))


def test_a_conversation_starts_with_nothing() -> None:
    assert folded(events.conversation_started(None, None)) == Conversation("conv_1", 1, created_at=moment(1))


def test_messages_are_kept_in_order_with_their_place() -> None:
    state = folded(OPEN, said("m1", "hi"), events.message_posted("m2", "tool", "42", "Ada", "anonymous"))
    assert state.messages == (
        Message("m1", "user", "hi", 2, moment(2), "anonymous"),
        Message("m2", "tool", "42", 3, moment(3), "anonymous", "Ada"),
    )


QUEUED = Generation("gen_A", "conv_1", Status.QUEUED, "demo", {"tokens": 3, "rate": 0.5}, 2, 2, moment(2))
RUNNING = msgspec.structs.replace(
    QUEUED, status=Status.RUNNING, position=3, attempt=1, worker="worker-1", started_at=moment(3)
)
TALKING = msgspec.structs.replace(RUNNING, position=5, text="ab", tokens=2)


@pytest.mark.parametrize(
    ("news", "expected"),
    [
        ([], QUEUED),
        ([started("gen_A")], RUNNING),
        ([started("gen_A"), events.token("gen_A", "a"), events.token("gen_A", "b")], TALKING),
        (
            [started("gen_A"), started("gen_A", 2)],
            msgspec.structs.replace(RUNNING, position=4, attempt=2, started_at=moment(4)),
        ),
        (
            [started("gen_A"), completed("gen_A", "length")],
            msgspec.structs.replace(
                RUNNING,
                status=Status.COMPLETED,
                position=4,
                finished_at=moment(4),
                finish_reason="length",
                usage={"output_tokens": 3},
                ttft_ms=12,
            ),
        ),
        (
            [started("gen_A"), failed("gen_A", "upstream_cut")],
            msgspec.structs.replace(
                RUNNING,
                status=Status.FAILED,
                position=4,
                finished_at=moment(4),
                error={"code": "upstream_cut", "message": "It broke."},
                retryable=True,
            ),
        ),
        (
            [events.generation_cancelled("gen_A", "enough", "anonymous")],
            msgspec.structs.replace(
                QUEUED, status=Status.CANCELLED, position=3, finished_at=moment(3), reason="enough"
            ),
        ),
    ],
)
def test_what_each_event_leaves_behind(news: list[NewEvent], expected: Generation) -> None:
    assert only(*news) == expected


def test_an_end_without_a_first_token_has_no_time_to_it() -> None:
    assert only(started("gen_A"), events.generation_completed("gen_A", "stop", None, None)).ttft_ms is None
    assert only(started("gen_A"), cancelled("gen_A")).reason is None


def test_empty_deltas_count() -> None:
    found = only(started("gen_A"), *(events.token("gen_A", delta) for delta in ("", "a", "")))
    assert (found.text, found.tokens) == ("a", 3)


def test_two_generations_are_not_mixed() -> None:
    """Their tokens alternate; each has its own text and its own last position."""
    news = [OPEN, requested("gen_A"), requested("gen_B"), started("gen_A"), started("gen_B")]
    news += [events.token("gen_A", "a1"), events.token("gen_B", "b1"), events.token("gen_A", "a2")]
    state = folded(*news)
    assert [(found.text, found.position) for found in state.generations] == [("a1a2", 8), ("b1", 7)]


def test_finding_a_generation() -> None:
    state = folded(OPEN, requested("gen_A"), cancelled("gen_A"), requested("gen_B"))
    found = state.generation("gen_B")
    assert found is not None
    assert state.generation("gen_C") is None
    assert state.running is found
    assert folded(OPEN).running is None
    assert [found.ended for found in state.generations] == [True, False]


@pytest.mark.parametrize(
    "stray",
    [
        NewEvent("progress", '{"done":1}', "gen_A"),
        NewEvent("of a newer server", "not even JSON"),
        events.token("gen_nobody", "x"),
        started("gen_nobody"),
        NewEvent("token", '{"delta":"x"}'),
    ],
)
def test_what_it_does_not_know_leaves_only_the_position(stray: NewEvent) -> None:
    before = folded(OPEN, requested("gen_A"), started("gen_A"))
    after = fold(before, rows([stray], before.position))
    assert after == msgspec.structs.replace(before, position=before.position + 1)


def test_an_impossible_event_is_a_fault() -> None:
    with pytest.raises(ImpossibleMove):
        only(started("gen_A"), cancelled("gen_A"), events.token("gen_A", "late"))
    with pytest.raises(ImpossibleMove):
        only(completed("gen_A"))


TOKENS = [events.token("gen_A", delta) for delta in "abc"]


@pytest.mark.parametrize("holes", [[4], [5], [6], [4, 5]])
def test_a_hole_in_a_row_of_tokens(holes: list[int]) -> None:
    """Also at its start and before what follows it: a row is checked as single events are."""
    whole = rows([OPEN, requested("gen_A"), started("gen_A"), *TOKENS, said("m", "x")])
    with pytest.raises(OutOfOrder, match=r"position \d does not follow \d in conv_1"):
        fold(NEW, [event for event in whole if event.position not in holes])
