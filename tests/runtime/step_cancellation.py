"""Cancels a scope between two steps of any tasks, so that a test can reach every place where
code may be cut off."""

import trio


class CancelAfter(trio.abc.Instrument):
    """Cancels `scope` after this number of steps of any tasks."""

    def __init__(self, steps: int, scope: trio.CancelScope) -> None:
        self._left, self._scope = steps, scope

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._left -= 1
        if self._left == 0:
            self._scope.cancel()
