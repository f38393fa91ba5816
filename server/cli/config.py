"""`tokentape config`: every setting, its value, and where it comes from. No secret is ever shown."""

import json
import os
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from server.cli.config_sources import Row, rows
from server.cli.exit_codes import MISUSED, STATUSES, Failed
from server.cli.main import settings_options
from server.cli.output import make_console
from server.config import OWN, BadSettings, load


@click.command("config", epilog=STATUSES, short_help="The settings, and where each comes from.")
@settings_options(*OWN)
@click.option("--json", "as_json", is_flag=True, help="one object: settings and complaints")
def command(as_json: bool, **flags: Any) -> None:
    """Show what `tokentape serve` would run with, given the same flags and environment.

    \b
      tokentape config                       the settings, and where each comes from
      tokentape config --bind 0.0.0.0:80     what a flag would make of them
      tokentape config --json | jq '.settings[] | select(.from != "default")'

    Passwords in addresses are left out, keys are only said to be set. If something is wrong, everything that
    is wrong is said, and the exit status is 2.
    """
    complaints: list[str] = []
    settings = None
    try:
        settings = load(flags)
    except BadSettings as error:
        complaints = str(error).splitlines()
    found = rows(settings, flags, os.environ)
    if as_json:
        shown = {"settings": [row.fields() for row in found], "complaints": complaints}
        click.echo(json.dumps(shown, ensure_ascii=True, indent=2))
    else:
        make_console().print(_table(found))
    if complaints:
        raise Failed(MISUSED, "bad_settings", "\n".join(complaints))


def _table(found: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("variable", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("from", no_wrap=True)
    for row in found:
        given = row.origin != "default"
        style, place = ("bold", "cyan") if given else ("dim", "dim")
        table.add_row(Text(row.variable, style), Text(row.shown, style), Text(row.origin, place))
    return table
