"""The operations with which people talk back to a generation that runs; and what became of its webhook."""

from server.web.openapi.operation import JSON, Answer, Operation
from server.web.openapi.reading import GUARDED
from server.web.openapi.writing import POST_CODES

CONTROL_CODES = (*POST_CODES, "not_found", "gone", "generation_ended")
TOLD = {200: Answer("Its snapshot, as it was when this was durable.", {JSON: "GenerationSnapshot"}, ("Location",))}
DIGEST = "0f2b8c1d4e5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0"
CALL = "call_01JCZX5T9M0000000000000000"
_TYPE = "-H 'Content-Type: application/json'"
_APPROVED = r'"{\"call\": \"$CALL\", \"decision\": \"approved\", \"proposed_digest\": \"$DIGEST\"}"'
_REFUNDED = '\'{"result": {"refunded": true}}\''

CONTROLLING = (
    Operation(
        "post",
        "/v1/generations/{generation}/decisions",
        "decideCall",
        "Talking back",
        "Decide on a tool call",
        "A call that needs approval waits, and the generation with it, until somebody approves, rejects or "
        "modifies it, or its time is over. `proposed_digest` says what was seen: a decision on other arguments is "
        "refused, and so is a second one. What runs is exactly the `arguments` of the `tool.decided` event.",
        TOLD,
        (
            *CONTROL_CODES,
            *("already_decided", "digest_mismatch", "decision_expired", "no_decision_needed", "invalid_arguments"),
        ),
        ("generation", "Idempotency-Key"),
        "DecisionAsk",
        body_required=True,
        body_examples={
            "Approve": {"call": CALL, "decision": "approved", "proposed_digest": DIGEST},
            "Reject": {"call": CALL, "decision": "rejected", "proposed_digest": DIGEST, "reason": "Not this one."},
            "Modify": {
                "call": CALL,
                "decision": "modified",
                "proposed_digest": DIGEST,
                "arguments": {"order": 17, "euros": 20},
            },
        },
        examples=(
            (
                "Approve what was seen",
                f"curl -s $U/v1/generations/$G/decisions {_TYPE} -d {_APPROVED}",
            ),
        ),
    ),
    Operation(
        "post",
        "/v1/generations/{generation}/tools/{call}/result",
        "finishCall",
        "Talking back",
        "Give the result of a call that you ran",
        "Of a tool that was declared in the request, after its `tool.started`. The model is given it and goes on.",
        TOLD,
        (*CONTROL_CODES, "not_started", "already_finished"),
        ("generation", "call", "Idempotency-Key"),
        "ToolResultAsk",
        body_required=True,
        body_examples={
            "It worked": {"result": {"refunded": True}},
            "It did not": {"error": {"code": "no_such_order", "message": "There is no order 17."}},
        },
        examples=(
            (
                "It worked",
                f"curl -s $U/v1/generations/$G/tools/$CALL/result {_TYPE} -d {_REFUNDED}",
            ),
        ),
    ),
    Operation(
        "post",
        "/v1/generations/{generation}/steer",
        "steerGeneration",
        "Talking back",
        "Steer a running workflow",
        "Changes one of the parameters that the workflow declares; the snapshot's `steering` has them all. The "
        "workflow sees it at its next step, readers see `steering.changed` at its position, nothing starts again.",
        TOLD,
        (*CONTROL_CODES, "not_steerable", "unknown_parameter", "invalid_value"),
        ("generation", "Idempotency-Key"),
        "SteerAsk",
        body_required=True,
        body_examples={"A slider": {"name": "strictness", "value": 0.8}},
        examples=(
            (
                "Move a slider",
                f'curl -s $U/v1/generations/$G/steer {_TYPE} -d \'{{"name": "strictness", "value": 0.8}}\'',
            ),
        ),
    ),
    Operation(
        "get",
        "/v1/generations/{generation}/webhook",
        "getWebhook",
        "Generations",
        "What became of its webhook",
        "Each try, with the receiver's status or what kept it from answering. 404 where none was asked for.",
        {200: Answer("How it stands.", {JSON: "WebhookSnapshot"})},
        ("not_found", "gone", *GUARDED),
        ("generation",),
        examples=(("Look", "curl -s $U/v1/generations/$G/webhook"),),
    ),
)
