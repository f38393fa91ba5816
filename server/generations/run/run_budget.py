"""The budget of a run: what it has used so far, and the wait at a bound until somebody raises it.

What was used is counted from the log (`RunLog`), so a later attempt goes on where an earlier one stopped: what the
providers have counted, round by round, and of the round that is under way, one for each piece that came. A run
with tools, and a workflow, waits between two rounds. An answer without tools is one round: it waits in its stream,
which is not read on meanwhile. The connection to the provider stays open for `MAX_HELD_SECONDS`; after that the
run fails, because no provider can go on with an answer that it has given up.

Must not know providers, or who may raise a budget.
"""

import trio

from server import event_types
from server.config.price_table import PriceTable
from server.conversations.budget import Bound
from server.generations.run.run_errors import RunFailed
from server.generations.run.run_log import RunLog

MAX_HELD_SECONDS = 600.0
"""How long an answer waits for its budget in the middle of its stream."""


class RunBudget:
    """The budget of one attempt. `model`: the one whose answer is under way, where the run has one model only."""

    def __init__(self, run_log: RunLog, prices: PriceTable, model: str | None = None) -> None:
        self._run_log = run_log
        self._prices = prices
        self._model = model
        self._lock = trio.Lock()

    @property
    def cost(self) -> float | None:
        """What the run has cost so far; None where a price is not known."""
        return self._prices.cost(self._run_log.used)

    def check_model(self, model: str) -> None:
        """Raises `RunFailed` where the cost of the model is bounded and not known."""
        budget = self._run_log.budget
        if budget is not None and budget.cost is not None and model not in self._prices.prices:
            raise RunFailed(
                "unknown_price",
                f"The generation has a budget for its cost, and the model {model} has no price on this server.",
            )

    async def wait(self) -> None:
        """Returns when the run may use more: at once, or when somebody has raised the bound that it has reached.

        Raises `Fenced` (it was ended meanwhile, or goes on elsewhere), `StoreUnavailable`.
        """
        run_log = self._run_log
        if run_log.budget is None:
            return
        async with self._lock:  # tasks of a workflow side by side say it once
            while True:
                if self._waits():
                    await run_log.wait_until(lambda: not self._waits())
                    continue
                over = self._over()
                if over is None:
                    return
                await run_log.write([event_types.budget_reached(run_log.generation, *over)])

    async def wait_in_stream(self) -> None:
        """As `wait`, while a provider's answer is held. Raises `RunFailed` when that has taken too long."""
        if self._run_log.budget is None or (self._over() is None and not self._waits()):
            return
        with trio.move_on_after(MAX_HELD_SECONDS):
            await self.wait()
            self._run_log.stats.upstream_asked(trio.current_time())  # the wait is no gap between two tokens
            return
        raise RunFailed(
            "budget_not_raised",
            f"Nobody raised the budget within {MAX_HELD_SECONDS:.0f} seconds, so the answer was given up. Ask "
            "again with a larger one.",
        )

    def _waits(self) -> bool:
        budget = self._run_log.budget
        return budget is not None and budget.reached is not None

    def _over(self) -> tuple[Bound, float, float] | None:
        """The bound that is reached, its limit, and how much of it was used."""
        budget, run_log = self._run_log.budget, self._run_log
        assert budget is not None
        if budget.tokens is not None:
            tokens = run_log.tokens_used
            if tokens >= budget.tokens:
                return "tokens", budget.tokens, tokens
        if budget.cost is not None:
            cost = self._cost_with_stream()
            if cost >= budget.cost:
                return "cost", budget.cost, cost
        return None

    def _cost_with_stream(self) -> float:
        used = {model: dict(counts) for model, counts in self._run_log.used.items()}
        if self._model is not None:
            counts = used.setdefault(self._model, {})
            counts["output_tokens"] = counts.get("output_tokens", 0) + self._run_log.streamed
        if not used:
            return 0.0
        cost = self._prices.cost(used)
        return 0.0 if cost is None else cost
