"""What one attempt at a generation counts: tokens, times, usage, outcome.

Owns the counters while the attempt runs, the fields of the log line `run finished`, and what is added to the meter
of the attempt's provider. Every token passes here, so each method is a few additions: it awaits nothing and makes
no object. Must not know the log, a provider or trio: times are handed in.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from server.config.price_table import PriceTable
from server.observability import ProviderMetrics
from server.providers import Finish


@dataclass(slots=True)
class RunStats:
    """The counters of one attempt. All times are seconds on one clock.

    `outcome` is `cancelled` until the attempt's own terminal event is in the log: an attempt that never wrote one
    was ended by somebody else. `failure` is the code in its `generation.failed`. `waiting_tasks` wait for events
    that others write; `working_tasks` ask a provider, run a tool or do a step. `paid`: what the providers have
    counted of this attempt's own answers, by model. `uncounted`: the pieces of its other answers, by model: of
    those that are under way, and of those that ended before the provider counted.
    """

    meter: ProviderMetrics = field(default_factory=ProviderMetrics)
    outcome: Literal["completed", "failed", "cancelled", "interrupted"] = "cancelled"
    failure: str | None = None
    tokens: int = 0
    ttft_ms: int | None = None
    longest_gap: float = 0.0
    repaired: int = 0
    finish: Finish | None = None
    usage: dict[str, int] = field(default_factory=dict)
    waiting_tasks: int = 0
    working_tasks: int = 0
    paid: dict[str, dict[str, int]] = field(default_factory=dict)
    uncounted: dict[str, int] = field(default_factory=dict)
    _last_arrival: float = 0.0
    _reported: tuple[int, float] = (0, 0.0)

    @property
    def only_waits(self) -> bool:
        """Whether the attempt waits for others' events and does nothing else meanwhile."""
        return self.waiting_tasks > 0 and self.working_tasks == 0

    @contextmanager
    def working(self) -> Iterator[None]:
        """Counts one task as working for as long as the context is open.

        An attempt with a working task takes one of the process's places for runs (`Supervisor.load`).
        """
        self.working_tasks += 1
        try:
            yield
        finally:
            self.working_tasks -= 1

    def run_started(self, now: float) -> None:
        """The attempt has started: the time to its first token counts from here."""
        self._last_arrival = now

    def upstream_asked(self, now: float) -> None:
        """A provider is asked, for the first time or again.

        Without this, the wait for a person or a tool before a later request would count as a gap between tokens.
        """
        if self.ttft_ms is not None:
            self._last_arrival = now

    def tokens_arrived(self, now: float) -> None:
        """One or more tokens came from a provider or a workflow."""
        seconds, self._last_arrival = now - self._last_arrival, now
        if self.ttft_ms is None:
            self.ttft_ms = round(seconds * 1000)
            self.meter.first_token.observe(seconds)
            return
        self.meter.between_tokens.observe(seconds)
        if seconds > self.longest_gap:
            self.longest_gap = seconds

    def tokens_committed(self, tokens: int) -> None:
        """So many tokens are durable in the log."""
        self.tokens += tokens
        self.meter.tokens += tokens

    def pieces_arrived(self, pieces: int, model: str | None) -> None:
        """So many pieces of text, reasoning or arguments came of an answer of the model."""
        self.uncounted[model or ""] = self.uncounted.get(model or "", 0) + pieces

    def answer_ended(
        self, finish: Finish | None, repaired: int, model: str | None = None, pieces: int = 0
    ) -> None:
        """A provider's answer has ended, well or not.

        `repaired` of its characters were replaced; in `pieces` it came, as `pieces_arrived` was told.
        """
        self.finish = finish
        self.add_usage(finish.usage if finish else None)
        if finish is not None and finish.usage:
            self.pieces_arrived(-pieces, model)
            counts = self.paid.setdefault(model or "", {})
            for name, count in finish.usage.items():
                counts[name] = counts.get(name, 0) + count
        self.repaired += repaired
        self.meter.repaired += repaired

    def end_written(self) -> None:
        """The terminal event that this attempt wrote is in the log."""
        self.outcome = "completed" if self.failure is None else "failed"

    def add_usage(self, usage: Mapping[str, int] | None) -> None:
        """Adds the usage of one answer: of this attempt's, or of one that an earlier attempt paid for."""
        for name, count in (usage or {}).items():
            self.usage[name] = self.usage.get(name, 0) + count

    def take_use(self, prices: PriceTable) -> tuple[int, float]:
        """Tokens and cost of this attempt since the last call.

        They are what the providers have counted and, as output, the pieces of answers that none has counted: else
        whoever cancels an answer just before its end would have it for nothing. A model without a price costs
        nothing.
        """
        tokens, cost = 0, 0.0
        for model in self.paid.keys() | self.uncounted.keys():
            counts = dict(self.paid.get(model, {}))
            counts["output_tokens"] = counts.get("output_tokens", 0) + self.uncounted.get(model, 0)
            tokens += counts.get("input_tokens", 0) + counts["output_tokens"]
            cost += prices.cost({model: counts}) or 0.0
        before, self._reported = self._reported, (max(tokens, self._reported[0]), max(cost, self._reported[1]))
        return self._reported[0] - before[0], self._reported[1] - before[1]

    def run_finished(self, seconds: float) -> dict[str, Any]:
        """The attempt is over after so many seconds. Returns the non-empty fields of its log line."""
        self.meter.runs[self.outcome].observe(seconds)
        streaming = seconds - (self.ttft_ms or 0) / 1000
        fields = {
            "outcome": self.outcome,
            "failure": self.failure if self.outcome == "failed" else None,
            "finish_reason": self.finish.reason if self.finish else None,
            "tokens": self.tokens,
            "ttft_ms": self.ttft_ms,
            "duration_ms": round(seconds * 1000),
            "tokens_per_second": round(self.tokens / streaming, 1) if self.tokens and streaming > 0 else None,
            "longest_gap_ms": round(self.longest_gap * 1000) if self.tokens > 1 else None,
            "repaired": self.repaired or None,
            **self.usage,
        }
        return {name: value for name, value in fields.items() if value is not None}
