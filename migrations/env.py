"""What Alembic runs for every command: the caller's connection and transaction, our schema for its table."""

from alembic import context

connection = context.config.attributes["connection"]
connection.exec_driver_sql("CREATE SCHEMA IF NOT EXISTS eventstore")
context.configure(connection=connection, version_table_schema="eventstore", version_table="revision")
with context.begin_transaction():
    context.run_migrations()
