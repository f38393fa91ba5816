"""What tests of tool calls share: a model that calls tools, and a tool that records what it did."""

from typing import Any

import trio

from server.workflows import Tool, tool
from tests.generations.fake_agent import FakeAgent, Say

SHIP = {"name": "ship", "description": "Ships it.", "approval": "never"}
"""A tool that the client runs."""
ORDER = ("refund", '{"order": 7}')
"""A call."""


def wants(*wanted: tuple[str, str], then: str = "done") -> FakeAgent:
    """A model that makes these calls in one turn, and answers in text in the next."""
    return FakeAgent(Say((("so ",),), wanted), Say(((then,),)))


def told(agent: FakeAgent) -> list[Any]:
    """The tool results in the last prompt that the model was given."""
    return [one.content for one in agent.asked[-1].messages if one.role == "tool"]


class RefundTool:
    """A tool that writes down what it did. `done` is that; each run takes `seconds`."""

    def __init__(self, seconds: float = 0.0, **declared: Any) -> None:
        self.done: list[int] = []
        self.seconds = seconds

        @tool(**declared)
        async def refund(order: int) -> str:
            """Gives money back."""
            self.done.append(order)
            await trio.sleep(self.seconds)
            return f"refunded {order}"

        self.tool: Tool = refund
