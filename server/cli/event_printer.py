"""Events as people read them: the text of answers as text, everything else a line with its position."""

from collections.abc import Sequence
from typing import Protocol

import click
import msgspec

from server.cli.event_format import Asides, Event, line_for
from server.cli.output import Paper
from server.cli.terminal_escape import clean_json


class Teller(Protocol):
    """Gets events in order."""

    def tell(self, events: Sequence[Event]) -> None:
        """Shows them."""


class PeopleTeller:
    """On paper."""

    def __init__(self, paper: Paper) -> None:
        self._paper = paper
        self._asides = Asides()

    def tell(self, events: Sequence[Event]) -> None:
        for event in events:
            if event["type"] == "token":
                self._paper.write(str(event.get("delta", "")))
            elif (aside := self._asides.of(event)) is not None:
                self._paper.aside(*aside)
            else:
                self._paper.line(line_for(event))


class JsonTeller:
    """One event object a line on standard output, for programs."""

    def tell(self, events: Sequence[Event]) -> None:
        for event in events:
            click.echo(json_line(event))


def json_line(value: object) -> str:
    """A JSON object on one line, harmless for a terminal."""
    return clean_json(msgspec.json.encode(value).decode())
