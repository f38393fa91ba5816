"""`tokentape replay`: what was said, played as it happened."""

import click
import trio

from server.cli.connection_options import connecting, patience_option, read_id
from server.cli.exit_codes import STATUSES
from server.cli.replay_player import Player, Tempo
from server.client.address import Address
from server.client.patience import Patience


@click.command("replay", epilog=STATUSES, short_help="Play what was said, as it happened.")
@click.argument("name", metavar="CONVERSATION")
@click.option(
    "--pace",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, 10_000),
    help="1 as it happened, 4 four times as fast, 0.25 slowly, 0 as fast as it goes",
)
@click.option("--instant", is_flag=True, help="the same as --pace 0")
@click.option("--from", "first", default=1, show_default=True, type=click.IntRange(min=1), help="first position")
@click.option("--to", "last", type=click.IntRange(min=1), help="last position  [default: the newest now]")
@click.option(
    "--max-gap",
    default=5.0,
    show_default=True,
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="the longest pause on the screen; what is left out is said",
)
@click.option("--json", "as_json", is_flag=True, help="one event object a line, when its time comes")
@patience_option(60)
@connecting
def command(
    name: str,
    pace: float,
    instant: bool,
    first: int,
    last: int | None,
    max_gap: float,
    as_json: bool,
    patience: float,
    address: Address,
) -> None:
    """Play CONVERSATION (or a generation, gen_…) from the log, in the time in which it happened.

    \b
      tokentape replay conv_…                      as it was
      tokentape replay conv_… --pace 4             four times as fast
      tokentape replay gen_… --from 20 --to 40     a part of one answer
      tokentape replay conv_… --instant --json     all events at once, for programs

    What a model thought, and the arguments that it wrote, are dimmed and marked "thinking:" and "arguments of …:".

    It reads finished pages, so the server may be restarted meanwhile. Ctrl-C ends it and says where.
    """
    read_id(name, "conv", "gen")
    if last is not None and last < first:
        raise click.BadParameter(f"{last} is before --from {first}", param_hint="--to")
    tempo = Tempo(0.0 if instant else pace, max_gap)
    trio.run(Player(address, Patience(patience), tempo, as_json).play, name, first, last)
