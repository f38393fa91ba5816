"""An attempt's writer: appends to its conversation in the generation's name, in sequence, fenced by its epoch.

An app may give up waiting for a write, and its run goes on. Whether that one is in the log is not known then, and
its place in the sequence may be taken. So it is sent again, as it was, before anything else is written.
"""

import secrets
from collections.abc import Sequence

from msgspec.structs import replace

from eventstore import (
    Append,
    Appended,
    Erased,
    EventStore,
    Fenced,
    Key,
    KeyReused,
    NewEvent,
    StoreError,
    StoreUnavailable,
    Writer,
    WrongExpectedPosition,
)


class Pen:
    """For one task at a time. `position` is that of its last event; `closed`: the last word is in the log.

    An epoch's first sequence number was taken by the append that opened it: the request, or the taking over.
    """

    def __init__(self, store: EventStore, conversation: str, generation: str, epoch: int, position: int) -> None:
        self.store = store
        self.conversation = conversation
        self.generation = generation
        self.position = position
        self.closed = False
        self._epoch = epoch
        self._seq = 1
        self._unsure: Append | None = None

    async def write(self, new: Sequence[NewEvent], *, last: bool = False, keys: tuple[Key, ...] = ()) -> Appended:
        """Appends; `last` closes the writer in the same transaction; `keys` are claimed with it.

        Raises `StoreUnavailable`, and any other `StoreError` where nothing was appended: `Fenced`, `KeyReused`, or
        the database does not take these events. One that is cancelled stands in front of the next, or in the log
        already; so does one of which the log has said nothing. The same events again are the same write.
        """
        if self._unsure is not None:
            again = self._unsure.events == tuple(new)
            try:
                appended = await self._send(self._unsure, again=True)
            except KeyReused:
                if again:
                    raise
            else:
                if again:
                    return appended
        writer = Writer(self.generation, self._epoch, self._seq + 1)
        return await self._send(
            Append(
                self.conversation,
                tuple(new),
                writer=writer,
                closes=self.generation if last else None,
                keys=tuple(map(_own, keys)),
            )
        )

    async def _send(self, append: Append, *, again: bool = False) -> Appended:
        self._unsure = append
        try:
            appended = await self.store.append(append)
        except StoreError as error:
            # Nothing was appended: else the log would know it again, by its sequence and its key. Kept, it would
            # be sent, and refused, in front of everything that follows, also of the event that ends the run.
            # Only where the database did not come to judge it, an earlier sending may stand: its place must not
            # be taken.
            judged = isinstance(error, KeyReused | Fenced | WrongExpectedPosition | Erased)
            if judged or not (again or isinstance(error, StoreUnavailable)):
                self._unsure = None
            raise
        self._unsure = None
        self.closed = append.closes is not None
        self._seq += 1
        self.position = appended.last
        return appended


def _own(key: Key) -> Key:
    """With a digest, by which the very same append repeats itself."""
    return key if key.digest is not None else replace(key, digest=secrets.token_bytes(16))
