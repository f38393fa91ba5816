"""An app whose workflows go on when a client decides, so that a test knows where they stand.

Each effect is a JSON line in the file that the environment variable `DIARY` names: it counts what was really
done, outside of any log.
"""

import json
import os
from typing import Any, Literal

import trio
from pydantic import BaseModel, Field

from tokentape import Run, tool, workflow


class Pages(BaseModel):
    """The input of `reading`. `pause`: seconds for each page."""

    pages: int = Field(ge=1, le=1_000)
    pause: float = Field(0, ge=0, le=10)


class Speech(BaseModel):
    """What `duet` is given: how many words, and the pauses between them, in seconds.

    `cue`: the last word is held back until somebody has said this.
    """

    words: int = Field(ge=1, le=1_000)
    pauses: list[float] = Field(default_factory=list)
    cue: str | None = None


class SteeringParameters(BaseModel):
    """The parameters that clients steer."""

    strictness: int = Field(3, ge=0, le=1_000_000)
    voice: Literal["calm", "loud"] = "calm"


def record_effect(what: str, **fields: Any) -> int:
    """Records that it was done, and returns how often that was with the same fields."""
    path = os.environ.get("DIARY")
    if path is None:
        return 1
    line = json.dumps({"what": what, **fields}, sort_keys=True)
    with open(path, "a+", encoding="utf-8") as diary:
        diary.write(line + "\n")
        diary.flush()
        diary.seek(0)
        return diary.read().splitlines().count(line)


@tool
def refund(amount: int, to: str = "the customer") -> dict[str, Any]:
    """Pays money back."""
    record_effect("refund", amount=amount, to=to)
    return {"paid": amount, "to": to}


@tool(approval="never")
def look(page: int) -> str:
    """Shows a page."""
    record_effect("look", page=page)
    return f"page {page}"


@tool(approval="never")
async def mail(text: str) -> None:
    """Sends a letter, and never comes back from the post office."""
    record_effect("mail", text=text)
    await trio.sleep_forever()


@tool(approval="never", idempotent=True)
async def store(text: str) -> str:
    """Stores something; the first time it never returns."""
    if record_effect("store", text=text) == 1:
        await trio.sleep_forever()
    return f"stored {text}"


@tool(approval="never")
def break_down(how: str) -> str:
    """Fails."""
    raise LookupError(f"no {how} in the drawer")


@workflow("asking", steering=SteeringParameters)
async def asking(run: Run) -> dict[str, Any]:
    """Asks once, and does what was decided."""
    decision = await run.approve("publish", run.input)
    record_effect("publish", arguments=dict(decision.arguments), decision=decision.decision)
    told = {"decision": decision.decision, "arguments": dict(decision.arguments), "reason": decision.reason}
    return {**told, "strictness": run.steering.strictness}


@workflow("everything", steering=SteeringParameters)
async def everything(run: Run) -> dict[str, Any]:
    """Writes each kind of event that a run can have."""
    await run.token("Let me see. ")
    await run.progress(0, 2, "pages")
    calls = [
        {"name": "look", "arguments": {"page": 1}},
        {"name": "refund", "arguments": {"amount": 5}},
        {"name": "break_down", "arguments": {"how": "paper"}},
    ]
    parameters = {"tokens": 3, "rate": 0, "calls": calls}
    said = await run.generate("demo", "Go on.", tools=[look, refund, break_down], parameters=parameters)
    await run.progress(1, 2, "pages", stage="reading")
    counted = await run.step("count", lambda: len(said.tool_calls))
    decision = await run.approve("publish", {"pages": 2, "é": None})
    await run.progress(2, 2, "pages", stage="publishing")
    return {"published": decision.approved, "calls": counted, "strictness": run.steering.strictness}


@workflow("careful")
async def careful(run: Run) -> str:
    """Two steps that must not be done twice, with a question after each."""
    first = await run.step("fetch", lambda: record_effect("fetch"))
    await run.approve("go on", expires=None)
    second = await run.step("fetch", lambda: record_effect("fetch again"))
    await run.approve("end", expires=None)
    await run.token(f"attempt {run.attempt}")
    return f"fetched {first}, again {second}"


@workflow("hurried")
async def hurried(run: Run) -> str:
    """Asks, and waits one second."""
    return (await run.approve("publish", expires=1)).decision


@workflow("reading", input=Pages)
async def reading(run: Run) -> dict[str, int]:
    """A job that reads page after page and reports its progress."""
    for page in range(1, run.input.pages + 1):
        await trio.sleep(run.input.pause)
        await run.progress(page, run.input.pages, "pages", stage="reading")
    return {"read": run.input.pages}


@workflow("duet", input=Speech, steering=SteeringParameters)
async def duet(run: Run) -> int:
    """Each word says what it knows: the slider, and how much was said by others."""
    pauses = run.input.pauses
    for number in range(run.input.words):
        if pauses:
            await trio.sleep(pauses[number % len(pauses)])
        while run.input.cue is not None and number == run.input.words - 1:
            if run.input.cue in [turn.content for turn in await run.context()]:
                break
            await trio.sleep(0.01)
        strictness = run.steering.strictness
        heard = sum(turn.role == "user" for turn in await run.context())
        await run.token(f"{strictness}/{heard} ")
    return int(run.input.words)


@workflow("failing")
async def failing(run: Run) -> None:
    """Fails with an error of its own."""
    secret = "hunter2"  # it stands in the frame that no client may see
    await run.token("Almost …")
    raise ArithmeticError(f"the sum of {len(secret)} numbers is wrong")


@workflow("drafting")
async def drafting(run: Run) -> list[str]:
    """Asks the model that its input names, twice."""
    texts: list[str] = []
    for wish in ("a draft", "a better one"):
        await run.progress(len(texts), 2, "drafts")
        texts.append((await run.generate(run.input, wish)).text)
    return texts
