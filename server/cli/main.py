"""The root of the command: it loads a subcommand when that is called, and turns errors into messages.

Only the called subcommand is imported, so that `tokentape chat` starts quickly: `serve` imports the database and
the web framework. Owns the options that several commands share as well: the settings of the server, and for the
commands that talk to one `--url`, `--cacert`, `--key-file`, `--patience` and the check of an id. It must not know
what a subcommand does.
"""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from server import __version__
from server.cli.exit_codes import STATUSES, fail
from server.client.server_url import DEFAULT, Address, parse_address, read_key
from server.ids import is_valid_id

C = TypeVar("C", bound=Callable[..., Any])

COMMANDS = ("serve", "migrate", "keys", "webhooks", "config", "chat", "replay", "tail", "bench")


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


_KINDS = {"conv": "conversation", "gen": "generation"}


def connection_options(command: C) -> C:
    """Adds `--url`, `--cacert` and `--key-file`. The command gets them as one argument `address`, an `Address`.

    The key itself is no flag: every user of a machine can read its processes' command lines.
    """

    def read(ctx: click.Context, _: click.Parameter, value: str) -> Address:
        key = read_key(os.environ.get("TOKENTAPE_KEY"), ctx.params.pop("key_file", None))
        return parse_address(value, ctx.params.pop("cacert", None), key)

    command = click.option(
        "--url",
        "address",
        default=DEFAULT,
        show_default=True,
        envvar="TOKENTAPE_URL",
        show_envvar=True,
        metavar="URL",
        callback=read,
        help="the server's URL",
    )(command)
    command = click.option(
        "--key-file",
        metavar="FILE",
        is_eager=True,  # read before --url, as --cacert is
        help="file with the key to sign in with; without it the variable TOKENTAPE_KEY is read",
    )(command)
    return click.option(
        "--cacert",
        envvar="TOKENTAPE_CACERT",
        show_envvar=True,
        metavar="FILE",
        is_eager=True,  # read before --url, which needs it
        help="PEM file with the authority that signed the server's certificate",
    )(command)


def patience_option(seconds: float) -> Callable[[C], C]:
    """Adds `--patience`, with a default in seconds."""
    return click.option(
        "--patience",
        default=seconds,
        show_default=True,
        type=click.FloatRange(0, 86_400),
        metavar="SECONDS",
        help="how long to wait for a server that has gone away",
    )


def read_id(text: str, *kinds: str) -> str:
    """Returns `text` if it is an id of one of `kinds` (`conv`, `gen`). Raises `click.BadParameter`."""
    if any(is_valid_id(text, kind) for kind in kinds):
        return text
    for kind, name in _KINDS.items():
        if kind not in kinds and is_valid_id(text, kind):
            wanted = " or ".join(_KINDS[one] for one in kinds)
            raise click.BadParameter(f"{text} is the id of a {name}; the command wants that of a {wanted}")
    shapes = " or ".join(f"{kind}_01JC… (26 characters after {kind}_)" for kind in kinds)
    raise click.BadParameter(f"{text[:60]!r} is not an id; it looks like {shapes}")


def main() -> None:
    """Runs the command line. Expected failures are one message, not a traceback."""
    try:
        status = tokentape.main(prog_name="tokentape", standalone_mode=False)
    except (Exception, BaseExceptionGroup, KeyboardInterrupt) as error:
        fail(error, sys.argv[1:])
    sys.exit(status)
