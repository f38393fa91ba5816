"""The proxy that the environment names for a URL, and which parts of the proxy's URL may be shown."""

from __future__ import annotations

from base64 import b64decode

import pytest

from server.http_client.base_url import BaseUrl, parse_base_url
from server.http_client.proxy import choose_proxy, encode_connect, is_excluded, parse_proxy_url

P, Q = "http://p:3128", "http://q:3128"
API, PLAIN = "https://api.example/v1", "http://api.example/v1"


@pytest.mark.parametrize(
    ("env", "url", "proxy", "why"),
    [
        ({}, API, None, "none is named"),
        ({"HTTPS_PROXY": P}, API, P, "HTTPS_PROXY"),
        ({"https_proxy": P, "HTTPS_PROXY": Q}, API, P, "https_proxy"),
        ({"https_proxy": "", "HTTPS_PROXY": Q}, API, Q, "HTTPS_PROXY"),
        ({"https_proxy": " "}, API, None, "none is named"),
        ({"HTTP_PROXY": P}, API, None, "none is named"),
        ({"HTTP_PROXY": P}, PLAIN, P, "HTTP_PROXY"),
        ({"HTTP_PROXY": P, "REQUEST_METHOD": "GET"}, PLAIN, None, "none is named"),
        ({"http_proxy": P, "REQUEST_METHOD": "GET"}, PLAIN, P, "http_proxy"),
        ({"HTTPS_PROXY": P}, PLAIN, None, "none is named"),
        ({"ALL_PROXY": P}, API, P, "ALL_PROXY"),
        ({"all_proxy": P, "HTTPS_PROXY": Q}, API, Q, "HTTPS_PROXY"),
        ({"HTTPS_PROXY": P, "NO_PROXY": "api.example"}, API, None, "NO_PROXY"),
        ({"HTTPS_PROXY": P, "no_proxy": "other", "NO_PROXY": "*"}, API, P, "HTTPS_PROXY"),
        ({"HTTPS_PROXY": P}, "https://localhost:1/v1", None, "this machine itself"),
        ({"HTTPS_PROXY": P}, "https://a.localhost./v1", None, "this machine itself"),
        ({"HTTP_PROXY": P}, "http://127.8.9.10:1234/v1", None, "this machine itself"),
        ({"HTTP_PROXY": P}, "http://[::1]:1234/v1", None, "this machine itself"),
        ({"HTTP_PROXY": P}, "http://10.0.0.1/v1", P, "HTTP_PROXY"),
        ({"HTTP_PROXY": P}, "http://notlocalhost/v1", P, "HTTP_PROXY"),
    ],
)
def test_choice_of_the_proxy(env: dict[str, str], url: str, proxy: str | None, why: str) -> None:
    choice = choose_proxy(env, url)
    assert (choice.proxy, choice.why) == (proxy, why)


@pytest.mark.parametrize(
    ("no_proxy", "url", "excluded"),
    [
        ("", API, False),
        (" , ", API, False),
        ("*", API, True),
        ("a, *", API, True),
        ("example", API, True),
        (".example", API, True),
        ("*.example", API, True),
        ("API.Example.", API, True),
        ("api.example", "https://api.example.", True),
        ("ample", API, False),
        ("pi.example", API, False),
        ("v1.api.example", API, False),
        (".", API, False),
        ("other api.example,more", API, True),
        ("api.example:443", API, True),
        ("api.example:80", API, False),
        ("api.example:80", PLAIN, True),
        ("api.example:x", API, False),
        ("10.1.2.3", "http://10.1.2.3", True),
        ("10.1.2.3:80", "http://10.1.2.3", True),
        ("10.1.2.3:81", "http://10.1.2.3", False),
        ("1.2.3", "http://10.1.2.3", False),
        (".2.3", "http://10.1.2.3", False),
        ("10.0.0.0/8", "http://10.1.2.3", True),
        ("10.0.0.1/8", "http://10.1.2.3", True),
        ("11.0.0.0/8", "http://10.1.2.3", False),
        ("10.0.0.0/99", "http://10.1.2.3", False),
        ("10.0.0.0/8", API, False),
        ("2001:db8::1", "http://[2001:db8::1]", True),
        ("[2001:DB8:0::1]", "http://[2001:db8::1]", True),
        ("[2001:db8::1]:80", "http://[2001:db8::1]", True),
        ("[2001:db8::1]:81", "http://[2001:db8::1]", False),
        ("2001:db8::/32", "http://[2001:db8::1]", True),
        ("10.0.0.0/8", "http://[2001:db8::1]", False),
    ],
)
def test_no_proxy(no_proxy: str, url: str, excluded: bool) -> None:
    assert is_excluded(parse_base_url(url), no_proxy) is excluded


@pytest.mark.parametrize(
    ("url", "address", "said"),
    [
        ("http://proxy.example", BaseUrl(False, "proxy.example", 80, ""), None),
        ("proxy.example:3128", BaseUrl(False, "proxy.example", 3128, ""), None),
        ("http://[::1]:3128/", BaseUrl(False, "::1", 3128, ""), None),
        ("http://me:hunter2@p:1", BaseUrl(False, "p", 1, ""), b"me:hunter2"),
        ("http://m%40e:hunter2%3a%2F@p", BaseUrl(False, "p", 80, ""), b"m@e:hunter2:/"),
        ("me@p:1", BaseUrl(False, "p", 1, ""), b"me:"),
    ],
)
def test_valid_proxy_urls(url: str, address: BaseUrl, said: bytes | None) -> None:
    proxy = parse_proxy_url(url)
    assert proxy.url == address
    assert proxy.authorization.startswith("Basic ") is (said is not None)
    assert b64decode(proxy.authorization.removeprefix("Basic ")) == (said or b"")
    assert proxy.headers == ({"Proxy-Authorization": proxy.authorization} if said else {})
    assert "hunter2" not in repr(proxy)
    assert not said or proxy.authorization not in repr(proxy)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://me:hunter2@p",
        "socks5://me:hunter2@p",
        "http://me:hunter2@",
        "http://me:hunter2@p:99999",
        "http://me:hunter2@[::1",
        "http://me:hunter2@p/path",
        "http://me:hunter2@p?x",
        "http://me:hunter2@p\r\nX: y",
    ],
)
def test_invalid_proxy_urls_are_refused_without_being_shown(url: str) -> None:
    with pytest.raises(ValueError, match=r"^the proxy's URL") as caught:
        parse_proxy_url(url)
    assert "hunter2" not in str(caught.value)


def test_repr_of_the_choice_hides_the_password() -> None:
    assert "hunter2" not in repr(choose_proxy({"HTTPS_PROXY": "http://me:hunter2@p"}, API))


@pytest.mark.parametrize(
    ("host", "place"), [("api.example", "api.example:443"), ("2001:db8::1", "[2001:db8::1]:443")]
)
def test_connect_request(host: str, place: str) -> None:
    address = BaseUrl(True, host, 443, "/v1")
    assert (
        encode_connect(address, parse_proxy_url("p"))
        == f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode()
    )
    authorized = encode_connect(address, parse_proxy_url("me:x@p"))
    assert authorized.endswith(b"\r\nProxy-Authorization: Basic bWU6eA==\r\n\r\n")
