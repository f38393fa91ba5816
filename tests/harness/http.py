"""HTTP clients for tests: without TLS trust, whose loading would cost more than the requests."""

import httpx2


def http_client(base_url: str = "") -> httpx2.AsyncClient:
    """A client with a generous bound on everything."""
    return httpx2.AsyncClient(base_url=base_url, timeout=60, verify=False)
