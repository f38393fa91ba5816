"""The rounds of a model's answer as the log keeps them: one for each request to the provider that is over.

A round ends when the model calls tools, or when a message is put into the answer. Its end is a `step.finished`
with what was said, so that a later attempt need not pay for it again: it writes the text anew, because readers
drop the text of an attempt that was lost, and asks with the same prompt as before. An answer of one round has none
in the log, for its end is the generation's.

Owns the names of rounds and their form in the log. Pure.
"""

from dataclasses import dataclass, field
from typing import Final

from eventstore import NewEvent
from server import event_types

CUT: Final = "message"
"""The reason with which a round ends that was cut short for a message."""
_ANSWER: Final = "answer/"


@dataclass(slots=True)
class Round:
    """One round: what was said and thought, how it ended, the ids of its calls.

    `prompt`: the position of the conversation's state of which the answer's prompt was made, 0 where that is not
    known. What was posted behind it came during the answer, and a later attempt leaves it out, too.
    """

    text: str
    reason: str
    usage: dict[str, int] | None = None
    calls: list[str] = field(default_factory=list)
    reasoning: str = ""
    refusal: str = ""
    prompt: int = 0


def round_step(number: int) -> str:
    """The name of the step that a round of a generation's own answer is, counted from 1."""
    return f"{_ANSWER}{number}"


def is_round(step: str) -> bool:
    """Whether a step is a round of the generation's own answer, and not of one that a workflow asks for."""
    return step.startswith(_ANSWER)


def model_of_step(step: str, model: str | None) -> str | None:
    """The model whose round a step is: `model`, where the run is an answer of it; None: the step is no round.

    The names are those that `AgentLoop` and `Run.generate` give: `answer/1`, `generate openai/gpt 1/1`.
    """
    kind, _, rest = step.partition(" ")
    if kind == "generate" and "/" in step.rpartition(" ")[2]:
        return rest.partition(" ")[0]
    return model if is_round(step) else None


def rewritten(generation: str, round_: Round) -> list[NewEvent]:
    """The text of a round that an earlier attempt wrote, again: readers have dropped it with that attempt."""
    events = [event_types.reasoning(generation, round_.reasoning)] if round_.reasoning else []
    return [*events, event_types.token(generation, round_.text)] if round_.text else events
