"""`python -m bench [NAME …]`: benchmarks on a PostgreSQL of their own, as a table, and as files in bench/results.

`--list` names them, `--quick` runs them with tiny settings (to see that they work), and each setting of the
named ones is an option. `--against REVISION` measures a former revision beside this checkout, in turns, where
the benchmark can. One fails, the others still run; the status is 1 then.
"""

import argparse
import dataclasses
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from bench.benchmark import Benchmark
from bench.catalogue import ALL
from bench.results import announce, keep
from bench.stand.database import open_postgres

RESULTS = Path(__file__).parent / "results"
PICTURES = Path(__file__).parent / "pictures"


def main() -> None:
    """The command line."""
    wanted, chosen, given = _read(sys.argv[1:])
    if wanted.list:
        for one in ALL:
            print(f"{one.name:12} {one.title}")
        return
    signal.signal(signal.SIGTERM, _stop)  # as Ctrl-C: everything that was started is ended
    failed = False
    try:
        with open_postgres() as postgres:
            for one in chosen:
                settings = _settings(one, given, quick=wanted.quick)
                announce(one, settings)
                try:
                    report = one.run(postgres, settings)
                except Exception as error:  # the others are still worth their time
                    print(f"{one.name} failed: {error!r}", file=sys.stderr)
                    failed = True
                    continue
                gallery = PICTURES if wanted.pictures else None
                keep(one, settings, report, Path(wanted.out), quick=wanted.quick, gallery=gallery)
    except KeyboardInterrupt:
        sys.exit("stopped")
    sys.exit(1 if failed else 0)


def _stop(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _read(arguments: list[str]) -> tuple[argparse.Namespace, list[Benchmark[Any]], dict[str, Any]]:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="*", help="which; default all", choices=[[], *(one.name for one in ALL)])
    parser.add_argument("--list", action="store_true", help="name them all")
    parser.add_argument("--quick", action="store_true", help="tiny settings: to see that they work")
    parser.add_argument("--out", default=str(RESULTS), help="folder for the results")
    parser.add_argument("--pictures", action="store_true", help="put the pictures into bench/pictures too")
    kinds: dict[str, Any] = {}
    for one in ALL:
        for setting in dataclasses.fields(one.settings):
            kinds.setdefault(setting.name, setting.type)
    for name, kind in sorted(kinds.items()):
        word = "REVISION" if kind is str else "N"
        parser.add_argument(f"--{name.replace('_', '-')}", type=_parser_of(kind), metavar=word)
    wanted = parser.parse_args(arguments)
    chosen = [one for one in ALL if one.name in wanted.name or not wanted.name]
    given = {name: value for name in kinds if (value := getattr(wanted, name)) is not None}
    known = {setting.name for one in chosen for setting in dataclasses.fields(one.settings)}
    for name in given.keys() - known:
        parser.error(f"--{name.replace('_', '-')} is a setting of none of these benchmarks")
    return wanted, chosen, given


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
