"""Finds the sentences that say the most, and those that answer a question, without a model. Pure.

A word counts the more, the fewer pages have it (inverse document frequency). So what stands on every page is worth
little, and a question's rare words lead to the page that answers it.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

SILENT = frozenset(
    [
        "the",
        "and",
        "for",
        "are",
        "was",
        "were",
        "with",
        "what",
        "when",
        "where",
        "which",
        "who",
        "how",
        "does",
        "did",
    ]
)
"""Words that say nothing of what a text, or a question, is about."""
MIN_SENTENCE = 4
"""Words; what is shorter is a heading or a page's number."""


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, in order, without headings; of a text that has none, the text."""
    found = [" ".join(one.split()) for one in re.split(r"(?<=[.!?…])\s+", text)]
    return [one for one in found if len(one.split()) >= MIN_SENTENCE] or [text]


def words_of(text: str) -> list[str]:
    """The words that count, each without its plural: `berths` finds `berth`."""
    found = re.findall(r"[^\W_]+", text.lower())
    return [word.removesuffix("s") for word in found if (len(word) > 2 and word not in SILENT) or word.isdigit()]


def weigh_words(texts: Sequence[str]) -> dict[str, float]:
    """What each word of these texts is worth: more, the fewer of them have it."""
    found = Counter(word for text in texts for word in set(words_of(text)))
    return {word: math.log((1 + len(texts)) / count) for word, count in found.items()}


def best_sentences(text: str, weights: Mapping[str, float], count: int) -> list[str]:
    """The `count` sentences of a text that say the most for their length, in the order of the text."""
    sentences = split_sentences(text)

    def worth(sentence: str) -> float:
        words = words_of(sentence)
        return sum(weights.get(word, 0) for word in words) / (3 + len(words))

    best = sorted(sentences, key=worth, reverse=True)[:count]
    return [sentence for sentence in sentences if sentence in best]


def find_answers(question: str, texts: Sequence[str], count: int) -> list[tuple[int, str]]:
    """At most `count` places in `texts` with words of the question, each with its best sentence; best first."""
    weights = weigh_words(texts)
    wanted = set(words_of(question))
    found: list[tuple[float, int, str]] = []
    for place, text in enumerate(texts):
        fits = [(sum(weights[word] for word in wanted & set(words_of(one))), one) for one in split_sentences(text)]
        worth, sentence = max(fits, key=lambda fit: fit[0])
        if worth > 0:
            found.append((worth, place, sentence))
    found.sort(key=lambda one: (-one[0], one[1]))
    return [(place, sentence) for _, place, sentence in found[:count]]
