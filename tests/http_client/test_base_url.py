"""Base URLs: which are valid, and that an error never repeats one."""

from __future__ import annotations

import pytest

from server.http_client.base_url import BaseUrl, parse_base_url


@pytest.mark.parametrize(
    ("url", "address", "authority"),
    [
        ("https://api.openai.com/v1", BaseUrl(True, "api.openai.com", 443, "/v1"), "api.openai.com"),
        ("https://api.openai.com/v1/", BaseUrl(True, "api.openai.com", 443, "/v1"), "api.openai.com"),
        ("http://127.0.0.1:1234/v1", BaseUrl(False, "127.0.0.1", 1234, "/v1"), "127.0.0.1:1234"),
        ("http://Host_1", BaseUrl(False, "host_1", 80, ""), "host_1"),
        ("http://host:443", BaseUrl(False, "host", 443, ""), "host:443"),
        ("https://host:80/a/b//", BaseUrl(True, "host", 80, "/a/b"), "host:80"),
        ("http://[::1]:8080/v1", BaseUrl(False, "::1", 8080, "/v1"), "[::1]:8080"),
        ("HTTPS://[2001:DB8::1]", BaseUrl(True, "2001:db8::1", 443, ""), "[2001:db8::1]"),
        ("http://fqdn.example.", BaseUrl(False, "fqdn.example.", 80, ""), "fqdn.example."),
    ],
)
def test_valid_urls(url: str, address: BaseUrl, authority: str) -> None:
    assert parse_base_url(url) == address
    assert address.authority == authority


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hunter2.example/v1",
        "ftp://hunter2.example",
        "https://",
        "https://:8080/hunter2",
        "https://me:hunter2@host/v1",
        "https://hunter2@host/v1",
        "https://host/v1?key=hunter2",
        "https://host/v1?",
        "https://host/v1#hunter2",
        "https://hunter2:99999",
        "https://hunter2:0",
        "https://host:hunter2",
        "https://[::1",
        "https://[fe80::1%25hunter2]",
        "https://[hunter2::x]",
        "https://[v1.hunter2:x]",
        "https://hunter2..example",
        "https://-hunter2",
        "https://" + "h" * 64,
        "https://" + "hunter2." * 40 + "example",
        "https://hünter2",
        "https://hunter2\r\nX: y",
        "https://hun ter2/",
        "https://hunter2/\t",
    ],
)
def test_invalid_urls_are_refused_without_being_shown(url: str) -> None:
    with pytest.raises(ValueError, match=r"^the base URL") as caught:
        parse_base_url(url)
    assert "hunter2" not in str(caught.value)
