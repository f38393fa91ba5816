"""Plays a span of a log: each event when its time has come, by the log's own clock and a pace."""

import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

import trio
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from server.cli.event_printer import JsonTeller, PeopleTeller, Teller
from server.cli.exit_codes import MISUSED, Failed
from server.cli.output import Paper, keep_fresh, open_paper, reconnecting, tell_absence
from server.client.address import Address
from server.client.api import Api, open_api
from server.client.errors import ClientError
from server.client.pages import Page, Span, find_log, read_pages, read_time
from server.client.patience import Patience

BATCH = 200
"""Events shown in one go when time does not part them, so that Ctrl-C and the footer have their turn."""


@dataclass(slots=True)
class Tempo:
    """When events are due, in seconds from the beginning. `pace` 0: all at once. No pause is over `max_gap`."""

    pace: float
    max_gap: float
    due: float = 0.0
    shortened: int = 0
    left_out: float = 0.0
    last_at: datetime | None = None

    def step(self, at: datetime) -> float:
        """Moves on to an event of that time; the seconds of silence left out before it."""
        gap = (at - self.last_at).total_seconds() if self.last_at is not None and self.pace else 0.0
        self.last_at = at
        wanted = max(0.0, gap) / self.pace if self.pace else 0.0
        self.due += min(wanted, self.max_gap)
        if wanted <= self.max_gap:
            return 0.0
        self.shortened += 1
        self.left_out += gap - self.max_gap * self.pace
        return gap - self.max_gap * self.pace


class Player:
    """For one replay."""

    def __init__(self, address: Address, patience: Patience, tempo: Tempo, as_json: bool) -> None:
        self._address = address
        self._patience = patience
        self._tempo = tempo
        self._as_json = as_json
        self._paper: Paper = open_paper(self._footer, plain=as_json)
        self._teller: Teller = JsonTeller() if as_json else PeopleTeller(self._paper)
        self._span = Span("", 1, 1)
        self._position = 0
        self._shown = 0
        self._began: datetime | None = None
        self._ends: datetime | None = None
        self._skipping = 0.0
        self._stopped_by: int | None = None

    async def play(self, name: str, first: int, last: int | None) -> None:
        """To the end of the span, or to a Ctrl-C. Raises `ClientError`, `Failed`."""
        tell_absence(self._paper, self._patience)
        error: ClientError | None = None
        async with open_api(self._address, self._patience) as api:
            self._span = await self._find(api, name, first, last)
            ends = await read_time(api, self._span)
            self._ends = datetime.fromisoformat(ends) if ends is not None else None
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals, self._paper as paper:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(keep_fresh, paper)
                    nursery.start_soon(self._heed, signals, nursery.cancel_scope)
                    try:
                        await self._play(api)
                    except* ClientError as group:
                        error = next(one for one in group.exceptions if isinstance(one, ClientError))
                    nursery.cancel_scope.cancel()
                self._say_end()
        if error is not None:
            raise error
        if self._stopped_by is not None:
            raise Failed(128 + self._stopped_by)

    async def _find(self, api: Api, name: str, first: int, last: int | None) -> Span:
        path, head = await find_log(api, name)
        if first > head:
            raise Failed(MISUSED, "cursor_ahead", f"{name} ends at position {head}", "Give a --from up to there.")
        return Span(path, first, head if last is None else min(head, last))

    async def _play(self, api: Api) -> None:
        send, receive = trio.open_memory_channel[Page](1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_pages, api, self._span, send)
            start = trio.current_time()
            asked = start
            async with receive:
                async for page in receive:
                    # A server that was away does not make the rest go by in a rush.
                    start += trio.current_time() - asked
                    await self._play_page(page, start)
                    asked = trio.current_time()

    async def _play_page(self, page: Page, start: float) -> None:
        batch: Page = []
        for event in page:
            at = datetime.fromisoformat(event["at"])
            self._began = self._began or at
            left_out = self._tempo.step(at)
            due = start + self._tempo.due
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
            self._teller.tell(batch)
            self._shown += len(batch)
            self._position = batch[-1]["position"]

    async def _heed(self, signals: AsyncIterator[int], everything: trio.CancelScope) -> None:
        async for number in signals:
            self._stopped_by = number
            everything.cancel()
            return

    def _footer(self) -> Table | Text:
        away = reconnecting(self._patience)
        if away is not None:
            return away
        span, tempo = self._span, self._tempo
        row = Table.grid(padding=(0, 1))
        done = max(0, self._position - span.first + 1)
        words = f"{done} of {span.last - span.first + 1} positions"
        if self._began is not None and tempo.last_at is not None:
            words += f" · {_clock(self._began, tempo.last_at)}"
            words += f" of {_clock(self._began, self._ends)}" if self._ends is not None else ""
        words += f" · pace {tempo.pace:g}" if tempo.pace else ""
        if self._skipping:
            words += f" · {_span(self._skipping)} of silence left out"
        row.add_row(ProgressBar(span.last - span.first + 1, done, width=24), Text(words, "dim", no_wrap=True))
        return row

    def _say_end(self) -> None:
        if self._as_json:
            return
        tempo = self._tempo
        pauses = "1 pause" if tempo.shortened == 1 else f"{tempo.shortened} pauses"
        cut = f"; {pauses} shortened to {tempo.max_gap:g} s, {_span(tempo.left_out)} left out"
        more = cut if tempo.shortened else ""
        if self._stopped_by is not None and self._position < self._span.last:
            where = self._position
            self._paper.note(f"stopped behind position {where}; go on with --from {where + 1}{more}")
        else:
            self._paper.note(f"{self._shown} events, up to position {self._position}{more}")


def _clock(start: datetime, at: datetime) -> str:
    seconds = int((at - start).total_seconds())
    hours, rest = divmod(max(0, seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
