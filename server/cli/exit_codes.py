"""How the command ends when something is wrong: one message with the next step, and an exit status.

Owns the table of expected errors. With `--json` the message is a JSON object on standard error. An error that is
not expected keeps its traceback.
"""

import json
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from server.client.errors import BadAddress, ClientError, Unreachable
from server.unicode_safety import escape_controls

DONE, FAILED, BAD_USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130

STATUSES = """\b
Exit status: 0 done; 1 refused, failed or lost; 2 wrong usage or settings;
3 no server answers; 130 ended by Ctrl-C."""


class Failed(Exception):
    """Ends the command with a status. `message` may be empty, where the output has said everything already."""

    def __init__(self, status: int, code: str = "", message: str = "", next_step: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.next_step = next_step


def fail(error: BaseException, arguments: Sequence[str]) -> NoReturn:
    """Prints the message of an expected error and exits; raises any other error again.

    `arguments`: the command line, without the program's name.
    """
    first = error
    while isinstance(first, BaseExceptionGroup):
        # All errors of a group must be expected ones, else the group is a bug, and its traceback is shown.
        if any(isinstance(one, Exception) and _classify(one) is None for one in _leaf_errors(first)):
            raise error
        first = first.exceptions[0]
    if isinstance(first, BrokenPipeError):
        # `tokentape … | head`: the reader has closed the pipe. Without this line Python would print an error when
        # it
        # flushes standard output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(DONE)
    if isinstance(first, click.exceptions.NoArgsIsHelpError):
        click.echo(first.format_message(), err=True)
        sys.exit(BAD_USAGE)
    found = _classify(first)
    if found is None:
        raise error
    status, code, message, next_step = found
    if message or next_step:
        _print_error(as_json(arguments), code, escape_controls(message), escape_controls(next_step))
    sys.exit(status)


def as_json(arguments: Sequence[str]) -> bool:
    """Whether the command line has `--json`. It is searched as text, because it may not be parseable."""
    flags = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in flags


def _leaf_errors(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for one in error.exceptions for leaf in _leaf_errors(one)]
    return [error]


def _classify(error: BaseException) -> tuple[int, str, str, str] | None:
    """Exit status, code, message and next step; None for an error that is not expected."""
    match error:
        case Failed():
            return error.status, error.code, error.message, error.next_step
        case BrokenPipeError():
            return DONE, "", "", ""
        case BadAddress():
            return BAD_USAGE, error.code, error.message, error.next_step
        case Unreachable():
            return UNREACHABLE, error.code, error.message, error.next_step
        case ClientError():
            return FAILED, error.code, error.message, error.next_step
        case click.UsageError():
            where = f"`{error.ctx.command_path} --help` shows how." if error.ctx is not None else ""
            return BAD_USAGE, "usage", error.format_message(), where
        case click.ClickException():
            return error.exit_code, "usage", error.format_message(), ""
        case click.Abort() | KeyboardInterrupt():
            return INTERRUPTED, "", "", ""
    return _classify_server_error(error)


def _classify_server_error(error: BaseException) -> tuple[int, str, str, str] | None:
    from eventstore import StoreError
    from server.config import BadSettings
    from server.embedded_postgres import EmbeddedError
    from server.http import CannotListen
    from server.process.database import NotMigrated

    if isinstance(error, BadSettings):
        return BAD_USAGE, "bad_settings", str(error), ""
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


def _print_error(json_wanted: bool, code: str, message: str, next_step: str) -> None:
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
