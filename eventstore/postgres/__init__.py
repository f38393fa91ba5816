"""The log in Postgres: statements, the connections that carry them, notifications between processes."""

from eventstore.postgres.db_connection import compatible_since, schema_revision
from eventstore.postgres.postgres_backend import PostgresBackend, PostgresOptions

__all__ = ["PostgresBackend", "PostgresOptions", "compatible_since", "schema_revision"]
