"""Hosts and origins in the settings: every value that no request could match is refused, with what to write
instead.

Accepted values are also checked against the code that compares them with requests.
"""

import traceback
from typing import Any

import pytest

from server.config import BadSettings, load
from server.web.edge.host_origin_cors import HostOriginCheck

HOSTS_TAKEN = [
    ("chat.example.org", "chat.example.org"),
    ("Chat.Example.ORG", "chat.example.org"),
    ("chat.example.org.", "chat.example.org."),
    ("tape", "tape"),
    ("my_service", "my_service"),
    ("xn--bcher-kva.example", "xn--bcher-kva.example"),
    ("bücher.example", "xn--bcher-kva.example"),
    ("192.0.2.7", "192.0.2.7"),
    ("0.0.0.0", "0.0.0.0"),
    ("::1", "::1"),
    ("[::1]", "::1"),
    ("2001:DB8:0:0::7", "2001:db8::7"),
    ("[2001:db8:0:0::7]", "2001:db8::7"),
]
HOSTS_REFUSED = [
    ("*", "no wildcards"),
    ("*.example.org", "no wildcards"),
    (".example.org", "no wildcards"),
    ("chat.*.org", "no wildcards"),
    ("https://chat.example.org", "no scheme: write 'chat.example.org'"),
    ("http://chat.example.org:8443/x", "no scheme"),
    ("//chat.example.org", "no scheme: write 'chat.example.org'"),
    ("chat.example.org:8443", "every port is meant: write 'chat.example.org'"),
    ("chat.example.org:*", "every port is meant: write 'chat.example.org'"),
    ("chat.example.org:", "every port is meant: write 'chat.example.org'"),
    ("[::1]:8000", "every port is meant: write '::1'"),
    ("192.0.2.7:80", "every port is meant: write '192.0.2.7'"),
    ("chat.example.org/", "no path: write 'chat.example.org'"),
    ("chat.example.org/tape", "no path: write 'chat.example.org'"),
    ("chat.example.org?x", "no path"),
    ("me@chat.example.org", "no host name"),
    ("a.example b.example", "commas"),
    ("a.example;b.example", "commas"),
    ("a..example", "no host name"),
    ("x" * 64 + ".example", "no host name"),
    ("fe80::1%eth0", "no host name"),
    ("[::1", "no host name"),
    ("127.1", "no IPv4 address"),
    ("256.0.0.1", "no IPv4 address"),
    ("0x7f000001", "no IPv4 address"),
]
ORIGINS_TAKEN = [
    ("https://app.example", "https://app.example"),
    ("https://app.example/", "https://app.example"),
    ("HTTPS://App.Example", "https://app.example"),
    ("https://app.example:443", "https://app.example"),
    ("http://app.example:80/", "http://app.example"),
    ("http://app.example:443", "http://app.example:443"),
    ("http://localhost:3000", "http://localhost:3000"),
    ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
    ("http://[::1]:3000", "http://[::1]:3000"),
    ("http://[0:0:0:0:0:0:0:1]:3000", "http://[::1]:3000"),
    ("https://bücher.example", "https://xn--bcher-kva.example"),
    # Shells of apps for desktops and phones, extensions, frames without an origin of their own.
    ("tauri://localhost", "tauri://localhost"),
    ("http://tauri.localhost", "http://tauri.localhost"),
    ("capacitor://localhost", "capacitor://localhost"),
    ("ionic://localhost", "ionic://localhost"),
    ("app://obsidian.md", "app://obsidian.md"),
    ("chrome-extension://aapbdbdomjkkjkaonfhkkikfgjllcleb", "chrome-extension://aapbdbdomjkkjkaonfhkkikfgjllcleb"),
    (
        "moz-extension://9f4a0b1c-77aa-4a53-9c57-2f6e7e0c6d11",
        "moz-extension://9f4a0b1c-77aa-4a53-9c57-2f6e7e0c6d11",
    ),
    ("null", "null"),
    ("NULL", "null"),
]
ORIGINS_REFUSED = [
    ("*", "no wildcards"),
    ("https://*", "no wildcards"),
    ("https://*.example.org", "no wildcards"),
    ("http://localhost:*", "no wildcards"),
    ("app.example", "begins with its scheme: write 'https://app.example'"),
    ("app.example:8443", "begins with its scheme: write 'https://app.example:8443'"),
    ("//app.example", "begins with its scheme: write 'https://app.example'"),
    ("localhost:3000", "begins with its scheme: write 'http://localhost:3000'"),
    ("127.0.0.1:3000", "begins with its scheme: write 'http://127.0.0.1:3000'"),
    ("[::1]:3000", "begins with its scheme: write 'http://[::1]:3000'"),
    ("https:app.example", "begins with its scheme"),
    ("https://app.example/chat", "no path: write 'https://app.example'"),
    ("https://app.example//", "no path: write 'https://app.example'"),
    ("https://app.example?x=1", "no path: write 'https://app.example'"),
    ("https://app.example/#x", "no path: write 'https://app.example'"),
    ("https://me:pw@app.example", "no user and no password: write 'https://app.example'"),
    ("wss://app.example", "for WebSockets too: write 'https://app.example'"),
    ("ws://localhost:3000", "for WebSockets too: write 'http://localhost:3000'"),
    ("file:///home/me/page.html", "write 'null'"),
    ("file://", "write 'null'"),
    ("data:text/html", "write 'null'"),
    ("https://", "no host name"),
    ("https://:443", "no host name"),
    ("://app.example", "has to look like"),
    ("9p://app.example", "has to look like"),
    ("https://app.example:0", "1 to 65535"),
    ("https://app.example:65536", "1 to 65535"),
    ("https://app.example:http", "1 to 65535"),
    ("https://app.example:", "1 to 65535"),
    ("http://::1:3000", "in brackets"),
    ("https://a.example https://b.example", "commas"),
    ("https://a.example;https://b.example", "commas"),
    ("https://127.1", "no IPv4 address"),
]


def _refusal(flags: dict[str, Any] | None = None) -> str:
    with pytest.raises(BadSettings) as caught:
        load(flags)
    return "".join(traceback.format_exception_only(caught.value)).split("BadSettings: ", 1)[1].strip()


@pytest.mark.parametrize("by_flag", [True, False])
@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        *(("allowed_hosts", *row) for row in HOSTS_TAKEN),
        *(("allowed_origins", *row) for row in ORIGINS_TAKEN),
    ],
)
def test_values_are_normalised_to_the_browsers_form(
    name: str, value: str, meant: str, by_flag: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not by_flag:
        monkeypatch.setenv(f"TOKENTAPE_{name.upper()}", value)
    settings = load({name: value} if by_flag else None)
    assert getattr(settings, name) == (meant,)


@pytest.mark.parametrize("by_flag", [True, False])
@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        *(("allowed_hosts", *row) for row in HOSTS_REFUSED),
        *(("allowed_origins", *row) for row in ORIGINS_REFUSED),
    ],
)
def test_unmatchable_values_are_refused_with_a_hint(
    name: str, value: str, hint: str, by_flag: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not by_flag:
        monkeypatch.setenv(f"TOKENTAPE_{name.upper()}", value)
    said = _refusal({name: value} if by_flag else None)
    called = f"--{name.replace('_', '-')}" if by_flag else f"TOKENTAPE_{name.upper()}"
    assert said.startswith(f"{called} = {value!r}: ")
    assert hint in said
    assert said.count("\n") == 0


def test_each_bad_value_of_a_list_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The good values between them are not."""
    monkeypatch.setenv("TOKENTAPE_ALLOWED_ORIGINS", "*, https://good.example, localhost:3000")
    lines = _refusal().splitlines()
    assert [line.split(" = ")[1].split(":")[0] for line in lines] == ["'*'", "'localhost"]


@pytest.mark.parametrize(("value", "meant"), ORIGINS_TAKEN)
def test_allowed_origin_may_post(value: str, meant: str) -> None:
    """The origin as a browser writes it is the allowed one."""
    check = HostOriginCheck("127.0.0.1", (), load({"allowed_origins": value}).allowed_origins)
    check.check_origin(meant, "localhost", secure=False)


@pytest.mark.parametrize(("value", "meant"), HOSTS_TAKEN)
@pytest.mark.parametrize("port", ["", ":8443"])
def test_allowed_host_is_answered(value: str, meant: str, port: str) -> None:
    check = HostOriginCheck("127.0.0.1", load({"allowed_hosts": value}).allowed_hosts, ())
    check.check_host((f"[{meant}]" if ":" in meant else meant) + port)
