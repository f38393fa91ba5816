"""A connection that is cut at any byte of an event's frame: each library comes back and has every event once."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
import trio

from tests.clients.api import Api

from .cutting_proxy import Cut, cutting
from .followers import following
from .libraries import LIBRARIES, Library
from .outcomes import judge, tally

SECONDS = 60.0
FRAME = {
    "sse": "data: %s\nid: 7\n\n",
    "ndjson": "%s\n",
    "pages": "%s,",
    "websocket": '....{"kind":"event","event":%s}',  # behind the header's four bytes
}
CUT_WHOLE = [library for library in LIBRARIES if library.transport in FRAME]


@pytest.mark.parametrize("library", CUT_WHOLE, ids=str)
async def test_a_frame_is_cut(api: Api, library: Library, tmp_path: Path) -> None:
    """At its edges, in its last line, and at every eleventh byte; at every byte where much depends on it."""
    await cut_all(api, library, tmp_path, every=library.thorough)


@pytest.mark.soak
@pytest.mark.parametrize("library", [library for library in CUT_WHOLE if not library.thorough], ids=str)
async def test_a_frame_is_cut_at_every_byte(api: Api, library: Library, tmp_path: Path) -> None:
    """With every library."""
    await cut_all(api, library, tmp_path, every=True)


async def cut_all(api: Api, library: Library, folder: Path, *, every: bool) -> None:
    """A follower for each byte, all at once in one process."""
    if library.missing is not None:
        pytest.skip(library.missing)
    conversation = await api.conversation()
    generation = await api.generate(conversation, tokens=8)
    (event,) = [event for event in await api.finished(generation) if event["position"] == 7]
    length = len(FRAME[library.transport] % json.dumps(event, separators=(",", ":"), ensure_ascii=False))
    cuts = [Cut(7, byte) for byte in (range(length + 1) if every else edges(length))]
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
    expected, came = library.expects("every byte" if every else "edges"), tally(outcomes)
    assert came == expected or (expected == "broken" and came != "exact"), (failed, followers.complaint())
    assert unmade == []


def edges(length: int) -> Iterable[int]:
    """The bytes of a frame that matter most."""
    return sorted({*range(0, length, 11), *range(length - 12, length + 1)})
