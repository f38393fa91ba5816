"""`tokentape bench`: a load test against a running server, by whoever wants to know what it carries."""

import json
import signal
from collections.abc import Callable
from typing import Any, TypeVar

import click
import trio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from server.cli.bench_report import as_fields, report
from server.cli.connection_options import connecting
from server.cli.exit_codes import FAILED, STATUSES, Failed
from server.cli.output import TICK_SECONDS, make_console, watched
from server.client.address import Address
from server.client.load import TRANSPORTS, Outcome, Plan, run_load

C = TypeVar("C", bound=Callable[..., Any])

MOST = 5_000_000
"""Tokens delivered in one run, at most: what is measured of each is kept until the end."""


def _amount(flag: str, default: object, kind: click.ParamType[Any], text: str) -> Callable[[C], C]:
    return click.option(flag, default=default, show_default=True, type=kind, help=text)


@click.command("bench", epilog=STATUSES, short_help="Put a load on a server and check what arrives.")
@_amount("--generations", 20, click.IntRange(1, 10_000), "answers at once")
@_amount("--tokens", 200, click.IntRange(1, 100_000), "tokens of each answer")
@_amount("--rate", 50.0, click.FloatRange(0, 10_000), "tokens a second of each; 0: as fast as it goes")
@_amount("--readers", 1, click.IntRange(1, 1_000), "readers of each answer")
@_amount("--transport", "sse", click.Choice(TRANSPORTS), "how they read")
@_amount("--ramp", 1.0, click.FloatRange(0, 600), "seconds over which the answers are started")
@click.option("--json", "as_json", is_flag=True, help="the figures as one object")
@connecting
def command(
    generations: int,
    tokens: int,
    rate: float,
    readers: int,
    transport: str,
    ramp: float,
    as_json: bool,
    address: Address,
) -> None:
    """Put a load of `demo` answers on a server, read them all, and say what arrived, and when.

    \b
      tokentape bench                                      20 answers of 200 tokens, 50 a second each
      tokentape bench --generations 100 --readers 3        more writers, more readers
      tokentape bench --rate 0 --transport ws              as fast as it goes, over WebSocket
      tokentape bench --json | jq .between_tokens_ms.p99

    Each reader must get every event of its answer once, in order, and its text must be the snapshot's: that
    is checked, and exit status 1 says it was not so. The answers stay in the log as any other. Client and
    server on one machine share its processors: compare runs of one machine with each other.
    """
    if generations * tokens * readers > MOST:
        raise click.UsageError(
            f"that would be {generations * tokens * readers} tokens delivered; {MOST} are the most in one run. "
            "Lower --generations, --tokens or --readers."
        )
    plan = Plan(generations, tokens, rate, readers, transport, ramp)
    outcome = Outcome()
    stopped = trio.run(_run, address, plan, outcome, as_json)
    if as_json:
        click.echo(json.dumps(as_fields(plan, outcome)))
    else:
        report(make_console(), plan, outcome)
    if stopped:
        raise Failed(128 + stopped, "stopped", "stopped before the end; these are the figures until then")
    if not outcome.sound:
        raise Failed(FAILED, "not_sound", "not everything arrived as it should; see above")


async def _run(address: Address, plan: Plan, outcome: Outcome, as_json: bool) -> int:
    """The signal that ended it, or 0."""
    stopped = 0
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def heed() -> None:
                nonlocal stopped
                async for number in signals:
                    stopped = number
                    nursery.cancel_scope.cancel()
                    return

            nursery.start_soon(heed)
            if watched() and not as_json:
                nursery.start_soon(_show, plan, outcome)
            await run_load(address, plan, outcome)
            nursery.cancel_scope.cancel()
    return stopped


async def _show(plan: Plan, outcome: Outcome) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True) as progress:
        started = progress.add_task("started", total=plan.generations)
        tokens = progress.add_task("tokens", total=plan.generations * plan.tokens * plan.readers)
        ended = progress.add_task("ended", total=plan.generations)
        while True:
            progress.update(started, completed=outcome.started)
            progress.update(tokens, completed=outcome.figures.tokens)
            progress.update(ended, completed=outcome.ended)
            progress.refresh()
            await trio.sleep(TICK_SECONDS)
