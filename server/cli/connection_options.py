"""The options of every command that talks to a server: `--url`, `--cacert`, `--patience`, and the check of an id.

It must not know what a command does with them.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from server.client.server_url import DEFAULT, Address, parse_address
from server.ids import is_valid_id

C = TypeVar("C", bound=Callable[..., Any])

_KINDS = {"conv": "conversation", "gen": "generation"}


def connection_options(command: C) -> C:
    """Adds `--url` and `--cacert`. The command gets both as one argument `address`, an `Address`."""

    def read(ctx: click.Context, _: click.Parameter, value: str) -> Address:
        return parse_address(value, ctx.params.pop("cacert", None))

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
