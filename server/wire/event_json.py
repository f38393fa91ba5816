"""The event object: one flat JSON object, the same on every transport, encoded once per event and process.

Position, type, time and generation come from the store's columns, the rest is the stored text as it is: no
event is parsed on its way out.
"""

from eventstore import Event


def encode(event: Event) -> bytes:
    """The event object as JSON, one line, UTF-8. Kept with the event, for all readers of the shared tail."""
    memo = event.memo
    if memo is None:
        memo = event.memo = {}
    found = memo.get("object")
    if found is None:
        found = memo["object"] = _encode(event)
    return found


def _encode(event: Event) -> bytes:
    at = event.at.isoformat(timespec="microseconds")[:26]  # without "+00:00"; strftime takes ten times as long
    # Types and ids are plain ASCII words of ours: no escaping is due.
    tag = f',"generation":"{event.tag}"' if event.tag is not None else ""
    rest = "," + event.data[1:] if event.data != "{}" else "}"
    return f'{{"position":{event.position},"type":"{event.type}","at":"{at}Z"{tag}{rest}'.encode()
