"""A lock for each name, there for as long as somebody holds it or waits for it.

One task does what many want, the others wait and find it done. Where the store does not answer the one, it has not
answered those who waited with it either: they are told so at once, and do not wait out its silence one after the
other.
"""

from types import TracebackType

import trio

from eventstore import StoreUnavailable


class KeyedLocks:
    """Locks by name. `async with locks.of(name):` one task at a time is inside; the others wait in order.

    Entering raises `StoreUnavailable` where the one in front has ended in it.
    """

    def __init__(self) -> None:
        self._locks: dict[str, _Counted] = {}

    def of(self, name: str) -> "_Held":
        """The lock of this name, to be held by `async with`."""
        return _Held(self._locks, name)

    def __len__(self) -> int:
        return len(self._locks)


class _Counted:
    """A lock, how many tasks hold it or wait for it, and whether the store has failed one of them."""

    __slots__ = ("failed", "lock", "users")

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.users = 0
        self.failed: StoreUnavailable | None = None


class _Held:
    __slots__ = ("_counted", "_locks", "_name")

    def __init__(self, locks: dict[str, _Counted], name: str) -> None:
        self._locks = locks
        self._name = name

    async def __aenter__(self) -> None:
        counted = self._locks.get(self._name)
        if counted is None:
            counted = self._locks[self._name] = _Counted()
        self._counted = counted
        counted.users += 1
        try:
            await counted.lock.acquire()
        except BaseException:
            self._leave()
            raise
        if counted.failed is not None:
            counted.lock.release()
            self._leave()
            raise StoreUnavailable(str(counted.failed))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, StoreUnavailable):
            # Whoever comes from now on asks anew, by a lock of its own.
            self._counted.failed = error
            self._forget()
        self._counted.lock.release()
        self._leave()

    def _leave(self) -> None:
        self._counted.users -= 1
        if not self._counted.users:
            self._forget()

    def _forget(self) -> None:
        if self._locks.get(self._name) is self._counted:
            del self._locks[self._name]
