"""The server is killed between two provider requests of one answer.

After the restart the provider must get back the fields that it wants to see again, such as signatures.
"""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import h11
import pytest
import trio

from tests.cli.fake_endpoints import listening
from tests.clients.api import Api
from tests.harness.databases import TestDatabase
from tests.harness.servers import running
from tests.transports.command_clients import approval, send_by_post, start_run, wait_until, waits_for_decision

from .tool_side_effects import app_settings, count_side_effects, log_of_interrupted_run, side_effect

SIGNATURE = "c2lnbmF0dXJl"
PATIENCE = 60.0
CALL = {"name": "refund", "arguments": '{"amount": 9007199254740993}'}


def chunks(*deltas: dict[str, Any], reason: str) -> list[str]:
    """Chunks of OpenAI's stream format."""
    choices: list[dict[str, Any]] = [{"index": 0, "delta": delta} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": reason})
    return [*(json.dumps({"choices": [choice]}) for choice in choices), "[DONE]"]


OPENAI = (
    chunks(
        {"reasoning_content": "I need "},
        {"reasoning_content": "to pay."},
        {
            "tool_calls": [
                {
                    "index": 0,
                    "id": "D681PevKs",
                    "type": "function",
                    "function": CALL,
                    "extra_content": {"google": {"thought_signature": SIGNATURE}},
                }
            ]
        },
        reason="tool_calls",
    ),
    chunks({"content": "done"}, reason="stop"),
)


def block(index: int, block: dict[str, Any], *deltas: dict[str, Any]) -> list[str]:
    """A content block of Anthropic's stream format."""
    start = {"type": "content_block_start", "index": index, "content_block": block}
    pieces = [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
    return [json.dumps(one) for one in (start, *pieces, {"type": "content_block_stop", "index": index})]


def blocks(*found: list[str], reason: str) -> list[str]:
    usage = {"input_tokens": 3, "output_tokens": 5}
    start = {"type": "message_start", "message": {"role": "assistant", "content": [], "usage": usage}}
    end = {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}
    return [json.dumps(start), *chain(*found), json.dumps(end), json.dumps({"type": "message_stop"})]


ANTHROPIC = (
    blocks(
        block(
            0,
            {"type": "thinking", "thinking": "", "signature": ""},
            {"type": "thinking_delta", "thinking": "I need "},
            {"type": "thinking_delta", "thinking": "to pay."},
            {"type": "signature_delta", "signature": SIGNATURE},
        ),
        block(
            1,
            {"type": "tool_use", "id": "toolu_1", "name": "refund", "input": {}},
            {"type": "input_json_delta", "partial_json": CALL["arguments"]},
        ),
        reason="tool_use",
    ),
    blocks(block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "done"}), reason="end_turn"),
)


class Provider:
    """A provider that responds to the first request with `first` and to all others with `second`. `asked` holds
    their bodies.
    """

    def __init__(self, first: list[str], second: list[str]) -> None:
        self._answers = first, second
        self.asked: list[dict[str, Any]] = []

    async def handle(self, stream: trio.abc.Stream) -> None:
        connection, body = h11.Connection(h11.SERVER), b""
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                connection.receive_data(bytes(await stream.receive_some(65_536)))
            elif isinstance(event, h11.Data):
                body += event.data
        self.asked.append(json.loads(body))
        text = "".join(f"data: {one}\n\n" for one in self._answers[len(self.asked) > 1]).encode()
        head = h11.Response(
            status_code=200, headers=[("Content-Type", "text/event-stream"), ("Content-Length", str(len(text)))]
        )
        for out in (head, h11.Data(text), h11.EndOfMessage()):
            await stream.send_all(connection.send(out) or b"")
        await stream.receive_some(1)


@pytest.mark.parametrize("wire", ["openai", "anthropic"])
async def test_carried_fields_reach_the_provider_after_a_kill(
    wire: str, database: TestDatabase, tmp_path: Path
) -> None:
    provider = Provider(*(OPENAI if wire == "openai" else ANTHROPIC))
    diary = tmp_path / "diary"
    with trio.fail_after(PATIENCE):
        async with listening(provider.handle) as port:
            base = f"http://127.0.0.1:{port}" + ("/v1" if wire == "openai" else "")
            keys = {f"{wire.upper()}_BASE_URL": base, f"{wire.upper()}_API_KEY": "sk-test"}
            async with running(database.app_url, {**app_settings(diary), **keys}) as server:
                async with Api.open(server.port) as api:
                    body = {"model": f"{wire}/m", "tools": ["refund"], "input": "Pay.", "on_crash": "restart"}
                    run = await start_run(api, "/v1", body)
                    [call] = (await wait_until(api, run, waits_for_decision))["tool_calls"]
                await server.kill()
                await server.start()
                async with Api.open(server.port) as api:
                    await wait_until(api, run, lambda one: one["attempt"] == 2 and waits_for_decision(one))
                    await send_by_post(api)("decide", run, **approval(call))
                    log = await log_of_interrupted_run(api, run)
                    shown = json.dumps([log, await api.get(run), await api.get(f"{run}?at={log[-1]['position']}")])
                    found = await api.get(run)
    assert log[-1]["type"] == "generation.completed", log[-1]
    assert SIGNATURE not in shown
    assert (found["text"], found["reasoning"]) == ("done", "I need to pay.")
    assert count_side_effects(diary) == {side_effect("refund", amount=2**53 + 1, to="the customer"): 1}
    first, second = provider.asked
    turn = next(message for message in second["messages"] if message["role"] == "assistant")
    assert SIGNATURE not in json.dumps(first)
    if wire == "openai":
        assert turn["reasoning_content"] == "I need to pay."
        (sent,) = turn["tool_calls"]
        assert sent["extra_content"] == {"google": {"thought_signature": SIGNATURE}}
        assert (sent["id"], second["messages"][-1]["tool_call_id"]) == ("D681PevKs", "D681PevKs")
    else:
        thought, used = turn["content"]
        assert thought == {"type": "thinking", "thinking": "I need to pay.", "signature": SIGNATURE}
        assert used["input"]["amount"] == 2**53 + 1
        assert second["messages"][-1]["content"][0]["tool_use_id"] == used["id"]
