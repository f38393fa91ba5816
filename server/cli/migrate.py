"""`tokentape migrate`: brings a database up to this version's schema.

Owns the command and what it prints. The migration itself is in `server/process/database.py`.
"""

import json
from contextlib import nullcontext
from typing import Any

import click
import trio
from rich.console import Console

import migrations
from server.cli.exit_codes import STATUSES
from server.cli.main import read_settings, settings_options
from server.cli.terminal.output import is_watched
from server.config import Settings
from server.embedded_postgres import acquire
from server.observability import logs
from server.process.database import Database, migrate_database


@click.command("migrate", epilog=STATUSES, short_help="Bring a database up to this version's schema.")
@settings_options("database_url", "database_owner_url", "data_dir")
@click.option("--json", "as_json", is_flag=True, help='one object: {"from": "0001", "to": "0002"}')
def command(as_json: bool, **flags: Any) -> None:
    """Bring the database up to this version's schema. Safe to run again, and from several machines at once.

    \b
      tokentape migrate                                    the embedded database
      tokentape migrate --database-url postgresql://owner:…@db/tokentape

    It runs as the role of --database-owner-url (default: --database-url), and grants the role of
    --database-url what the server needs: to add events and to read them, never to change or remove one.
    """
    settings = read_settings(flags)
    logs.configure("auto")
    has_terminal = is_watched() and not as_json
    with Console(stderr=True).status("looking at the database…") if has_terminal else nullcontext() as status:

        def show_progress(what: str) -> None:
            if status is not None:
                status.update(what)
            elif what.startswith("waiting"):
                click.echo(f"tokentape: {what}", err=True)

        before = trio.run(_migrate, settings, show_progress)
    if as_json:
        click.echo(json.dumps({"from": before, "to": migrations.HEAD}))
    elif before == migrations.HEAD:
        click.echo(f"tokentape: the database is at revision {migrations.HEAD} already")
    else:
        click.echo(f"tokentape: the database is at revision {migrations.HEAD} (it was {before or 'empty'})")


async def _migrate(settings: Settings, show_progress: Any) -> str | None:
    """Migrates. Returns the revision that the database had before; None when it had no schema."""
    if settings.database_url is not None:
        url = settings.database_url
        return await migrate_database(Database(url, settings.database_owner_url or url), tell=show_progress)
    show_progress("starting the embedded PostgreSQL…")
    postgres = await trio.to_thread.run_sync(acquire, settings.data_dir)
    try:
        return await migrate_database(Database(postgres.app_url, postgres.owner_url), tell=show_progress)
    finally:
        postgres.release()
