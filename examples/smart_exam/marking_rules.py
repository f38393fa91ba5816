"""The examiner's rules: what a sentence costs, the more the stricter one is. Pure.

A few lines of Python, so that the app runs without a model; `run.generate` would stand in `mark`'s place.
"""

import re
from itertools import pairwise

from pydantic import BaseModel

EMPTY_WORDS = {"very", "really", "quite", "just", "actually", "basically", "thing", "things", "stuff", "nice"}
WEAK_VERBS = {"is", "are", "was", "were", "be", "been", "has", "have", "had", "got", "did", "made"}
USUAL_BEGINNINGS = {"the", "a", "an", "it", "he", "she", "they", "there", "this", "that"}
PICKY, PEDANTIC = 6, 9
"""The strictness from which more than mistakes is a fault."""


class Mark(BaseModel):
    """One sentence's: 10 is the best, 1 the worst."""

    sentence: str
    mark: int
    strictness: int
    remarks: list[str]


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
