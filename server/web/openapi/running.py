"""The operations for who runs the server: health, figures, diagnostics, and this very description."""

from server.web.openapi.operation import JSON, SSE, Answer, Operation

RUNNING = (
    Operation(
        "get",
        "/v1/diagnostics/stream",
        "diagnose",
        "Running it",
        "Time-stamped chunks",
        "A stream that ends by itself: each event is a DiagnosticChunk, its `id` the chunk's number, and `data: "
        "[DONE]` is the last. Chunks that arrive together, or long after their `at`, were held back on the way. "
        "Come back with the last id and it goes on there; at the end it answers 204.",
        {
            200: Answer("The chunks.", {SSE: "DiagnosticChunk"}, ("Vary", "X-Accel-Buffering", "Incremental")),
            204: Answer("All chunks were sent."),
        },
        (
            *("invalid_cursor", "invalid_chunks", "invalid_interval", "invalid_pad", "invalid_named"),
            *("host_not_allowed", "internal_error"),
        ),
        ("chunks", "interval", "pad", "after", "Last-Event-ID"),
        examples=(("Five seconds of it", 'curl -sN "$U/v1/diagnostics/stream?chunks=20&interval=0.25"'),),
    ),
    Operation(
        "get",
        "/healthz",
        "healthz",
        "Running it",
        "Is the process alive?",
        "For a restart when it does not answer. Says nothing of the database.",
        {200: Answer("It is.", {JSON: "Health"})},
        ("internal_error",),
        examples=(("Ask", "curl -s $U/healthz"),),
    ),
    Operation(
        "get",
        "/readyz",
        "readyz",
        "Running it",
        "May work be sent to it?",
        "No while it stops, and while its database does not answer.",
        {200: Answer("It may.", {JSON: "Health"})},
        ("draining", "unavailable", "internal_error"),
        examples=(("Ask", "curl -s $U/readyz"),),
    ),
    Operation(
        "get",
        "/metrics",
        "metrics",
        "Running it",
        "Figures for Prometheus",
        "What the process has done and does, in Prometheus' text format.",
        {
            200: Answer(
                "The figures.",
                {
                    "text/plain": "Prometheus' text format.",
                    "application/openmetrics-text": "OpenMetrics, if asked for.",
                },
            )
        },
        ("internal_error",),
        examples=(("Read", "curl -s $U/metrics"),),
    ),
    Operation(
        "get",
        "/openapi.json",
        "openapi",
        "Running it",
        "This description",
        "OpenAPI 3.1, as JSON. The same as `/docs`, for programs.",
        {
            200: Answer("The document.", {JSON: ""}, ("ETag",)),
            304: Answer("You have it already.", headers=("ETag",)),
        },
        ("host_not_allowed", "internal_error"),
        ("If-None-Match",),
        examples=(("Read", "curl -s $U/openapi.json"),),
    ),
    Operation(
        "get",
        "/docs",
        "docs",
        "Running it",
        "This description, for people",
        "One page that asks nothing of any other host.",
        {
            200: Answer("The page.", {"text/html": "HTML."}, ("ETag",)),
            304: Answer("You have it already.", headers=("ETag",)),
        },
        ("host_not_allowed", "internal_error"),
        ("If-None-Match",),
    ),
    Operation(
        "get",
        "/",
        "root",
        "Running it",
        "What this is",
        "A few words with links: HTML for browsers (`Accept: text/html`), else JSON.",
        {200: Answer("The words.", {JSON: "", "text/html": "HTML."}, ("Vary",))},
        ("host_not_allowed", "internal_error"),
        examples=(("Ask", "curl -s $U/"),),
    ),
)
