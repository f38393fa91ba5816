"""The examples as somebody runs them: a real server, and their pages from any static server."""

import json
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.harness.databases import TestDatabase
from tests.harness.servers import ROOT, Server, running

WORKFLOWS = "examples.service_bot.app,examples.live_grading.app"


ALLOWED: list[str] = []
"""What the pages' `SERVERS` holds: a person who serves them writes it into tape.js."""


class _Quiet(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/tape.js":
            super().do_GET()
            return
        text = (ROOT / "examples" / "tape.js").read_text(encoding="utf-8")
        assert text.count("SERVERS = [];") == 1
        body = text.replace("SERVERS = [];", f"SERVERS = {json.dumps(ALLOWED)};").encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/javascript")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def pages() -> Iterator[str]:
    """The origin of the examples' pages, as `python -m http.server` serves them."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(ROOT / "examples")))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Where the service bot keeps its world."""
    return tmp_path / "shop.json"


@pytest.fixture
async def server(database: TestDatabase, pages: str, shop: Path) -> AsyncIterator[Server]:
    """Both apps, served."""
    env = {
        "TOKENTAPE_WORKFLOWS": WORKFLOWS,
        "TOKENTAPE_ALLOWED_ORIGINS": pages,
        "SERVICE_BOT_SHOP": str(shop),
    }
    async with running(database.app_url, env) as server:
        ALLOWED.append(server.url)
        yield server
        ALLOWED.clear()
