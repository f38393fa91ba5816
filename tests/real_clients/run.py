"""Runs client programs of docs/clients*.md: python run.py '[["PROGRAM", "http://…"], …]'.

Prints a JSON line [index, event] for each event that a program shows, [index, null] when its `follow` returned and
[index, "what"] when it raised. A `follow` that is a coroutine function runs in asyncio, any other in a thread; a
shell script prints a line for each event.
"""

import asyncio
import inspect
import json
import runpy
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from typing import Any

warnings.simplefilter("ignore")
printing = threading.Lock()
told = sys.stdout
sys.stdout = sys.stderr  # sseclient prints what it complains of


def tell(index: int, what: object) -> None:
    """One line."""
    with printing:
        print(json.dumps([index, what]), file=told, flush=True)


def run_in_thread(follow: Callable[..., None], index: int, url: str) -> None:
    """Until it returns or raises."""
    try:
        follow(url, lambda event: tell(index, event))
    except Exception as error:
        tell(index, repr(error))
    else:
        tell(index, None)


async def run_in_tasks(asked: list[tuple[Callable[..., Any], int, str]]) -> None:
    """A task for each."""

    async def one(follow: Callable[..., Any], index: int, url: str) -> None:
        try:
            await follow(url, lambda event: tell(index, event))
        except Exception as error:
            tell(index, repr(error))
        else:
            tell(index, None)

    await asyncio.gather(*(one(*each) for each in asked))


def shell(program: str) -> Callable[..., None]:
    """A `follow` that runs a shell script in a folder of its own, and shows the lines that it prints."""

    def follow(url: str, show: Callable[[Any], None]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(["sh", program, url], cwd=folder, stdout=subprocess.PIPE, check=True)
            for line in done.stdout.splitlines():
                show(json.loads(line))

    return follow


def main(asked: list[tuple[str, str]]) -> None:
    """Until all have returned."""
    programs = {
        program: shell(program) if program.endswith(".sh") else runpy.run_path(program)["follow"]
        for program, _ in asked
    }
    all_of_them = [(programs[program], index, url) for index, (program, url) in enumerate(asked)]
    threads = [
        threading.Thread(target=run_in_thread, args=each)
        for each in all_of_them
        if not inspect.iscoroutinefunction(each[0])
    ]
    for thread in threads:
        thread.start()
    asyncio.run(run_in_tasks([each for each in all_of_them if inspect.iscoroutinefunction(each[0])]))
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
