"""`tokentape replay`: plays a span of a log, each event when it is due by the log's own times and a pace.

Owns the command, the clock of the replay, and the status line. Pages of the log come from
`server/client/log_follower.py`; how an event looks is `EventPrinter`'s.
"""

import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

import click
import trio
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from server.cli.exit_codes import BAD_USAGE, STATUSES, Failed
from server.cli.main import connection_options, patience_option, read_id
from server.cli.terminal.event_format import EventPrinter, JsonEventPrinter, TextEventPrinter, counted
from server.cli.terminal.live_output import open_output
from server.cli.terminal.output import Output, keep_refreshing, note_absence, reconnecting_text
from server.client.api import Api, ReconnectPolicy, open_api
from server.client.errors import ClientError
from server.client.log_follower import Page, Span, find_log, read_pages, read_time
from server.client.server_url import Address

BATCH = 200
"""The most events printed without a pause between them, so that Ctrl-C and the status line get their turn."""


@click.command("replay", epilog=STATUSES, short_help="Play what was said, as it happened.")
@click.argument("name", metavar="CONVERSATION")
@click.option(
    "--pace",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, 10_000),
    help="1: as it happened; 4: four times as fast; 0.25: slowly; 0: as fast as possible",
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
    help="the longest pause; longer ones are shortened, and the status line says so",
)
@click.option("--json", "as_json", is_flag=True, help="one event object a line, when its time comes")
@patience_option(60)
@connection_options
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
    """Play CONVERSATION (or a generation, gen_…) from the log, with the pauses with which it happened.

    \b
      tokentape replay conv_…                      as it was
      tokentape replay conv_… --pace 4             four times as fast
      tokentape replay gen_… --from 20 --to 40     a part of one answer
      tokentape replay conv_… --instant --json     all events at once, for programs

    The model's reasoning, and the arguments of its tool calls, are dimmed and marked "thinking:" and
    "arguments of …:".

    It reads pages of the log, so the server may be restarted meanwhile. Ctrl-C ends it, and it says where.
    """
    read_id(name, "conv", "gen")
    if last is not None and last < first:
        raise click.BadParameter(f"{last} is before --from {first}", param_hint="--to")
    replay_clock = ReplayClock(0.0 if instant else pace, max_gap)
    trio.run(ReplayPlayer(address, ReconnectPolicy(patience), replay_clock, as_json).play, name, first, last)


@dataclass(slots=True)
class ReplayClock:
    """When events are due, in seconds from the beginning of the replay.

    `pace`: the log's seconds for one second of the replay; 0: all events at once. `max_gap`: the longest pause, in
    seconds. `left_out`: seconds of the log that shortened pauses have left out.
    """

    pace: float
    max_gap: float
    due: float = 0.0
    shortened: int = 0
    left_out: float = 0.0
    last_at: datetime | None = None

    def step(self, at: datetime) -> float:
        """Moves on to an event that happened at `at`. Returns the seconds of silence left out before it."""
        gap = (at - self.last_at).total_seconds() if self.last_at is not None and self.pace else 0.0
        self.last_at = at
        wanted = max(0.0, gap) / self.pace if self.pace else 0.0
        self.due += min(wanted, self.max_gap)
        if wanted <= self.max_gap:
            return 0.0
        self.shortened += 1
        self.left_out += gap - self.max_gap * self.pace
        return gap - self.max_gap * self.pace


class ReplayPlayer:
    """One replay."""

    def __init__(
        self, address: Address, reconnect_policy: ReconnectPolicy, replay_clock: ReplayClock, as_json: bool
    ) -> None:
        self._address = address
        self._reconnect_policy = reconnect_policy
        self._replay_clock = replay_clock
        self._as_json = as_json
        self._output: Output = open_output(self._footer, plain=as_json)
        self._printer: EventPrinter = JsonEventPrinter() if as_json else TextEventPrinter(self._output)
        self._span = Span("", 1, 1)
        self._position = 0
        self._shown = 0
        self._began: datetime | None = None
        self._ends: datetime | None = None
        self._skipping = 0.0
        self._stopped_by: int | None = None

    async def play(self, name: str, first: int, last: int | None) -> None:
        """Plays to the end of the span, or until Ctrl-C. Raises `ClientError`, `Failed`."""
        note_absence(self._output, self._reconnect_policy)
        error: ClientError | None = None
        async with open_api(self._address, self._reconnect_policy) as api:
            self._span = await self._find(api, name, first, last)
            ends = await read_time(api, self._span)
            self._ends = datetime.fromisoformat(ends) if ends is not None else None
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals, self._output as output:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(keep_refreshing, output)
                    nursery.start_soon(self._handle_signals, signals, nursery.cancel_scope)
                    try:
                        await self._play(api)
                    except* ClientError as group:
                        error = next(one for one in group.exceptions if isinstance(one, ClientError))
                    nursery.cancel_scope.cancel()
                self._print_end()
        if error is not None:
            raise error
        if self._stopped_by is not None:
            raise Failed(128 + self._stopped_by)

    async def _find(self, api: Api, name: str, first: int, last: int | None) -> Span:
        path, head = await find_log(api, name)
        if first > head:
            raise Failed(
                BAD_USAGE, "cursor_ahead", f"{name} ends at position {head}", "Give a --from up to there."
            )
        return Span(path, first, head if last is None else min(head, last))

    async def _play(self, api: Api) -> None:
        send, receive = trio.open_memory_channel[Page](1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_pages, api, self._span, send)
            start = trio.current_time()
            requested_at = start
            async with receive:
                async for page in receive:
                    # The time that a server was away moves the start, else all later events would be due at once.
                    start += trio.current_time() - requested_at
                    await self._play_page(page, start)
                    requested_at = trio.current_time()

    async def _play_page(self, page: Page, start: float) -> None:
        batch: Page = []
        for event in page:
            at = datetime.fromisoformat(event["at"])
            self._began = self._began or at
            left_out = self._replay_clock.step(at)
            due = start + self._replay_clock.due
            if due > trio.current_time() or len(batch) >= BATCH:
                self._show(batch)
                batch = []
                self._skipping = left_out
                await trio.sleep_until(due)
                self._skipping = 0.0
            batch.append(event)
        self._show(batch)

    def _show(self, batch: Page) -> None:
        if batch:
            self._printer.print_events(batch)
            self._shown += len(batch)
            self._position = batch[-1]["position"]

    async def _handle_signals(self, signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        async for number in signals:
            self._stopped_by = number
            scope.cancel()
            return

    def _footer(self) -> Table | Text:
        away = reconnecting_text(self._reconnect_policy)
        if away is not None:
            return away
        span, replay_clock = self._span, self._replay_clock
        row = Table.grid(padding=(0, 1))
        done = max(0, self._position - span.first + 1)
        text = f"{done} of {span.last - span.first + 1} positions"
        if self._began is not None and replay_clock.last_at is not None:
            text += f" · {_elapsed(self._began, replay_clock.last_at)}"
            text += f" of {_elapsed(self._began, self._ends)}" if self._ends is not None else ""
        text += f" · pace {replay_clock.pace:g}" if replay_clock.pace else ""
        if self._skipping:
            text += f" · {_duration(self._skipping)} of silence left out"
        row.add_row(ProgressBar(span.last - span.first + 1, done, width=24), Text(text, "dim", no_wrap=True))
        return row

    def _print_end(self) -> None:
        if self._as_json:
            return
        replay_clock = self._replay_clock
        pauses = counted(replay_clock.shortened, "pause")
        cut = f"; {pauses} shortened to {replay_clock.max_gap:g} s, {_duration(replay_clock.left_out)} left out"
        more = cut if replay_clock.shortened else ""
        if self._stopped_by is not None and self._position < self._span.last:
            where = self._position
            self._output.note(f"stopped after position {where}; go on with --from {where + 1}{more}")
        else:
            self._output.note(f"{counted(self._shown, 'event')}, up to position {self._position}{more}")


def _elapsed(start: datetime, at: datetime) -> str:
    seconds = int((at - start).total_seconds())
    hours, rest = divmod(max(0, seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
