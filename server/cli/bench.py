"""`tokentape bench`: a load test against a running server, and what was measured.

Owns the command, its progress bars, and the print_report for people and for programs. The load itself and the
check of what was delivered are in `server/client/load_test.py`; it must not know how they are done.
"""

import json
import signal
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

import click
import trio
from rich.bar import Bar as RichBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from server.cli.exit_codes import FAILED, STATUSES, Failed
from server.cli.main import connection_options
from server.cli.terminal.event_format import counted
from server.cli.terminal.output import TICK_SECONDS, is_watched, make_console
from server.client.load_test import TRANSPORTS, Outcome, Plan, run_load
from server.client.load_test_results import Summary, histogram, summarise
from server.client.server_url import Address

C = TypeVar("C", bound=Callable[..., Any])

MAX_TOKENS_DELIVERED = 5_000_000
"""The most tokens delivered in one run: the measurements of each are kept in memory until the end."""
HIGH_CPU_SHARE = 0.8
"""Of one processor: a client busier than that measures itself."""
HISTOGRAM_WIDTH = 40


def _number_option(flag: str, default: object, kind: click.ParamType[Any], text: str) -> Callable[[C], C]:
    return click.option(flag, default=default, show_default=True, type=kind, help=text)


@click.command("bench", epilog=STATUSES, short_help="Put a load on a server and check what arrives.")
@_number_option("--generations", 20, click.IntRange(1, 10_000), "answers at once")
@_number_option("--tokens", 200, click.IntRange(1, 100_000), "tokens of each answer")
@_number_option("--rate", 50.0, click.FloatRange(0, 10_000), "tokens a second of each; 0: as fast as possible")
@_number_option("--readers", 1, click.IntRange(1, 1_000), "readers of each answer")
@_number_option("--transport", "sse", click.Choice(TRANSPORTS), "how the readers are connected")
@_number_option("--ramp", 1.0, click.FloatRange(0, 600), "seconds over which the answers are started")
@click.option("--json", "as_json", is_flag=True, help="the results as one JSON object")
@connection_options
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
    """Put a load of `demo` answers on a server, read them all, and report what arrived, and when.

    \b
      tokentape bench                                      20 answers of 200 tokens, 50 a second each
      tokentape bench --generations 100 --readers 3        more writers, more readers
      tokentape bench --rate 0 --transport ws              as fast as possible, over WebSocket
      tokentape bench --json | jq .between_tokens_ms.p99

    Each reader must get every event of its answer once, in order, and its text must be that of the snapshot;
    if not, the exit status is 1. The answers stay in the log like any other. A client and a server on one
    machine share its processors, so compare only runs on the same machine.
    """
    if generations * tokens * readers > MAX_TOKENS_DELIVERED:
        raise click.UsageError(
            f"that would be {generations * tokens * readers} tokens delivered; {MAX_TOKENS_DELIVERED} is the most "
            "in one run. Lower --generations, --tokens or --readers."
        )
    plan = Plan(generations, tokens, rate, readers, transport, ramp)
    outcome = Outcome()
    stopped = trio.run(_run_until_signal, address, plan, outcome, as_json)
    if as_json:
        click.echo(json.dumps(as_fields(plan, outcome)))
    else:
        print_report(make_console(), plan, outcome)
    if stopped:
        raise Failed(128 + stopped, "stopped", "stopped before the end; these are the results until then")
    if not outcome.sound:
        raise Failed(FAILED, "not_sound", "not every event arrived once, in order and unchanged; see above")


async def _run_until_signal(address: Address, plan: Plan, outcome: Outcome, as_json: bool) -> int:
    """Runs the load test to its end, or until a signal. Returns the signal's number, or 0."""
    stopped = 0
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def handle_signals() -> None:
                nonlocal stopped
                async for number in signals:
                    stopped = number
                    nursery.cancel_scope.cancel()
                    return

            nursery.start_soon(handle_signals)
            if is_watched() and not as_json:
                nursery.start_soon(_show_progress, plan, outcome)
            await run_load(address, plan, outcome)
            nursery.cancel_scope.cancel()
    return stopped


async def _show_progress(plan: Plan, outcome: Outcome) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True) as progress:
        started = progress.add_task("started", total=plan.generations)
        tokens = progress.add_task("tokens", total=plan.generations * plan.tokens * plan.readers)
        ended = progress.add_task("ended", total=plan.generations)
        while True:
            progress.update(started, completed=outcome.started)
            progress.update(tokens, completed=outcome.times.tokens)
            progress.update(ended, completed=outcome.ended)
            progress.refresh()
            await trio.sleep(TICK_SECONDS)


def as_fields(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """The results as one JSON object. Times are in milliseconds."""
    times = outcome.times
    return {
        "plan": asdict(plan),
        "sound": outcome.sound,
        "tokens_delivered": times.tokens,
        "lost": outcome.lost,
        "repeated": outcome.repeated,
        "texts_changed": outcome.changed,
        "generations_completed": outcome.ended - sum(outcome.not_completed.values()),
        "generations_not_completed": outcome.not_completed,
        "reconnects": times.reconnects,
        "seconds": round(outcome.seconds, 3),
        "tokens_per_second": round(_throughput(outcome), 1),
        "client_cpu": round(_cpu_share(outcome), 3),
        "first_token_ms": _milliseconds(summarise(times.first)),
        "between_tokens_ms": _milliseconds(summarise(times.between)),
        "delay_ms": _milliseconds(summarise(times.delay)),
        "delay_histogram_ms": [
            {"below": one.below, "count": one.count} for one in histogram([1000 * d for d in times.delay])
        ],
    }


def print_report(console: Console, plan: Plan, outcome: Outcome) -> None:
    """Prints the results for people."""
    times = outcome.times
    readers = f"{counted(plan.readers, 'reader')} each over {plan.transport}"
    pace = f"{plan.rate:g} a second" if plan.rate else "as fast as possible"
    console.print(
        Text(
            f"{counted(plan.generations, 'answer')} of {counted(plan.tokens, 'token')}, {pace}, {readers}", "bold"
        )
    )
    console.print(_counts_table(outcome))
    console.print()
    console.print(_times_table(outcome))
    if times.delay:
        console.print()
        console.print(Text("from commit to arrival, events", "bold"))
        console.print(_histogram_table([1000 * delay for delay in times.delay]))
    console.print()
    for remark in _remarks(outcome):
        console.print(Text(remark, "dim"))


def _counts_table(outcome: Outcome) -> Table:
    table = Table.grid(padding=(0, 2))
    completed = outcome.ended - sum(outcome.not_completed.values())
    rows = [
        ("tokens delivered", f"{outcome.times.tokens}", True),
        ("lost", f"{outcome.lost}", not outcome.lost),
        ("repeated", f"{outcome.repeated}", not outcome.repeated),
        ("texts that differ from the snapshot", f"{outcome.changed}", not outcome.changed),
        ("answers completed", f"{completed} of {outcome.started}", completed == outcome.started),
        ("reconnects", f"{outcome.times.reconnects}", True),
        ("throughput", f"{_throughput(outcome):.0f} tokens/s over {outcome.seconds:.1f} s", True),
    ]
    rows += [(f"  ended as {why}", f"{count}", False) for why, count in outcome.not_completed.items()]
    for name, value, good in rows:
        table.add_row(Text(name), Text(value, "" if good else "bold red"))
    return table


def _times_table(outcome: Outcome) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("milliseconds")
    for name in ("p50", "p99", "most", "count"):
        table.add_column(name, justify="right")
    times = outcome.times
    for name, values in (
        ("first token, from the request", times.first),
        ("between two tokens", times.between),
        ("from commit to arrival", times.delay),
    ):
        found = summarise(values)
        if found is None:
            table.add_row(name, "-", "-", "-", "0")
        else:
            cells = [f"{1000 * value:.2f}" for value in (found.p50, found.p99, found.most)]
            table.add_row(name, *cells, str(found.count))
    return table


def _histogram_table(delays: list[float]) -> Table:
    bins = histogram(delays)
    most = max(one.count for one in bins)
    table = Table.grid(padding=(0, 1))
    for one in bins:
        table.add_row(
            Text(f"< {one.below:g} ms", justify="right"),
            RichBar(most, 0, one.count, width=HISTOGRAM_WIDTH, color="cyan"),
            Text(str(one.count), "dim"),
        )
    return table


def _remarks(outcome: Outcome) -> list[str]:
    remarks = [
        "p99: 99 of 100 values are at most this. First token: from sending the request to the arrival of the "
        "first token. From commit to arrival: from the event's own time, set when the server commits it, to its "
        "arrival here; it is only right if both clocks agree, as on one machine.",
    ]
    if outcome.times.delay and min(outcome.times.delay) < 0:
        remarks.append(
            "Events arrived before they were committed: the clocks differ, and times from commit are wrong."
        )
    cpu = _cpu_share(outcome)
    if cpu > HIGH_CPU_SHARE:
        remarks.append(
            f"This client used {100 * cpu:.0f} % of a processor, so it partly measured itself. Use a smaller load."
        )
    else:
        remarks.append(f"This client used {100 * cpu:.0f} % of a processor.")
    return remarks


def _throughput(outcome: Outcome) -> float:
    return outcome.times.tokens / outcome.seconds if outcome.seconds else 0.0


def _cpu_share(outcome: Outcome) -> float:
    return outcome.cpu_seconds / outcome.seconds if outcome.seconds else 0.0


def _milliseconds(found: Summary | None) -> dict[str, float] | None:
    if found is None:
        return None
    return {name: value if name == "count" else round(1000 * value, 3) for name, value in asdict(found).items()}
