"""`tokentape bench` counts right, and notices tokens that are lost, repeated, changed or unfinished."""

import json
import re

import pytest
import trio

from server.client.load_test import Outcome, compare_with_snapshot
from server.client.load_test_results import Bin, DeliveryCheck, ReadTimes, histogram, percentile, summarise
from tests.cli.command_runner import CommandResult, tokentape
from tests.cli.fake_endpoints import altering, listening
from tests.cli.virtual_terminal import on_terminal
from tests.harness.databases import TestDatabase
from tests.harness.http import http_client
from tests.harness.proxy import cuttable
from tests.harness.servers import running

SMALL = ("bench", "--generations", "3", "--tokens", "40", "--rate", "200", "--ramp", "0.1")


@pytest.mark.parametrize("transport", ["sse", "ndjson", "ws"])
async def test_bench_counts_every_token_on_every_transport(database: TestDatabase, transport: str) -> None:
    """Two readers each; the answers are in the log."""
    async with running(database.app_url) as server:
        done = await tokentape(
            *SMALL, "--readers", "2", "--transport", transport, "--json", env={"TOKENTAPE_URL": server.url}
        )
        assert done.status == 0, done.err
        found = json.loads(done.out)
        assert found["tokens_delivered"] == 3 * 2 * 40
        assert (found["sound"], found["lost"], found["repeated"], found["texts_changed"]) == (True, 0, 0, 0)
        assert found["generations_completed"] == 3
        assert found["first_token_ms"]["count"] == 6
        assert found["between_tokens_ms"]["count"] == 6 * 39
        assert found["delay_ms"]["count"] == sum(one["count"] for one in found["delay_histogram_ms"]) == 6 * 43
        assert 0 < found["delay_ms"]["p50"] <= found["delay_ms"]["p99"] <= found["delay_ms"]["most"]
        async with http_client(server.url) as client:
            listed = (await client.get("/v1/conversations")).json()["conversations"]
        assert len(listed) == 3


async def test_terminal_shows_bars_and_a_table(database: TestDatabase) -> None:
    """Bars while it runs, a table afterwards."""
    async with running(database.app_url) as server, on_terminal(*SMALL, "--url", server.url) as it:
        await it.until("started")
        assert await it.end() == 0
        assert "between two tokens" in it.screen.text
        assert "██" in it.screen.text
        assert re.search(r"lost +0\n", it.screen.text)
        assert "3 of 3" in it.screen.text


@pytest.mark.parametrize(
    ("truth", "lie", "fields"),
    [
        (b'"delta":"fisher ', b'"delta":"fishes ', {"texts_changed": 1}),
        (b'"position":9,', b'"position":8,', {"lost": 1, "repeated": 1, "texts_changed": 1}),
    ],
)
async def test_altered_missing_and_repeated_events_are_noticed(
    database: TestDatabase, truth: bytes, lie: bytes, fields: dict[str, int]
) -> None:
    """Exit status 1."""
    async with running(database.app_url) as server, listening(altering(server.port, truth, lie)) as port:
        words = ("bench", "--generations", "1", "--tokens", "20", "--url", f"http://127.0.0.1:{port}", "--json")
        done = await tokentape(*words)
        found = json.loads(done.out)
        assert done.status == 1, (found, done.err)
        assert found["sound"] is False
        assert {name: found[name] for name in fields} == fields
        assert json.loads(done.err)["error"]["code"] == "not_sound"


async def test_readers_resume_after_cuts(database: TestDatabase) -> None:
    """Reconnects are counted."""
    async with running(database.app_url) as server, cuttable(server.port) as proxy:
        async with trio.open_nursery() as nursery:
            found: list[CommandResult] = []

            async def run() -> None:
                words = ("bench", "--generations", "5", "--tokens", "200", "--ramp", "0", "--json")
                found.append(await tokentape(*words, "--url", f"http://127.0.0.1:{proxy.port}"))

            nursery.start_soon(run)
            while proxy.connections < 11:  # all are asked for, and read
                await trio.sleep(0.02)
            proxy.cut()
            while proxy.connections < 16:
                await trio.sleep(0.02)
            proxy.cut()
        [done] = found
        assert done.status == 0, done.err
        fields = json.loads(done.out)
        assert fields["sound"]
        assert fields["tokens_delivered"] == 1000
        assert fields["reconnects"] >= 10


async def test_bench_reports_a_killed_server(database: TestDatabase) -> None:
    """Events that were written are delivered; unfinished answers give exit status 1."""
    async with running(database.app_url) as server:
        words = ("bench", "--generations", "4", "--tokens", "2000", "--ramp", "0", "--url", server.url)
        async with on_terminal(*words) as it:
            await it.until("tokens")
            async with http_client(server.url) as client:
                while len((await client.get("/v1/conversations")).json()["conversations"]) < 4:
                    await trio.sleep(0.02)
            await server.kill()
            await server.start()
            assert await it.end(60) == 1
        assert "ended as worker_lost" in it.screen.text
        assert "0 of 4" in it.screen.text
        assert re.search(r"lost +0\n", it.screen.text)


async def test_bench_refuses_too_much_and_needs_a_server() -> None:
    """Too many tokens are refused before anything starts."""
    much = await tokentape("bench", "--generations", "10000", "--tokens", "100000")
    assert much.status == 2
    assert "5000000" in much.err
    nobody = await tokentape("bench", "--url", "http://127.0.0.1:1")
    assert nobody.status == 3
    assert "tokentape serve" in nobody.err


def test_a_delivery_check_counts_gaps_and_repeats() -> None:
    """Each gap and each repeat counts once; the text is compared as a whole."""
    times = ReadTimes()
    delivery = DeliveryCheck(times, requested_position=2, requested_at=10.0)

    def event(position: int, delta: str | None = None, kind: str = "token") -> bytes:
        rest = {} if delta is None else {"delta": delta}
        return json.dumps({"position": position, "type": kind, "at": "2026-11-22T10:00:00.5Z", **rest}).encode()

    delivery.take([event(2, kind="generation.requested"), event(3, "a")], 10.5, 1_795_341_601.0)
    delivery.take([event(3, "a"), event(6, "b")], 11.5, 1_795_341_601.0)
    assert (delivery.position, delivery.missing, delivery.repeated, delivery.tokens) == (6, 2, 1, 2)
    assert list(times.first) == [0.5]
    assert list(times.between) == [1.0]
    assert list(times.delay) == [0.5, 0.5, 0.5]
    assert delivery.same_text("ab")
    assert not delivery.same_text("abb")
    outcome = Outcome()
    compare_with_snapshot(
        outcome, {"status": "failed", "error": {"code": "worker_lost"}, "tokens": 5, "text": "abcde"}, [delivery]
    )
    assert (outcome.lost, outcome.repeated, outcome.changed) == (3, 1, 1)
    assert outcome.not_completed == {"worker_lost": 1}
    assert not outcome.sound


def test_percentiles_and_bins() -> None:
    """Nearest rank; bounds 1, 2, 5, 10; a value on a bound is above it."""
    ordered = [float(number) for number in range(1, 101)]
    assert percentile(ordered, 50) == 50
    assert percentile(ordered, 99) == 99
    assert percentile([7.0], 99) == 7
    assert summarise([]) is None
    assert histogram([]) == []
    assert histogram([0.9, 1.0, 4.9, 5.0]) == [Bin(1.0, 1), Bin(2.0, 1), Bin(5.0, 1), Bin(10.0, 1)]
    assert sum(one.count for one in histogram([-1.0, 0.0, 1e-9, 12345.0])) == 4
    assert histogram([0.3])[-1].below == 0.5
