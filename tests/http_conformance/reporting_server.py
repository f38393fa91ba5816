"""`tokentape serve` for tests that look at it from outside: it lists its trio tasks, and may get a low file limit.

SIGUSR1 makes it write the names of its tasks, with how often each is there, to the file named by `EDGE_TASKS`.
`EDGE_FILES` is its limit of open files, soft and hard. `EDGE_RESPONSE_SECONDS` stands for Quart's own default of
60 s for a response, so that a test need not be slow for a minute to see that it is not in force. Nor need a test
wait for 20 s until a request's head is overdue, or for 15 s until its body is: `EDGE_REQUEST_SECONDS` is for both.
"""

import json
import os
import resource
import runpy
import signal
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import trio
from quart import Quart
from werkzeug.datastructures import ImmutableDict

from server.http.connection import HttpOptions
from server.process import lifecycle
from server.web import app, dispatcher


def main() -> None:
    """Runs the server with the arguments of this process."""
    if files := os.environ.pop("EDGE_FILES", None):
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(files), int(files)))
    if seconds := os.environ.pop("EDGE_RESPONSE_SECONDS", None):
        Quart.default_config = ImmutableDict({**Quart.default_config, "RESPONSE_TIMEOUT": float(seconds)})
    if seconds := os.environ.pop("EDGE_REQUEST_SECONDS", None):
        for module in (app, dispatcher):
            setattr(module, "BODY_SECONDS", float(seconds))  # noqa: B010
        setattr(lifecycle, "HttpOptions", partial(HttpOptions, head_seconds=float(seconds)))  # noqa: B010
    report = Path(os.environ.pop("EDGE_TASKS"))

    def write_tasks(*_: object) -> None:
        counts: Counter[str] = Counter()
        waiting = [trio.lowlevel.current_root_task()]
        while waiting:
            task = waiting.pop()
            if task is not None:
                counts[task.name] += 1
                waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
        unfinished = report.with_suffix(".new")
        unfinished.write_text(json.dumps(counts))
        unfinished.rename(report)

    signal.signal(signal.SIGUSR1, write_tasks)
    sys.argv = ["tokentape", *sys.argv[1:]]
    runpy.run_module("server", run_name="__main__")


if __name__ == "__main__":
    main()
