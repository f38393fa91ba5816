"""Which revision of the schema a database is at, before any server opens it."""

from eventstore.postgres.bridge import Refused, open_bridge
from eventstore.postgres.session import Session
from eventstore.postgres.statements import STATEMENTS

_NO_TABLE = ("42P01", "3F000", "42501")


async def schema_revision(url: str) -> str | None:
    """The revision, or None where there is no schema. Raises `StoreUnavailable` or `Refused`."""
    async with open_bridge() as bridge:
        session = Session(bridge, url, "eventstore asks its revision")
        try:
            rows = await session.fetch(STATEMENTS["revision"])
        except Refused as error:
            if error.sqlstate in _NO_TABLE:
                return None
            raise
        finally:
            session.drop()
        return str(rows[0]["version_num"]) if rows else None
