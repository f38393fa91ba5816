"""The reading operations: snapshots, logs, the WebSocket."""

from server.web.openapi.operation import JSON, NDJSON, SSE, Answer, Link, Operation
from server.web.openapi.shapes import ref
from server.wire.websocket import SUBPROTOCOL

GUARDED = ("bad_request", "host_not_allowed", "internal_error", "unavailable")
HELD = ("If-None-Match", "Prefer", "wait")
SNAPSHOT_CODES = (
    *("invalid_cursor", "cursor_ahead", "invalid_wait", "cursor_expired", "not_found", "gone", "draining"),
    *("overloaded", *GUARDED),
)
SNAPSHOT = ("ETag", "Retry-After", "Preference-Applied")
UNCHANGED = Answer("You have it already.", headers=SNAPSHOT)
LOG = (
    *("after", "Last-Event-ID", "lastEventId", "types", "format", "limit", "wait", "Prefer"),
    *("named", "pad", "heartbeat"),
)
LOG_CODES = (
    *("invalid_cursor", "cursor_ahead", "invalid_format", "invalid_limit", "invalid_wait", "invalid_named"),
    *(
        "invalid_pad",
        "invalid_types",
        "invalid_heartbeat",
        "cursor_expired",
        "not_found",
        "gone",
        "draining",
        "overloaded",
        *GUARDED,
    ),
)
LOG_SAID = (
    "The form is `?format=`, else what `Accept` asks for: `text/event-stream` and `application/x-ndjson` only if "
    "they are named and not ranked below JSON. A stream that is refused for a moment (the server stops, is full, "
    "its database is away) is for `text/event-stream` a 200 that says when to come back (`retry:`) and ends, for "
    "an `EventSource` gives up for ever on any other status; everybody else gets the 503. A JSON page is "
    "held only "
    "with `wait`."
)
EVENTS = Answer(
    "The events after the cursor.",
    {JSON: "EventPage", SSE: "Event", NDJSON: "Event"},
    headers=("Vary", "X-Accel-Buffering", "Incremental", "Preference-Applied"),
)
ENDED = Answer("A stream, at or past the end of the generation: nothing will follow.", headers=("Vary",))
_CALL = "$response.body#/tool_calls/0/"
TO_CALL = (
    Link(
        "decideCall",
        {"generation": "$response.body#/id"},
        {"call": f"{_CALL}call", "decision": "approved", "proposed_digest": f"{_CALL}proposed_digest"},
    ),
    Link("finishCall", {"generation": "$response.body#/id", "call": f"{_CALL}call"}),
)
CLOSE_CODES = {
    "1003": "a frame that is not text",
    "1009": "a message over 1 MiB",
    "1012": "the server is stopping, or the connection's time is up: come back with your cursor",
    "1013": "the database is away: come back later",
    "4400": "final, do not come back: a cursor that is none, or ahead of the log; an author that is none",
    "4404": "final, do not come back: an unknown conversation",
    "4410": "final for this cursor: it is older than what is kept (begin again at the snapshot), or the "
    "conversation was ephemeral",
}

READING = (
    Operation(
        "get",
        "/v1/conversations",
        "listConversations",
        "Conversations",
        "A page of conversations",
        "Newest first.",
        {200: Answer("The page.", {JSON: "ConversationList"})},
        ("invalid_cursor", "invalid_limit", *GUARDED),
        ("before", "conversations"),
        examples=(("The ten newest", 'curl -s "$U/v1/conversations?limit=10"'),),
    ),
    Operation(
        "get",
        "/v1/conversations/{conversation}",
        "getConversation",
        "Conversations",
        "A conversation's snapshot",
        "The fold of all its events so far, or up to `at`. Its `ETag` is its position. It has the newest messages "
        "and generations, 100 of both together and some megabytes at most; `next` is the `before` that gives "
        "those in front. A text of more than 64 KiB is left out, and its place says where its events are.",
        {
            200: Answer(
                "The snapshot. `Retry-After` while a generation runs.", {JSON: "ConversationSnapshot"}, SNAPSHOT
            ),
            304: UNCHANGED,
        },
        ("invalid_before", *SNAPSHOT_CODES),
        ("conversation", "at", "before_position", *HELD),
        examples=(
            ("Now", "curl -s $U/v1/conversations/$C"),
            ("As it was", 'curl -s "$U/v1/conversations/$C?at=3"'),
        ),
    ),
    Operation(
        "get",
        "/v1/conversations/{conversation}/events",
        "readConversation",
        "Conversations",
        "A conversation's log",
        LOG_SAID + " A conversation's stream stays open.",
        {200: EVENTS},
        LOG_CODES,
        ("conversation", *LOG),
        examples=(
            ("Follow it", "curl -sN -H 'Accept: text/event-stream' $U/v1/conversations/$C/events"),
            ("Poll it", 'curl -s "$U/v1/conversations/$C/events?after=17&wait=20"'),
        ),
    ),
    Operation(
        "get",
        "/v1/conversations/{conversation}/ws",
        "openWebSocket",
        "Conversations",
        "The log and commands, on one WebSocket",
        f"Upgrade to a WebSocket, with the subprotocol `{SUBPROTOCOL}` or none. The server sends the log "
        "after the cursor and then what comes (`x-websocket` has the frames), and between its events who is "
        "connected; the client sends commands, with the fields of the POST of the same meaning. `resync` rewinds "
        "in place. What is wrong with the address is told after the upgrade: an `error` frame and a close code of "
        "4400 to 4499, which are final: a page that asks again will be told the same. What passes (the server "
        "stops, is full, its database is away) is a 503 with `Retry-After` instead of the upgrade.",
        {101: Answer("The WebSocket begins.")},
        ("upgrade_required", "origin_not_allowed", "draining", "overloaded", *GUARDED),
        ("conversation", "after", "types", "author"),
        examples=(("Look at it", "tokentape tail $C --url $U"),),
        more={
            "x-websocket": {
                "subprotocol": SUBPROTOCOL,
                "receive": ref("ServerFrame"),
                "send": ref("ClientCommand"),
                "closeCodes": CLOSE_CODES,
            }
        },
    ),
    Operation(
        "get",
        "/v1/generations/{generation}",
        "getGeneration",
        "Generations",
        "A generation's snapshot",
        "Its position and `ETag` are those of its own last event, so another generation never wakes its pollers.",
        {
            200: Answer(
                "The snapshot. `Retry-After` while it runs.", {JSON: "GenerationSnapshot"}, SNAPSHOT, TO_CALL
            ),
            202: Answer(
                "The same, while it runs, for a client that asked for it by `pending` or `Prefer: respond-async`.",
                {JSON: "GenerationSnapshot"},
                SNAPSHOT,
            ),
            304: UNCHANGED,
        },
        ("invalid_pending", *SNAPSHOT_CODES),
        ("generation", "at", "pending", *HELD),
        examples=(
            ("Now", "curl -s $U/v1/generations/$G"),
            (
                "When it is no longer as you know it",
                "curl -si -H 'If-None-Match: \"17\"' -H 'Prefer: wait=20' $U/v1/generations/$G",
            ),
        ),
    ),
    Operation(
        "get",
        "/v1/generations/{generation}/events",
        "readGeneration",
        "Generations",
        "A generation's log",
        LOG_SAID
        + " It is the conversation's log, filtered, with the conversation's positions. Its stream ends after "
        "the terminal event with `data: [DONE]`; asked again at the end it answers 204, so that an "
        "`EventSource` stops.",
        {200: EVENTS, 204: ENDED},
        LOG_CODES,
        ("generation", *LOG),
        examples=(
            ("Follow it", "curl -sN -H 'Accept: text/event-stream' $U/v1/generations/$G/events"),
            (
                "Go on behind event 17",
                "curl -sN -H 'Accept: text/event-stream' -H 'Last-Event-ID: 17' $U/v1/generations/$G/events",
            ),
            ("A line each", "curl -sN -H 'Accept: application/x-ndjson' $U/v1/generations/$G/events"),
            ("Poll it", 'curl -s "$U/v1/generations/$G/events?after=17&wait=20"'),
        ),
    ),
)
