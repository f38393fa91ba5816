"""How many files this process may have open: a connection is one, and running out of them hurts everybody."""

import resource

from server import logs

log = logs.get("host")

RESERVED = 200
"""For the database, upstreams, logs, and requests that are only being refused."""


def raise_file_limit(streams: int) -> int:
    """Raises the soft limit as far as it may, and returns how many of `streams` can then be open at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = streams + RESERVED
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < wanted:
        log.warning("fewer streams than set: the limit of open files is low", files=soft, streams=soft - RESERVED)
    return max(1, min(streams, soft - RESERVED))
