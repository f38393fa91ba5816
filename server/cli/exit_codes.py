"""How the command ends when something is wrong: one message with the next step, and an exit status.

With `--json` the message is an object on standard error. What nobody expected keeps its traceback.
"""

import json
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from server.cli.terminal_escape import clean
from server.client.errors import BadAddress, ClientError, Unreachable

DONE, FAILED, MISUSED, AWAY, INTERRUPTED = 0, 1, 2, 3, 130

STATUSES = """\b
Exit status: 0 done; 1 refused, failed or lost; 2 wrong usage or settings;
3 no server answers; 130 ended by Ctrl-C."""


class Failed(Exception):
    """A command that did what it could. Everything has been said but, perhaps, this."""

    def __init__(self, status: int, code: str = "", message: str = "", next_step: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.next_step = next_step


def fail(error: BaseException, words: Sequence[str]) -> NoReturn:
    """Ends the process as the error deserves, or raises what is a fault of ours. `words`: the command line."""
    first = error
    while isinstance(first, BaseExceptionGroup):
        # Whatever else is in a group must be of the expected kind too, else it is a fault and is shown.
        if any(isinstance(one, Exception) and _judge(one) is None for one in _leaves(first)):
            raise error
        first = first.exceptions[0]
    if isinstance(first, BrokenPipeError):
        # `tokentape … | head`: the reader has seen enough. Python would complain again while it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(DONE)
    if isinstance(first, click.exceptions.NoArgsIsHelpError):
        click.echo(first.format_message(), err=True)
        sys.exit(MISUSED)
    found = _judge(first)
    if found is None:
        raise error
    status, code, message, next_step = found
    if message or next_step:
        _say(as_json(words), code, clean(message), clean(next_step))
    sys.exit(status)


def as_json(words: Sequence[str]) -> bool:
    """Whether the command line asks for JSON; looked up there, for it may be too wrong to be parsed."""
    flags = words[: words.index("--")] if "--" in words else words
    return "--json" in flags


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for one in error.exceptions for leaf in _leaves(one)]
    return [error]


def _judge(error: BaseException) -> tuple[int, str, str, str] | None:
    """Exit status, code, message and next step; None for what nobody expected."""
    match error:
        case Failed():
            return error.status, error.code, error.message, error.next_step
        case BrokenPipeError():
            return DONE, "", "", ""
        case BadAddress():
            return MISUSED, error.code, error.message, error.next_step
        case Unreachable():
            return AWAY, error.code, error.message, error.next_step
        case ClientError():
            return FAILED, error.code, error.message, error.next_step
        case click.UsageError():
            where = f"`{error.ctx.command_path} --help` shows how." if error.ctx is not None else ""
            return MISUSED, "usage", error.format_message(), where
        case click.ClickException():
            return error.exit_code, "usage", error.format_message(), ""
        case click.Abort() | KeyboardInterrupt():
            return INTERRUPTED, "", "", ""
    return _judge_server(error)


def _judge_server(error: BaseException) -> tuple[int, str, str, str] | None:
    from eventstore import StoreError
    from server.config import BadSettings
    from server.database import NotMigrated
    from server.embedded import EmbeddedError
    from server.http import CannotListen

    if isinstance(error, BadSettings):
        return MISUSED, "bad_settings", str(error), ""
    codes = {
        NotMigrated: "not_migrated",
        EmbeddedError: "embedded_database",
        CannotListen: "cannot_listen",
        StoreError: "database",
    }
    for kind, code in codes.items():
        if isinstance(error, kind):
            return FAILED, code, str(error), ""
    return None


def _say(json_wanted: bool, code: str, message: str, next_step: str) -> None:
    if json_wanted:
        body = {"code": code, "message": message, **({"next": next_step} if next_step else {})}
        click.echo(json.dumps({"error": body}), err=True)
        return
    colour = not os.environ.get("NO_COLOR")
    name = click.style("tokentape: ", fg="red") if colour else "tokentape: "
    if message:
        click.echo(name + message, err=True)
    if next_step:
        click.echo(f"  {next_step}", err=True)
