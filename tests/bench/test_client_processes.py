"""The benchmark client processes against a scripted server: what they send and count, when they reconnect."""

import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.harness.child_process import ChildProcessFailed, child_process
from bench.harness.poll_clients import PollPlan, poll
from bench.harness.server_process import Server
from bench.processes.interrupted_readers import BadChunk, Chunks

Answer = Callable[[bytes, int], bytes | None]
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"


@contextmanager
def scripted(answer: Answer) -> Iterator[tuple[Server, list[bytes]]]:
    """Each request (head and body) is answered by the function, where None closes the connection.

    The process whose CPU is measured is this one.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    asked: list[bytes] = []

    def talk(sock: socket.socket) -> None:
        with sock:
            while (got := _request(sock)) is not None:
                asked.append(got)
                said = answer(got, len(asked))
                if said is None:
                    return
                sock.sendall(said)

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(sock,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield Server(listener.getsockname()[1], os.getpid()), asked
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _request(sock: socket.socket) -> bytes | None:
    got = b""
    while b"\r\n\r\n" not in got:
        try:
            data = sock.recv(65_536)
        except OSError:
            return None
        if not data:
            return None
        got += data
    length = re.search(rb"(?i)content-length: (\d+)", got)
    head, _, body = got.partition(b"\r\n\r\n")
    while length and len(body) < int(length[1]):
        body += sock.recv(65_536)
    return head + b"\r\n\r\n" + body


def answered(status: bytes, *fields: bytes, body: bytes = b"{}") -> bytes:
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *fields, b"", body]
    return b"\r\n".join(lines)


def test_a_poller_sends_the_last_etag() -> None:
    def answer(request: bytes, number: int) -> bytes:
        if b'if-none-match: "7"' in request:
            return b'HTTP/1.1 304 Not Modified\r\netag: "7"\r\n\r\n'
        return answered(b"200 OK", b'ETag: "7"')

    with scripted(answer) as (server, asked):
        found = poll(server, PollPlan("/x", 2, 20.0, etag=True, count=10))
    assert found.statuses == {200: 2, 304: 8}
    assert found.client_cpu > 0
    assert all(request.startswith(b"GET /x HTTP/1.1\r\nHost: 127.0.0.1:") for request in asked)


def test_a_poller_stops_at_its_count_and_sends_no_etag_unasked() -> None:
    with scripted(lambda *_: answered(b"200 OK", b'ETag: "7"')) as (server, asked):
        found = poll(server, PollPlan("/x", 3, 20.0, count=10), clients=2)
    assert found.statuses == {200: 10}
    assert len(asked) == 10
    assert not any(b"if-none-match" in request for request in asked)


def test_an_answer_that_arrives_in_pieces_counts_once() -> None:
    body = b"x" * 400_000
    with scripted(lambda *_: answered(b"200 OK", body=body)) as (server, _):
        assert poll(server, PollPlan("/x", 1, 20.0, count=3)).statuses == {200: 3}


def test_the_locations_of_posts_are_recorded() -> None:
    def answer(request: bytes, number: int) -> bytes:
        assert request.endswith(b'{"model":"demo"}')
        return answered(b"202 Accepted", b"Location: /v1/generations/gen_%dA" % number)

    with scripted(answer) as (server, asked):
        found = poll(server, PollPlan("/v1/generations", 1, 20.0, body='{"model":"demo"}', count=2))
    assert found.locations == ["/v1/generations/gen_1A", "/v1/generations/gen_2A"]
    assert asked[0].startswith(b"POST /v1/generations ")


def test_a_connection_closed_between_answers_is_opened_again() -> None:
    with scripted(lambda _, number: None if number == 3 else answered(b"200 OK")) as (server, asked):
        found = poll(server, PollPlan("/x", 1, 20.0, count=5))
    assert found.statuses == {200: 5}
    assert found.reconnects == 1
    assert len(asked) == 6


def test_a_server_that_never_answers_fails_the_poll() -> None:
    with scripted(lambda *_: None) as (server, _), pytest.raises(ChildProcessFailed, match="ended with status 1"):
        poll(server, PollPlan("/x", 1, 20.0, count=1))


def storm(server: Server, folder: Path, readers: int, deadline: float) -> dict[str, Any]:
    cursors = [("conv_a", 10, 30), ("conv_b", 80, 100)]
    out = folder / "served"
    with child_process("reconnecting_readers") as process:
        process.send(
            do="storm",
            port=server.port,
            readers=readers,
            cursors=cursors,
            at=time.monotonic_ns(),
            deadline=deadline,
            out=str(out),
        )
        process.wait_for("written", deadline + 20)
        process.send(do="close")
        process.wait_for("closed", 20)
    return msgspec.msgpack.decode(out.read_bytes(), type=dict[str, Any])


def head_of(request: bytes) -> int:
    return 30 if b"/conv_a/" in request else 100


def test_readers_send_their_cursors_and_reconnect_when_turned_away(tmp_path: Path) -> None:
    def answer(request: bytes, number: int) -> bytes | None:
        if number <= 2:  # a reset, and a passing refusal as an EventSource gets it
            return None if number == 1 else SSE + b"e\r\n\nretry: 50\n\n:\n\r\n0\r\n\r\n"
        return SSE + b'data: {"position":%d,"type":"token"}\n\n' % head_of(request)

    with scripted(answer) as (server, asked):
        found = storm(server, tmp_path, 4, 30.0)
    assert found["unserved"] == 0
    assert len(found["served"]) == 4
    assert found["again"] == {"closed": 1, "refused": 1}
    assert any(b"/conv_a/events" in one and b"Last-Event-ID: 10\r\n" in one for one in asked)
    assert any(b"/conv_b/events" in one and b"Last-Event-ID: 80\r\n" in one for one in asked)


def test_readers_that_never_get_the_last_event_are_counted(tmp_path: Path) -> None:
    def answer(request: bytes, number: int) -> bytes:
        return SSE + b'data: {"position":%d,"type":"token"}\n\n' % (head_of(request) - 1)

    with scripted(answer) as (server, _):
        found = storm(server, tmp_path, 2, 0.5)
    assert found["unserved"] == 2
    assert found["served"] == []


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_chunks_are_decoded_wherever_reads_end(size: int) -> None:
    raw = b"5\r\nhello\r\n1;x=y\r\n,\r\nA\r\n 0123456\r\n\r\n0\r\n\r\n"
    chunks = Chunks()
    assert b"".join(chunks.feed(raw[n : n + size]) for n in range(0, len(raw), size)) == b"hello, 0123456\r\n"


def test_bytes_that_are_not_a_chunk_are_refused() -> None:
    with pytest.raises(BadChunk, match="nonsense"):
        Chunks().feed(b"nonsense\r\n")
