"""One answer on the screen: requested, followed through restarts of the server, cancelled by Ctrl-C, summed up.

Whatever happens to the server in between, each part of the answer is shown once. Leaving does not cancel: an
answer that nobody watches goes on. It must not know how a conversation at the terminal goes on.
"""

import signal
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import trio
from rich.spinner import Spinner
from rich.text import Text

from server.cli.terminal.event_format import ENDS, Asides, JsonEventPrinter, StatusLine, describe, summary
from server.cli.terminal.live_output import open_output
from server.cli.terminal.output import Output, keep_refreshing, note_absence, reconnecting_text
from server.client.api import Api, ReconnectPolicy, open_api
from server.client.errors import ClientError
from server.client.log_follower import Event, LogFollower
from server.client.server_url import Address
from server.unicode_safety import escape_line

LOST = frozenset({"worker_lost", "server_stopped", "store_unavailable"})
"""Error codes of answers that failed because of the server, not because of the request: worth asking again."""
QUIET = frozenset({"progress", "step.finished"})
"""Events that get no note: the status line shows progress, and finished steps concern only the workflow."""


@dataclass(slots=True)
class AnswerOutcome:
    """How the answer ended.

    `end`: its last event, None if the person left before; `signal`: the signal that made the command leave.
    """

    conversation: str | None = None
    generation: str | None = None
    end: Event | None = None
    signal: int | None = None
    error: ClientError | None = None

    @property
    def lost(self) -> str | None:
        """The error code if the server stopped or was lost in the middle of the answer, else None."""
        code = str(((self.end or {}).get("error") or {}).get("code", ""))
        return code if code in LOST else None


class AnswerView:
    """Shows one answer while it is written."""

    def __init__(
        self, address: Address, reconnect_policy: ReconnectPolicy, *, as_json: bool, markdown: bool
    ) -> None:
        self._address = address
        self._reconnect_policy = reconnect_policy
        self._json = JsonEventPrinter() if as_json else None
        self._output: Output = open_output(self._footer, plain=as_json, markdown=markdown, asides_apart=True)
        self._spinner = Spinner("dots", style="dim")
        self._requested = trio.Event()
        self._started = 0.0
        self._status = StatusLine()
        self._asides = Asides()
        self._cancelling = False
        self._quiet_since_cut = False
        self._outcome = AnswerOutcome()

    async def run(self, path: str, body: dict[str, Any] | None) -> AnswerOutcome:
        """Posts `body` at `path` and shows the answer; without a body shows the generation at `path`."""
        self._started = trio.current_time()
        note_absence(self._output, self._reconnect_policy)
        # Signals are received before the status line first says that Ctrl-C cancels.
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            with self._output as output:
                async with open_api(self._address, self._reconnect_policy) as api, trio.open_nursery() as nursery:
                    nursery.start_soon(keep_refreshing, output)
                    nursery.start_soon(self._handle_signals, signals, api, nursery)
                    try:
                        await self._answer(api, path, body)
                    except ClientError as error:
                        self._outcome.error = error
                    nursery.cancel_scope.cancel()
                self._print_end()
        return self._outcome

    async def _answer(self, api: Api, path: str, body: dict[str, Any] | None) -> None:
        found = await (api.get(path) if body is None else api.post(path, body))
        self._outcome.conversation, self._outcome.generation = found["conversation"], found["id"]
        self._requested.set()
        follower = LogFollower(api, f"/v1/generations/{found['id']}/events", self._take)
        await follower.follow()

    def _take(self, events: Sequence[Event]) -> None:
        self._quiet_since_cut = False
        if self._json is not None:
            self._json.print_events(events)
        for event in events:
            self._status.add(event)
        if self._json is None:
            self._show(events)
        if events[-1]["type"] in ENDS:
            self._outcome.end = events[-1]

    def _show(self, events: Sequence[Event]) -> None:
        for is_text, row in groupby(events, key=lambda event: event["type"] == "token"):
            if is_text:  # many tokens that arrive at once are written as one text
                self._output.write("".join(event["delta"] for event in row))
            else:
                self._note(row)

    def _note(self, events: Iterable[Event]) -> None:
        """Prints what matters to a person who waits for the answer."""
        for event in events:
            if (aside := self._asides.of(event)) is not None:
                self._output.aside(*aside)
            elif event["type"] not in QUIET and (description := describe(event)) is not None:
                self._output.note(f"{escape_line(event['type'])}  {description}")

    async def _handle_signals(self, signals: AsyncIterator[int], api: Api, nursery: trio.Nursery) -> None:
        """The first Ctrl-C cancels the answer. The second leaves, as SIGTERM does."""
        async for number in signals:
            if number == signal.SIGINT and not self._cancelling:
                self._cancelling = True
                nursery.start_soon(self._cancel, api)
            else:
                self._outcome.signal = number
                nursery.cancel_scope.cancel()
                return

    async def _cancel(self, api: Api) -> None:
        await self._requested.wait()  # a request that is still under way has no id to cancel yet
        try:
            await api.post(f"/v1/generations/{self._outcome.generation}/cancel", {"reason": "Ctrl-C"})
        except ClientError as error:
            self._output.note(f"the answer could not be cancelled: {error.message}", "red")

    def _footer(self) -> Text | Spinner | None:
        away = reconnecting_text(self._reconnect_policy)
        if away is not None:
            self._quiet_since_cut = True
            return away
        if self._outcome.end is not None:
            return None
        if self._cancelling:
            text = "cancelling…  Ctrl-C leaves"
        elif self._quiet_since_cut:
            text = "connected again; the server is finding out what happened to this answer"
        else:
            seconds = trio.current_time() - self._started
            text = f"{self._status.text(seconds)}  Ctrl-C cancels"
        self._spinner.update(text=Text(text, "dim"))
        return self._spinner

    def _print_end(self) -> None:
        """Prints the line below the answer. With `--json` there is none: the last event says the same."""
        if self._json is not None:
            return
        end, seconds = self._outcome.end, trio.current_time() - self._started
        if end is None:
            if self._outcome.signal is not None:
                unless = ", unless it was cancelled in time" if self._cancelling else ""
                self._output.note(f"left; the answer goes on without you{unless}")
        elif end["type"] == "generation.cancelled":
            self._output.note(f"cancelled {summary(end)}; recorded at position {end['position']}", "yellow")
        elif end["type"] == "generation.failed":
            rest = "This is all that was written; it stays in the log." if self._outcome.lost else ""
            self._output.note(f"{summary(end)} {rest}".rstrip(), "bold red")
        else:
            self._output.note(f"{summary(end)} · {seconds:.1f} s")
