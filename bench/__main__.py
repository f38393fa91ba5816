"""`python -m bench [NAME …]`: runs benchmarks; prints tables, writes files to bench/results.

`--list` prints their names, `--quick` runs them with tiny settings (to see that they work), and each setting of
the named benchmarks is an option. `--against REVISION` measures a former revision beside this checkout, in turns,
where the benchmark can. When one fails, the others still run, and the exit status is 1.
"""

import argparse
import dataclasses
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from bench.benchmark import Benchmark, print_heading, write_report
from bench.benchmarks import ALL
from bench.harness.postgres import open_postgres

RESULTS = Path(__file__).parent / "results"
PICTURES = Path(__file__).parent / "pictures"


def main() -> None:
    """Runs the command line."""
    options, selected, given = _read(sys.argv[1:])
    if options.list:
        for one in ALL:
            print(f"{one.name:16} {one.title}")
        return
    signal.signal(signal.SIGTERM, _stop)  # as Ctrl-C: every started process is ended in order
    failed = False
    try:
        with open_postgres() as postgres:
            for one in selected:
                settings = _settings(one, given, quick=options.quick)
                print_heading(one, settings)
                try:
                    report = one.run(postgres, settings)
                except Exception as error:  # one failed benchmark must not stop the others
                    print(f"{one.name} failed: {error!r}", file=sys.stderr)
                    failed = True
                    continue
                pictures = PICTURES if options.pictures else None
                write_report(one, settings, report, Path(options.out), quick=options.quick, pictures=pictures)
    except KeyboardInterrupt:
        sys.exit("stopped")
    sys.exit(1 if failed else 0)


def _stop(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _read(arguments: list[str]) -> tuple[argparse.Namespace, list[Benchmark[Any]], dict[str, Any]]:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument(
        "name", nargs="*", help="benchmarks to run; default: all", choices=[[], *(one.name for one in ALL)]
    )
    parser.add_argument("--list", action="store_true", help="list all benchmarks")
    parser.add_argument("--quick", action="store_true", help="tiny settings: to see that they work")
    parser.add_argument("--out", default=str(RESULTS), help="folder for the results")
    parser.add_argument("--pictures", action="store_true", help="write the pictures to bench/pictures too")
    kinds: dict[str, Any] = {}
    for one in ALL:
        for setting in dataclasses.fields(one.settings):
            kinds.setdefault(setting.name, setting.type)
    for name, kind in sorted(kinds.items()):
        word = "REVISION" if kind is str else "N"
        parser.add_argument(f"--{name.replace('_', '-')}", type=_parser_of(kind), metavar=word)
    options = parser.parse_args(arguments)
    selected = [one for one in ALL if one.name in options.name or not options.name]
    given = {name: value for name in kinds if (value := getattr(options, name)) is not None}
    known = {setting.name for one in selected for setting in dataclasses.fields(one.settings)}
    for name in given.keys() - known:
        parser.error(f"--{name.replace('_', '-')} is a setting of none of these benchmarks")
    return options, selected, given


def _parser_of(kind: Any) -> Any:
    if kind in (int, float, str):
        return kind
    return lambda text: tuple(int(part) for part in text.split(","))


def _settings(one: Benchmark[Any], given: dict[str, Any], *, quick: bool) -> Any:
    own = {setting.name for setting in dataclasses.fields(one.settings)}
    changes = {**(one.quick if quick else {}), **{name: value for name, value in given.items() if name in own}}
    return dataclasses.replace(one.settings, **changes)


if __name__ == "__main__":
    main()
