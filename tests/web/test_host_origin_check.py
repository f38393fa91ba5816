"""Who may call: Host and Origin, in tables; the same for a POST and for a WebSocket."""

from contextlib import suppress

import pytest

from server.auth.credentials import generate
from server.problem import Problem
from server.web.edge.host_origin_cors import LOGGED_SECONDS, MAX_LOGGED, HostOriginCheck

HOSTS, ORIGINS = ("chat.example", "Tea.Example"), ("https://app.example", "https://Other.Example/")
GUARD = HostOriginCheck("127.0.0.1", HOSTS, ORIGINS)


def passes(guard: HostOriginCheck, headers: dict[str, str], method: str = "POST") -> str | None:
    """None if it passes, else the code of the refusal, which is final and names what was sent."""
    problem: Problem | None = None
    try:
        guard.check_request(
            method, "/v1/conversations", headers.get("Host", ""), headers.get("Origin"), secure=False
        )
    except Problem as refusal:
        problem = refusal
    if problem is None:
        return None
    assert problem.status == {"host_not_allowed": 421, "origin_not_allowed": 403}[problem.code]
    assert problem.retry_after is None
    assert len(problem.detail) < 300
    assert problem.detail.isascii()
    return problem.code


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8000",
        "LOCALHOST:8000",
        "localhost.:8000",
        "localhost.",
        "127.0.0.1",
        "127.0.0.1:80",
        "[::1]",
        "[::1]:8000",
        "[0:0:0:0:0:0:0:1]:8000",
        "chat.example",
        "CHAT.example:443",
        "chat.example.",
        "tea.example",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
def test_allowed_hosts(host: str, method: str) -> None:
    assert passes(GUARD, {"Host": host}, method) is None


@pytest.mark.parametrize(
    "host",
    [
        "",
        ":8000",
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "evillocalhost",
        "chat.example.evil",
        "sub.chat.example",
        "evil.example/localhost",
        "evil.example#@localhost",
        "localhost@evil.example",
        "evil@localhost",
        "user:pass@localhost:8000",
        "evil.example\\@localhost",
        "localhost,evil.example",
        "localhost evil.example",
        "localhost\tx",
        "[::1",
        "::1]",
        "[::2]",
        "[::1]evil.example",
        "[::1]evil.example:8000",
        "[::1]:8000evil.example",
        "evil[::1]",
        "localhost:8000:8000",
        "localhost:port",
        "localhost:-1",
        "localhost?evil.example",
        "[::ffff:127.0.0.1]",
        "127.0.0.2",
        "127.1",
        "2130706433",
        "0177.0.0.1",
        "0.0.0.0",
        "127.0.0.1.evil.example",
        "lоcalhost",
        "x" * 5_000,
        "\x00",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_foreign_hosts(host: str, method: str) -> None:
    """Reading is guarded too: a name pointed at this machine would let its page read (DNS rebinding)."""
    assert passes(GUARD, {"Host": host}, method) == "host_not_allowed"


def test_a_missing_host() -> None:
    assert passes(GUARD, {}) == "host_not_allowed"


HOST = "localhost:8000"


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost:8000",
        "http://LOCALHOST:8000",
        "HTTP://localhost:8000",
        "https://localhost:8000",  # behind a proxy that speaks TLS
        "https://app.example",
        "https://APP.example",
        "https://other.example",
    ],
)
def test_allowed_origins(origin: str) -> None:
    assert passes(GUARD, {"Host": HOST, "Origin": origin}) is None


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "http://evil.example",
        "http://evil.example:8000",
        "http://localhost",
        "http://localhost:8001",
        "http://localhost:80000",
        "http://localhost.:8000",
        "http://localhost:8000.evil.example",
        "http://evil.example/localhost:8000",
        "http://evil.example?localhost:8000",
        "http://evil@localhost:8000",
        "http://localhost:8000@evil.example",
        "http://127.0.0.1:8000",
        "localhost:8000",
        "//evil.example",
        "http://app.example",
        "https://app.example:8443",
        "https://sub.app.example",
        "https://app.example.evil",
        "http://localhost:8000, http://evil.example",
        "chrome-extension://abcdef",
        "file://",
        "x" * 5_000,
        "http://[::1",
        "http://[x]",
    ],
)
def test_foreign_origins(origin: str) -> None:
    """They may not post; a GET carries no Origin that matters, and reveals nothing without CORS."""
    assert passes(GUARD, {"Host": HOST, "Origin": origin}) == "origin_not_allowed"
    for method in ("GET", "HEAD", "OPTIONS"):
        assert passes(GUARD, {"Host": HOST, "Origin": origin}, method) is None


def test_programs_send_no_origin() -> None:
    assert passes(GUARD, {"Host": HOST}) is None


def test_the_host_is_checked_before_the_origin() -> None:
    headers = {"Host": "evil.example", "Origin": "http://evil.example"}
    assert passes(GUARD, headers) == "host_not_allowed"


@pytest.mark.parametrize(
    ("bind", "host"),
    [
        ("0.0.0.0", "0.0.0.0:8000"),
        ("10.0.0.5", "10.0.0.5"),
        ("[::1]", "[::1]:8000"),
        ("[fd00::5]", "[fd00::5]:8000"),
        ("myhost", "myhost:8000"),
        ("MyHost", "myhost"),
        ("[fd00::0:5]", "[fd00::5]"),
    ],
)
def test_the_bound_address_is_a_name_of_ours(bind: str, host: str) -> None:
    guard = HostOriginCheck(bind, (), ())
    assert passes(guard, {"Host": host}) is None
    assert passes(guard, {"Host": "localhost"}) is None
    assert passes(guard, {"Host": "evil.example"}) == "host_not_allowed"


@pytest.mark.parametrize(
    ("allowed", "host"),
    [
        ("fd00::5", "[fd00::5]:8000"),
        ("[fd00::5]", "[fd00::5]"),
        ("chat.example.", "chat.example"),
    ],
)
def test_ways_to_write_an_allowed_name(allowed: str, host: str) -> None:
    assert passes(HostOriginCheck("127.0.0.1", (allowed,), ()), {"Host": host}) is None


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": HOST}, None),
        ({"Host": HOST, "Origin": "http://localhost:8000"}, None),
        ({"Host": HOST, "Origin": "https://app.example"}, None),
        ({"Host": HOST, "Origin": "http://evil.example"}, "origin_not_allowed"),
        ({"Host": HOST, "Origin": "null"}, "origin_not_allowed"),
        ({"Host": "evil.example"}, "host_not_allowed"),
        ({}, "host_not_allowed"),
    ],
)
def test_a_websocket_is_guarded_like_a_post(headers: dict[str, str], code: str | None) -> None:
    """Though its upgrade is a GET: browsers let every page open one."""
    said = headers.get("Host", ""), headers.get("Origin")
    if code is None:
        GUARD.check_upgrade(*said, secure=False)
        return
    with pytest.raises(Problem) as caught:
        GUARD.check_upgrade(*said, secure=False)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("secure", "origin", "ours"),
    [
        (False, "http://localhost:8000", True),
        (False, "https://localhost:8000", True),  # a proxy took the TLS off
        (True, "https://localhost:8000", True),
        (True, "http://localhost:8000", False),  # anybody on its way could have written that page
    ],
)
def test_a_page_without_tls_is_not_ours_where_we_speak_it(secure: bool, origin: str, ours: bool) -> None:
    assert GUARD.is_ours(origin, HOST, secure=secure) is ours


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST"])
@pytest.mark.parametrize(
    ("path", "guarded"),
    [
        *[(path, False) for path in ("/healthz", "/readyz", "/metrics", "/healthz/")],
        *[
            (path, True)
            for path in ("/", "/docs", "/openapi.json", "/v1", "/metrics/x", "//metrics", "/healthz/..")
        ],
    ],
)
def test_what_is_not_guarded(path: str, guarded: bool, method: str) -> None:
    if not guarded:
        GUARD.check_request(method, path, "evil.example", "http://evil.example", secure=False)
        return
    with pytest.raises(Problem) as caught:
        GUARD.check_request(method, path, "evil.example", None, secure=False)
    assert caught.value.code == "host_not_allowed"


class Lines:
    """The warnings of a check, and its clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.origins: list[str] = []
        self.check = HostOriginCheck("127.0.0.1", (), ("https://app.example",), lambda: self.now)
        monkeypatch.setattr("server.web.edge.host_origin_cors.log", self)

    def warning(self, _what: str, *, origin: str, allow_it: str) -> None:
        """As the logger's."""
        assert "TOKENTAPE_ALLOWED_ORIGINS" in allow_it
        self.origins.append(origin)

    def ask(self, method: str, origin: str) -> None:
        """A request of a page."""
        with suppress(Problem):
            self.check.check_request(method, "/v1/conversations", HOST, origin, secure=False)


@pytest.mark.parametrize("method", ["GET", "OPTIONS", "POST"])
def test_a_foreign_origin_leaves_one_line_an_hour(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In whatever way it first shows: the page's author is told "CORS" by the browser, and nothing else."""
    lines = Lines(monkeypatch)
    for origin in (
        "http://localhost:3000",
        "http://localhost:3000",
        HOST,
        "http://" + HOST,
        "https://app.example",
    ):
        lines.ask(method, origin)
    assert lines.origins == ["'http://localhost:3000'", f"'{HOST}'"]
    lines.now += LOGGED_SECONDS
    lines.ask(method, "http://localhost:3000")
    assert lines.origins.count("'http://localhost:3000'") == 2


def test_many_foreign_origins_are_no_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Lines(monkeypatch)
    for number in range(3 * MAX_LOGGED):
        lines.ask("POST", f"http://{number}.example\r\n\x1b[31m" + "x" * 5_000)
    assert len(lines.origins) == MAX_LOGGED
    assert all(line.isascii() and line.isprintable() and len(line) < 500 for line in lines.origins)
    lines.now += LOGGED_SECONDS
    lines.ask("POST", "http://new.example")
    assert lines.origins[-1] == "'http://new.example'"


@pytest.mark.parametrize(
    "text",
    [generate("tick").text, "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0." + "c2ln" * 40],
    ids=["ticket", "JWT"],  # the same names in every process that collects the tests
)
def test_a_credential_in_an_origin_is_not_logged(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Lines(monkeypatch)
    lines.ask("POST", f"http://evil.example/?ticket={text}")
    assert len(lines.origins) == 1
    assert "evil.example" in lines.origins[0]
    assert text[:30] not in lines.origins[0]
