"""What a run came to: counted while it runs, told in one log line when it is over, added to its provider's meter.

It stands in the way of every token: a few additions, no call that waits, nothing made. It knows neither the log
nor an upstream's ways.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from server.metrics import Meter
from server.upstream import Finish


@dataclass(slots=True)
class Figures:
    """One run's. Times are in seconds; `failure` is the code in its `generation.failed`.

    `outcome` is `cancelled` until the run itself had the last word: if it never has, it was ended from outside.
    `waiting` of its tasks wait for what others write, `working` ask an upstream, run a tool or do a step.
    """

    meter: Meter = field(default_factory=Meter)
    outcome: Literal["completed", "failed", "cancelled", "interrupted"] = "cancelled"
    failure: str | None = None
    tokens: int = 0
    ttft_ms: int | None = None
    longest_gap: float = 0.0
    repaired: int = 0
    finish: Finish | None = None
    usage: dict[str, int] = field(default_factory=dict)
    waiting: int = 0
    working: int = 0
    _since: float = 0.0

    @property
    def only_waits(self) -> bool:
        """Whether it waits for others, and does nothing else meanwhile."""
        return self.waiting > 0 and self.working == 0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """While an upstream is asked, a tool runs or a step is done: the run takes one of the process's places."""
        self.working += 1
        try:
            yield
        finally:
            self.working -= 1

    def began(self, now: float) -> None:
        """The run has started: from here the first token is waited for. Times are on one clock, in seconds."""
        self._since = now

    def asked(self, now: float) -> None:
        """An upstream is asked, again: the wait for a person or a tool is no gap between its tokens."""
        if self.ttft_ms is not None:
            self._since = now

    def arrived(self, now: float) -> None:
        """Tokens came."""
        seconds, self._since = now - self._since, now
        if self.ttft_ms is None:
            self.ttft_ms = round(seconds * 1000)
            self.meter.first_token.observe(seconds)
            return
        self.meter.between_tokens.observe(seconds)
        if seconds > self.longest_gap:
            self.longest_gap = seconds

    def appended(self, tokens: int) -> None:
        """They are durable."""
        self.tokens += tokens
        self.meter.tokens += tokens

    def read(self, finish: Finish | None, repaired: int) -> None:
        """An upstream's answer is over, well or not; so many of its characters were replaced."""
        self.finish = finish
        self.paid(finish.usage if finish else None)
        self.repaired += repaired
        self.meter.repaired += repaired

    def had_the_last_word(self) -> None:
        """The end that the run itself has written is in the log."""
        self.outcome = "completed" if self.failure is None else "failed"

    def paid(self, usage: Mapping[str, int] | None) -> None:
        """So much was used by an answer: now, or by an attempt before this one."""
        for name, count in (usage or {}).items():
            self.usage[name] = self.usage.get(name, 0) + count

    def ended(self, seconds: float) -> dict[str, Any]:
        """The run is over, after so many seconds. Returns the fields of its log line, but those that are empty."""
        self.meter.runs[self.outcome].observe(seconds)
        speaking = seconds - (self.ttft_ms or 0) / 1000
        fields = {
            "outcome": self.outcome,
            "failure": self.failure if self.outcome == "failed" else None,
            "finish_reason": self.finish.reason if self.finish else None,
            "tokens": self.tokens,
            "ttft_ms": self.ttft_ms,
            "duration_ms": round(seconds * 1000),
            "tokens_per_second": round(self.tokens / speaking, 1) if self.tokens and speaking > 0 else None,
            "longest_gap_ms": round(self.longest_gap * 1000) if self.tokens > 1 else None,
            "repaired": self.repaired or None,
            **self.usage,
        }
        return {name: value for name, value in fields.items() if value is not None}
