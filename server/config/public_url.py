"""The address at which clients reach this server, where a proxy puts it somewhere else than `/` of its own.

Behind `https://example.org/tape` the server is asked for `/v1/…` and knows nothing of `/tape`; without this
setting its `Location` and its links would lead out of the path that the proxy hands on. Pure: text in, text out.
"""

import re
from urllib.parse import urlsplit

_PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*")


class PublicUrl:
    """`https://example.org/tape`, taken apart. Without one, links are paths from `/`, and stay so.

    Raises `ValueError`, which says what would be right, where it is no such URL.
    """

    def __init__(self, url: str | None = None) -> None:
        self._base = ""
        self.prefix = ""
        """`/tape`, or nothing: what stands before every path."""
        self.host: str | None = None
        """`example.org`, without a port."""
        self.origin: str | None = None
        """`https://example.org`, as a browser says it of a page from there."""
        if url is None:
            return
        parts = urlsplit(url)
        path = parts.path.rstrip("/")
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or parts.username is not None
            or "?" in url
            or "#" in url
            or not url.isascii()
            or not _PATH.fullmatch(path)
        ):
            raise ValueError("it has to look like https://example.org or https://example.org/path")
        port = parts.port  # ValueError where it is no number
        self.host = parts.hostname
        name = f"[{self.host}]" if ":" in self.host else self.host
        usual = {"http": 80, "https": 443}[parts.scheme]
        self.origin = f"{parts.scheme}://{name}" + ("" if port in (None, usual) else f":{port}")
        self.prefix = path
        self._base = self.origin + path

    def path(self, path: str) -> str:
        """`/v1/…` as a client has to ask for it: for `Location` and links in answers (RFC 3986 section 4.2)."""
        return self.prefix + path

    def url(self, path: str) -> str:
        """`/v1/…` for somebody who asked for nothing, and so has no address to resolve it against.

        An absolute URL where one is set, else the path as it is.
        """
        return self._base + path
