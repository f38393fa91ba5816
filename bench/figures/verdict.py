"""Both witnesses brought together: what the upstream sent, and what each reader's socket brought. Pure.

A token's latency runs from its sending, even where its reader came too late to be waiting for it: that the
reader was let in late is the server's doing, and leaving such tokens out would make a drowning server look fast.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.figures import loss, tape
from bench.figures.loss import Loss
from bench.figures.stamps import text_of
from bench.figures.tape import Piece


@dataclass(frozen=True, slots=True)
class Recording:
    """One reader's. Times in monotonic ns; `asked_at` is when its first request left; `problem` in words."""

    ask: int
    asked_at: int
    opened_at: int
    pieces: Sequence[Piece]
    problem: str


@dataclass(slots=True)
class Verdict:
    """All readers together. Latencies in ms: of first tokens, from the request to them, of all others.

    `between_sent` is when each of the others was sent (monotonic ns), in the order of `between`.
    `late_readers` asked for events only after the first token had been sent.
    """

    loss: Loss = Loss()
    problems: list[str] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    between_sent: list[int] = field(default_factory=list)
    late_readers: int = 0
    frames_a_chunk: float = 0.0


def judge(recordings: Iterable[Recording], sent: Mapping[int, Sequence[int]], tokens: int) -> Verdict:
    """`sent`: the stamps (ns) of each ask's tokens, as the upstream noted them; each should have been `tokens`."""
    losses: list[Loss] = []
    found = Verdict()
    frames = chunks = 0
    for one in recordings:
        at_of = {text_of(at): at for at in sent.get(one.ask, ())}
        if one.problem:
            found.problems.append(one.problem)
        elif len(at_of) != tokens:  # the run was broken off: what was sent may have arrived, and is no answer
            found.problems.append(f"{len(at_of):,} of {tokens:,} tokens were taken from the upstream")
        try:
            read = tape.read(one.pieces)
        except tape.BadTape as error:
            found.problems.append(str(error) or "no answer")
            losses.append(loss.check(list(at_of), [], ended=False))
            continue
        losses.append(loss.check(list(at_of), read.events, ended=read.ended))
        frames += len(read.events)
        chunks += read.chunks
        found.late_readers += bool(at_of) and one.opened_at > min(at_of.values())
        arrived = [(event.at, at_of[event.text]) for event in read.events if event.text in at_of]
        for n, (at, left) in enumerate(arrived):
            (found.between if n else found.first).append((at - left) / 1e6)
            if n:
                found.between_sent.append(left)
        found.asked += [(at - one.asked_at) / 1e6 for at, _ in arrived[:1]]
    found.loss = loss.total(losses)
    found.frames_a_chunk = frames / chunks if chunks else 0.0
    return found
