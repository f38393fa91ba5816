"""POST: commands over HTTP. Each is the answer of `answers`, as a response."""

from quart import Blueprint, Response, request

from eventstore import StoreUnavailable
from server.errors import Problem
from server.runtime.runtime import Runtime
from server.web.commands import command_endpoints as answers
from server.web.commands.command_endpoints import Answer
from server.web.commands.request_body import read_json
from server.web.edge.problems import from_store, respond
from server.web.transports.log_reader import find_generation
from server.web.transports.read_params import Form, accepted_form, read_stream_options
from server.web.transports.sse_ndjson import refuse, stream


def routes(runtime: Runtime, heartbeat: float) -> Blueprint:
    """The writing half of the API."""
    blue = Blueprint("posts", __name__)

    @blue.post("/v1/conversations")
    async def start() -> Response:
        return _respond(await answers.start_conversation(runtime, await read_json(request), _key()))

    @blue.post("/v1/conversations/<name>/messages")
    async def post(name: str) -> Response:
        return _respond(await answers.post_message(runtime, name, await read_json(request), _key()))

    @blue.post("/v1/conversations/<name>/generations")
    async def generate(name: str) -> Response:
        return await _generate(name)

    @blue.post("/v1/generations")
    async def generate_alone() -> Response:
        return await _generate(None)

    @blue.post("/v1/generations/<name>/cancel")
    async def cancel(name: str) -> Response:
        return _respond(await answers.cancel_generation(runtime, name, await read_json(request), _key()))

    @blue.post("/v1/generations/<name>/steer")
    async def steer(name: str) -> Response:
        return _respond(await answers.steer_generation(runtime, name, await read_json(request), _key()))

    @blue.post("/v1/generations/<name>/decisions")
    async def decide(name: str) -> Response:
        return _respond(await answers.decide_call(runtime, name, await read_json(request), _key()))

    @blue.post("/v1/generations/<name>/tools/<call>/result")
    async def tool_result(name: str, call: str) -> Response:
        return _respond(await answers.finish_call(runtime, name, call, await read_json(request), _key()))

    async def _generate(conversation: str | None) -> Response:
        options = read_stream_options(request.args)  # a mistake is told in either form
        if accepted_form(request.headers.get("Accept", "")) is not Form.SSE:
            return _respond(
                await answers.request_generation(runtime, conversation, await read_json(request), _key())
            )
        location: str | None = None
        try:
            runtime.drain.refuse_stream()  # asked before the run is started, not after
            answer = await answers.request_generation(runtime, conversation, await read_json(request), _key())
            location = answer.location
            # The run is detached: the stream only reads its log, from the start, and may be cut and resumed.
            source = await find_generation(runtime, answer.generation or "", 0)
            response = stream(runtime, source, Form.SSE, heartbeat=heartbeat, options=options)
        except (Problem, StoreUnavailable) as error:
            problem = error if isinstance(error, Problem) else from_store(error)
            response = refuse(problem) if problem.retry_after is not None else respond(problem)
        if location is not None:
            response.headers["Location"] = location
        return response

    return blue


def _key() -> str | None:
    return request.headers.get("Idempotency-Key")


def _respond(answer: Answer) -> Response:
    response = Response(answer.body, answer.status, content_type="application/json")
    if answer.location is not None:
        response.headers["Location"] = answer.location
    response.headers["Cache-Control"] = "no-store"
    return response
