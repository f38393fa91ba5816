"""The agent: answers a customer's ticket with three tools, and asks an operator before it does what matters.

Looking an order up asks nobody, a refund asks beyond what an order may get back without a question, and whatever
reaches the customer asks always. The tools' world is `shop.py`. What an operator writes into the conversation
while the agent works is heard when its answer is finished, and answered too.
"""

import os
from itertools import count
from typing import Annotated, Any

from pydantic import BaseModel, Field

from tokentape import Run, tool, workflow

from .shop import Order, open_shop

RATE = float(os.environ.get("SERVICE_BOT_RATE", "25"))
"""Tokens a second of the `demo` model."""

LIMIT = 2_000
"""Cents of one order that are refunded without asking anybody, in however many calls."""

APPROVERS = int(os.environ.get("SERVICE_BOT_APPROVERS", "1"))
"""How many people have to approve a refund beyond that. For two, make each a key (`tokentape keys create`)."""

RULES = (
    "You are the service agent of a small shop. Look up the order first. Refund what is fair, and close the "
    "ticket last, with a message to the customer. An operator may reject a call or change it: accept that."
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


@tool(approval=beyond_limit, approvers=APPROVERS)
def refund(order: str, cents: Annotated[int, Field(gt=0, le=1_000_000)], reason: str) -> Order:
    """Gives money back to the customer."""
    with open_shop() as shop:
        found = shop.order(order)
        if found.refunded + cents > found.paid:
            raise ValueError(f"{found.paid - found.refunded} cents are left of this order, not {cents}")
        found.refunded += cents
        return found


@tool
def close_ticket(order: str, message: str) -> str:
    """Writes to the customer and closes the ticket: the last thing to do."""
    with open_shop() as shop:
        found = shop.order(order)
        found.messages.append(message)
        found.closed = True
    return "sent, and closed"


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
            tools=[look_up_order, refund, close_ticket],
            parameters=await play(run, ticket, answers) if ticket.model == "demo" else {},
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
        return [{"position": turn.position, "role": turn.role, "content": turn.text} for turn in turns]

    found: list[dict[str, Any]] = await run.step("listen", look)
    return found


async def play(run: Run, ticket: Ticket, answers: int) -> dict[str, Any]:
    """The part of the agent, for the `demo` model: it has no mind of its own, and calls what stands here."""

    def is_closed() -> bool:
        with open_shop() as shop:
            return shop.order(ticket.order).closed

    first = "We are sorry. Your money is on its way."
    again = "Thank you for your patience. Your money is on its way, and we have packed the next one better."
    refunds = [(500, "Postage"), (4900, "Dented")]
    calls: list[dict[str, Any]] = []
    if answers == 0:
        calls.append({"name": "look_up_order", "arguments": {"order": ticket.order}})
        for cents, reason in refunds:
            calls.append(
                {"name": "refund", "arguments": {"order": ticket.order, "cents": cents, "reason": reason}}
            )
    if not await run.step("is it closed", is_closed):
        message = again if answers else first
        calls.append({"name": "close_ticket", "arguments": {"order": ticket.order, "message": message}})
    return {"tokens": 30, "rate": RATE, "seed": answers, "calls": calls}
