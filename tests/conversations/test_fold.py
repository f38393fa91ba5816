"""The fold: the state that each event leaves behind, by hand; and what it does not fold."""

import msgspec
import pytest

from eventstore import NewEvent
from server import event_types
from server.conversations.conversation_state import Conversation, Generation, GrowingText, Message, Progress
from server.conversations.fold import OutOfOrder, fold
from server.conversations.state_machine import InvalidTransition, Status

from .event_builders import (
    cancelled,
    completed,
    decided,
    failed,
    moment,
    proposed,
    requested,
    rows,
    said,
    started,
    tool_ended,
)

NEW = Conversation("conv_1")
OPEN = event_types.conversation_started("Tea", {"kind": "chat"})


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
    assert folded(event_types.conversation_started(None, None)) == Conversation("conv_1", 1, created_at=moment(1))


def test_messages_are_kept_in_order_with_their_place() -> None:
    state = folded(OPEN, said("m1", "hi"), event_types.message_posted("m2", "tool", "42", "Ada", "anonymous"))
    assert state.messages == (
        Message("m1", "user", "hi", 2, moment(2), "anonymous"),
        Message("m2", "tool", "42", 3, moment(3), "anonymous", "Ada"),
    )


QUEUED = Generation("gen_A", "conv_1", Status.QUEUED, "demo", {"tokens": 3, "rate": 0.5}, 2, 2, moment(2))
RUNNING = msgspec.structs.replace(
    QUEUED, status=Status.RUNNING, position=3, attempt=1, worker="worker-1", started_at=moment(3)
)
TALKING = msgspec.structs.replace(RUNNING, position=5, growing_text=GrowingText("ab"), tokens=2)


@pytest.mark.parametrize(
    ("news", "expected"),
    [
        ([], QUEUED),
        ([started("gen_A")], RUNNING),
        ([started("gen_A"), event_types.token("gen_A", "a"), event_types.token("gen_A", "b")], TALKING),
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
            [event_types.generation_cancelled("gen_A", "enough", "anonymous")],
            msgspec.structs.replace(
                QUEUED, status=Status.CANCELLED, position=3, finished_at=moment(3), reason="enough"
            ),
        ),
    ],
)
def test_what_each_event_leaves_behind(news: list[NewEvent], expected: Generation) -> None:
    assert only(*news) == expected


WORKFLOW = event_types.generation_requested(
    "gen_A",
    workflow="grade",
    input={"essay": None},
    parameters={"t": 1},
    tools=["refund", {"name": "ship", "description": "Ships."}],
    steering={"strictness": 5},
    on_crash="restart",
    if_running="queue",
    ephemeral=True,
    by="anonymous",
)


def grading(*news: NewEvent) -> Generation:
    """The workflow's run after these."""
    (found,) = folded(OPEN, WORKFLOW, *news).generations
    return found


def test_everything_that_was_asked_for() -> None:
    assert grading() == Generation(
        id="gen_A",
        conversation="conv_1",
        status=Status.QUEUED,
        model=None,
        workflow="grade",
        input={"essay": None},
        parameters={"t": 1},
        tools=("refund", {"name": "ship", "description": "Ships."}),
        steering={"strictness": 5},
        on_crash="restart",
        if_running="queue",
        ephemeral=True,
        requested_position=2,
        position=2,
        created_at=moment(2),
    )


def test_steering_progress_and_result() -> None:
    found = grading(
        started("gen_A"),
        event_types.steering_changed("gen_A", "strictness", None, "Ada"),
        event_types.steering_changed("gen_A", "tone", "kind", "Ada"),
        event_types.progress("gen_A", 12, 47, "pages", None),
        event_types.progress("gen_A", 13, 47, "pages", "reading"),
        event_types.step_finished("gen_A", "step x 1", {"any": "thing"}),
        event_types.result("gen_A", None),
    )
    assert (found.status, found.position) == (Status.RUNNING, 9)
    assert found.steering == {"strictness": None, "tone": "kind"}
    assert found.progress == Progress(13, 47, "pages", "reading", moment(7), 1.0)
    assert found.result is None
    assert grading(started("gen_A"), event_types.result("gen_A", [1])).result == [1]


def test_the_pace_of_the_first_progress_counts_from_the_start() -> None:
    found = grading(started("gen_A"), said("m", "hm"), event_types.progress("gen_A", 1, 2, "pages", None))
    assert found.progress == Progress(1, 2, "pages", None, moment(5), 2.0)


def test_who_waits_is_shown_as_waiting() -> None:
    """As long as any call that asks is undecided, whatever else happens meanwhile."""
    news = [started("gen_A"), proposed("gen_A", "call_1", asks=True), proposed("gen_A", "call_2", asks=True)]
    assert only(*news).status is Status.WAITING
    between = [
        event_types.token("gen_A", "x"),
        event_types.token("gen_A", "y"),
        event_types.steering_changed("gen_A", "a", 1, "Ada"),
        event_types.progress("gen_A", 1, 2, "pages", None),
        event_types.step_finished("gen_A", "s", None),
        decided("gen_A", "call_2"),
        event_types.tool_started("gen_A", "call_2"),
        tool_ended("gen_A", "call_2"),
    ]
    assert [only(*news, *between[:n]).status for n in range(len(between) + 1)] == [Status.WAITING] * 9
    assert only(*news, *between, decided("gen_A", "call_1", "rejected")).status is Status.RUNNING
    assert only(*news, cancelled("gen_A")).status is Status.CANCELLED
    assert only(started("gen_A"), proposed("gen_A")).status is Status.RUNNING


def test_an_attempt_speaks_anew_and_keeps_what_was_paid_for() -> None:
    first = [
        started("gen_A"),
        event_types.reasoning("gen_A", "let me "),
        event_types.token("gen_A", "half a sen"),
        event_types.tool_arguments("gen_A", "call_9", '{"half', "refund"),
        event_types.progress("gen_A", 1, 2, "pages", None),
        event_types.result("gen_A", 1),
        proposed("gen_A", asks=True),
    ]
    lost = grading(*first, event_types.generation_interrupted("gen_A", 1, "worker_lost"))
    assert (lost.status, lost.text, lost.attempt) == (Status.QUEUED, "half a sen", 1)
    assert (lost.reasoning, [call.call for call in lost.tool_calls]) == ("let me ", ["call_1"])
    steered = event_types.steering_changed("gen_A", "strictness", 9, "Ada")
    told = [*first, event_types.generation_interrupted("gen_A", 1, "server_stopped"), steered, decided("gen_A")]
    assert grading(*told).status is Status.QUEUED
    again = grading(*told, started("gen_A", 2))
    assert (again.status, again.attempt, again.started_at) == (Status.RUNNING, 2, moment(13))
    assert again.reasoning == ""
    assert (again.text, again.tokens, again.progress, again.result) == ("", 0, None, None)
    assert again.steering == {"strictness": 9}
    assert [call.status for call in again.tool_calls] == ["approved"]
    undecided = grading(*first, event_types.generation_interrupted("gen_A", 1, "worker_lost"), started("gen_A", 2))
    assert undecided.status is Status.WAITING


def test_an_end_without_a_first_token_has_no_time_to_it() -> None:
    assert only(started("gen_A"), event_types.generation_completed("gen_A", "stop", None, None)).ttft_ms is None
    assert only(started("gen_A"), cancelled("gen_A")).reason is None


def test_empty_deltas_count() -> None:
    found = only(started("gen_A"), *(event_types.token("gen_A", delta) for delta in ("", "a", "")))
    assert (found.text, found.tokens) == ("a", 3)


def test_reasoning_is_no_part_of_the_text() -> None:
    """Nor is a call whose arguments are being written; both move the generation's position on."""
    news = [
        event_types.reasoning("gen_A", "so "),
        event_types.token("gen_A", "a"),
        event_types.reasoning("gen_A", "what"),
    ]
    found = only(started("gen_A"), *news, event_types.tool_arguments("gen_A", "call_1", "{"))
    assert (found.text, found.reasoning, found.tokens, found.tool_calls) == ("a", "so what", 1, ())
    assert found.position == 7
    waiting = only(started("gen_A"), proposed("gen_A", asks=True), *news)
    assert waiting.status is Status.WAITING


def test_the_words_of_a_refusal() -> None:
    end = event_types.generation_completed("gen_A", "refusal", None, None, "I will not.")
    assert only(started("gen_A"), end).refusal == "I will not."
    assert only(started("gen_A"), completed("gen_A")).refusal is None


def test_two_generations_are_not_mixed() -> None:
    """Their tokens alternate; each has its own text and its own last position."""
    news = [OPEN, requested("gen_A"), requested("gen_B"), started("gen_A"), started("gen_B")]
    news += [event_types.token("gen_A", "a1"), event_types.token("gen_B", "b1"), event_types.token("gen_A", "a2")]
    state = folded(*news)
    assert [(found.text, found.position) for found in state.generations] == [("a1a2", 8), ("b1", 7)]


def test_finding_a_generation() -> None:
    state = folded(OPEN, requested("gen_A"), cancelled("gen_A"), requested("gen_B"))
    found = state.generation("gen_B")
    assert found is not None
    assert state.generation("gen_C") is None
    assert state.open == (found,)
    assert folded(OPEN).open == ()
    assert [found.ended for found in state.generations] == [True, False]


@pytest.mark.parametrize(
    "stray",
    [
        NewEvent("presence", '{"done":1}', "gen_A"),
        NewEvent("of a newer server", "not even JSON"),
        event_types.token("gen_nobody", "x"),
        event_types.reasoning("gen_nobody", "x"),
        event_types.tool_arguments("gen_nobody", "call_1", "x"),
        NewEvent("reasoning", '{"delta":"x"}'),
        started("gen_nobody"),
        proposed("gen_nobody"),
        decided("gen_nobody"),
        event_types.steering_changed("gen_nobody", "a", 1, "Ada"),
        event_types.progress("gen_nobody", 1, 2, "pages", None),
        NewEvent("token", '{"delta":"x"}'),
    ],
)
def test_what_it_does_not_know_leaves_only_the_position(stray: NewEvent) -> None:
    before = folded(OPEN, requested("gen_A"), started("gen_A"))
    after = fold(before, rows([stray], before.position))
    assert after == msgspec.structs.replace(before, position=before.position + 1)


def test_an_impossible_event_is_a_fault() -> None:
    with pytest.raises(InvalidTransition):
        only(started("gen_A"), cancelled("gen_A"), event_types.token("gen_A", "late"))
    with pytest.raises(InvalidTransition):
        only(event_types.reasoning("gen_A", "early"))
    with pytest.raises(InvalidTransition):
        only(event_types.tool_arguments("gen_A", "call_1", "early"))
    with pytest.raises(InvalidTransition):
        only(completed("gen_A"))
    with pytest.raises(InvalidTransition):
        only(started("gen_A"), event_types.tool_started("gen_A", "call_1"))
    with pytest.raises(InvalidTransition):
        only(proposed("gen_A"))


TOKENS = [event_types.token("gen_A", delta) for delta in "abc"]


@pytest.mark.parametrize("holes", [[4], [5], [6], [4, 5]])
def test_a_hole_in_a_row_of_tokens(holes: list[int]) -> None:
    """Also at its start and before what follows it: a row is checked as single events are."""
    whole = rows([OPEN, requested("gen_A"), started("gen_A"), *TOKENS, said("m", "x")])
    with pytest.raises(OutOfOrder, match=r"position \d does not follow \d in conv_1"):
        fold(NEW, [event for event in whole if event.position not in holes])


@pytest.mark.parametrize(
    ("attempt", "reason", "losses"),
    [(1, "worker_lost", 1), (1, "internal_error", 1), (0, "worker_lost", 0), (1, "server_stopped", 0)],
)
def test_only_a_worker_that_died_counts_as_a_loss(attempt: int, reason: str, losses: int) -> None:
    """A stop is no crash, and a run that never began cannot have caused one."""
    events = [started("gen_A")] if attempt else []
    found = only(*events, event_types.generation_interrupted("gen_A", attempt, reason))
    assert found.losses == losses
