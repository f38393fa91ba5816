"""Who has to be asked before a call: what is declared, and a person wherever that is in doubt."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from structlog.testing import capture_logs

from server.workflows import InjectedRun, Tool, tool


class Run(InjectedRun):
    """Stands for the one that apps know."""


def over(amount: int, **_: Any) -> bool:
    return amount > 100


def declared(approval: Any) -> Tool:
    @tool(approval=approval)
    def pay(amount: int, reason: str = "none", *, run: Run) -> None:
        """Pays."""

    return pay


@pytest.mark.parametrize(
    ("approval", "arguments", "asks"),
    [
        ("always", {"amount": 1}, True),
        ("never", {"amount": 1}, False),
        (over, {"amount": 100}, False),
        (over, {"amount": 101}, True),
        (lambda amount, reason: reason != "none", {"amount": 1}, False),
        (lambda amount, reason: reason != "none", {"amount": 1, "reason": "x"}, True),
        # In doubt: broken arguments, no answer, an answer that is none.
        (over, {"amount": "1"}, True),
        (over, {}, True),
        (lambda amount, reason: None, {"amount": 1}, True),
        (lambda amount, reason: 0, {"amount": 1}, True),
        (lambda amount, reason: 1 / 0, {"amount": 1}, True),
    ],
)
def test_who_has_to_be_asked(approval: Any, arguments: dict[str, Any], asks: bool) -> None:
    assert declared(approval).needs_approval(arguments) is asks


def test_an_approval_that_fails_is_told_without_content() -> None:
    def failing(amount: int, reason: str) -> bool:
        raise TypeError(f"secret {reason}")

    with capture_logs() as lines:
        assert declared(failing).needs_approval({"amount": 1})
    (line,) = lines
    assert (line["log_level"], line["tool"], line["why"]) == ("warning", "pay", "TypeError")
    assert "secret" not in str(line)


def test_an_approval_without_a_signature_is_taken_as_it_is() -> None:
    @tool(approval=bool)
    def take(count: int) -> None:
        """Takes."""

    with pytest.raises(ValueError, match="signature"):
        inspect.signature(bool)
    assert take.needs_approval({"count": 1})
