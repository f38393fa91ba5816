"""The log in Postgres: the statements, the connections that carry them, and the hints between processes."""

from eventstore.postgres.log import PostgresLog, PostgresOptions
from eventstore.postgres.schema import compatible_since, schema_revision

__all__ = ["PostgresLog", "PostgresOptions", "compatible_since", "schema_revision"]
