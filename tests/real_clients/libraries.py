"""The libraries that are tried, and what is known of each: the one table that all tests here go through.

"exact" is what is expected of all of them in all scenarios: the events shown are those of the log's JSON pages, in
order, none missing, none twice, and the program ends by itself. Where a library itself prevents that, `faults` has
what is expected instead, with the reason. It knows nothing of scenarios but their names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from . import scripts

Transport = Literal["sse", "post", "ndjson", "pages", "snapshots", "websocket"]
Event = dict[str, object]


@dataclass(frozen=True, eq=False)
class Library:
    """One of them, and the program of docs/clients*.md (or of variants.md) that uses it.

    `replacing` makes one program another library's. `faults`: by scenario, what is expected instead of "exact".
    """

    name: str
    program: str
    transport: Transport = "sse"
    replacing: Sequence[tuple[str, str]] = ()
    faults: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    @property
    def slug(self) -> str:
        """Its name for files and addresses."""
        return self.name.replace(",", "").replace(" ", "-")

    def write(self, folder: Path, *replacing: tuple[str, str]) -> Path:
        """Its program as a file, in a folder of its own."""
        own = folder / self.slug
        own.mkdir()
        return scripts.write(own, self.program, [*self.replacing, *replacing])

    def path(self, conversation: str, generation: str) -> tuple[str, str]:
        """What its `url` leads to, and by which scheme."""
        if self.transport == "websocket":
            return f"{conversation}/ws", "ws"
        return "/v1/generations" if self.transport == "post" else f"{generation}/events", "http"

    def log_path(self, conversation: str, generation: str) -> str:
        """Whose log it is shown there."""
        return conversation if self.transport == "websocket" else generation

    def expects(self, scenario: str) -> str:
        """What comes of it. "broken": anything but exact."""
        return self.faults.get(scenario, "exact")

    @property
    def knows_204(self) -> bool:
        """Whether it stops when it is told that everything was read before."""
        return self.expects("past the end") == "exact"

    @property
    def missing(self) -> str | None:
        """Why it cannot run here."""
        return scripts.missing_node() if self.program.endswith(".mjs") else None


IMPORT = 'import { EventSource } from "eventsource";'
BEGIN = "export function follow(url, show) {\n"
SHOW = "    show(JSON.parse(data));\n"
SHOW_ONCE = """    const event = JSON.parse(data);
    if (event.position <= last) return;
    last = event.position;
    show(event);
"""
EVENTSOURCE_3 = [(IMPORT, 'import { EventSource } from "eventsource3";')]
EVENTSOURCE_2 = [(IMPORT, 'import EventSource from "eventsource2";')]
RECONNECTING_WEBSOCKET = [
    (
        'import { WebSocket as ReconnectingWebSocket } from "partysocket";',
        'import ReconnectingWebSocket from "reconnecting-websocket";',
    )
]
SCENARIOS_OF_ALL = ("cuts", "kill", "drain", "quiet", "past the end", "unknown")

LIBRARIES = [
    Library("eventsource 4", "eventsource.mjs"),
    Library("eventsource 3", "eventsource.mjs", replacing=EVENTSOURCE_3),
    Library(
        "eventsource 2, guarded",
        "eventsource.mjs",
        replacing=[*EVENTSOURCE_2, (BEGIN, BEGIN + "  let last = 0;\n"), (SHOW, SHOW_ONCE)],
    ),
    # It shows an event at the first byte of an empty line, and remembers its id one line later.
    Library(
        "eventsource 2",
        "eventsource.mjs",
        replacing=EVENTSOURCE_2,
        faults={"cut frame": "6 repeat"},
    ),
    Library("undici EventSource", "undici_eventsource.mjs"),
    Library("fetch-event-source", "fetch_event_source.mjs"),
    Library("fetch-event-source, POST", "ask_and_follow.mjs", "post"),
    # It remembers an id at the end of its line, and shows the event at the empty line behind it: one byte.
    Library(
        "fetch-event-source, plain",
        "fetch_event_source_plain.mjs",
        faults={"cut frame": "1 lose", "past the end": "goes on", "unknown": "goes on"},
    ),
    Library("eventsource-parser", "eventsource_parser.mjs"),
    Library("event-source-polyfill", "event_source_polyfill.mjs"),
    Library("reconnecting-eventsource", "reconnecting_eventsource.mjs", faults={"unknown": "goes on"}),
    Library("axios, stream", "axios_stream.mjs"),
    Library("watchdog", "watchdog.mjs"),
    Library("undici fetch, NDJSON", "ndjson.mjs", "ndjson"),
    Library("httpx-sse", "httpx_sse_client.py"),
    Library("httpx-sse, README", "httpx_sse_readme.py", faults={"past the end": "goes on", "unknown": "goes on"}),
    Library("requests-sse", "requests_sse_client.py"),
    Library("sseclient-py", "sseclient_py.py"),
    Library(
        "sseclient",
        "sseclient_0.py",
        # It reads below HTTP's chunks: their sizes stand in its data.
        faults={"cut frame": "broken", **dict.fromkeys(SCENARIOS_OF_ALL, "not run")},
    ),
    Library("aiohttp-sse-client2", "aiohttp_sse_client2_client.py"),
    Library("httpx, NDJSON", "ndjson_httpx.py", "ndjson"),
    Library("curl", "follow.sh"),
    Library("ky", "ky.mjs", "pages"),
    Library("got", "got.mjs", "pages"),
    Library("axios-retry", "axios_retry.mjs", "pages"),
    Library("requests and Retry", "long_poll_requests.py", "pages"),
    Library("tenacity", "tenacity_poll.py", "snapshots"),
    Library("ws", "ws.mjs", "websocket"),
    Library("partysocket", "partysocket.mjs", "websocket"),
    Library("reconnecting-websocket", "partysocket.mjs", "websocket", RECONNECTING_WEBSOCKET),
    Library("websockets", "websockets_client.py", "websocket"),
    Library("websocket-client", "websocket_client.py", "websocket"),
]
