"""A span of a log as pages of plain JSON, one page ahead of whoever plays them."""

from dataclasses import dataclass

import trio

from server.client.api import Api, Body

PAGE = 500

Page = list[Body]


@dataclass(frozen=True, slots=True)
class Span:
    """Positions `first` to `last`, both included, of the log at `path`."""

    path: str
    first: int
    last: int


async def find_log(api: Api, name: str) -> tuple[str, int]:
    """The path of a conversation's or a generation's log, and its last position as it is now."""
    kind = "generations" if name.startswith("gen_") else "conversations"
    found = await api.get(f"/v1/{kind}/{name}")
    return f"/v1/{kind}/{name}/events", found["position"]


async def read_pages(api: Api, span: Span, send: trio.MemorySendChannel[Page]) -> None:
    """Sends the events of a span, page by page, and closes. Raises `ClientError`."""
    async with send:
        after = span.first - 1
        while after < span.last:
            page = await api.get(span.path, after=after, limit=min(PAGE, span.last - after), format="json")
            events = [event for event in page["events"] if event["position"] <= span.last]
            if events:
                await send.send(events)
            if page["closed"] or page["next"] <= after:
                return
            after = page["next"]


async def read_time(api: Api, span: Span) -> str | None:
    """When the last event of a span happened; None where the log has no event at that very position."""
    page = await api.get(span.path, after=span.last - 1, limit=1, format="json")
    found = page["events"]
    return str(found[0]["at"]) if found and found[0]["position"] == span.last else None
