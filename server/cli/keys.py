"""`tokentape keys create|list|revoke`: who may call the servers of a database.

Owns the commands and what they print. A key is shown once, when it is made. They speak to the database as the role
that owns the tables, because the role that serves may make and revoke no key. The key's form and the store are in
`server/auth`.
"""

import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final

import click
import trio

from eventstore.postgres import schema_revision
from eventstore.postgres.asyncpg_trio import DatabaseRefused
from server.auth.auth_store import KeyRow
from server.auth.credentials import generate
from server.auth.limits.limit_list import parse_key_limits
from server.auth.postgres_auth_store import PostgresAuthStore
from server.auth.principal import DEFAULT_TENANT, MEANINGS, TENANT_FORM, in_order, is_tenant, parse_scopes
from server.cli.exit_codes import FAILED, STATUSES, Failed
from server.cli.main import read_settings, settings_options
from server.config import Settings
from server.embedded_postgres import acquire
from server.observability import logs
from server.process.database import Database, migrate_database, require_migrated

DATABASE: Final = ("database_url", "database_owner_url", "data_dir")
UNITS: Final = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
MAX_NAME: Final = 200
MAX_SECONDS: Final = 3_660 * 86_400
_DURATION = re.compile(r"(\d{1,9})([mhdw])")
_NO_RIGHT: Final = "42501"
_SCOPES_HELP = "\b\n" + "\n".join(f"  {name:<7} {meaning}" for name, meaning in MEANINGS.items())


class _Duration(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
        seconds = int(found[1]) * UNITS[found[2]] if found else 0
        if not 0 < seconds <= MAX_SECONDS:
            self.fail(
                f"{value!r} is no duration: write a number and m, h, d or w, such as 90d or 12h, up to ten years",
                param,
                ctx,
            )
        return float(seconds)


class _Scopes(click.ParamType[frozenset[str]]):
    name = "scopes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> frozenset[str]:
        try:
            return parse_scopes(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Tenant(click.ParamType[str]):
    name = "tenant"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not is_tenant(value):
            self.fail(f"{value!r} is no tenant: it has to be {TENANT_FORM}", param, ctx)
        return str(value)


class _Limits(click.ParamType[str]):
    name = "limits"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return str(parse_key_limits(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.group("keys", epilog=STATUSES, short_help="Make, list and revoke the keys that callers need.")
def command() -> None:
    """Make, list and revoke API keys: who may call the servers of this database, and what they may do.

    \b
      tokentape keys create --tenant acme --scopes read,write --expires 90d --name "the CI"
      tokentape keys list
      tokentape keys revoke key_…

    Until the first key is made, whoever reaches a server may do everything. A running server notices a new key,
    and a revoked one, within seconds: a revoked key ends its open streams.
    """


@command.command("create", epilog=_SCOPES_HELP + "\n\n" + STATUSES)
@click.option(
    "--tenant", type=_Tenant(), default=DEFAULT_TENANT, show_default=True, help="whose conversations it is for"
)
@click.option("--scopes", type=_Scopes(), required=True, help="what it allows, with commas: read,write,decide")
@click.option("--expires", type=_Duration(), default=None, help="after how long: 90d, 12h  [default: never]")
@click.option("--limits", type=_Limits(), default="", help="of its own: requests=20/s,runs=3,readers=none")
@click.option("--name", default="", help='what it is for, shown by `list`: "the CI"')
@click.option(
    "--if-none", is_flag=True, help="make none if there was ever a key, or if TOKENTAPE_ALLOW_ANONYMOUS wants none"
)
@settings_options(*DATABASE)
@click.option("--json", "as_json", is_flag=True, help='one object: {"key": "tt_key_…", "id": "key_…", …}')
def create(
    tenant: str,
    scopes: frozenset[str],
    expires: float | None,
    limits: str,
    name: str,
    if_none: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Make a key. It is shown now and never again: only its hash is stored.

    Its own --limits hold instead of those that TOKENTAPE_LIMITS sets for all keys; `none` lifts one.

    Each scope stands for itself; none includes another one:
    """
    if len(name) > MAX_NAME or not name.isprintable():
        raise click.BadParameter(f"it has to be at most {MAX_NAME} printable characters", param_hint="--name")
    settings = read_settings(flags)
    key = generate("key")

    async def add(store: PostgresAuthStore) -> KeyRow | None:
        if if_none and (settings.allow_anonymous or await store.list_keys()):
            return None
        return await store.add_key(key, tenant, name, scopes, expires, limits)

    row = _run(settings, add)
    if row is None:
        why = "TOKENTAPE_ALLOW_ANONYMOUS is set" if settings.allow_anonymous else "there was one before"
        click.echo(f"tokentape: no key was made, because {why}; without --if-none this makes one", err=True)
        return
    if as_json:
        click.echo(json.dumps({"key": key.text, **_as_json(row)}))
        return
    click.echo(key.text)
    until = f"until {_moment(row.expires_at)}" if row.expires_at else "without end"
    click.echo(f"  {row.id}, tenant {tenant}, {','.join(in_order(scopes))}, {until}", err=True)
    click.echo("  It is not shown again. Use it so:", err=True)
    click.echo("    curl -H 'Authorization: Bearer tt_key_…' http://127.0.0.1:8000/v1/conversations", err=True)


@command.command("list", epilog=STATUSES)
@click.option("--tenant", type=_Tenant(), default=None, help="those of one tenant  [default: all]")
@settings_options(*DATABASE)
@click.option("--json", "as_json", is_flag=True, help="one object a line, one line a key")
def list_keys(tenant: str | None, as_json: bool, **flags: Any) -> None:
    """List the keys, revoked and expired ones too, the oldest first. The keys themselves are not stored."""

    async def read(store: PostgresAuthStore) -> list[KeyRow]:
        return list(await store.list_keys(tenant))

    rows = _run(read_settings(flags), read)
    if as_json:
        for row in rows:
            click.echo(json.dumps(_as_json(row)))
    for row in () if as_json else rows:
        click.echo(_lines(row))
    if not rows and not as_json:
        click.echo("tokentape: no key was made yet", err=True)


@command.command("revoke", epilog=STATUSES)
@click.argument("key_id", metavar="ID")
@settings_options(*DATABASE)
@click.option("--json", "as_json", is_flag=True, help='one object: {"id": "key_…", "revoked": "…", …}')
def revoke(key_id: str, as_json: bool, **flags: Any) -> None:
    """Revoke the key with this ID (key_…), for good. Its streams, sessions and tickets end within 5 seconds."""
    if key_id.startswith("tt_"):
        raise click.BadParameter(
            "this is the key itself; give its id, which `tokentape keys list` shows (key_…)", param_hint="ID"
        )

    async def end(store: PostgresAuthStore) -> KeyRow | None:
        return await store.revoke_key(key_id)

    row = _run(read_settings(flags), end)
    if row is None:
        raise Failed(FAILED, "not_found", f"there is no key {key_id}", "`tokentape keys list` shows all of them.")
    click.echo(json.dumps(_as_json(row)) if as_json else f"tokentape: {row.id} is revoked")


def _run(settings: Settings, act: Callable[[PostgresAuthStore], Any]) -> Any:
    """Runs `act` on the store of the settings' database, as its owner."""
    logs.configure("auto")

    async def go() -> Any:
        async with _owner_url(settings) as url:
            store = PostgresAuthStore(url, call_timeout=settings.store_patience, program="tokentape keys")
            async with store.open():
                try:
                    return await act(store)
                except DatabaseRefused as error:
                    if error.sqlstate != _NO_RIGHT:
                        raise
                    raise Failed(
                        FAILED,
                        "database",
                        "this role may read keys, and neither make nor revoke one",
                        "Set TOKENTAPE_DATABASE_OWNER_URL to the role that owns the tables.",
                    ) from None

    return trio.run(go)


@asynccontextmanager
async def _owner_url(settings: Settings) -> AsyncIterator[str]:
    """The URL of the owner's role; the embedded database is started and migrated, as for `serve`."""
    if settings.database_url is not None:
        url = settings.database_owner_url or settings.database_url
        require_migrated(await schema_revision(url))
        yield url
        return
    postgres = await trio.to_thread.run_sync(acquire, settings.data_dir)
    try:
        await migrate_database(Database(postgres.app_url, postgres.owner_url))
        yield postgres.owner_url
    finally:
        postgres.release()


def _as_json(row: KeyRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "tenant": row.tenant,
        "scopes": in_order(row.scopes),
        "created": row.created_at.isoformat(),
        "expires": row.expires_at.isoformat() if row.expires_at else None,
        "revoked": row.revoked_at.isoformat() if row.revoked_at else None,
        "last_used": row.last_used.isoformat() if row.last_used else None,
        "limits": row.limits or None,
        "used_today": dict(row.used),
    }


def _moment(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M}" if at else "never"


def _lines(row: KeyRow) -> str:
    """A key on two to four lines: a table of all its columns is wider than most terminals."""
    state = f"revoked {_moment(row.revoked_at)}" if row.revoked_at else f"expires {_moment(row.expires_at)}"
    used = row.last_used.isoformat() if row.last_used else "never"
    what = f"tenant {row.tenant}, {','.join(in_order(row.scopes))}"
    times = f"created {_moment(row.created_at)}, {state}, last used {used}"
    lines = [f"{row.id}  {row.name}".rstrip(), f"  {what}; {times}"]
    if row.limits:
        lines.append(f"  limits {row.limits}")
    if row.used:
        lines.append("  today " + ", ".join(f"{name} {amount:.10g}" for name, amount in sorted(row.used.items())))
    return "\n".join(lines)
