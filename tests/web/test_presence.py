"""Who is there: the state itself, in memory, with the sockets played by the test."""

import json
import math
import re
from contextlib import ExitStack
from datetime import datetime
from typing import Any

import pytest

from server.web.transports.presence import FRAMES_PER_SECOND, LONGEST_PAUSE, MOST_LISTED, Presence, Present

ROOM = "conv_1"


def shown(present: Present) -> dict[str, Any]:
    """The frame that its socket would send now."""
    frame: dict[str, Any] = json.loads(present.frame())
    return frame


def is_news(present: Present) -> bool:
    """Whether its socket would have something to send."""
    return present.due < math.inf


def test_one_frame_says_it_all() -> None:
    presence = Presence(lambda: 7.0)
    with presence.enter(ROOM, "Ann", "anonymous") as ann, presence.enter(ROOM, None, "anonymous") as other:
        frame = shown(ann)
        assert list(frame) == ["kind", "you", "count", "people"]
        assert (frame["kind"], frame["count"]) == ("presence", 2)
        assert frame["you"] == frame["people"][0]["connection"] != shown(other)["you"]
        assert shown(other)["people"] == frame["people"]
        assert [list(one) for one in frame["people"]] == [["connection", "author", "by", "since"]] * 2
        assert [(one["author"], one["by"]) for one in frame["people"]] == [
            ("Ann", "anonymous"),
            (None, "anonymous"),
        ]
        for one in frame["people"]:
            assert re.fullmatch("[0-9a-f]{12}", one["connection"])
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", one["since"])


def test_all_are_told_of_a_change_and_nobody_twice() -> None:
    """News is a mark, not a row: many changes are one frame, and it shows how things stand then."""
    presence = Presence(lambda: 7.0)
    with presence.enter(ROOM, "Ann", "anonymous") as ann:
        shown(ann)
        assert not is_news(ann)
        with presence.enter(ROOM, "Bob", "anonymous") as bob:
            shown(bob)
            with presence.enter(ROOM, "Cas", "anonymous"):
                assert is_news(ann)
                assert is_news(bob)
            assert [one["author"] for one in shown(ann)["people"]] == ["Ann", "Bob"]
            assert not is_news(ann)
            assert is_news(bob)
        assert [one["author"] for one in shown(ann)["people"]] == ["Ann"]


def test_who_has_seen_all_is_called_once_for_many_changes_and_told_after_a_pause() -> None:
    now = 7.0
    presence = Presence(lambda: now)
    called: list[float] = []
    with presence.enter(ROOM, None, "anonymous") as one:
        assert one.due == -math.inf  # the first frame goes out at once
        one.on_news = lambda: called.append(one.due)
        assert shown(one)["count"] == 1
        now = 8.0
        with presence.enter(ROOM, None, "anonymous"), presence.enter(ROOM, None, "anonymous"):
            assert called == [pytest.approx(7.0 + 2 / FRAMES_PER_SECOND)]
            assert shown(one)["count"] == 3
            assert one.due == math.inf
        assert called[1:] == [pytest.approx(8.0 + 2 / FRAMES_PER_SECOND)]
        assert shown(one)["count"] == 1


def test_conversations_know_nothing_of_each_other_and_nothing_is_kept_of_the_empty() -> None:
    presence = Presence(lambda: 7.0)
    with presence.enter(ROOM, "Ann", "anonymous") as ann:
        shown(ann)
        with presence.enter("conv_2", "Bob", "anonymous") as bob:
            assert len(presence) == 2
            assert not is_news(ann)
            assert shown(bob)["count"] == shown(ann)["count"] == 1
        assert len(presence) == 1
    assert len(presence) == 0


def test_who_fails_is_gone() -> None:
    presence = Presence(lambda: 7.0)
    with presence.enter(ROOM, "Ann", "anonymous") as ann:
        with pytest.raises(ValueError, match="cut"), presence.enter(ROOM, "Bob", "anonymous"):
            raise ValueError("cut")
        assert shown(ann)["count"] == 1


def test_many_are_counted_and_the_first_are_listed() -> None:
    """And the more there are, the longer changes may come together."""
    presence = Presence(lambda: 7.0)
    with ExitStack() as stack:
        crowd = [stack.enter_context(presence.enter(ROOM, f"P{n}", "anonymous")) for n in range(MOST_LISTED + 50)]
        frame = shown(crowd[-1])
        assert frame["count"] == MOST_LISTED + 50
        assert [one["author"] for one in frame["people"]] == [f"P{n}" for n in range(MOST_LISTED)]
        assert frame["you"] not in [one["connection"] for one in frame["people"]]
        assert crowd[0].pause == pytest.approx((MOST_LISTED + 50) / FRAMES_PER_SECOND)
        assert crowd[0].pause <= LONGEST_PAUSE
        for n in range(2000):
            stack.enter_context(presence.enter(ROOM, f"Q{n}", "anonymous"))
        assert crowd[0].pause == LONGEST_PAUSE


def test_a_clock_that_is_set_back_does_not_mix_them_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in the order of `since`, always."""
    presence = Presence(lambda: 7.0)
    with presence.enter(ROOM, "Ann", "anonymous") as ann:

        class Back:
            """An hour ago."""

            @staticmethod
            def now(zone: Any) -> Any:
                return datetime.fromtimestamp(0, zone)

        monkeypatch.setattr("server.web.transports.presence.datetime", Back)
        with presence.enter(ROOM, "Bob", "anonymous"):
            people = shown(ann)["people"]
            assert [one["author"] for one in people] == ["Ann", "Bob"]
            assert people == sorted(people, key=lambda one: one["since"])
