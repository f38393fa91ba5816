"""How client commands authenticate: where the key comes from, where it is sent, and what an error says."""

import json
import re
from pathlib import Path

import pytest
import trio

from server.client.errors import BadKey, Refused
from server.client.server_url import MAX_KEY_BYTES, parse_address, read_key
from tests.cli.command_runner import CommandResult, tokentape
from tests.cli.fake_endpoints import guarding, listening, refusing
from tests.clients.api import Api
from tests.faults.readers import ask, wait_closed
from tests.harness.api_keys import make_key, revoke_key
from tests.harness.databases import TestDatabase
from tests.harness.http import http_client
from tests.harness.servers import running

KEY = "tt_key_01JC0000000000000000000000_secret-secret-secret-secret-secret-secret-s"
CONVERSATION = "conv_01M823R91TDNZ7ZQVT7MBFE7K3"
COMMANDS = [("chat", "hi"), ("replay", CONVERSATION), ("tail", CONVERSATION), ("bench",)]


async def test_every_connection_sends_the_key(database: TestDatabase, tmp_path: Path) -> None:
    """Every command on each transport, with the key from a variable or a file; it is never printed."""
    file = tmp_path / "key"
    file.write_text(KEY + "\n", encoding="utf-8")
    async with running(database.app_url) as server:
        heads: list[bytes] = []
        async with listening(guarding(server.port, KEY, heads)) as port:
            run = await ask(server.url, {"model": "demo", "input": "hi", "parameters": {"tokens": 5, "rate": 0}})
            await wait_closed(f"{server.url}/v1/generations/{run['id']}/events")
            load = ("bench", "--generations", "2", "--tokens", "5", "--ramp", "0", "--transport")
            every: list[tuple[str, ...]] = [
                ("chat", "hi", "-p", "tokens=5"),
                ("chat", "hi", "--conversation", run["conversation"], "-p", "tokens=5"),
                ("tail", run["conversation"], "--until-end"),
                ("replay", run["conversation"], "--instant"),
                *((*load, transport) for transport in ("sse", "ndjson", "ws")),
            ]
            url = f"http://127.0.0.1:{port}"
            for words in every:
                for signed_in in (("--key-file", str(file)), ()):
                    env = {"TOKENTAPE_URL": url, "TOKENTAPE_KEY": "tt_key_wrong" if signed_in else KEY}
                    done = await tokentape(*words, *signed_in, env=env)
                    assert done.status == 0, (words, done)
                    assert KEY not in done.out + done.err
            assert len(heads) >= 2 * len(every)
            for head in heads:
                assert b"authorization: bearer " + KEY.lower().encode() + b"\r\n" in head.lower()
                assert KEY.encode() not in head.partition(b"\r\n")[0], "the key is in an address"


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (401, "unauthenticated", ("TOKENTAPE_KEY", "--key-file", "`tokentape keys create`")),
        (401, "invalid_credential", ("this server's key", "`tokentape keys create`")),
        (401, "expired_credential", ("`tokentape keys create`", "TOKENTAPE_KEY")),
        (401, "revoked_credential", ("`tokentape keys create`", "TOKENTAPE_KEY")),
        (401, "of_a_later_version", ("TOKENTAPE_KEY", "--key-file")),
        (403, "scope_required", ("`tokentape keys list`",)),
        (429, "too_many_attempts", ("not one of this server's",)),
    ],
)
def test_refused_key_error_says_the_next_step(status: int, code: str, said: tuple[str, ...]) -> None:
    """A refused key is not tried again."""
    refused = Refused(status, {"code": code, "detail": "No."})
    for one in said:
        assert one in refused.next_step
    assert not refused.is_temporary


@pytest.mark.parametrize("words", COMMANDS)
@pytest.mark.parametrize(
    ("status", "code"), [(401, "invalid_credential"), (403, "scope_required"), (429, "too_many_attempts")]
)
async def test_refused_key_ends_the_command_after_one_request(
    words: tuple[str, ...], status: int, code: str
) -> None:
    """With `--json` the error is an object."""
    requests: list[bytes] = []
    async with listening(refusing(status, code, requests)) as port:
        env = {"TOKENTAPE_URL": f"http://127.0.0.1:{port}", "TOKENTAPE_KEY": KEY}
        done = await tokentape(*words, "--json", env=env)
    assert done.status == 1, done
    error = json.loads(done.err)["error"]
    assert error["code"] == code
    assert error["message"] == "No."
    assert error["next"]
    assert KEY not in done.out + done.err
    assert len(requests) == 1, "it was asked again"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"tt_key_a\ntt_key_b\n", "several lines"),
        (b"-----BEGIN PRIVATE KEY-----\nhunter2\n", "several lines"),
        ("schlüssel".encode(), "not ASCII"),
        (b"k" * (MAX_KEY_BYTES + 1), f"more than {MAX_KEY_BYTES} bytes"),
    ],
)
def test_file_without_a_key_is_refused_without_showing_it(tmp_path: Path, content: bytes, said: str) -> None:
    """It may hold another secret."""
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(BadKey) as caught:
        read_key(None, str(file))
    assert said in caught.value.message
    assert "hunter2" not in caught.value.message + caught.value.next_step


def test_key_file_overrides_the_variable(tmp_path: Path) -> None:
    """An empty variable counts as none; without a key there is no header."""
    file = tmp_path / "key"
    file.write_text(f"  {KEY}\r\n", encoding="utf-8")
    assert read_key("tt_key_other", str(file)) == KEY
    assert read_key(f"{KEY}\n", None) == KEY
    assert read_key("", None) is None
    assert read_key(None, None) is None
    assert parse_address("http://h").headers == {}
    address = parse_address("http://h", key=KEY)
    assert address.headers == {"Authorization": f"Bearer {KEY}"}
    assert KEY not in repr(address)
    with pytest.raises(BadKey) as caught:
        read_key(None, str(tmp_path / "none"))
    assert "No such file" in caught.value.message


async def test_key_cannot_be_given_as_a_flag() -> None:
    """Every user of a machine can read command lines."""
    for words in COMMANDS:
        done = await tokentape(*words, "--key", KEY)
        assert done.status == 2
        assert KEY not in done.err


async def test_what_a_server_with_keys_lets_them_do(database: TestDatabase) -> None:
    """Without a key, with one that lacks a scope, with one that has it: each ends at once, and says what to do."""
    reader, writer = await make_key(database, "read"), await make_key(database, "read,write")
    async with running(database.app_url) as server:
        url = {"TOKENTAPE_URL": server.url}
        done = await tokentape("chat", "hi", "-p", "tokens=3", env={**url, "TOKENTAPE_KEY": writer.text})
        assert done.status == 0, done
        conversation = done.err.split("--conversation ")[1].split()[0]
        for words in (("chat", "hi"), ("replay", conversation), ("tail", conversation), ("bench",)):
            refused = await tokentape(*words, env=url)
            assert refused.status == 1, refused
            assert "TOKENTAPE_KEY" in refused.err
            assert "--key-file" in refused.err
        seen = await tokentape("replay", conversation, "--instant", env={**url, "TOKENTAPE_KEY": reader.text})
        assert seen.status == 0, seen
        refused = await tokentape("chat", "hi", "--json", env={**url, "TOKENTAPE_KEY": reader.text})
        error = json.loads(refused.err)["error"]
        assert (refused.status, error["code"]) == (1, "scope_required")
        assert "write" in error["message"]


@pytest.mark.parametrize("words", [("tail", "{conversation}"), ("chat", "hi", "-p", "rate=2", "-p", "tokens=500")])
async def test_a_revoked_key_ends_what_follows_a_log(database: TestDatabase, words: tuple[str, ...]) -> None:
    """Within seconds, and it does not try again: over WebSocket and over server-sent events."""
    key, other = await make_key(database, "read,write"), await make_key(database, "read,write")
    async with running(database.app_url) as server, Api.open(server.port) as api:
        api.http.headers["Authorization"] = f"Bearer {other.text}"
        place = await api.conversation()
        ended: list[CommandResult] = []
        words = tuple(word.format(conversation=place.rpartition("/")[2]) for word in words)

        async def run() -> None:
            ended.append(await tokentape(*words, env={"TOKENTAPE_URL": server.url, "TOKENTAPE_KEY": key.text}))

        with trio.fail_after(50):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                while not re.search(r"^tokentape_readers\{[^}]*\} [1-9]", await _metrics(server.url), re.M):
                    await trio.sleep(0.1)
                await revoke_key(database, key)
                with trio.fail_after(10):
                    while not ended:
                        await trio.sleep(0.1)
        (done,) = ended
        assert done.status == 1, done
        assert "revoked" in done.err
        assert "`tokentape keys create`" in done.err


async def _metrics(url: str) -> str:
    async with http_client(url) as client:
        return (await client.get("/metrics")).text
