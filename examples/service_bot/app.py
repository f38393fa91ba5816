"""The agent: answers a customer's ticket with four tools, and asks an operator before it does what matters.

The tools' world is `shop.py`. What an operator writes into the conversation while the agent works is heard
when its answer is finished, and answered too.
"""

from itertools import count
from typing import Annotated, Any

from pydantic import BaseModel, Field

from tokentape import Run, tool, workflow

from .shop import Order, open_shop

LIMIT = 2_000
"""Cents of one order that are refunded without asking anybody, in however many calls."""

RULES = (
    "You are the service agent of a small shop. Look up the order first. Refund what is fair, tell the customer "
    "in a message, and close the ticket last. An operator may reject a call or change its arguments: accept that."
)


class Ticket(BaseModel):
    """What a customer wrote. `model`: `demo`, `openai/<name>` or `anthropic/<name>`."""

    text: str
    order: str
    model: str = "demo"


class Outcome(BaseModel):
    """How the order stands in the end, and how many notes of operators were heard."""

    refunded: int
    closed: bool
    notes: int


@tool(approval="never", idempotent=True)
def look_up_order(order: str) -> Order:
    """What was ordered, and in cents what was paid and what was refunded so far."""
    with open_shop() as shop:
        return shop.order(order)


def beyond_limit(order: str, cents: int, reason: str) -> bool:
    """Whether somebody has to be asked; what passes is set aside at once.

    A model may want three refunds in one turn, and each is judged before the first is made: with a limit of the
    single call it could give back any sum, and nobody would be asked.
    """
    with open_shop() as shop:
        found = shop.order(order)
        if max(found.refunded, found.unasked) + cents > LIMIT:
            return True
        found.unasked += cents
        return False


@tool(approval=beyond_limit)
def refund(order: str, cents: Annotated[int, Field(gt=0, le=1_000_000)], reason: str) -> Order:
    """Gives money back to the customer."""
    with open_shop() as shop:
        found = shop.order(order)
        if found.refunded + cents > found.paid:
            raise ValueError(f"{found.paid - found.refunded} cents are left of this order, not {cents}")
        found.refunded += cents
        return found


@tool
def send_message(order: str, text: str) -> str:
    """Writes to the customer."""
    with open_shop() as shop:
        shop.order(order).messages.append(text)
    return "sent"


@tool(idempotent=True)
def close_ticket(order: str) -> str:
    """Closes the ticket: the last thing to do."""
    with open_shop() as shop:
        shop.order(order).closed = True
    return "closed"


@workflow("service_bot", input=Ticket, result=Outcome)
async def service_bot(run: Run) -> Outcome:
    """Asks the model, with its tools, until nobody has anything to add."""
    ticket: Ticket = run.input
    messages = [{"role": "system", "content": RULES}]
    messages.append({"role": "user", "content": f"Order {ticket.order}: {ticket.text}"})
    heard = notes = 0
    for answers in count():
        said = await listen(run, heard)
        if answers and not said:
            break
        messages += [{"role": note["role"], "content": note["content"]} for note in said]
        heard, notes = max((note["position"] for note in said), default=heard), notes + len(said)
        answer = await run.generate(
            ticket.model,
            messages,
            tools=[look_up_order, refund, send_message, close_ticket],
            parameters=played(ticket, answers) if ticket.model == "demo" else {},
        )
        if answer.text:
            messages.append({"role": "assistant", "content": answer.text})
    with open_shop() as shop:
        order = shop.order(ticket.order)
    return Outcome(refunded=order.refunded, closed=order.closed, notes=notes)


async def listen(run: Run, after: int) -> list[dict[str, Any]]:
    """What was said in the conversation behind a position. A step: a run taken up again hears the very same."""

    async def look() -> list[dict[str, Any]]:
        turns = [turn for turn in await run.context() if turn.position > after]
        return [{"position": turn.position, "role": turn.role, "content": turn.content} for turn in turns]

    found: list[dict[str, Any]] = await run.step("listen", look)
    return found


def played(ticket: Ticket, answers: int) -> dict[str, Any]:
    """The part of the agent, for the `demo` model: it has no mind of its own, and calls what stands here."""
    sorry = "We are sorry. Your money is on its way."
    calls: list[dict[str, Any]] = [
        {"name": "look_up_order", "arguments": {"order": ticket.order}},
        {"name": "refund", "arguments": {"order": ticket.order, "cents": 500, "reason": "Postage"}},
        {"name": "refund", "arguments": {"order": ticket.order, "cents": 4900, "reason": "Dented"}},
        {"name": "send_message", "arguments": {"order": ticket.order, "text": sorry}},
        {"name": "close_ticket", "arguments": {"order": ticket.order}},
    ]
    return {"tokens": 30, "rate": 25, "seed": answers, "calls": [] if answers else calls}
