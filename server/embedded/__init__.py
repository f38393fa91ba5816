"""The embedded PostgreSQL 18 that `tokentape serve` uses when it is given no database.

Owns its programs, its data folder, its process and its roles; several servers on one machine share it. All calls
block: run them in a thread. Must not know trio, a database driver, the schema, or any other room.
"""

from .errors import EmbeddedError
from .folder import default_data_dir
from .handle import Embedded, acquire, restart, stop

__all__ = ["Embedded", "EmbeddedError", "acquire", "default_data_dir", "restart", "stop"]
