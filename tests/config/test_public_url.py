"""The public URL, split into its parts, and values that are refused."""

import pytest

from server.config import BadSettings, load
from server.config.web_addresses import PublicUrl


@pytest.mark.parametrize(
    ("url", "path", "whole", "host", "origin"),
    [
        (None, "/v1/x", "/v1/x", None, None),
        ("https://example.org", "/v1/x", "https://example.org/v1/x", "example.org", "https://example.org"),
        ("https://example.org/", "/v1/x", "https://example.org/v1/x", "example.org", "https://example.org"),
        (
            "https://example.org/tape",
            "/tape/v1/x",
            "https://example.org/tape/v1/x",
            *("example.org", "https://example.org"),
        ),
        (
            "https://example.org/a/b/",
            "/a/b/v1/x",
            "https://example.org/a/b/v1/x",
            *("example.org", "https://example.org"),
        ),
        ("http://Example.org:80", "/v1/x", "http://example.org/v1/x", "example.org", "http://example.org"),
        ("http://[::1]:81/t", "/t/v1/x", "http://[::1]:81/t/v1/x", "::1", "http://[::1]:81"),
    ],
)
def test_paths_and_urls_below_it(
    url: str | None, path: str, whole: str, host: str | None, origin: str | None
) -> None:
    public = PublicUrl(url)
    assert (public.path("/v1/x"), public.url("/v1/x")) == (path, whole)
    assert (public.host, public.origin) == (host, origin)


@pytest.mark.parametrize(
    "value",
    [
        *("example.org", "/tape", "example.org/tape", "//example.org/tape", "ftp://example.org", "https://"),
        *("https:///tape", "https://example.org?x=1", "https://example.org/#x", "https://me:secret@example.org"),
        *("https://example.org:x", "https://example.org:99999", "https://exämple.org", "https://example.org/a b"),
        *(
            "https://example.org//tape",
            "https://example.org/tape\r\nX: y",
            "https://[::1",
            "https://example.org:0",
            'https://example.org/"x',
        ),
    ],
)
def test_invalid_values_are_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENTAPE_PUBLIC_URL", value)
    with pytest.raises(BadSettings, match="TOKENTAPE_PUBLIC_URL"):
        load()
