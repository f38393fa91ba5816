"""The command's root: subcommands, and errors as one line that says the next step, with exit status 1 or 2."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from eventstore import StoreError
from server import __version__
from server.config import BadSettings, Settings, load
from server.database import NotMigrated
from server.embedded import EmbeddedError
from server.host import CannotListen

C = TypeVar("C", bound=Callable[..., Any])

EXPECTED = (BadSettings, NotMigrated, EmbeddedError, CannotListen, StoreError)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="tokentape")
def tokentape() -> None:
    """Streams LLM answers through a Postgres event log, so that every client resumes exactly.

    \b
    Start here:
      tokentape serve                     a server with its own database, on 127.0.0.1:8000
      curl -N -H 'Accept: text/event-stream' -H 'Content-Type: application/json' \\
           -d '{"model":"demo"}' http://127.0.0.1:8000/v1/generations
    Cut it, then go on exactly behind the last id you saw:
      curl -N -H 'Accept: text/event-stream' -H 'Last-Event-ID: 17' \\
           http://127.0.0.1:8000/v1/generations/gen_…/events
    """


def settings_options(*names: str) -> Callable[[C], C]:
    """Flags for settings: `bind` becomes `--bind`, described as the setting is. None when not given."""

    def add(command: C) -> C:
        for name in reversed(names):
            field = Settings.model_fields[name]
            flag = "--" + name.replace("_", "-")
            shown = "" if field.default is None or field.default == () else f"  [default: {field.default}]"
            text = f"{field.description}{shown}  (TOKENTAPE_{name.upper()})"
            command = click.option(flag, name, default=None, help=text)(command)
        return command

    return add


def read_settings(flags: dict[str, Any]) -> Settings:
    """The settings, or exit with 2 and every complaint."""
    return load(flags)


def main() -> None:
    """Runs the command line. Expected failures are one message, not a traceback."""
    from server.cli import migrate, serve, tail

    for command in (serve.command, migrate.command, tail.command):
        tokentape.add_command(command)
    try:
        tokentape(prog_name="tokentape")
    except BaseExceptionGroup as group:
        expected = group.subgroup(EXPECTED)
        rest = group.split(EXPECTED)[1]
        if expected is None or rest is not None:
            raise
        _fail(_first(expected))
    except EXPECTED as error:
        _fail(error)


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _fail(error: BaseException) -> None:
    click.echo(click.style("tokentape: ", fg="red") + str(error), err=True)
    sys.exit(2 if isinstance(error, BadSettings) else 1)
