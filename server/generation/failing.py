"""How a run fails by itself, and what is told of it: a code for programs, a sentence for people.

An exception may come out of a nursery inside a group; what counts is the fault in it. It knows no upstream's ways:
those name their own codes.
"""

from collections.abc import Iterator

from eventstore import Fenced, NewEvent, StoreError
from server import events
from server.upstream import BadParameters, UpstreamError
from server.workflows import clean

MOST_TOLD = 2_000
"""Characters of an error's message that go into the log."""


class RunFailed(Exception):
    """The run cannot go on, by a rule of the server. `code` is for programs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


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


def in_words(fault: BaseException) -> str:
    """What an app's own code raised: its name and message, for its author; never the trace."""
    return clean(f"{type(fault).__name__}: {fault}".rstrip(": "))[:MOST_TOLD]


def failed(generation: str, error: UpstreamError | BadParameters | RunFailed) -> tuple[str, NewEvent]:
    """The code, and the terminal event of a run that ended in this."""
    if isinstance(error, UpstreamError):
        code, message, retryable = error.code, error.message, error.retryable
    elif isinstance(error, BadParameters):
        code, message, retryable = "invalid_parameters", f"{error.field}: {error.message}", False
    else:
        code, message, retryable = error.code, str(error), False
    return code, events.generation_failed(generation, code, clean(message)[:MOST_TOLD], retryable=retryable)
