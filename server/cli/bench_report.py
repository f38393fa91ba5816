"""A load test's figures, for people and for programs, with what they mean."""

from dataclasses import asdict
from typing import Any

from rich.bar import Bar as RichBar
from rich.console import Console
from rich.table import Table
from rich.text import Text

from server.client.figures import Summary, histogram, summarise
from server.client.load import Outcome, Plan

BUSY = 0.8
"""Of one processor: a client busier than that measures itself."""
BAR = 40


def as_fields(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """One JSON object. Times are in milliseconds."""
    figures = outcome.figures
    return {
        "plan": asdict(plan),
        "sound": outcome.sound,
        "tokens_delivered": figures.tokens,
        "lost": outcome.lost,
        "repeated": outcome.repeated,
        "texts_changed": outcome.changed,
        "generations_completed": outcome.ended - sum(outcome.not_completed.values()),
        "generations_not_completed": outcome.not_completed,
        "reconnects": figures.reconnects,
        "seconds": round(outcome.seconds, 3),
        "tokens_per_second": round(_throughput(outcome), 1),
        "client_cpu": round(_cpu(outcome), 3),
        "first_token_ms": _milliseconds(summarise(figures.first)),
        "between_tokens_ms": _milliseconds(summarise(figures.between)),
        "delay_ms": _milliseconds(summarise(figures.delay)),
        "delay_histogram_ms": [
            {"below": one.below, "count": one.count} for one in histogram([1000 * d for d in figures.delay])
        ],
    }


def report(console: Console, plan: Plan, outcome: Outcome) -> None:
    """Prints it."""
    figures = outcome.figures
    readers = f"{plan.readers} reader{'s' if plan.readers > 1 else ''} each over {plan.transport}"
    pace = f"{plan.rate:g} a second" if plan.rate else "as fast as they come"
    console.print(Text(f"{plan.generations} answers of {plan.tokens} tokens, {pace}, {readers}", "bold"))
    console.print(_counts(outcome))
    console.print()
    console.print(_times(outcome))
    if figures.delay:
        console.print()
        console.print(Text("from durable to here, events", "bold"))
        console.print(_picture([1000 * delay for delay in figures.delay]))
    console.print()
    for remark in _remarks(outcome):
        console.print(Text(remark, "dim"))


def _counts(outcome: Outcome) -> Table:
    table = Table.grid(padding=(0, 2))
    completed = outcome.ended - sum(outcome.not_completed.values())
    rows = [
        ("tokens delivered", f"{outcome.figures.tokens}", True),
        ("lost", f"{outcome.lost}", not outcome.lost),
        ("twice", f"{outcome.repeated}", not outcome.repeated),
        ("texts unlike the snapshot's", f"{outcome.changed}", not outcome.changed),
        ("answers completed", f"{completed} of {outcome.started}", completed == outcome.started),
        ("connections made again", f"{outcome.figures.reconnects}", True),
        ("throughput", f"{_throughput(outcome):.0f} tokens/s over {outcome.seconds:.1f} s", True),
    ]
    rows += [(f"  ended as {why}", f"{count}", False) for why, count in outcome.not_completed.items()]
    for name, value, good in rows:
        table.add_row(Text(name), Text(value, "" if good else "bold red"))
    return table


def _times(outcome: Outcome) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("milliseconds")
    for name in ("p50", "p99", "most", "of"):
        table.add_column(name, justify="right")
    figures = outcome.figures
    for name, values in (
        ("first token, from asking", figures.first),
        ("between two tokens", figures.between),
        ("from durable to here", figures.delay),
    ):
        found = summarise(values)
        if found is None:
            table.add_row(name, "-", "-", "-", "0")
        else:
            cells = [f"{1000 * value:.2f}" for value in (found.p50, found.p99, found.most)]
            table.add_row(name, *cells, str(found.count))
    return table


def _picture(delays: list[float]) -> Table:
    bins = histogram(delays)
    most = max(one.count for one in bins)
    table = Table.grid(padding=(0, 1))
    for one in bins:
        table.add_row(
            Text(f"< {one.below:g} ms", justify="right"),
            RichBar(most, 0, one.count, width=BAR, color="cyan"),
            Text(str(one.count), "dim"),
        )
    return table


def _remarks(outcome: Outcome) -> list[str]:
    remarks = [
        "p99: 99 of 100 were not above it. First token: from sending the request to the first token here. From "
        "durable to here: from the event's own time, set as it is committed, to its arrival; it holds only if "
        "both clocks agree, as on one machine.",
    ]
    if outcome.figures.delay and min(outcome.figures.delay) < 0:
        remarks.append(
            "Events arrived before their own time: the clocks differ, and from durable to here means nothing."
        )
    cpu = _cpu(outcome)
    if cpu > BUSY:
        remarks.append(
            f"This client took {100 * cpu:.0f} % of a processor: what it measures is partly itself. Ask for less."
        )
    else:
        remarks.append(f"This client took {100 * cpu:.0f} % of a processor.")
    return remarks


def _throughput(outcome: Outcome) -> float:
    return outcome.figures.tokens / outcome.seconds if outcome.seconds else 0.0


def _cpu(outcome: Outcome) -> float:
    return outcome.cpu_seconds / outcome.seconds if outcome.seconds else 0.0


def _milliseconds(found: Summary | None) -> dict[str, float] | None:
    if found is None:
        return None
    return {name: value if name == "count" else round(1000 * value, 3) for name, value in asdict(found).items()}
