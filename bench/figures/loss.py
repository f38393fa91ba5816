"""Whether a reader got exactly what the upstream sent: nothing lost, repeated, strange or out of order. Pure.

Two witnesses are compared that know nothing of each other: the upstream's list of what it sent, and the bytes
that reached the client, with their positions. A benchmark's figure counts only when this finds nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Got:
    """An event as a client received it. `text` is None for anything but a token; `at` in monotonic ns."""

    position: int
    text: str | None
    at: int


@dataclass(frozen=True, slots=True)
class Loss:
    """What went wrong, counted. `gaps`: positions that do not follow the one before; `unended`: no end came."""

    sent: int = 0
    lost: int = 0
    repeated: int = 0
    reordered: int = 0
    strange: int = 0
    gaps: int = 0
    unended: int = 0

    @property
    def clean(self) -> bool:
        """Whether the reader got every token exactly once, in order, and the end."""
        return self == Loss(sent=self.sent)

    def __str__(self) -> str:
        if self.clean:
            return "nothing lost or repeated"
        counts = {one.name: getattr(self, one.name) for one in fields(self)}
        return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count and name != "sent")


def check(sent: Sequence[str], received: Sequence[Got], *, ended: bool) -> Loss:
    """One reader of one generation: the texts that were sent, and what arrived, in the order of arrival."""
    place = {text: n for n, text in enumerate(sent)}
    if len(place) != len(sent):
        raise ValueError("the upstream has sent one text twice: the texts of a stream have to differ")
    seen: set[str] = set()
    newest = -1
    repeated = reordered = strange = gaps = 0
    before: int | None = None
    for event in received:
        if before is not None and event.position != before + 1:
            gaps += 1
        before = event.position
        if event.text is None:
            continue
        if event.text not in place:
            strange += 1
        elif event.text in seen:
            repeated += 1
        else:
            seen.add(event.text)
            if place[event.text] < newest:
                reordered += 1
            newest = max(newest, place[event.text])
    return Loss(len(sent), len(sent) - len(seen), repeated, reordered, strange, gaps, 0 if ended else 1)


def total(losses: Iterable[Loss]) -> Loss:
    """All readers together."""
    sums = dict.fromkeys((one.name for one in fields(Loss)), 0)
    for loss in losses:
        for name in sums:
            sums[name] += getattr(loss, name)
    return Loss(**sums)
