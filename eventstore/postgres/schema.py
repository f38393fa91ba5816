"""Which revision of the schema a database is at, before any server opens it."""

from eventstore.postgres.bridge import Refused, open_bridge
from eventstore.postgres.session import Session
from eventstore.postgres.statements import STATEMENTS

_NO_TABLE = ("42P01", "3F000", "42501")


async def schema_revision(url: str) -> str | None:
    """The revision, or None where there is no schema. Raises `StoreUnavailable` or `Refused`."""
    return await _ask(url, STATEMENTS["revision"])


async def compatible_since(url: str) -> str | None:
    """The oldest revision whose servers can work on the schema, None where it does not say. Raises as the
    other."""
    return await _ask(url, STATEMENTS["compatible"])


async def _ask(url: str, sql: str) -> str | None:
    async with open_bridge() as bridge:
        session = Session(bridge, url, "eventstore asks its revision")
        try:
            rows = await session.fetch(sql)
        except Refused as error:
            if error.sqlstate in _NO_TABLE:
                return None
            raise
        finally:
            session.drop()
        return str(rows[0]["revision"]) if rows else None
