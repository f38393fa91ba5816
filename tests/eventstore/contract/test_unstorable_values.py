"""Names and contents that a database may not be able to store: only the call that sent them fails.

The in-memory log accepts more than Postgres does; both must go on working.
"""

from contextlib import suppress

import pytest
import trio
from msgspec.structs import replace

from eventstore import Append, Appended, EventStore, Key, NewEvent, StoreError, Writer
from eventstore.model import KEY_BYTES
from tests.eventstore.sample_events import case, names, read_all, sample_append, take

NUL, LONE = "a\x00b", "a\ud800b"
LONGEST = "".join(chr(33 + n * 7919 % 90) for n in range(KEY_BYTES - 1))
STRANGE = {
    "nul in the stream": sample_append(NUL, 1),
    "lone surrogate in the stream": sample_append(LONE, 1),
    "very long stream": sample_append("".join(chr(0x100 + n * 7919 % 40_000) for n in range(6_000)), 1),
    "nul in the type": Append("bad", (NewEvent(NUL, "{}"),)),
    "lone surrogate in the data": Append("bad", (NewEvent("x", f'"{LONE}"'),)),
    "nul in the data": Append("bad", (NewEvent("x", f'"{NUL}"'),)),
    "no json": Append("bad", (NewEvent("x", "{}"), NewEvent("x", '{"a":'), NewEvent("x", "{}"))),
    "no text": Append("bad", (NewEvent("x", ""),)),
    "nul in the tag": Append("bad", (NewEvent("x", "{}", NUL),)),
    "the longest key": sample_append("bad", 1, keys=(Key("k", LONGEST, b"1"),)),
    "nul in the writer": sample_append("bad", 1, writer=Writer(NUL, 1, 1)),
    "epoch out of range": sample_append("bad", 1, writer=Writer("w", 2**40, 1)),
    "position out of range": sample_append("bad", 1, expected=2**70),
    "key for ever and a day": sample_append("bad", 1, keys=(Key("k", "ever", b"1", seconds=1e300),)),
    "one key twice": sample_append("bad", 1, keys=(Key("k", "k", b"1"), Key("k", "k", b"1"))),
}


@pytest.mark.parametrize("text", [NUL, LONE, "x" * KEY_BYTES, "é" * (KEY_BYTES // 2)])
def test_invalid_keys_are_refused_when_made(text: str) -> None:
    """Otherwise the database would refuse every lookup of such a key."""
    for scope, name in ((text, "x"), ("x", text)):
        with pytest.raises(ValueError, match=r"surrogates|cannot be stored"):
            Key(scope, name)


async def test_unstorable_append(store: EventStore, other: EventStore) -> None:
    for n, (name, append) in enumerate(STRANGE.items()):
        with case(name):
            stream = f"bad {n}" if append.stream == "bad" else append.stream
            await append_among_others(store, other, replace(append, stream=stream), f"good {n}")


async def append_among_others(store: EventStore, other: EventStore, append: Append, good: str) -> None:
    """The append succeeds or is refused.

    Streams whose names begin with `good` are appended to at the same time.
    """
    answers: list[Appended] = []
    refused: list[StoreError] = []

    async def ask(one: Append) -> None:
        try:
            answers.append(await store.append(one))
        except StoreError as error:
            refused.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, sample_append(f"{good} 0", 0))
        for n in range(1, 6):
            nursery.start_soon(ask, sample_append(f"{good} {n}", n))
            if n == 3:
                nursery.start_soon(ask, append)
    stood = sorted(answer.stream for answer in answers if answer.stream.startswith("good"))
    assert stood == [f"{good} {n}" for n in range(6)]
    assert len(answers) + len(refused) == 7
    assert (append.stream in [row.name for row in await store.list_streams("", None, 500)]) is not bool(refused)
    # Both still append, and still hear of each other.
    with other.subscribe(f"{good} 0") as reader:
        await take(reader, 1)
        await store.append(sample_append(f"{good} 0", "still"))
        assert names(await take(reader, 1)) == ["still"]


@pytest.mark.parametrize("stream", [NUL, LONE], ids=["nul", "lone surrogate"])
async def test_unstorable_stream_name_in_queries(store: EventStore, stream: str) -> None:
    await store.append(sample_append("s", 1))

    async def subscribe() -> None:
        with store.subscribe(stream) as reader:
            await reader.next()

    questions = [
        lambda: store.read(stream),
        lambda: store.read_one(stream, 1),
        lambda: store.head(stream),
        lambda: store.writer(stream, "w"),
        lambda: store.trim(stream, 1),
        subscribe,
    ]
    got: list[list[str]] = []

    async def good() -> None:
        got.append(names(await read_all(store, "s")))
        assert (await store.head("s")).position == 1

    for question in questions:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(good)
            nursery.start_soon(good)
            with suppress(StoreError):
                assert await question() is None
            nursery.start_soon(good)
    assert got == [["1"]] * 3 * len(questions)


@pytest.mark.parametrize(("after", "limit"), [(2**70, 1), (0, 2**70), (-(2**70), 1), (0, -1)])
async def test_extreme_page_bounds(store: EventStore, after: int, limit: int) -> None:
    await store.append(sample_append("s", 1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.read, "s")
        with suppress(StoreError, ValueError):
            await store.read("s", after, limit)
        nursery.start_soon(store.read, "s")
    assert names(await read_all(store, "s")) == ["1"]
