"""The demo's story: readable, whole at any length, the same for a seed; and what it says before it calls a tool.

Owns the words and the sentences. Deterministic over processes and Python versions, so it uses only
`random.Random.random`, whose sequence for an int seed the standard library promises to keep; `choice` and
`randrange` have changed before. Pure: must not know time or parameters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from random import Random

__all__ = ["aside", "story", "whole_story"]

_WORDS: dict[str, Sequence[str]] = {
    name: words.split("|")
    for name, words in {
        "ADJ": "old|quiet|salt-stained|careful|borrowed|grey|patient|narrow|bright|forgotten|heavy|honest",
        "THING": "tape|letter|lantern|ledger|map|bell|rope|chart|kettle|compass|crate|notebook",
        "PERSON": "keeper|pilot|clerk|ferryman|postmistress|cook|archivist|fisher|captain|night watch",
        "PLACE": "the harbour|the lighthouse|the reading room|Port Amber|the north pier|Café Solano|the vault",
        "WEATHER": "storm|fog|tide|gale|drizzle|swell|frost|thaw",
        "DID": "carried|copied|counted|mended|hid|labelled|rewound|weighed|numbered|read",
        "WHEN": "before dawn|at noon|after the last ferry|all through the night|in the second week|by lamplight",
        "COUNT": "two|three|seven|eleven|forty|a hundred",
    }.items()
}
_SENTENCES = (
    "The ADJ PERSON DID the THING WHEN.",
    "Nobody at PLACE had seen such a WEATHER.",
    "WHEN, the WEATHER came in over PLACE and took the ADJ THING.",
    "Every THING in PLACE has a number, and every number has its place.",
    "“Nothing is lost,” said the PERSON, “as long as the THING was written down.”",
    "So they DID the COUNT ADJ letters again, one after the other.",
    "When the WEATHER broke, the tape went on from where it had stopped.",
    "The PERSON kept one ADJ THING under the counter, in case of WEATHER.",
    "A letter from PLACE arrived WHEN; it had been COUNT years on the way.",
    "First came the WEATHER, then the silence, then the ADJ PERSON with a THING.",
    "What the PERSON DID in the WEATHER, the tape remembers.",
    "It was only a THING, but it had crossed the WEATHER twice.",
)
_ASIDES = (
    "That is not in the THING; the PERSON goes to ask.",
    "“One moment,” says the PERSON, and sends to PLACE.",
    "Before it goes on, the PERSON wants to be sure.",
    "Somebody at PLACE will know.",
    "The PERSON puts down the THING and looks it up.",
    "For this, the ADJ THING is not enough.",
)
_ENDINGS = (
    "Enough.",
    "All's well.",
    "Nothing was lost.",
    "The tape went on.",
    "And then it was morning.",
)
"""Of one word, of two, and so on: they fill the room that no other sentence fits into."""
_SLOT = re.compile("|".join(_WORDS))
_PARAGRAPH = 0.18  # the chance that a sentence is its paragraph's last


def story(seed: int) -> Iterator[str]:
    """Endless chunks as a model's tokens would be: a word each, with what follows it (`The `, `storm, `)."""
    rng = Random(seed)
    while True:
        words = _sentence(rng, _SENTENCES)
        yield from (f"{word} " for word in words[:-1])
        yield words[-1] + _between(rng)


def whole_story(seed: int, count: int) -> Iterator[str]:
    """As many chunks of the story, of which the last ends a sentence: an answer that breaks off looks like a loss.

    It is `story` up to the first sentence that does not fit any more.
    """
    rng = Random(seed)
    left = count
    while left:
        words = _sentence(rng, _SENTENCES)
        if len(words) > left:
            words = _ENDINGS[min(left, len(_ENDINGS)) - 1].split()
        left -= len(words)
        yield from (f"{word} " for word in words[:-1])
        yield words[-1] + (_between(rng) if left else "")


def _between(rng: Random) -> str:
    return "\n\n" if rng.random() < _PARAGRAPH else " "


def aside(seed: int, number: int) -> list[str]:
    """One short sentence in chunks as `story`'s, chosen by seed and number (from 0); the story is not moved on."""
    rng = Random((number + 1) * 2**64 + seed)  # seeds of stories are smaller
    return [f"{word} " for word in _sentence(rng, _ASIDES)]


def _sentence(rng: Random, templates: Sequence[str]) -> list[str]:
    template = _pick(rng, templates)
    text = _SLOT.sub(lambda slot: _pick(rng, _WORDS[slot[0]]), template)
    return (text[0].upper() + text[1:]).split()


def _pick(rng: Random, among: Sequence[str]) -> str:
    return among[int(rng.random() * len(among))]
