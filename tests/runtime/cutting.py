"""Cancels between two steps of any tasks: every place where something may be cut off can be reached."""

import trio


class CancelAfter(trio.abc.Instrument):
    """Cancels `scope` when so many steps of any tasks are done."""

    def __init__(self, steps: int, scope: trio.CancelScope) -> None:
        self._left, self._scope = steps, scope

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._left -= 1
        if self._left == 0:
            self._scope.cancel()
