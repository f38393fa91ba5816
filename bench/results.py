"""Results: a table on the terminal that can be pasted into RESULTS.md, a JSON file and pictures."""

import datetime
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from bench.benchmark import Benchmark, Report

HOLDS = {True: "yes", False: "NO", None: ""}


def announce(one: Benchmark[Any], settings: Any) -> None:
    """What is about to run."""
    said = ", ".join(f"{name} {value}" for name, value in asdict(settings).items() if value != "")
    print(f"\n## {one.name}: {one.title}\n\n{said}\n", flush=True)


def keep(
    one: Benchmark[Any], settings: Any, report: Report, folder: Path, *, quick: bool, gallery: Path | None = None
) -> None:
    """Prints and writes; the pictures into `gallery` too, where one is given."""
    print(table(report), flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    found = {
        "name": one.name,
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release()},
        "settings": asdict(settings),
        "rows": report.rows,
        "data": report.data,
    }
    text = msgspec.json.format(msgspec.json.encode(found), indent=2)
    (folder / f"{one.name}.json").write_bytes(text + b"\n")
    for name, picture in report.pictures.items():
        for place in (folder, gallery) if gallery is not None else (folder,):
            (place / f"{name}.svg").write_text(picture, "utf-8")


def table(report: Report) -> str:
    """The rows as Markdown; with columns for a former revision where one was measured."""
    if any(row.before for row in report.rows):
        lines = ["| | before | now | ratio | goal | holds |", "|---|---|---|---|---|---|"]
        lines += [
            f"| {row.what} | {row.before} | {row.figure} | {row.ratio} | {row.goal} | {HOLDS[row.holds]} |"
            for row in report.rows
        ]
        return "\n".join(lines)
    lines = ["| | figure | goal | holds |", "|---|---|---|---|"]
    lines += [f"| {row.what} | {row.figure} | {row.goal} | {HOLDS[row.holds]} |" for row in report.rows]
    return "\n".join(lines)
