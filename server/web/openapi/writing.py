"""The writing operations: every POST."""

from server.web.openapi.operation import JSON, SSE, Answer, Operation
from server.web.openapi.reading import GUARDED

POST_CODES = (
    *("invalid_json", "invalid_idempotency_key", "origin_not_allowed", "body_too_slow", "body_too_large"),
    *("unsupported_media_type", "invalid_request", "invalid_text", "key_reused", *GUARDED),
)
RUN_CODES = (
    *POST_CODES,
    *("unknown_model", "invalid_parameters", "not_available", "invalid_pad", "invalid_named"),
    *("draining", "overloaded"),
)
TO_CONVERSATION = {
    name: {"conversation": "$response.body#/id"}
    for name in ("getConversation", "postMessage", "startGeneration", "readConversation")
}
TO_GENERATION = {
    name: {"generation": "$response.body#/id"} for name in ("getGeneration", "readGeneration", "cancelGeneration")
}
RUN_SAID = (
    "The run is detached from the request: it goes on whether anybody reads or not. `input` is posted as messages "
    "first. With `Accept: text/event-stream` the answer is a 200 with the generation's events in it; then a "
    "refusal "
    "that passes is a 200 that ends, too. `model` is `demo` (`parameters`: `tokens`, `rate` in tokens/s, "
    "`seed`), or "
    "`openai/<name>`, `anthropic/<name>` where the server is set up for them. Not served in this version: "
    "`workflow`, "
    "`tools`, `if_running` other than `reject`, `on_crash` other than `fail`, `ephemeral`, `webhook` (422 "
    "`not_available`)."
)
RUN_ANSWERS = {
    200: Answer(
        "With `Accept: text/event-stream`: its events.", {SSE: "Event"}, ("Location", "X-Accel-Buffering")
    ),
    202: Answer("It is recorded, and will run.", {JSON: "GenerationSnapshot"}, ("Location",), TO_GENERATION),
}
DEMO = {"model": "demo", "input": "Tell me about tapes.", "parameters": {"tokens": 100, "rate": 20}}
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
        body_example={"title": "Tapes"},
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
        (*POST_CODES, "not_found"),
        ("conversation", "Idempotency-Key"),
        "MessageAsk",
        body_required=True,
        body_example={"role": "user", "content": "Go on."},
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
        (*RUN_CODES, "not_found", "generation_running"),
        ("conversation", "Idempotency-Key", "named", "pad"),
        "GenerationAsk",
        body_required=True,
        body_example=DEMO,
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
        RUN_CODES,
        ("Idempotency-Key", "named", "pad"),
        "GenerationAsk",
        body_required=True,
        body_example=DEMO,
        examples=(
            ("Ask, and read later", f"curl -s $U/v1/generations {_TYPE} -d {_DEMO}"),
            (
                "Ask, and read the answer here",
                f"curl -sN $U/v1/generations {_TYPE} -H 'Accept: text/event-stream' -d {_DEMO}",
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
        (*POST_CODES, "not_found"),
        ("generation", "Idempotency-Key"),
        "CancelAsk",
        body_example={"reason": "changed my mind"},
        examples=(("Cancel", "curl -s -X POST $U/v1/generations/$G/cancel"),),
    ),
)
