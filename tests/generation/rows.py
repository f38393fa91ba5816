"""Logs for tests: rows of events as a store would return them, made by hand or drawn by Hypothesis.

A drawn log is one that the writers could have written: it opens the conversation, every generation moves as the
contract allows, and in between stands what a fold has to step over (unknown types, strangers' generations).
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st

from eventstore import Event, NewEvent
from eventstore.memory import EPOCH
from server import events

patient = settings(deadline=None)
"""For laws: a slow machine is no broken law."""
CLEAN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
"""Text as it may enter the log."""
GENERATIONS = ("gen_A", "gen_B", "gen_C")
STEPS = ("say", "ask", "start", "start", "tell", "tell", "tell", "end", "drop", "stranger", "unknown")


def moment(position: int) -> datetime:
    """When the event at a position happened."""
    return EPOCH + timedelta(seconds=position, microseconds=123_456)


def rows(news: Iterable[NewEvent], after: int = 0) -> list[Event]:
    """The events at the positions that follow `after`."""
    return [
        Event(position, new.type, moment(position), new.tag, new.data)
        for position, new in enumerate(news, after + 1)
    ]


def cancelled(generation: str) -> NewEvent:
    """Somebody's cancellation."""
    return events.generation_cancelled(generation, None, "anonymous")


def completed(generation: str, reason: str = "stop") -> NewEvent:
    """A good end."""
    return events.generation_completed(generation, reason, {"output_tokens": 3}, 12)


def failed(generation: str, code: str = "upstream_cut") -> NewEvent:
    """A bad end."""
    return events.generation_failed(generation, code, "It broke.", retryable=True)


def requested(generation: str, model: str = "demo") -> NewEvent:
    """An answer is wanted."""
    return events.generation_requested(generation, model, {"tokens": 3, "rate": 0.5}, "anonymous")


def said(message: str, content: str, role: str = "user") -> NewEvent:
    """Somebody speaks."""
    return events.message_posted(message, role, content, None, "anonymous")


def started(generation: str, attempt: int = 1) -> NewEvent:
    """A worker takes it up."""
    return events.generation_started(generation, attempt, "worker-1")


ENDS = (completed, failed, cancelled)
EARLY_ENDS = (failed, cancelled)


@st.composite
def logs(draw: st.DrawFn) -> list[Event]:
    """A whole log, from its first event."""
    title = draw(st.none() | CLEAN)
    news = [events.conversation_started(title, draw(st.none() | st.dictionaries(CLEAN, CLEAN, max_size=2)))]
    asked: list[str] = []
    running: list[str] = []
    for _ in range(draw(st.sampled_from([0, 4, 12, 30]))):
        fresh = [name for name in GENERATIONS if name not in asked]
        queued = [name for name in asked if name not in running and not _ended(news, name)]
        match draw(st.sampled_from(STEPS)):
            case "say":
                role = draw(st.sampled_from(["user", "assistant", "system", "tool"]))
                author = draw(st.none() | CLEAN)
                news.append(events.message_posted(f"msg_{len(news)}", role, draw(CLEAN), author, "anonymous"))
            case "ask" if fresh:
                asked.append(fresh[0])
                news.append(requested(fresh[0]))
            case "start" if queued:
                running.append(queued[0])
                news.append(started(queued[0]))
            case "tell" if running:
                name = draw(st.sampled_from(running))
                deltas = draw(st.lists(CLEAN, min_size=1, max_size=5))
                news += [events.token(name, delta) for delta in deltas]
            case "end" if running:
                name = running.pop(draw(st.integers(0, len(running) - 1)))
                news.append(draw(st.sampled_from(ENDS))(name))
            case "drop" if queued:
                news.append(draw(st.sampled_from(EARLY_ENDS))(queued[0]))
            case "stranger":
                news.append(events.token("gen_Z", draw(CLEAN)))
            case "unknown":
                tag = draw(st.none() | st.sampled_from(GENERATIONS))
                news.append(NewEvent(draw(st.sampled_from(["progress", "tool.started", "Token", ""])), "??", tag))
    return rows(news)


def _ended(news: list[NewEvent], name: str) -> bool:
    return any(new.tag == name and new.type in events.TERMINAL for new in news)
