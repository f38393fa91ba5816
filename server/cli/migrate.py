"""`tokentape migrate`."""

from typing import Any

import click
import trio

import migrations
from server import logs
from server.cli.main import read_settings, settings_options
from server.config import Settings
from server.database import open_database


@click.command("migrate")
@settings_options("database_url", "database_owner_url", "data_dir")
def command(**flags: Any) -> None:
    """Bring the database up to this version's schema. Safe to run again, and from several machines at once.

    Runs as the role of --database-owner-url (default: --database-url) and gives the role of --database-url
    what it needs to serve: it may add events and read them, never change or remove one.
    """
    settings = read_settings(flags)
    logs.configure("auto")
    trio.run(_migrate, settings)
    click.echo(f"tokentape: the database is at revision {migrations.HEAD}")


async def _migrate(settings: Settings) -> None:
    async with open_database(settings, migrate=True):
        pass
