"""A load test: generations of the `demo` model on a running server, each read by some readers, all checked.

A token counts as delivered when a reader has it; what a reader was given is held against the log's snapshot.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter, process_time
from typing import Any

import msgspec
import trio

from server.client.address import Address
from server.client.api import check, decode_object
from server.client.errors import ClientError
from server.client.exchange import exchange
from server.client.ledger import Figures, Ledger
from server.client.patience import Patience
from server.client.readers import PATIENCE_SECONDS, Reader

TRANSPORTS = ("sse", "ndjson", "ws")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to put on the server. `rate` in tokens a second, 0 as fast as it goes; `ramp` seconds of starting."""

    generations: int
    tokens: int
    rate: float
    readers: int
    transport: str
    ramp: float


@dataclass(slots=True)
class Outcome:
    """How it went, and how it is going. Tokens are counted once a reader."""

    figures: Figures = field(default_factory=Figures)
    started: int = 0
    ended: int = 0
    not_completed: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    repeated: int = 0
    changed: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def sound(self) -> bool:
        """Every reader had every event of the log once, in order, and every answer was completed."""
        return not (self.lost or self.repeated or self.changed or self.not_completed)


async def run_load(address: Address, plan: Plan, outcome: Outcome) -> None:
    """Fills `outcome`, which may be looked at meanwhile. Raises `ClientError` (refused, or not reachable)."""
    start, cpu = perf_counter(), process_time()
    await _ask(address, "GET", "/readyz", None, met=False)
    try:
        async with trio.open_nursery() as nursery:
            for number in range(plan.generations):
                nursery.start_soon(_one, address, plan, outcome, number)
    finally:
        outcome.seconds, outcome.cpu_seconds = perf_counter() - start, process_time() - cpu


async def _one(address: Address, plan: Plan, outcome: Outcome, number: int) -> None:
    # Spread over the ramp: tokens that are all due in the same instant would measure the queue they make.
    await trio.sleep(plan.ramp * number / plan.generations)
    parameters = {"tokens": plan.tokens, "rate": plan.rate, "seed": number}
    asked_at = perf_counter()
    found = await _ask(address, "POST", "/v1/generations", {"model": "demo", "parameters": parameters})
    outcome.started += 1
    ledgers = [Ledger(outcome.figures, found["position"], asked_at) for _ in range(plan.readers)]

    def cut() -> None:
        outcome.figures.reconnects += 1

    async with trio.open_nursery() as nursery:
        for ledger in ledgers:
            reader = Reader(address, plan.transport, found["conversation"], found["id"], ledger, cut)
            nursery.start_soon(reader.read)
    outcome.ended += 1
    judge(outcome, await _ask(address, "GET", f"/v1/generations/{found['id']}", None), ledgers)


def judge(outcome: Outcome, snapshot: Mapping[str, Any], ledgers: list[Ledger]) -> None:
    """Holds what the readers have against the log's own snapshot."""
    if snapshot["status"] != "completed":
        why = str((snapshot["error"] or {}).get("code", snapshot["status"]))
        outcome.not_completed[why] = outcome.not_completed.get(why, 0) + 1
    for ledger in ledgers:
        outcome.lost += max(ledger.missing, snapshot["tokens"] - ledger.tokens, 0)
        outcome.repeated += ledger.repeated
        outcome.changed += not ledger.same_text(snapshot["text"])


async def _ask(address: Address, method: str, path: str, body: Any, *, met: bool = True) -> dict[str, Any]:
    """One request, sent again with the same key until it is answered."""
    patience = Patience(PATIENCE_SECONDS)
    if met:
        patience.well()
    encoded = msgspec.json.encode(body) if body is not None else b""
    headers = {"Idempotency-Key": secrets.token_hex(16)}
    if encoded:
        headers["Content-Type"] = "application/json"
    while True:
        try:
            async with exchange(address, method, path, headers, encoded) as answer:
                content = await answer.read()
                check(answer.status, answer.headers, content)
                return decode_object(address, content)
        except ClientError as error:
            await patience.wait(error)
