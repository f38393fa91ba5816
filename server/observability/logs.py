"""Log lines: structlog, as JSON for machines or coloured text for people, to standard error.

No secret and no content reaches a line: callers log ids, codes and figures. Libraries that log with
the standard library's `logging` come out in the same form. The ids of a request or a run are bound once and stand
in every later line of its tasks.
"""

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import Context
from typing import Literal, TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor

Logger = FilteringBoundLogger


class _Stderr(io.TextIOBase):
    """Standard error. A write that fails, because a disk is full or a pipe's reader has gone, fails nothing
    else."""

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()


def configure(form: Literal["auto", "json", "text"]) -> None:
    """Sets the form of all log lines of this process. `auto` is text on a terminal and JSON elsewhere."""
    terminal = sys.stderr.isatty()
    text = form == "text" or (form == "auto" and terminal)
    shared: list[Processor] = [
        _name_logger,
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Plain tracebacks: structlog's coloured ones print local variables, and so API keys.
    ending: list[Processor] = [
        structlog.dev.ConsoleRenderer(
            # No colour codes in a file, nor where the user asks for none (https://no-color.org).
            colors=terminal and not os.environ.get("NO_COLOR"),
            exception_formatter=structlog.dev.plain_traceback,
        )
    ]
    if not text:
        ending = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[*shared, *ending],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, _Stderr())),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)


def bind(**ids: str) -> None:
    """Adds `ids` to every later line of this task and of the tasks that it starts from now on."""
    structlog.contextvars.bind_contextvars(**ids)


def bound(**ids: str) -> AbstractContextManager[None]:
    """As `bind`, for one block: a task that serves several requests in turn must not carry ids into the next."""
    return structlog.contextvars.bound_contextvars(**ids)


@contextmanager
def scope(**ids: str) -> Iterator[None]:
    """As `bound`; and what was added by `bind` within the block is gone behind it too."""
    before = structlog.contextvars.get_contextvars()
    structlog.contextvars.bind_contextvars(**ids)
    try:
        yield
    finally:
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(**before)


def detached(context: Context) -> Context:
    """A copy of `context` whose log lines carry this task's ids.

    For a run that outlives its request: a task that inherited the request's context would keep the request and its
    body in memory for as long as it runs.
    """
    copied = context.copy()
    copied.run(structlog.contextvars.bind_contextvars, **structlog.contextvars.get_contextvars())
    return copied


def get(name: str) -> Logger:
    """The logger of one part of the server; its lines carry `name` under the key `logger`."""
    logger: Logger = structlog.get_logger(logger_name=name)
    return logger


def _name_logger(logger: object, method: str, event: EventDict) -> EventDict:
    """Moves a logger's name to the key `logger`, which structlog takes as an argument and not as a first value."""
    name = event.pop("logger_name", None)
    if name is not None:
        event["logger"] = name
    return event
