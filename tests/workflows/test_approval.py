"""Whether a call needs a person's approval, as its tool declares, and in doubt always."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from structlog.testing import capture_logs

from server.workflows import InjectedRun, Tool, tool


class FakeRun(InjectedRun):
    """Stands for the Run that apps know."""


def above_limit(amount: int, **_: Any) -> bool:
    return amount > 100


def tool_with(approval: Any) -> Tool:
    @tool(approval=approval)
    def pay(amount: int, reason: str = "none", *, run: FakeRun) -> None:
        """Pays."""

    return pay


@pytest.mark.parametrize(
    ("approval", "arguments", "asks"),
    [
        ("always", {"amount": 1}, True),
        ("never", {"amount": 1}, False),
        (above_limit, {"amount": 100}, False),
        (above_limit, {"amount": 101}, True),
        (lambda amount, reason: reason != "none", {"amount": 1}, False),
        (lambda amount, reason: reason != "none", {"amount": 1, "reason": "x"}, True),
        # In doubt: broken arguments, no answer, an answer that is none.
        (above_limit, {"amount": "1"}, True),
        (above_limit, {}, True),
        (lambda amount, reason: None, {"amount": 1}, True),
        (lambda amount, reason: 0, {"amount": 1}, True),
        (lambda amount, reason: 1 / 0, {"amount": 1}, True),
    ],
)
def test_needs_approval(approval: Any, arguments: dict[str, Any], asks: bool) -> None:
    assert tool_with(approval).needs_approval(arguments) is asks


def test_failing_approval_function_asks_and_logs_no_arguments() -> None:
    def failing(amount: int, reason: str) -> bool:
        raise TypeError(f"secret {reason}")

    with capture_logs() as lines:
        assert tool_with(failing).needs_approval({"amount": 1})
    (line,) = lines
    assert (line["log_level"], line["tool"], line["why"]) == ("warning", "pay", "TypeError")
    assert "secret" not in str(line)


def test_approval_function_without_a_signature() -> None:
    @tool(approval=bool)
    def take(count: int) -> None:
        """Takes."""

    with pytest.raises(ValueError, match="signature"):
        inspect.signature(bool)
    assert take.needs_approval({"count": 1})
