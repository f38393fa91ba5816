"""Compares what the provider sent with what each reader's socket received: losses and latencies. Pure.

The two lists are made by processes that know nothing of each other. A benchmark's figure counts only when the
comparison finds no loss. The text of each token is the time at which it was sent, so a text identifies its token.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields

from bench.analysis.sse_recording import BadRecording, ReceivedEvent, SocketRead, parse_recording

TIMESTAMP_UNIT_NS = 10_000
TIMESTAMP_LENGTH = 5
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_PAIRS = [a + b for a in ALPHABET for b in ALPHABET]


def timestamp_text(timestamp_ns: int) -> str:
    """A token's text: a monotonic time in nanoseconds as five characters, about as long as a real token.

    Units of 10 µs in base 64, which wrap after three hours. Two tokens of one stream have different texts if they
    are at least 10 µs apart; the provider sees to that.
    """
    units = timestamp_ns // TIMESTAMP_UNIT_NS
    return ALPHABET[(units >> 24) & 63] + _PAIRS[(units >> 12) & 4095] + _PAIRS[units & 4095]


@dataclass(frozen=True, slots=True)
class Loss:
    """What went wrong, counted.

    `strange`: texts that were never sent. `gaps`: positions that do not follow the one before. `unended`: streams
    without an end.
    """

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


def count_loss(sent: Sequence[str], received: Sequence[ReceivedEvent], *, ended: bool) -> Loss:
    """Compares the texts sent in one generation with the events that one reader got, in the order of arrival.

    `ended`: whether the reader received the end of the stream. Raises `ValueError` when a text was sent twice: the
    provider is to blame, for a repeated token could not be told from it.
    """
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


def total_loss(losses: Iterable[Loss]) -> Loss:
    """The sum over all readers."""
    sums = dict.fromkeys((one.name for one in fields(Loss)), 0)
    for loss in losses:
        for name in sums:
            sums[name] += getattr(loss, name)
    return Loss(**sums)


@dataclass(frozen=True, slots=True)
class Recording:
    """What one reader recorded. Times in monotonic ns.

    `ask`: the number of the generation. `asked_at`: when the reader's first request left. `problem`: what went
    wrong, in words, else empty.
    """

    ask: int
    asked_at: int
    opened_at: int
    pieces: Sequence[SocketRead]
    problem: str


@dataclass(slots=True)
class Delivery:
    """The deliveries to all readers together. Latencies in ms.

    A token's latency runs from its sending, even where its reader came too late to be waiting for it: that the
    reader was let in late is the server's doing, and leaving such tokens out would make a drowning server look
    fast.

    `first`: latencies of first tokens. `asked`: from the request to the first token. `between`: latencies
    of all other tokens; `between_sent`: when each of those was sent (monotonic ns). `late_readers`: how
    many asked for events only after the first token had been sent.
    """

    loss: Loss = Loss()
    problems: list[str] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    between_sent: list[int] = field(default_factory=list)
    late_readers: int = 0
    frames_a_chunk: float = 0.0


def measure_delivery(recordings: Iterable[Recording], sent: Mapping[int, Sequence[int]], tokens: int) -> Delivery:
    """Compares every reader's recording with what was sent.

    `sent`: when each token of a generation left the provider (monotonic ns), by the generation's number. Each
    generation should have had `tokens`.
    """
    losses: list[Loss] = []
    delivery = Delivery()
    frames = chunks = 0
    for recording in recordings:
        sent_at = {timestamp_text(at): at for at in sent.get(recording.ask, ())}
        if recording.problem:
            delivery.problems.append(recording.problem)
        elif len(sent_at) != tokens:
            # The run was broken off: all that was sent may have arrived, and is still not a whole answer.
            delivery.problems.append(f"{len(sent_at):,} of {tokens:,} tokens were taken from the upstream")
        try:
            parsed = parse_recording(recording.pieces)
        except BadRecording as error:
            delivery.problems.append(str(error) or "no answer")
            losses.append(count_loss(list(sent_at), [], ended=False))
            continue
        losses.append(count_loss(list(sent_at), parsed.events, ended=parsed.ended))
        frames += len(parsed.events)
        chunks += parsed.chunks
        delivery.late_readers += bool(sent_at) and recording.opened_at > min(sent_at.values())
        arrived = [(event.at, sent_at[event.text]) for event in parsed.events if event.text in sent_at]
        for n, (at, left) in enumerate(arrived):
            (delivery.between if n else delivery.first).append((at - left) / 1e6)
            if n:
                delivery.between_sent.append(left)
        delivery.asked += [(at - recording.asked_at) / 1e6 for at, _ in arrived[:1]]
    delivery.loss = total_loss(losses)
    delivery.frames_a_chunk = frames / chunks if chunks else 0.0
    return delivery
