"""How every command finds its server, and the next step and exit status it gives if it does not."""

import json
import ssl
from pathlib import Path

import pytest
import trustme

from server.client.errors import BadAddress
from server.client.server_url import parse_address
from tests.cli.command_runner import tokentape
from tests.cli.fake_endpoints import listening, pass_on, with_tls
from tests.faults.readers import ask, wait_closed
from tests.harness.databases import TestDatabase
from tests.harness.servers import running

CONVERSATION = "conv_01M823R91TDNZ7ZQVT7MBFE7K3"
COMMANDS = [("chat", "hi"), ("replay", CONVERSATION), ("tail", CONVERSATION), ("bench",)]


@pytest.mark.parametrize("words", COMMANDS)
async def test_unreachable_server_gives_status_3(words: tuple[str, ...]) -> None:
    """The message says how to start and how to name a server; with `--json` as an object."""
    env = {"TOKENTAPE_URL": "http://127.0.0.1:1"}
    done = await tokentape(*words, env=env)
    assert done.status == 3
    assert "no server answers at http://127.0.0.1:1" in done.err
    assert "`tokentape serve`" in done.err
    assert "TOKENTAPE_URL" in done.err
    as_json = await tokentape(*words, "--json", env=env)
    assert as_json.status == 3
    assert json.loads(as_json.err)["error"]["code"] == "unreachable"
    assert "Traceback" not in done.err + as_json.err


async def test_unknown_id_gives_status_1(database: TestDatabase) -> None:
    """An impossible id is refused without a request."""
    async with running(database.app_url) as server:
        env = {"TOKENTAPE_URL": server.url}
        for words in (("chat", "hi", "--conversation", CONVERSATION), *COMMANDS[1:3]):
            done = await tokentape(*words, env=env)
            assert done.status == 1, done
            assert "no such conversation" in done.err
            assert "GET /v1/conversations" in done.err
        run = await ask(server.url, {"model": "demo", "parameters": {"tokens": 1}})
        wrong = await tokentape("tail", run["id"], env=env)
        assert wrong.status == 2
        assert "the id of a generation; the command wants that of a conversation" in wrong.err
        bad = await tokentape("replay", "gen_x", "--json", env=env)
        assert bad.status == 2
        assert "26 characters" in json.loads(bad.err)["error"]["message"]


async def test_host_refused_by_the_server_names_the_setting(database: TestDatabase) -> None:
    """On every transport, without a retry."""
    async with running(database.app_url) as server, listening(pass_on(server.port), "127.0.0.2") as port:
        run = await ask(server.url, {"model": "demo", "parameters": {"tokens": 1}})
        for words in (("chat", "hi"), ("tail", run["conversation"]), ("replay", run["id"]), ("bench",)):
            done = await tokentape(*words, "--url", f"http://127.0.0.2:{port}")
            assert done.status == 1, done
            assert "TOKENTAPE_ALLOWED_HOSTS" in done.err


async def test_tls_needs_the_authority_of_the_certificate(database: TestDatabase, tmp_path: Path) -> None:
    """The error names the flag; with it all commands work."""
    authority = trustme.CA()
    pem = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(pem)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with running(database.app_url) as server:
        async with listening(with_tls(context, pass_on(server.port))) as port:
            run = await ask(server.url, {"model": "demo", "input": "hi", "parameters": {"tokens": 5, "rate": 0}})
            await wait_closed(f"{server.url}/v1/generations/{run['id']}/events")
            secure = f"https://127.0.0.1:{port}"
            every: list[tuple[str, ...]] = [
                ("chat", "hi", "-p", "tokens=5"),
                ("tail", run["conversation"], "--until-end"),
                ("replay", run["conversation"], "--instant"),
            ]
            every += [
                ("bench", "--generations", "2", "--tokens", "5", "--ramp", "0", "--transport", transport)
                for transport in ("sse", "ws")
            ]
            for words in every:
                refused = await tokentape(*words, "--url", secure)
                assert refused.status == 1, refused
                assert "is not trusted" in refused.err
                assert "--cacert FILE" in refused.err
                done = await tokentape(*words, env={"TOKENTAPE_URL": secure, "TOKENTAPE_CACERT": str(pem)})
                assert done.status == 0, done
            plain = await tokentape("chat", "hi", "--url", f"http://127.0.0.1:{port}")
            assert plain.status == 3
        wrong = await tokentape("chat", "hi", "--url", f"https://127.0.0.1:{server.port}")
        assert wrong.status == 1
        assert "does not speak TLS" in wrong.err
        assert "http://" in wrong.err


async def test_another_web_server_is_recognised() -> None:
    """The command says that it is not a Tokentape server."""

    async def web_page(stream: object) -> None:
        await stream.receive_some(65_536)  # type: ignore[attr-defined]
        page = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>"
        await stream.send_all(page)  # type: ignore[attr-defined]

    async with listening(web_page) as port:
        for words in COMMANDS[:2] + COMMANDS[3:]:
            done = await tokentape(*words, "--url", f"http://127.0.0.1:{port}")
            assert done.status == 1, done
            assert "is not a Tokentape server" in done.err
            assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("url", "cacert", "said"),
    [
        ("nowhere", None, "http://127.0.0.1:8000"),
        ("ftp://h", None, "http://127.0.0.1:8000"),
        ("http://", None, "http://127.0.0.1:8000"),
        ("http://h:port", None, "cannot be read"),
        ("http://h:0", None, "from 1 to 65535"),
        ("https://h:0/tape", None, "from 1 to 65535"),
        ("http://h/?x=1", None, "not the address of a server"),
        ("http://me:hunter2@h", None, "a user name or a password"),
        ("http://h", "ca.pem", "https"),
        ("https://h", "/does/not/exist.pem", "No such file"),
        ("https://h", __file__, "cacert"),
    ],
)
def test_invalid_url_is_refused(url: str, cacert: str | None, said: str) -> None:
    """Before anything is sent, and without showing its password."""
    with pytest.raises(BadAddress) as caught:
        parse_address(url, cacert)
    assert said in caught.value.message + caught.value.next_step
    assert "hunter2" not in caught.value.message


def test_valid_url_is_parsed() -> None:
    """With a path prefix, an own port, and the URL for WebSockets."""
    found = parse_address("https://chat.example.org/tape/")
    assert (found.base, found.host, found.port) == ("https://chat.example.org/tape", "chat.example.org", 443)
    assert (found.websocket_base, found.path) == ("wss://chat.example.org/tape", "/tape")
    assert found.trust is not None
    assert not found.is_loopback
    near = parse_address("http://[::1]:81")
    assert (near.host, near.port, near.authority, near.path, near.trust) == ("::1", 81, "[::1]:81", "", None)
    assert near.is_loopback
