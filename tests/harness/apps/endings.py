"""`python -m tests.harness.apps.endings WAY`: a process that leaves work to do at its end."""

import atexit
import os
import signal
import sys
import threading
import time
import warnings


class _Left:
    """Something that was left open, in a circle that only the garbage collector finds."""

    def __init__(self) -> None:
        self.circle = self

    def __del__(self) -> None:
        raise ValueError("left open")


def _last_work() -> None:
    time.sleep(0.1)
    print("from a thread")  # noqa: T201


def _end(way: str) -> None:
    if way == "raised":
        raise LookupError("raised")
    if way == "interrupted":
        signal.raise_signal(signal.SIGINT)
    if way == "terminated":
        signal.raise_signal(signal.SIGTERM)
    if way == "closed pipe":
        os.close(1)
        print("never")  # noqa: T201
    if way not in ("returned", "closed pipe"):
        sys.exit({"none": None, "text": "a last word"}.get(way, int(way) if way.isdigit() else None))


if __name__ == "__main__":
    warnings.simplefilter("always")
    atexit.register(print, "from atexit")
    threading.Thread(target=_last_work).start()
    _Left()
    _end(sys.argv[1])
