"""One answer on the screen: asked for, followed through any restart, cancelled by Ctrl-C, ended in words.

Whatever happens to the server in between, each part of the answer is shown once. Leaving is no cancelling:
an answer that nobody watches goes on.
"""

import signal
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import trio
from rich.spinner import Spinner
from rich.text import Text

from server.cli.event_format import ENDS, Asides, summary, told
from server.cli.event_printer import JsonTeller
from server.cli.output import Paper, keep_fresh, open_paper, reconnecting, tell_absence
from server.cli.status_line import Doing
from server.cli.terminal_escape import clean_line
from server.client.address import Address
from server.client.api import Api, open_api
from server.client.errors import ClientError
from server.client.following import Event, Following
from server.client.patience import Patience

LOST = frozenset({"worker_lost", "server_stopped", "store_unavailable"})
"""Codes of answers that ended because of the server, not because of what was asked."""
QUIET = frozenset({"progress", "step.finished"})
"""Events that the line under the answer tells of, or that are the run's own affair."""


@dataclass(slots=True)
class Ended:
    """How it went. `end` is the answer's last event, None when it was left before; `signal` what made us leave."""

    conversation: str | None = None
    generation: str | None = None
    end: Event | None = None
    signal: int | None = None
    error: ClientError | None = None

    @property
    def lost(self) -> str | None:
        """The code, if the server was lost or stopped in the middle."""
        code = str(((self.end or {}).get("error") or {}).get("code", ""))
        return code if code in LOST else None


class Answering:
    """For one answer."""

    def __init__(self, address: Address, patience: Patience, *, as_json: bool, markdown: bool) -> None:
        self._address = address
        self._patience = patience
        self._json = JsonTeller() if as_json else None
        self._paper: Paper = open_paper(self._footer, plain=as_json, markdown=markdown, asides_apart=True)
        self._spinner = Spinner("dots", style="dim")
        self._known = trio.Event()
        self._started = 0.0
        self._doing = Doing()
        self._asides = Asides()
        self._cancelling = False
        self._quiet_since_cut = False
        self._ended = Ended()

    async def run(self, path: str, body: dict[str, Any] | None) -> Ended:
        """Posts `body` at `path` and shows the answer; without a body shows the generation at `path`."""
        self._started = trio.current_time()
        tell_absence(self._paper, self._patience)
        # Signals first: once the footer says that Ctrl-C cancels, it does.
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            with self._paper as paper:
                async with open_api(self._address, self._patience) as api, trio.open_nursery() as nursery:
                    nursery.start_soon(keep_fresh, paper)
                    nursery.start_soon(self._heed, signals, api, nursery)
                    try:
                        await self._answer(api, path, body)
                    except ClientError as error:
                        self._ended.error = error
                    nursery.cancel_scope.cancel()
                self._say_end()
        return self._ended

    async def _answer(self, api: Api, path: str, body: dict[str, Any] | None) -> None:
        found = await (api.get(path) if body is None else api.post(path, body))
        self._ended.conversation, self._ended.generation = found["conversation"], found["id"]
        self._known.set()
        following = Following(api, f"/v1/generations/{found['id']}/events", self._take)
        await following.follow()

    def _take(self, events: Sequence[Event]) -> None:
        self._quiet_since_cut = False
        if self._json is not None:
            self._json.tell(events)
        for event in events:
            self._doing.take(event)
        if self._json is None:
            self._show(events)
        if events[-1]["type"] in ENDS:
            self._ended.end = events[-1]

    def _show(self, events: Sequence[Event]) -> None:
        for is_text, row in groupby(events, key=lambda event: event["type"] == "token"):
            if is_text:  # a long answer that comes at once is one text
                self._paper.write("".join(event["delta"] for event in row))
            else:
                self._tell(row)

    def _tell(self, events: Iterable[Event]) -> None:
        """What matters to who waits for the answer."""
        for event in events:
            if (aside := self._asides.of(event)) is not None:
                self._paper.aside(*aside)
            elif event["type"] not in QUIET and (words := told(event)) is not None:
                self._paper.note(f"{clean_line(event['type'])}  {words}")

    async def _heed(self, signals: AsyncIterator[int], api: Api, nursery: trio.Nursery) -> None:
        """The first Ctrl-C cancels, the second leaves, and so does SIGTERM."""
        async for number in signals:
            if number == signal.SIGINT and not self._cancelling:
                self._cancelling = True
                nursery.start_soon(self._cancel, api)
            else:
                self._ended.signal = number
                nursery.cancel_scope.cancel()
                return

    async def _cancel(self, api: Api) -> None:
        await self._known.wait()  # a request under way is carried out, and then cancelled
        try:
            await api.post(f"/v1/generations/{self._ended.generation}/cancel", {"reason": "Ctrl-C"})
        except ClientError as error:
            self._paper.note(f"it could not be cancelled: {error.message}", "red")

    def _footer(self) -> Text | Spinner | None:
        away = reconnecting(self._patience)
        if away is not None:
            self._quiet_since_cut = True
            return away
        if self._ended.end is not None:
            return None
        if self._cancelling:
            words = "cancelling…  Ctrl-C leaves"
        elif self._quiet_since_cut:
            words = "connected again; the server finds out what became of this answer"
        else:
            seconds = trio.current_time() - self._started
            words = f"{self._doing.words(seconds)}  Ctrl-C cancels"
        self._spinner.update(text=Text(words, "dim"))
        return self._spinner

    def _say_end(self) -> None:
        """The line under the answer. With `--json` the last event says it all."""
        if self._json is not None:
            return
        end, seconds = self._ended.end, trio.current_time() - self._started
        if end is None:
            if self._ended.signal is not None:
                unless = ", unless it was cancelled in time" if self._cancelling else ""
                self._paper.note(f"left; the answer goes on without you{unless}")
        elif end["type"] == "generation.cancelled":
            self._paper.note(f"cancelled {summary(end)}; recorded at position {end['position']}", "yellow")
        elif end["type"] == "generation.failed":
            said = "This is all that was written; it stays in the log." if self._ended.lost else ""
            self._paper.note(f"{summary(end)} {said}".rstrip(), "bold red")
        else:
            self._paper.note(f"{summary(end)} · {seconds:.1f} s")
