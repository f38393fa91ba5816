"""A connection is cut at any byte of an event's frame: each library must resume and get every event once."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import trio

from tests.clients.api import Api

from .cutting_proxy import Cut, cutting
from .followers import following
from .libraries import LIBRARIES, Library
from .outcomes import judge, tally

SECONDS = 60.0
SAMPLED_EACH = 23
LAST_LINES = 12
"""Bytes of an SSE frame after its JSON, with the end of that: when a library stores the id shows here."""
FRAME = {
    "sse": "data: %s\nid: 7\n\n",
    "ndjson": "%s\n",
    "pages": "%s,",
    "websocket": '....{"kind":"event","event":%s}',  # behind the header's four bytes
}
CUT_WHOLE = [library for library in LIBRARIES if library.transport in FRAME]


@pytest.mark.parametrize("library", CUT_WHOLE, ids=str)
async def test_frame_cut_at_sampled_bytes(api: Api, library: Library, tmp_path: Path) -> None:
    """At its edges, in its last lines, and at every 23rd byte."""
    await follow_with_cuts(api, library, tmp_path, sampled)


@pytest.mark.soak
@pytest.mark.parametrize("library", CUT_WHOLE, ids=str)
async def test_frame_cut_at_every_byte(api: Api, library: Library, tmp_path: Path) -> None:
    await follow_with_cuts(api, library, tmp_path, lambda length: range(length + 1))


async def follow_with_cuts(
    api: Api, library: Library, folder: Path, chosen: Callable[[int], Iterable[int]]
) -> None:
    """Runs a follower for each byte, all at once in one process."""
    if library.missing is not None:
        pytest.skip(library.missing)
    conversation = await api.conversation()
    generation = await api.generate(conversation, tokens=8)
    (event,) = [event for event in await api.finished(generation) if event["position"] == 7]
    length = len(FRAME[library.transport] % json.dumps(event, separators=(",", ":"), ensure_ascii=False))
    cuts = [Cut(7, byte) for byte in chosen(length)]
    if library.transport == "sse" and library.knows_204:
        cuts += [Cut(None, byte) for byte in (0, 1, 6, 12, 13)]  # behind the last event, and in [DONE]
    path, scheme = library.path(conversation, generation)
    async with cutting(api.port) as proxy:
        for number, cut in enumerate(cuts):
            proxy.plans[str(number)].append(cut)
        urls = [proxy.url(str(number), path, scheme) for number in range(len(cuts))]
        program = library.write(folder)
        async with following([(program, url) for url in urls], folder / "errors") as followers:
            with trio.move_on_after(SECONDS):
                await followers.ended()
        unmade = [cuts[int(name)] for name, plan in proxy.plans.items() if plan]
    outcomes = [await judge(library, follower, api, conversation, generation) for follower in followers.all]
    failed = {str(cut): one for cut, one in zip(cuts, outcomes, strict=True) if one != "exact"}
    expected, came = library.expects("cut frame"), tally(outcomes)
    assert came == expected or (expected == "broken" and came != "exact"), (failed, followers.complaint())
    assert unmade == []


def sampled(length: int) -> Iterable[int]:
    """The bytes of a frame that matter most, and some of the others."""
    some = range(random.randrange(SAMPLED_EACH), length, SAMPLED_EACH)
    return sorted({0, 1, *some, *range(length - LAST_LINES, length + 1)})
