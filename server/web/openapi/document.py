"""The OpenAPI document, put together: every operation, with the schemas of what the server reads and writes."""

from functools import cache
from typing import Any

import server
from server.web.openapi.controlling import CONTROLLING
from server.web.openapi.operation import Operation
from server.web.openapi.parameters import HEADERS, PARAMETERS
from server.web.openapi.reading import READING
from server.web.openapi.running import RUNNING
from server.web.openapi.shapes import schemas
from server.web.openapi.writing import WRITING

OPERATIONS: tuple[Operation, ...] = (*WRITING, *CONTROLLING, *READING, *RUNNING)
"""Every operation there is; the tests hold them against the routes."""

_DESCRIPTION = (
    "Every token of an answer is appended to a log before anybody sees it, and clients read the log: a "
    "client that "
    "is cut goes on exactly behind what it has, on every transport.\n\n"
    "`position` is the only cursor: the SSE `id`, the WebSocket's offset, `after`, a snapshot's `position`, its "
    "`ETag`. Every POST takes an `Idempotency-Key`. Every refusal is `application/problem+json` with a `code` for "
    "programs. Every answer carries an `X-Request-ID`: yours, if you sent one of 1 to 128 visible ASCII "
    "characters, or a new one; it is a label in the server's log, and decides nothing. Every GET answers HEAD, "
    "with the same headers; every address answers OPTIONS, and "
    "a method it does not take with 405, both with `Allow`. A slash at the end of an address does no harm. Pages "
    "of other origins may call when the server allows their origin "
    "(`TOKENTAPE_ALLOWED_ORIGINS`)."
)


@cache
def document() -> dict[str, Any]:
    """The whole document; nobody may change it."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in sorted(OPERATIONS, key=lambda one: (_RANK.index(one.tag), one.path, one.method != "post")):
        paths.setdefault(operation.path, {})[operation.method] = operation.document()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tokentape",
            "version": server.__version__,
            "summary": "LLM answers as an event log, on every transport",
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": said} for name, said in _TAGS.items()],
        "paths": paths,
        "components": {"schemas": schemas(), "parameters": PARAMETERS, "headers": HEADERS},
    }


_TAGS = {
    "Generations": "One run of a model or a workflow: asked for, read, cancelled.",
    "Talking back": "While it runs: decide on its calls, give their results, steer it.",
    "Conversations": "Messages and generations in one order: one log, one cursor.",
    "Running it": "For who runs the server.",
}
_RANK = list(_TAGS)
