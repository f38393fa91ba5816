"""The writing operations: every POST."""

from typing import Any

from server.web.openapi.operation import JSON, SSE, Answer, Link, Operation
from server.web.openapi.reading import GUARDED

Body = dict[str, Any]

POST_CODES = (
    *("invalid_json", "invalid_idempotency_key", "origin_not_allowed", "body_too_slow", "body_too_large"),
    *("unsupported_media_type", "invalid_request", "invalid_text", "key_reused", *GUARDED),
)
RUN_CODES = (
    *POST_CODES,
    *("unknown_model", "invalid_parameters", "unknown_tool", "unknown_workflow", "invalid_input"),
    *("invalid_webhook", "webhooks_not_configured", "not_available", "invalid_pad", "invalid_named"),
    *("invalid_cursor", "cursor_ahead", "cursor_expired", "invalid_types", "invalid_heartbeat"),
    *("draining", "overloaded"),
)
READ_HERE = ("Last-Event-ID", "lastEventId", "after", "types", "named", "pad", "heartbeat", "Prefer")
TO_CONVERSATION = tuple(
    Link(name, {"conversation": "$response.body#/id"})
    for name in ("getConversation", "postMessage", "startGeneration", "readConversation")
)
TO_GENERATION = tuple(
    Link(name, {"generation": "$response.body#/id"})
    for name in ("getGeneration", "readGeneration", "cancelGeneration", "steerGeneration")
)
RUN_SAID = (
    "The run is detached from the request: it goes on whether anybody reads or not. It is of a `model` or of a "
    "`workflow`, one of both. A model is `demo` (`parameters`: `tokens`, `rate` in tokens/s, `seed`, and `calls`, "
    "the tools that it calls first: `name` and `arguments` each), or `openai/<name>`, `anthropic/<name>` where "
    "the server is set up for them; its `input` is posted as messages first. A workflow, and its `input`, are "
    "what the app declares that the server has loaded (`--workflows`).\n\n"
    "With `Accept: text/event-stream` the answer is a 200 with the generation's events in it. Sent again with its "
    "`Idempotency-Key` it attaches to the same run, and with `Last-Event-ID` it goes on behind that event; at or "
    "past the end it answers `data: [DONE]` alone. (Without a key each POST starts another run, and "
    "`Last-Event-ID` means nothing.) A refusal has its status in every form; only when the run is recorded "
    "already, and no stream can be had for a moment, it is a 200 that says when to come back (`retry:`) and "
    "ends.\n\n"
    "With `Prefer: respond-async` the `Location` is one that answers 202 until the end, for clients that poll "
    "until the status is another."
)
RUN_ANSWERS = {
    200: Answer(
        "With `Accept: text/event-stream`: its events.",
        {SSE: "Event"},
        ("Location", "Vary", "X-Accel-Buffering", "Incremental"),
    ),
    202: Answer(
        "It is recorded, and will run.",
        {JSON: "GenerationSnapshot"},
        ("Location", "Retry-After", "Preference-Applied"),
        TO_GENERATION,
    ),
}
DEMO: Body = {"model": "demo", "input": "Tell me about tapes.", "parameters": {"tokens": 100, "rate": 20}}
CALLING: Body = {
    "model": "demo",
    "input": "Refund order 17.",
    "parameters": {"tokens": 20, "calls": [{"name": "refund", "arguments": {"order": 17}}]},
    "tools": [{"name": "refund", "description": "Gives the money back.", "approval": "always"}],
}
PLAYING: Body = {"workflow": "grading", "input": {"pages": 3}, "if_running": "queue"}
BODIES: dict[str, Body] = {"A model": DEMO, "A model with a tool that you run": CALLING, "A workflow": PLAYING}
_TYPE = "-H 'Content-Type: application/json'"
_DEMO = '\'{"model": "demo", "input": "Tell me about tapes.", "parameters": {"tokens": 100, "rate": 20}}\''

WRITING = (
    Operation(
        "post",
        "/v1/conversations",
        "startConversation",
        "Conversations",
        "Start a conversation",
        "An empty body is an empty object.",
        {
            201: Answer(
                "It is there; its snapshot.", {JSON: "ConversationSnapshot"}, ("Location",), TO_CONVERSATION
            )
        },
        POST_CODES,
        ("Idempotency-Key",),
        "ConversationAsk",
        body_examples={"With a title": {"title": "Tapes"}},
        examples=(("With a title", f'curl -s $U/v1/conversations {_TYPE} -d \'{{"title": "Tapes"}}\''),),
    ),
    Operation(
        "post",
        "/v1/conversations/{conversation}/messages",
        "postMessage",
        "Conversations",
        "Post a message",
        "A person, a system or a tool speaks. While a generation runs this is context it can read.",
        {201: Answer("The event.", {JSON: "MessagePosted"}, ("Location",))},
        (*POST_CODES, "not_found", "gone"),
        ("conversation", "Idempotency-Key"),
        "MessageAsk",
        body_required=True,
        body_examples={"Somebody speaks": {"role": "user", "content": "Go on."}},
        examples=(
            (
                "Say something",
                f'curl -s $U/v1/conversations/$C/messages {_TYPE} -d \'{{"role": "user", "content": "Go on."}}\'',
            ),
        ),
    ),
    Operation(
        "post",
        "/v1/conversations/{conversation}/generations",
        "startGeneration",
        "Conversations",
        "Ask for an answer in a conversation",
        RUN_SAID,
        RUN_ANSWERS,
        (*RUN_CODES, "not_found", "gone", "generation_running", "queue_full"),
        ("conversation", "Idempotency-Key", *READ_HERE),
        "GenerationAsk",
        body_required=True,
        body_examples=BODIES,
        examples=(("Ask", f"curl -s $U/v1/conversations/$C/generations {_TYPE} -d {_DEMO}"),),
    ),
    Operation(
        "post",
        "/v1/generations",
        "generate",
        "Generations",
        "Ask for an answer in a conversation of its own",
        RUN_SAID,
        RUN_ANSWERS,
        (*RUN_CODES, "gone"),  # by its key: what it answered the first time was ephemeral
        ("Idempotency-Key", *READ_HERE),
        "GenerationAsk",
        body_required=True,
        body_examples=BODIES,
        examples=(
            ("Ask, and read later", f"curl -s $U/v1/generations {_TYPE} -d {_DEMO}"),
            (
                "Ask, and read the answer here",
                f"curl -sN $U/v1/generations {_TYPE} -H 'Accept: text/event-stream' -d {_DEMO}",
            ),
            (
                "Ask a workflow",
                f'curl -s $U/v1/generations {_TYPE} -d \'{{"workflow": "grading", "input": {{"pages": 3}}}}\'',
            ),
        ),
    ),
    Operation(
        "post",
        "/v1/generations/{generation}/cancel",
        "cancelGeneration",
        "Generations",
        "Cancel a generation",
        "When it returns, no token can follow, and `upstream_closed` says whether the connection to the "
        "upstream is "
        "closed (it waits up to 5 s for that). Idempotent: a generation that has ended stays as it is.",
        {200: Answer("Its snapshot.", {JSON: "CancelledGeneration"}, ("Location",))},
        (*POST_CODES, "not_found", "gone"),
        ("generation", "Idempotency-Key"),
        "CancelAsk",
        body_examples={"With a reason": {"reason": "changed my mind"}},
        examples=(("Cancel", "curl -s -X POST $U/v1/generations/$G/cancel"),),
    ),
)
