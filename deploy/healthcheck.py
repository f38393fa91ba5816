"""The image's health check: exit status 0 when the server in this container answers that it is alive.

Alive, not ready: a database that is away is no reason to replace the server. It asks the port of TOKENTAPE_BIND
straight, without urllib, which would send the question through a proxy set for upstreams; and by HTTPS where the
server is set to speak it. Set by a flag instead (`serve --tls`), neither is seen here: use the variables.
"""

import os
import ssl
import sys
from http.client import HTTPConnection, HTTPException, HTTPSConnection

SECONDS = 3.0
NO = ("", "0", "false", "f", "no", "n", "off")  # what the server reads as "no TLS"


def main() -> int:
    """0 when alive; 1, with the reason on stderr, when not."""
    host, _, port = os.environ.get("TOKENTAPE_BIND", "127.0.0.1:8000").rpartition(":")
    # Bound to all addresses, it is reached by loopback; bound to one, by that one alone.
    name = {"0.0.0.0": "127.0.0.1", "[::]": "::1"}.get(host, host.strip("[]"))
    connection = _connection(name, int(port))
    try:
        # By the name that every server answers to: a certificate's name or a container's address may be refused.
        connection.request("GET", "/healthz", headers={"Host": "localhost"})
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        sys.stderr.write(f"no answer from {name}:{port}: {error!r}\n")
        return 1
    finally:
        connection.close()
    if status != 200:
        sys.stderr.write(f"/healthz answered {status}\n")
    return int(status != 200)


def _connection(name: str, port: int) -> HTTPConnection:
    if os.environ.get("TOKENTAPE_TLS", "").lower() in NO and not os.environ.get("TOKENTAPE_CERTFILE"):
        return HTTPConnection(name, port, timeout=SECONDS)
    # The certificate is for the names that people use; that this is our own server is known by the address.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return HTTPSConnection(name, port, timeout=SECONDS, context=context)


if __name__ == "__main__":
    sys.exit(main())
