"""Who is there: the state itself, in memory, with the sockets played by the test."""

import json
import math
import re
from contextlib import ExitStack
from datetime import datetime
from typing import Any

import pytest

from server.web.transports.presence import MAX_LISTED, MAX_PAUSE, MESSAGES_PER_SECOND, Participant, Presence

ROOM = "conv_1"


def sent(participant: Participant) -> dict[str, Any]:
    """The frame that its socket would send now."""
    frame: dict[str, Any] = json.loads(participant.message())
    return frame


def is_news(participant: Participant) -> bool:
    """Whether its socket would have something to send."""
    return participant.due < math.inf


def test_the_presence_message() -> None:
    presence = Presence(lambda: 7.0)
    with presence.enter(ROOM, "Ann", "anonymous") as ann, presence.enter(ROOM, None, "anonymous") as other:
        frame = sent(ann)
        assert list(frame) == ["kind", "you", "count", "people"]
        assert (frame["kind"], frame["count"]) == ("presence", 2)
        assert frame["you"] == frame["people"][0]["connection"] != sent(other)["you"]
        assert sent(other)["people"] == frame["people"]
        assert [list(one) for one in frame["people"]] == [["connection", "author", "by", "since"]] * 2
        assert [(one["author"], one["by"]) for one in frame["people"]] == [
            ("Ann", "anonymous"),
            (None, "anonymous"),
        ]
        for one in frame["people"]:
            assert re.fullmatch("[0-9a-f]{12}", one["connection"])
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", one["since"])


def test_each_change_is_due_once_to_everybody() -> None:
    """News is a mark, not a row: many changes are one frame, and it shows how things stand then."""
    presence = Presence(lambda: 7.0)
    with presence.enter(ROOM, "Ann", "anonymous") as ann:
        sent(ann)
        assert not is_news(ann)
        with presence.enter(ROOM, "Bob", "anonymous") as bob:
            sent(bob)
            with presence.enter(ROOM, "Cas", "anonymous"):
                assert is_news(ann)
                assert is_news(bob)
            assert [one["author"] for one in sent(ann)["people"]] == ["Ann", "Bob"]
            assert not is_news(ann)
            assert is_news(bob)
        assert [one["author"] for one in sent(ann)["people"]] == ["Ann"]


def test_many_changes_are_one_message_after_a_pause() -> None:
    now = 7.0
    presence = Presence(lambda: now)
    called: list[float] = []
    with presence.enter(ROOM, None, "anonymous") as one:
        assert one.due == -math.inf  # the first frame goes out at once
        one.on_change = lambda: called.append(one.due)
        assert sent(one)["count"] == 1
        now = 8.0
        with presence.enter(ROOM, None, "anonymous"), presence.enter(ROOM, None, "anonymous"):
            assert called == [pytest.approx(7.0 + 2 / MESSAGES_PER_SECOND)]
            assert sent(one)["count"] == 3
            assert one.due == math.inf
        assert called[1:] == [pytest.approx(8.0 + 2 / MESSAGES_PER_SECOND)]
        assert sent(one)["count"] == 1


def test_conversations_are_apart_and_empty_ones_are_forgotten() -> None:
    presence = Presence(lambda: 7.0)
    with presence.enter(ROOM, "Ann", "anonymous") as ann:
        sent(ann)
        with presence.enter("conv_2", "Bob", "anonymous") as bob:
            assert len(presence) == 2
            assert not is_news(ann)
            assert sent(bob)["count"] == sent(ann)["count"] == 1
        assert len(presence) == 1
    assert len(presence) == 0


def test_a_failed_participant_is_removed() -> None:
    presence = Presence(lambda: 7.0)
    with presence.enter(ROOM, "Ann", "anonymous") as ann:
        with pytest.raises(ValueError, match="cut"), presence.enter(ROOM, "Bob", "anonymous"):
            raise ValueError("cut")
        assert sent(ann)["count"] == 1


def test_many_are_counted_and_the_first_are_listed() -> None:
    """And the more there are, the longer changes may come together."""
    presence = Presence(lambda: 7.0)
    with ExitStack() as stack:
        crowd = [stack.enter_context(presence.enter(ROOM, f"P{n}", "anonymous")) for n in range(MAX_LISTED + 50)]
        frame = sent(crowd[-1])
        assert frame["count"] == MAX_LISTED + 50
        assert [one["author"] for one in frame["people"]] == [f"P{n}" for n in range(MAX_LISTED)]
        assert frame["you"] not in [one["connection"] for one in frame["people"]]
        assert crowd[0].pause == pytest.approx((MAX_LISTED + 50) / MESSAGES_PER_SECOND)
        assert crowd[0].pause <= MAX_PAUSE
        for n in range(2000):
            stack.enter_context(presence.enter(ROOM, f"Q{n}", "anonymous"))
        assert crowd[0].pause == MAX_PAUSE


def test_the_order_survives_a_clock_that_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
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
            people = sent(ann)["people"]
            assert [one["author"] for one in people] == ["Ann", "Bob"]
            assert people == sorted(people, key=lambda one: one["since"])
