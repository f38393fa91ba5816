"""`tokentape migrate`."""

import json
from contextlib import nullcontext
from typing import Any

import click
import trio
from rich.console import Console

import migrations
from server import logs
from server.cli.exit_codes import STATUSES
from server.cli.main import read_settings, settings_options
from server.cli.output import watched
from server.config import Settings
from server.database import Database, migrate_database
from server.embedded import acquire


@click.command("migrate", epilog=STATUSES, short_help="Bring a database up to this version's schema.")
@settings_options("database_url", "database_owner_url", "data_dir")
@click.option("--json", "as_json", is_flag=True, help='one object: {"from": "0001", "to": "0002"}')
def command(as_json: bool, **flags: Any) -> None:
    """Bring the database up to this version's schema. Safe to run again, and from several machines at once.

    \b
      tokentape migrate                                    the embedded database
      tokentape migrate --database-url postgresql://owner:…@db/tokentape

    Runs as the role of --database-owner-url (default: --database-url) and gives the role of --database-url
    what it needs to serve: it may add events and read them, never change or remove one.
    """
    settings = read_settings(flags)
    logs.configure("auto")
    person = watched() and not as_json
    with Console(stderr=True).status("looking at the database…") if person else nullcontext() as status:

        def tell(what: str) -> None:
            if status is not None:
                status.update(what)
            elif what.startswith("waiting"):
                click.echo(f"tokentape: {what}", err=True)

        before = trio.run(_migrate, settings, tell)
    if as_json:
        click.echo(json.dumps({"from": before, "to": migrations.HEAD}))
    elif before == migrations.HEAD:
        click.echo(f"tokentape: the database is at revision {migrations.HEAD} already")
    else:
        click.echo(f"tokentape: the database is at revision {migrations.HEAD} (it was {before or 'empty'})")


async def _migrate(settings: Settings, tell: Any) -> str | None:
    """The revision before; None when the database had no schema."""
    if settings.database_url is not None:
        url = settings.database_url
        return await migrate_database(Database(url, settings.database_owner_url or url), tell=tell)
    tell("starting the embedded PostgreSQL…")
    held = await trio.to_thread.run_sync(acquire, settings.data_dir)
    try:
        return await migrate_database(Database(held.app_url, held.owner_url), tell=tell)
    finally:
        held.release()
