"""How a run fails by itself, and what is told of it: a code for programs, a sentence for people.

An exception may come out of a nursery inside a group; what counts is the fault in it. A conversation's log is for
ever, and for everybody who may read the conversation. So the text of an exception, which may hold an address, a
path or a row, does not enter it: a reference stands for it there (`ref_…`), and the server's own log has the text
under that reference. Only `ToolError`, by which an app shows its own words, and the errors that this server words
itself are told as they are. It knows no upstream's ways: those name their own codes.
"""

from collections.abc import Iterator
from typing import Any

from eventstore import Fenced, NewEvent, StoreError
from server import events, logs
from server.events import EventTooLarge
from server.ids import new as new_id
from server.upstream import BadParameters, UnknownModel, UpstreamError
from server.workflows import BadArguments, NotJson, ToolError, clean

log = logs.get("failures")

MOST_TOLD = 2_000
"""Characters of an error's message that go into the log."""


class RunFailed(Exception):
    """The run cannot go on, by a rule of the server. `code` and `reference` are as in `events.failure`."""

    def __init__(self, code: str, message: str, reference: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reference = reference


SAID = (ToolError, RunFailed, NotJson, EventTooLarge, BadArguments, BadParameters, UnknownModel)
"""Errors whose words are meant for readers: the app's own, and those that this server words itself."""


def fault_in(error: BaseException) -> BaseException:
    """The one that counts: in a group the store's before all others, for with it nothing can be written."""
    faults = sorted(_leaves(error), key=_weight)
    return faults[0]


def is_fault(error: BaseException) -> bool:
    """Whether all of it is the doing of the code that raised it; a cancellation and Ctrl-C go on upwards."""
    return all(isinstance(one, Exception | SystemExit) for one in _leaves(error))


def _weight(error: BaseException) -> int:
    if isinstance(error, Fenced):
        return 0
    return 1 if isinstance(error, StoreError) else 2


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def refer(what: str, error: BaseException, **fields: Any) -> str:
    """Tells the server's own log what happened, trace and all; the reference under which it stands there."""
    reference = new_id("ref")
    log.warning(what, reference=reference, exc_info=error, **fields)
    return reference


def see(reference: str) -> str:
    """A sentence for people."""
    return f"The server's log says why, under {reference}."


def told(
    code: str, sentence: str, fault: BaseException, error: BaseException | None = None, **fields: Any
) -> dict[str, str]:
    """What the log of a conversation says of an app's fault: its own words where they are meant for it.

    Else `sentence` and a reference. `error` is the exception, or the group, in which the fault came; `fields` are
    for the server's log.
    """
    if isinstance(fault, UpstreamError):
        return events.failure(code, fit(fault.message), _refer_detail(fault))
    if isinstance(fault, SAID):
        return events.failure(code, fit(str(fault)) or sentence)
    reference = refer(sentence.rstrip(".").lower(), error or fault, **fields)
    return events.failure(code, f"{sentence} {see(reference)}", reference)


def _refer_detail(error: UpstreamError) -> str | None:
    """Tells the server's own log what the provider's failure is about, where more is known than may be told."""
    if not error.detail:
        return None
    reference = new_id("ref")
    log.warning("upstream failed", reference=reference, code=error.code, detail=error.detail)
    return reference


def fit(message: str) -> str:
    """A message as it may enter the log."""
    return clean(message)[:MOST_TOLD]


def failed(generation: str, error: UpstreamError | BadParameters | RunFailed) -> tuple[str, NewEvent]:
    """The code, and the terminal event of a run that ended in this."""
    reference = None
    if isinstance(error, UpstreamError):
        code, message, retryable = error.code, error.message, error.retryable
        reference = _refer_detail(error)
    elif isinstance(error, BadParameters):
        code, message, retryable = "invalid_parameters", f"{error.field}: {error.message}", False
    else:
        code, message, retryable, reference = error.code, str(error), False, error.reference
    event = events.generation_failed(generation, code, fit(message), retryable=retryable, reference=reference)
    return code, event
