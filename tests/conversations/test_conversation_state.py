"""Questions that a conversation state answers, its immutability, and the name of its stored form."""

import msgspec
import pytest

from eventstore import NewEvent
from server import event_types
from server.conversations.conversation_state import Conversation, Generation
from server.conversations.fold import fold
from server.conversations.stored_state import FORM

from .event_builders import cancelled, completed, proposed, requested, rows, said, started

OPEN = event_types.conversation_started(None, None)


def state_after(*news: NewEvent) -> Conversation:
    """The state after these events."""
    return fold(Conversation("conv_1"), rows([OPEN, *news]))


def test_open_generations_in_request_order() -> None:
    news = [requested(name) for name in ("gen_C", "gen_A", "gen_B", "gen_D")]
    found = state_after(*news, started("gen_A"), cancelled("gen_A"), started("gen_D"), completed("gen_D"))
    assert [one.id for one in found.open] == ["gen_C", "gen_B"]
    assert [one.id for one in found.generations if one.ended] == ["gen_A", "gen_D"]
    assert state_after().open == ()


@pytest.mark.parametrize(
    ("limit", "before", "messages", "generations"),
    [
        (0, None, [], []),
        (0, 4, [], []),
        (1, None, ["m2"], ["gen_B"]),
        (9, None, ["m1", "m2"], ["gen_A", "gen_B"]),
        (9, 0, [], []),
        (9, 2, [], []),
        (9, 3, ["m1"], []),
        (9, 4, ["m1"], ["gen_A"]),
    ],
)
def test_newest_with_limits_and_bounds_of_zero(
    limit: int, before: int | None, messages: list[str], generations: list[str]
) -> None:
    found = state_after(said("m1", "a"), requested("gen_A"), said("m2", "b"), requested("gen_B"))
    assert [one.id for one in found.newest_messages(limit, before)] == messages
    assert [one.id for one in found.newest_generations(limit, before)] == generations


def test_find_call() -> None:
    (found,) = state_after(requested("gen_A"), started("gen_A"), proposed("gen_A", "call_1")).generations
    call = found.call("call_1")
    assert call is not None
    assert call.name == "refund"
    assert found.call("call_2") is None


SHAPE = (
    "id conversation status model parameters requested_position position created_at workflow input tools on_crash "
    "if_running ephemeral text tokens progress tool_calls steering result attempt worker started_at finished_at "
    "finish_reason usage ttft_ms error retryable reason reasoning refusal losses by budget applied"
)


def test_form_changes_with_the_fields() -> None:
    """Whoever changes the fields gives `FORM` a new number and updates this test.

    An old snapshot read as a new one would be silently wrong.
    """
    assert FORM == "conversation.5"
    assert " ".join(field.encode_name for field in msgspec.structs.fields(Generation)) == SHAPE


@pytest.mark.parametrize("kind", [Conversation, Generation])
def test_states_are_frozen(kind: type[msgspec.Struct]) -> None:
    (found,) = state_after(requested("gen_A")).generations
    frozen = found if kind is Generation else state_after()
    with pytest.raises(AttributeError, match="immutable"):
        setattr(frozen, "id", "x")  # noqa: B010  # mypy refuses it too
