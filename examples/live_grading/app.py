"""A grader: marks a text sentence by sentence, as strictly as the slider stands when a sentence begins.

Its rules are a few lines of Python, so that it runs without a model; `run.generate` would stand in `mark`'s place.
"""

import re
from functools import partial
from itertools import pairwise
from typing import Annotated

import trio
from pydantic import BaseModel, Field

from tokentape import Run, workflow

EMPTY_WORDS = {"very", "really", "quite", "just", "actually", "basically", "thing", "things", "stuff", "nice"}
WEAK_VERBS = {"is", "are", "was", "were", "be", "been", "has", "have", "had", "got", "did", "made"}
USUAL_BEGINNINGS = {"the", "a", "an", "it", "he", "she", "they", "there", "this", "that"}
PICKY, PEDANTIC = 6, 9
"""The strictness from which more than mistakes is a fault."""


class Essay(BaseModel):
    """What to grade. `pace`: seconds between words of a remark, for people who watch."""

    text: Annotated[str, Field(min_length=1, max_length=100_000)]
    pace: Annotated[float, Field(ge=0, le=5)] = 0.05


class Dials(BaseModel):
    """What people turn while it grades. 1 lets nearly everything pass, 10 nothing."""

    strictness: Annotated[int, Field(ge=1, le=10)] = 5


class Mark(BaseModel):
    """One sentence's: 10 is the best, 1 the worst."""

    sentence: str
    mark: int
    strictness: int
    remarks: list[str]


class Grades(BaseModel):
    """All marks, in the order of the text."""

    marks: list[Mark]
    average: float


@workflow("live_grading", input=Essay, result=Grades, steering=Dials)
async def live_grading(run: Run) -> Grades:
    """Each sentence's mark is a step: a run taken up again keeps the marks it gave, and how strictly."""
    essay: Essay = run.input
    sentences = split(essay.text)
    marks: list[Mark] = []
    for number, sentence in enumerate(sentences):
        # What this run knows is as of its last event. So the dial is read right behind one.
        await run.progress(number, len(sentences), "sentences", stage="grading")
        dials: Dials = run.steering
        given = Mark.model_validate(await run.step("mark", partial(mark, sentence, dials.strictness)))
        marks.append(given)
        for word in f"{given.mark}/10. {' '.join(given.remarks)}\n".split(" "):
            await run.token(f"{word} ")
            await trio.sleep(essay.pace)
    await run.progress(len(sentences), len(sentences), "sentences", stage="done")
    return Grades(marks=marks, average=round(sum(one.mark for one in marks) / len(marks), 1))


def split(text: str) -> list[str]:
    """The text's sentences; never none."""
    found = re.split(r"(?<=[.!?…])\s+|\n{2,}", text)
    return [" ".join(one.split()) for one in found if one.strip()] or [text]


def mark(sentence: str, strictness: int) -> Mark:
    """Each fault costs points, more of them the stricter it is; and who is strict finds more faults."""
    longest = 26 - 2 * strictness
    words = re.findall(r"[\w'’-]+", sentence.lower())
    empty = [word for word in words if word in EMPTY_WORDS]
    twice = [word for word, following in pairwise(words) if word == following]
    faults: list[tuple[float, str]] = []
    if empty:
        faults.append((1.0 * len(empty), f"“{empty[0]}” says nothing."))
    if twice:
        faults.append((2.0, f"“{twice[0]}” stands there twice."))
    if len(words) > longest:
        faults.append(((len(words) - longest) / 4, f"{len(words)} words are long: {longest} are enough."))
    if not sentence[0].isupper():
        faults.append((1.0, "It begins with a small letter."))
    if sentence[-1] not in '.!?…”"':
        faults.append((1.0, "It has no end."))
    weak = [word for word in words if word in WEAK_VERBS]
    if strictness >= PICKY and weak:
        faults.append((1.0 * len(weak), f"“{weak[0]}” is a weak verb."))
    if strictness >= PEDANTIC and len(words) < 5:
        faults.append((1.5, f"{len(words)} words are hardly a sentence."))
    if strictness >= PEDANTIC and words and words[0] in USUAL_BEGINNINGS:
        faults.append((1.0, f"“{words[0].capitalize()}” begins every other sentence."))
    cost = sum(weight for weight, _ in faults) * strictness / 5
    given = max(1, round(10 - cost))
    remarks = [told for _, told in faults] or ["Good."]
    return Mark(sentence=sentence, mark=given, strictness=strictness, remarks=remarks)
