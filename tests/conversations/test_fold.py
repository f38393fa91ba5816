"""The fold: the state that each event leaves, written by hand, and events that it refuses or ignores."""

import msgspec
import pytest

from eventstore import NewEvent
from server import event_types
from server.conversations.conversation_state import Conversation, Generation, GrowingText, Message, Progress
from server.conversations.fold import OutOfOrder, fold
from server.conversations.state_machine import InvalidTransition, Status
from server.conversations.stored_state import from_stored, to_stored

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


def folded_state(*news: NewEvent) -> Conversation:
    """The state after these events, from the very first."""
    return fold(NEW, rows(news))


def only_generation(*news: NewEvent) -> Generation:
    """The one generation after these events."""
    (found,) = folded_state(OPEN, requested("gen_A"), *news).generations
    return found


def test_no_events_leave_the_state() -> None:
    assert fold(NEW, []) is NEW


def test_conversation_started() -> None:
    assert folded_state(OPEN) == Conversation("conv_1", 1, "Tea", {"kind": "chat"}, moment(1))


def test_conversation_started_without_fields() -> None:
    assert folded_state(event_types.conversation_started(None, None)) == Conversation(
        "conv_1", 1, created_at=moment(1)
    )


@pytest.mark.parametrize("tenant", ["default", "acme"])
def test_tenant_never_changes(tenant: str) -> None:
    opening = event_types.conversation_started("Tea", None, tenant)
    state = folded_state(opening, said("m1", "hi"), requested("gen_1"), started("gen_1"))
    assert folded_state(opening).tenant == state.tenant == tenant
    assert from_stored(to_stored(state)) == state
    assert (state == folded_state(OPEN)) is False


def test_messages_are_kept_in_order() -> None:
    state = folded_state(
        OPEN, said("m1", "hi"), event_types.message_posted("m2", "tool", "42", "Ada", "anonymous")
    )
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
def test_state_after_each_event(news: list[NewEvent], expected: Generation) -> None:
    assert only_generation(*news) == expected


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


def grading_run(*news: NewEvent) -> Generation:
    """The workflow's run after these events."""
    (found,) = folded_state(OPEN, WORKFLOW, *news).generations
    return found


def test_request_fields_are_kept() -> None:
    assert grading_run() == Generation(
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
    found = grading_run(
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
    assert grading_run(started("gen_A"), event_types.result("gen_A", [1])).result == [1]


def test_first_progress_rate_counts_from_the_start() -> None:
    found = grading_run(started("gen_A"), said("m", "hm"), event_types.progress("gen_A", 1, 2, "pages", None))
    assert found.progress == Progress(1, 2, "pages", None, moment(5), 2.0)


def test_waiting_status() -> None:
    """As long as any call that needs approval is undecided, whatever else happens meanwhile."""
    news = [started("gen_A"), proposed("gen_A", "call_1", asks=True), proposed("gen_A", "call_2", asks=True)]
    assert only_generation(*news).status is Status.WAITING
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
    assert [only_generation(*news, *between[:n]).status for n in range(len(between) + 1)] == [Status.WAITING] * 9
    assert only_generation(*news, *between, decided("gen_A", "call_1", "rejected")).status is Status.RUNNING
    assert only_generation(*news, cancelled("gen_A")).status is Status.CANCELLED
    assert only_generation(started("gen_A"), proposed("gen_A")).status is Status.RUNNING


def test_next_attempt_starts_its_text_anew_and_keeps_steps() -> None:
    first = [
        started("gen_A"),
        event_types.reasoning("gen_A", "let me "),
        event_types.token("gen_A", "half a sen"),
        event_types.tool_arguments("gen_A", "call_9", '{"half', "refund"),
        event_types.progress("gen_A", 1, 2, "pages", None),
        event_types.result("gen_A", 1),
        proposed("gen_A", asks=True),
    ]
    lost = grading_run(*first, event_types.generation_interrupted("gen_A", 1, "worker_lost"))
    assert (lost.status, lost.text, lost.attempt) == (Status.QUEUED, "half a sen", 1)
    assert (lost.reasoning, [call.call for call in lost.tool_calls]) == ("let me ", ["call_1"])
    steered = event_types.steering_changed("gen_A", "strictness", 9, "Ada")
    told = [*first, event_types.generation_interrupted("gen_A", 1, "server_stopped"), steered, decided("gen_A")]
    assert grading_run(*told).status is Status.QUEUED
    again = grading_run(*told, started("gen_A", 2))
    assert (again.status, again.attempt, again.started_at) == (Status.RUNNING, 2, moment(13))
    assert again.reasoning == ""
    assert (again.text, again.tokens, again.progress, again.result) == ("", 0, None, None)
    assert again.steering == {"strictness": 9}
    assert [call.status for call in again.tool_calls] == ["approved"]
    undecided = grading_run(
        *first, event_types.generation_interrupted("gen_A", 1, "worker_lost"), started("gen_A", 2)
    )
    assert undecided.status is Status.WAITING


def test_end_without_tokens_has_no_time_to_first_token() -> None:
    assert (
        only_generation(started("gen_A"), event_types.generation_completed("gen_A", "stop", None, None)).ttft_ms
        is None
    )
    assert only_generation(started("gen_A"), cancelled("gen_A")).reason is None


def test_empty_deltas_are_counted() -> None:
    found = only_generation(started("gen_A"), *(event_types.token("gen_A", delta) for delta in ("", "a", "")))
    assert (found.text, found.tokens) == ("a", 3)


def test_reasoning_is_not_text() -> None:
    """Neither are call arguments being written; both move the generation's position on."""
    news = [
        event_types.reasoning("gen_A", "so "),
        event_types.token("gen_A", "a"),
        event_types.reasoning("gen_A", "what"),
    ]
    found = only_generation(started("gen_A"), *news, event_types.tool_arguments("gen_A", "call_1", "{"))
    assert (found.text, found.reasoning, found.tokens, found.tool_calls) == ("a", "so what", 1, ())
    assert found.position == 7
    waiting = only_generation(started("gen_A"), proposed("gen_A", asks=True), *news)
    assert waiting.status is Status.WAITING


def test_refusal_text() -> None:
    end = event_types.generation_completed("gen_A", "refusal", None, None, "I will not.")
    assert only_generation(started("gen_A"), end).refusal == "I will not."
    assert only_generation(started("gen_A"), completed("gen_A")).refusal is None


def test_alternating_generations_are_not_mixed() -> None:
    """Each has its own text and its own last position."""
    news = [OPEN, requested("gen_A"), requested("gen_B"), started("gen_A"), started("gen_B")]
    news += [event_types.token("gen_A", "a1"), event_types.token("gen_B", "b1"), event_types.token("gen_A", "a2")]
    state = folded_state(*news)
    assert [(found.text, found.position) for found in state.generations] == [("a1a2", 8), ("b1", 7)]


def test_find_generation() -> None:
    state = folded_state(OPEN, requested("gen_A"), cancelled("gen_A"), requested("gen_B"))
    found = state.generation("gen_B")
    assert found is not None
    assert state.generation("gen_C") is None
    assert state.open == (found,)
    assert folded_state(OPEN).open == ()
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
def test_unknown_event_moves_only_the_position(stray: NewEvent) -> None:
    before = folded_state(OPEN, requested("gen_A"), started("gen_A"))
    after = fold(before, rows([stray], before.position))
    assert after == msgspec.structs.replace(before, position=before.position + 1)


def test_impossible_event_raises() -> None:
    with pytest.raises(InvalidTransition):
        only_generation(started("gen_A"), cancelled("gen_A"), event_types.token("gen_A", "late"))
    with pytest.raises(InvalidTransition):
        only_generation(event_types.reasoning("gen_A", "early"))
    with pytest.raises(InvalidTransition):
        only_generation(event_types.tool_arguments("gen_A", "call_1", "early"))
    with pytest.raises(InvalidTransition):
        only_generation(completed("gen_A"))
    with pytest.raises(InvalidTransition):
        only_generation(started("gen_A"), event_types.tool_started("gen_A", "call_1"))
    with pytest.raises(InvalidTransition):
        only_generation(proposed("gen_A"))


TOKENS = [event_types.token("gen_A", delta) for delta in "abc"]


@pytest.mark.parametrize("holes", [[4], [5], [6], [4, 5]])
def test_gap_in_a_run_of_tokens_raises(holes: list[int]) -> None:
    """Also at its start and before the next event: a run of tokens is checked as single events are."""
    whole = rows([OPEN, requested("gen_A"), started("gen_A"), *TOKENS, said("m", "x")])
    with pytest.raises(OutOfOrder, match=r"position \d does not follow \d in conv_1"):
        fold(NEW, [event for event in whole if event.position not in holes])


@pytest.mark.parametrize(
    ("attempt", "reason", "losses"),
    [(1, "worker_lost", 1), (1, "internal_error", 1), (0, "worker_lost", 0), (1, "server_stopped", 0)],
)
def test_only_crashes_count_as_losses(attempt: int, reason: str, losses: int) -> None:
    """A server stop is no crash, and a run that never began cannot have caused one."""
    events = [started("gen_A")] if attempt else []
    found = only_generation(*events, event_types.generation_interrupted("gen_A", attempt, reason))
    assert found.losses == losses
