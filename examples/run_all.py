"""All examples at once: one Tokentape server with their workflows, and their pages. `make examples` runs this.

The server is a child process, the pages are served by this process. It ends by Ctrl-C or SIGTERM, and the server
with it. Knows no example but the name of its folder: one with an `app.py` is loaded.
"""

import argparse
import ctypes
import errno
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from typing import Any

EXAMPLES = Path(__file__).resolve().parent
APPS = ("smart_exam", "diabe_check", "biz_chat", "doc_summ", "service_bot", "content_forge")
STOP_SECONDS = 20.0
PR_SET_PDEATHSIG = 1  # Linux, prctl(2)


class PageHandler(SimpleHTTPRequestHandler):
    """The files of `examples/`, as `python -m http.server` serves them, and never an old one out of a cache.

    `servers`: what `SERVERS` in tape.js is to hold, where a server is not on port 8000 of the same host. A person
    who serves the pages elsewhere writes it into the file.
    """

    protocol_version = "HTTP/1.1"

    def __init__(self, servers: Sequence[str], *arguments: Any, directory: str) -> None:
        self.servers = servers
        super().__init__(*arguments, directory=directory)

    def do_GET(self) -> None:
        """Serves a file."""
        if self.path.partition("?")[0] != "/tape.js" or not self.servers:
            super().do_GET()
            return
        text = (EXAMPLES / "tape.js").read_text(encoding="utf-8")
        assert text.count("SERVERS = [];") == 1
        body = text.replace("SERVERS = [];", f"SERVERS = {json.dumps([*self.servers])};").encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/javascript")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self) -> None:
        """Adds what every answer has."""
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """The terminal is for the server's log lines."""


@contextmanager
def serving_pages(port: int, servers: Sequence[str]) -> Iterator[str]:
    """Serves the pages from a thread; their origin. Port 0 takes any that is free. `servers`: the handler's."""
    server = ThreadingHTTPServer(("127.0.0.1", port), partial(PageHandler, servers, directory=str(EXAMPLES)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def main() -> int:
    """Runs all until a signal comes or the server ends; the exit status."""
    parser = argparse.ArgumentParser(prog="make examples", description="Serve all examples.")
    for option, default, whose in (("--port", 8000, "the server's"), ("--pages-port", 8001, "the pages'")):
        told = f"{whose} ({default})"
        parser.add_argument(option, type=int, choices=range(1, 65_536), metavar="N", default=default, help=told)
    asked = parser.parse_args()
    for option, port in (("--port", asked.port), ("--pages-port", asked.pages_port)):
        trouble = find_trouble(port)
        if trouble is not None:
            told = f'End what listens there, or take another port: make examples ARGS="{option} {port + 10}"'
            print(f"examples: port {port} of 127.0.0.1 {trouble}. {told}", file=sys.stderr)
            return 1
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A shell that starts a command in the background, or nohup, has some of them ignored: they stay so.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
    return serve(asked.port, asked.pages_port)


def serve(port: int, pages_port: int) -> int:
    """The server and the pages; the exit status."""
    url = f"http://127.0.0.1:{port}"
    elsewhere = [] if port == 8000 else [url]
    query = f"?server={url}" if elsewhere else ""
    server = start_server(port, f"http://127.0.0.1:{pages_port},http://localhost:{pages_port}")
    try:
        with serving_pages(pages_port, elsewhere) as pages:
            if wait_until_ready(server, url):
                print(f"examples: open {pages}/{query}  (stop with Ctrl-C)", flush=True)
            status = server.wait()
        print(f"examples: the server has ended with status {status}; it says above why", file=sys.stderr)
        return 1
    except Stopped:
        return 0
    finally:
        end(server)


def start_server(port: int, pages: str) -> "subprocess.Popen[bytes]":
    """`tokentape serve` with every example that has an `app.py`, in `examples/`."""
    apps = ",".join(f"{name}.app" for name in APPS if (EXAMPLES / name / "app.py").exists())
    command = [str(Path(sys.executable).with_name("tokentape")), "serve", "--bind", f"127.0.0.1:{port}"]
    command += ["--workflows", apps, "--allowed-origins", pages]
    # In a process group of its own: Ctrl-C reaches this process alone, which ends the server once. A second signal
    # would end it at once, without a last word to its readers.
    return subprocess.Popen(
        command, cwd=EXAMPLES, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=end_with_parent
    )


def end_with_parent() -> None:
    """In the child: the kernel ends it when the parent is killed, so that no server stays behind on the port."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def wait_until_ready(server: "subprocess.Popen[bytes]", url: str) -> bool:
    """Waits for `/readyz`: the first start makes a database. False when the server ended instead."""
    no_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while server.poll() is None:
        try:
            with no_proxy.open(f"{url}/readyz", timeout=5):
                return True
        except (OSError, http.client.HTTPException):
            time.sleep(0.1)
    return False


def end(server: "subprocess.Popen[bytes]") -> None:
    """SIGTERM, and SIGKILL to one that does not end."""
    server.terminate()
    try:
        server.wait(STOP_SECONDS)
    except (subprocess.TimeoutExpired, Stopped):  # Stopped: a second Ctrl-C
        server.kill()
        server.wait()


class Stopped(Exception):
    """A signal came that ends this."""


def stop(_: int, __: FrameType | None) -> None:
    """The signals' handler."""
    raise Stopped


def find_trouble(port: int) -> str | None:
    """Why nobody can listen on a port now; None when somebody can."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as both listeners do
        try:
            sock.bind(("127.0.0.1", port))
            sock.listen()
        except OSError as error:
            return "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
    return None


if __name__ == "__main__":
    sys.exit(main())
