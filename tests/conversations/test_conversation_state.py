"""What a state answers about itself, and that its stored form has a name of its own."""

import msgspec
import pytest

from eventstore import NewEvent
from server import event_types
from server.conversations.conversation_state import Conversation, Generation
from server.conversations.fold import fold
from server.conversations.stored_state import FORM

from .event_builders import cancelled, completed, proposed, requested, rows, said, started

OPEN = event_types.conversation_started(None, None)


def state(*news: NewEvent) -> Conversation:
    """After these."""
    return fold(Conversation("conv_1"), rows([OPEN, *news]))


def test_those_that_have_not_ended_in_the_order_of_their_requests() -> None:
    news = [requested(name) for name in ("gen_C", "gen_A", "gen_B", "gen_D")]
    found = state(*news, started("gen_A"), cancelled("gen_A"), started("gen_D"), completed("gen_D"))
    assert [one.id for one in found.open] == ["gen_C", "gen_B"]
    assert [one.id for one in found.generations if one.ended] == ["gen_A", "gen_D"]
    assert state().open == ()


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
def test_a_limit_or_a_bound_of_zero_is_taken_at_its_word(
    limit: int, before: int | None, messages: list[str], generations: list[str]
) -> None:
    found = state(said("m1", "a"), requested("gen_A"), said("m2", "b"), requested("gen_B"))
    assert [one.id for one in found.newest_messages(limit, before)] == messages
    assert [one.id for one in found.newest_generations(limit, before)] == generations


def test_finding_a_call() -> None:
    (found,) = state(requested("gen_A"), started("gen_A"), proposed("gen_A", "call_1")).generations
    call = found.call("call_1")
    assert call is not None
    assert call.name == "refund"
    assert found.call("call_2") is None


SHAPE = (
    "id conversation status model parameters requested_position position created_at workflow input tools on_crash "
    "if_running ephemeral text tokens progress tool_calls steering result attempt worker started_at finished_at "
    "finish_reason usage ttft_ms error retryable reason reasoning refusal losses"
)


def test_the_stored_form_has_the_number_of_its_fields() -> None:
    """Whoever changes the fields gives `FORM` another number and then mends this: old folds read as new ones
    would be wrong without a word."""
    assert FORM == "conversation.3"
    assert " ".join(field.encode_name for field in msgspec.structs.fields(Generation)) == SHAPE


@pytest.mark.parametrize("kind", [Conversation, Generation])
def test_a_state_does_not_change(kind: type[msgspec.Struct]) -> None:
    (found,) = state(requested("gen_A")).generations
    frozen = found if kind is Generation else state()
    with pytest.raises(AttributeError, match="immutable"):
        setattr(frozen, "id", "x")  # noqa: B010  # mypy refuses it too
