"""The flags of every command that talks to a server, and what they come to."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from server.client.address import DEFAULT, Address, parse_address
from server.ids import looks_right

C = TypeVar("C", bound=Callable[..., Any])

_KINDS = {"conv": "conversation", "gen": "generation"}


def connecting(command: C) -> C:
    """`--url` and `--cacert`, as one argument `address`."""

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
        help="the server",
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
    """`--patience`."""
    return click.option(
        "--patience",
        default=seconds,
        show_default=True,
        type=click.FloatRange(0, 86_400),
        metavar="SECONDS",
        help="how long to wait for a server that has gone away",
    )


def read_id(text: str, *kinds: str) -> str:
    """The text, if it can be the id of such a thing (`conv`, `gen`). Raises `click.BadParameter`."""
    if any(looks_right(text, kind) for kind in kinds):
        return text
    for kind, name in _KINDS.items():
        if kind not in kinds and looks_right(text, kind):
            wanted = " or ".join(_KINDS[one] for one in kinds)
            raise click.BadParameter(f"{text} is the id of a {name}; this wants that of a {wanted}")
    shapes = " or ".join(f"{kind}_01JC… (26 characters behind {kind}_)" for kind in kinds)
    raise click.BadParameter(f"{text[:60]!r} is not an id; it looks like {shapes}")
