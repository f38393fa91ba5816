"""The budget of a generation: how many tokens it may use and what it may cost, and what events make of it.

Both the fold of a conversation and the run itself use `budget_after`: so what a client is shown and what the run
waits for are made of the log by the same code. Must not know how tokens are counted, or what a model costs. Pure.
"""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from server.event_types import EventType

Bound = Literal["tokens", "cost"]


class Budget(msgspec.Struct, frozen=True, omit_defaults=True):
    """The bounds of a generation; None: no such bound. `cost` is in the currency of the price table.

    `reached`: the run waits at this bound, of which it has used `used`, until somebody raises it.
    """

    tokens: int | None = None
    cost: float | None = None
    reached: Bound | None = None
    used: float | None = None

    def limit(self, bound: Bound) -> float | None:
        """The present limit of a bound."""
        return self.tokens if bound == "tokens" else self.cost


def budget_after(budget: Budget, event: EventType, fields: Mapping[str, Any]) -> Budget:
    """The budget after a `budget.reached` or a `budget.raised`.

    A raise may be appended just before the run says that it has reached the old bound: then nobody would raise it
    again, so the run does not wait. Of two raises at the same moment the higher one holds.
    """
    if event is EventType.BUDGET_REACHED:
        limit = budget.limit(fields["bound"])
        if limit is None or fields["used"] < limit:
            return budget
        return replace(budget, reached=fields["bound"], used=fields["used"])
    raised = replace(
        budget,
        tokens=_higher(budget.tokens, fields.get("tokens")),
        cost=_higher(budget.cost, fields.get("cost")),
    )
    limit = raised.limit(raised.reached) if raised.reached is not None else None
    if limit is not None and raised.used is not None and raised.used < limit:
        return replace(raised, reached=None, used=None)
    return raised


def _higher(present: Any, new: Any) -> Any:
    return present if new is None or (present is not None and new <= present) else new
