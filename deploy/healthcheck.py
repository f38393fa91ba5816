"""The image's health check: exit status 0 when the server in this container answers that it is alive.

Alive, not ready: a database that is away is no reason to replace the server. It asks the port of TOKENTAPE_BIND
straight, without urllib, which would send the question through a proxy set for upstreams.
"""

import os
import sys
from http.client import HTTPConnection, HTTPException

SECONDS = 3.0


def main() -> int:
    """0 when alive; 1, with the reason on stderr, when not."""
    host, _, port = os.environ.get("TOKENTAPE_BIND", "127.0.0.1:8000").rpartition(":")
    # Bound to all addresses, it is reached by loopback; bound to one, by that one alone.
    name = {"0.0.0.0": "127.0.0.1", "[::]": "::1"}.get(host, host.strip("[]"))
    connection = HTTPConnection(name, int(port), timeout=SECONDS)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        sys.stderr.write(f"no answer from {name}:{port}: {error!r}\n")
        return 1
    finally:
        connection.close()
    if status != 200:
        sys.stderr.write(f"/healthz answered {status}\n")
    return int(status != 200)


if __name__ == "__main__":
    sys.exit(main())
