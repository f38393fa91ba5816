"""How a run fails: which exception counts, its code for programs, its sentence for people.

Owns `RunFailed`, the choice of the one exception that counts in an exception group, and the rule of what may be
written about it. A conversation's log is kept for ever and read by everybody who may read the conversation. The
text of an exception may hold an address, a path or a database row, so it never enters that log: a reference
(`ref_…`) does, and the server's own log has the text under that reference. Two kinds are written as they are:
`ToolError`, with which an app shows its own words, and the errors whose sentences this server wrote itself.
Must not know a provider's errors: providers name their own codes.
"""

from collections.abc import Iterator
from typing import Any

from eventstore import Fenced, NewEvent, StoreError
from server import event_types
from server.event_types import EventTooLarge
from server.ids import new_id
from server.observability import logs
from server.providers import BadParameters, UnknownModel, UpstreamError
from server.unicode_safety import repair_text
from server.workflows import BadArguments, NotJson, ToolError

log = logs.get("run_errors")

MAX_MESSAGE = 2_000
"""Characters of an error's message that are written to a conversation's log."""


class RunFailed(Exception):
    """The run cannot go on, by a rule of this server. `code` and `reference` are as in `event_types.failure`."""

    def __init__(self, code: str, message: str, reference: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reference = reference


PUBLIC_ERRORS = (ToolError, RunFailed, NotJson, EventTooLarge, BadArguments, BadParameters, UnknownModel)
"""Errors whose message is meant for readers: the app's own, and those that this server words itself."""


def root_fault(error: BaseException) -> BaseException:
    """The exception that counts in `error`, which may be a group out of a nursery.

    `Fenced` comes before every other `StoreError`, and that before all else: a run that cannot write has no use
    for the other faults.
    """
    return sorted(_leaves(error), key=_rank)[0]


def is_fault(error: BaseException) -> bool:
    """Whether `error` holds nothing but faults of the code that raised it.

    False where it holds a cancellation or Ctrl-C: the caller has to let those through.
    """
    return all(isinstance(one, Exception | SystemExit) for one in _leaves(error))


def _rank(error: BaseException) -> int:
    if isinstance(error, Fenced):
        return 0
    return 1 if isinstance(error, StoreError) else 2


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def log_with_reference(what: str, error: BaseException, **fields: Any) -> str:
    """Writes the exception with its traceback to the server's own log; returns the reference of that line."""
    reference = new_id("ref")
    log.warning(what, reference=reference, exc_info=error, **fields)
    return reference


def see_log(reference: str) -> str:
    """The sentence for people that names a reference."""
    return f"The server's log says why, under {reference}."


def failure_from(
    code: str, sentence: str, fault: BaseException, error: BaseException | None = None, **fields: Any
) -> dict[str, str]:
    """What the log of a conversation says of an app's fault, as `event_types.failure`.

    A public error is given by its own message, any other by `sentence` and a reference. `error` is the exception,
    or the group, in which `fault` came; it and `fields` go to the server's own log.
    """
    if isinstance(fault, UpstreamError):
        return event_types.error_object(code, bounded_message(fault.message), _log_detail(fault))
    if isinstance(fault, PUBLIC_ERRORS):
        return event_types.error_object(code, bounded_message(str(fault)) or sentence)
    reference = log_with_reference(sentence.rstrip(".").lower(), error or fault, **fields)
    return event_types.error_object(code, f"{sentence} {see_log(reference)}", reference)


def _log_detail(error: UpstreamError) -> str | None:
    """Writes what only the operator may know of a provider's failure to the server's own log, by a reference."""
    if not error.detail:
        return None
    reference = new_id("ref")
    log.warning("provider failed", reference=reference, code=error.code, detail=error.detail)
    return reference


def bounded_message(message: str) -> str:
    """A message repaired and cut to what may enter a conversation's log."""
    return repair_text(message)[:MAX_MESSAGE]


def terminal_failure(generation: str, error: UpstreamError | BadParameters | RunFailed) -> tuple[str, NewEvent]:
    """The code and the `generation.failed` event of a run that ended with `error`."""
    reference = None
    if isinstance(error, UpstreamError):
        code, message, retryable = error.code, error.message, error.retryable
        reference = _log_detail(error)
    elif isinstance(error, BadParameters):
        code, message, retryable = "invalid_parameters", f"{error.field}: {error.message}", False
    else:
        code, message, retryable, reference = error.code, str(error), False, error.reference
    event = event_types.generation_failed(
        generation, code, bounded_message(message), retryable=retryable, reference=reference
    )
    return code, event
