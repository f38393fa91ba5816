"""The embedded PostgreSQL 18 that `tokentape serve` uses when no database is configured.

This package finds PostgreSQL's programs, creates the data folder, the cluster and the roles, and starts and stops
the server process. Several Tokentape servers on one machine share one PostgreSQL. Every call blocks: run it in a
thread. The package must not know trio, a database driver, the schema, or any other package of the server.
"""

from .data_dir import default_data_dir
from .embedded_postgres import Embedded, acquire, restart, stop
from .os_user import EmbeddedError

__all__ = ["Embedded", "EmbeddedError", "acquire", "default_data_dir", "restart", "stop"]
