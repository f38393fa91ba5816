"""The root of the command: it loads a subcommand when that is called, and turns errors into messages.

Only the called subcommand is imported, so that `tokentape chat` starts quickly: `serve` imports the database and
the web framework. It must not know what a subcommand does.
"""

import importlib
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from server import __version__
from server.cli.exit_codes import STATUSES, fail

C = TypeVar("C", bound=Callable[..., Any])

COMMANDS = ("serve", "migrate", "config", "chat", "replay", "tail", "bench")


class _Commands(click.Group):
    """The subcommands, in the order in which a new user meets them; each is in the file of its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"server.cli.{cmd_name}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:  # click would exit with status 1
            fail(error, sys.argv[1:])


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=STATUSES + "\n\n\b\nCompletion of commands and flags in your shell (bash; zsh and fish have theirs):\n"
    '  eval "$(_TOKENTAPE_COMPLETE=bash_source tokentape)"',
)
@click.version_option(__version__, prog_name="tokentape")
def tokentape() -> None:
    """Streams LLM answers through a Postgres event log, so that every client resumes exactly.

    \b
    Start here:
      tokentape serve                     a server with its own database, on 127.0.0.1:8000
      tokentape chat                      talk to it, in another terminal; kill the server, start it again
      tokentape replay conv_… --pace 4    what was said, as it happened, four times as fast
    With curl:
      curl -N -H 'Accept: text/event-stream' -H 'Content-Type: application/json' \\
           -d '{"model":"demo"}' http://127.0.0.1:8000/v1/generations
    Cut it, then continue where it stopped, with the last id you saw:
      curl -N -H 'Accept: text/event-stream' -H 'Last-Event-ID: 17' \\
           http://127.0.0.1:8000/v1/generations/gen_…/events
    """


def settings_options(*names: str) -> Callable[[C], C]:
    """Adds a flag for each named setting, with the setting's own description: `bind` becomes `--bind`.

    The flag's value is None when it is not given.
    """
    from server.config import Settings

    def add(command: C) -> C:
        for name in reversed(names):
            field = Settings.model_fields[name]
            flag = "--" + name.replace("_", "-")
            shown = "" if field.default is None or field.default == () else f"  [default: {field.default}]"
            text = f"{field.description}{shown}  (TOKENTAPE_{name.upper()})"
            # "true", not True: an error message about the setting repeats the value as it was given.
            switch: dict[str, Any] = {"is_flag": True, "flag_value": "true"} if field.annotation is bool else {}
            command = click.option(flag, name, default=None, help=text, **switch)(command)
        return command

    return add


def read_settings(flags: dict[str, Any]) -> Any:
    """Returns the `Settings`. Raises `BadSettings` with every complaint, which ends the command with status 2."""
    from server.config import load

    return load(flags)


def main() -> None:
    """Runs the command line. Expected failures are one message, not a traceback."""
    try:
        status = tokentape.main(prog_name="tokentape", standalone_mode=False)
    except (Exception, BaseExceptionGroup, KeyboardInterrupt) as error:
        fail(error, sys.argv[1:])
    sys.exit(status)
