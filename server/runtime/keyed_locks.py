"""A lock for each name, which exists while a task holds it or waits for it.

With it, one task does what many want, and the others find it done. Where the store does not answer that one task,
the tasks that wait behind it get the same error at once: they would otherwise wait out the store's time limit one
after the other. Must not know what is locked.
"""

from types import TracebackType

import trio

from eventstore import StoreUnavailable


class KeyedLocks:
    """Locks by name: one task at a time is inside `async with locks.of(name)`; the others wait in order.

    Entering raises `StoreUnavailable` where the task in front left the block with that error.
    """

    def __init__(self) -> None:
        self._locks: dict[str, _CountedLock] = {}

    def of(self, name: str) -> "_LockContext":
        """The lock of this name, for `async with`."""
        return _LockContext(self._locks, name)

    def __len__(self) -> int:
        return len(self._locks)


class _CountedLock:
    """A lock, how many tasks hold it or wait for it, and whether the store has failed one of them."""

    __slots__ = ("failed", "lock", "users")

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.users = 0
        self.failed: StoreUnavailable | None = None


class _LockContext:
    __slots__ = ("_counted", "_locks", "_name")

    def __init__(self, locks: dict[str, _CountedLock], name: str) -> None:
        self._locks = locks
        self._name = name

    async def __aenter__(self) -> None:
        counted = self._locks.get(self._name)
        if counted is None:
            counted = self._locks[self._name] = _CountedLock()
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
            # Tasks that come from now on ask the store again, under a new lock.
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
