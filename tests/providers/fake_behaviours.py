"""The behaviours of the fake provider. The model's name in the request chooses one (a leading `openai/` or
`anthropic/` is dropped); it works in both wire formats.

Owns the behaviours as lazy lists of steps. Pure: the server carries the steps out. Tokens are `t0 `,
`t1 ` and so on unless stated. `<n>` is a number of tokens, `<rate>` tokens a second (absent: as fast as it goes).

ok-<n>[-<rate>]         a whole answer: role chunk, n tokens, finish reason, usage if asked for, [DONE]
slow                    the same as ok-600-10
packed                  100 tokens, ten in each packet
split                   20 tokens, each byte of the body its own packet
crlf, comments, bom     10 tokens; with CRLF line ends, with comments between, with a byte order mark
multiline               10 tokens, each chunk's JSON over several data lines
surrogate               an emoji split over two chunks as escapes: a, U+D83D, U+DE00, b
lone-surrogate          three chunks: half an emoji, a word, half an emoji at the very end
nul                     two chunks, the first with U+0000
invalid-utf8            two chunks, the first with a byte that is no UTF-8
empty-content           content "" in the role chunk and between two tokens, null once: four content strings
no-done                 10 tokens and the finish reason, then the body ends
no-usage                10 tokens, no usage chunk
usage-with-finish       10 tokens, usage in the chunk with the finish reason
error-object            3 tokens, then an error object
refused-object          an error object of type invalid_request_error, before any token
cut-after-<n>           the connection is closed (FIN) in the middle of the body
reset-after-<n>         the same with a RST
malformed-after-<n>     a chunk that is no JSON
stall-after-<n>         silence until the client closes; stall-after-0 sends only the response's head
finish-then-stall       3 tokens, the finish reason, then silence
finish-then-signs       the same, then a sign of life each second, for ever
silent                  not even a head, until the client closes
drop-then-ok            the first request is closed unanswered, the second one is ok-3
stall-then-ok           the first request stalls after the head, the second one is ok-3
status-<code>           that status with an error body; 429 and 503 with Retry-After: 1
status-<code>-then-ok   the first request that; the second one is ok-3 (retry-after-ms: 20)
status-<code>-twice-then-ok   the first two requests that; the third one is ok-3
reasoning               two chunks of reasoning, then 3 tokens
tools                   a token, then two tool calls, their arguments in pieces that alternate
tools-bare              two calls of one tool: no text, no ids, no arguments
agent                   a token and two calls; once results are among the messages, a token for each; 400 for what
                        a strict provider would refuse
dialect-<name> the body of `dialects/<name>.body`; once results are among the messages, ok-1, or 400 if they
                        are not what that file says has to come back
refuses-<what>          400 or 422 as long as the request has it (see `_REFUSED`), then ok-3
head-after-<seconds>    nothing for so long, then ok-3
end-after-<seconds>     nothing for so long, then it closes: what sits between has a limit of its own
status-<code>-after-<seconds>   nothing for so long, then that status with an error body
quota                   429 with insufficient_quota
leak-key                401 whose message repeats the key
redirect, html          307 to another host; 200 with a web page
gzip                    200 with Content-Encoding: gzip
until-close, length     10 tokens; the body ends with the connection, with a Content-Length
early-hints             a 103 response first, then 10 tokens
echo                    the last user message, word by word
echo-history            one token: the JSON of the messages that came

"First", "second": among requests with the very same body, over and over again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from .dialect_samples import dialect, is_brought_back
from .fake_wire_formats import (
    CHUNKED,
    END,
    STREAM_HEAD,
    Hang,
    Pause,
    Request,
    Reset,
    Send,
    Step,
    answer,
    begin,
    framed,
    status,
    whole,
    words,
)
from .request_validation import reason_to_refuse


def steps(model: str, request: Request, default: str = "ok-200-50") -> Iterator[Step]:
    """The behaviour that a model's name asks for; an unknown name gets `default`."""
    name = model.removeprefix("openai/").removeprefix("anthropic/")
    for pattern, script in _SCRIPTS:
        if match := pattern.fullmatch(name):
            return script(request, *match.groups())
    return steps(default, request)


def _texts(request: Request, *texts: str) -> list[bytes]:
    return [request.wire.content(text) for text in texts]


def _ok(request: Request, count: str, rate: str | None) -> Iterator[Step]:
    pace = float(rate or 0)
    for step in answer(request, _texts(request, *words(int(count)))):
        if pace and isinstance(step, Send) and step.tokens:
            yield Pause(1 / pace)
        yield step


def _packed(request: Request) -> Iterator[Step]:
    yield Send(CHUNKED + framed(request.wire.role()))
    bodies = _texts(request, *words(100))
    yield from (Send(b"".join(framed(b) for b in bodies[i : i + 10]), tokens=10) for i in range(0, 100, 10))
    yield Send(framed(request.wire.ending(request, 100)) + END, last=True)


def _split(request: Request) -> Iterator[Step]:
    body = whole(request, *words(20))
    yield Send(STREAM_HEAD + b"\r\n")
    for i, byte in enumerate(body):
        yield Send(bytes([byte]), last=i == len(body) - 1)


def _reshaped(reshape: Callable[[bytes], bytes]) -> Callable[[Request], Iterator[Step]]:
    def script(request: Request) -> Iterator[Step]:
        body = reshape(whole(request, *words(10)))
        yield Send(CHUNKED)
        yield Send(framed(body), tokens=10)
        yield Send(END, last=True)

    return script


def _empty_content(request: Request) -> Iterator[Step]:
    yield Send(CHUNKED + framed(request.wire.role() + request.wire.content("")), tokens=1)
    yield Send(framed(b"".join(_texts(request, "t0 ", ""))), tokens=2)
    yield Send(framed(b"".join(map(request.wire.content, (None, "t1 ")))), tokens=1)
    yield Send(framed(request.wire.ending(request, 4)) + END, last=True)


def _invalid_utf8(request: Request) -> Iterator[Step]:
    broken = _texts(request, "a?")[0].replace(b"?", b"\xff")
    return answer(request, [broken, *_texts(request, "b")])


def _no_done(request: Request, how: str) -> Iterator[Step]:
    wire = request.wire
    yield from begin(request, 10)
    if how == "no-done":
        yield Send(framed(wire.finish("stop")) + END, last=True)
    elif how == "no-usage":
        yield Send(framed(wire.finish("stop") + wire.done()) + END, last=True)
    else:
        yield Send(framed(wire.finish("length", 10) + wire.done()) + END, last=True)


def _beside(request: Request, what: str) -> Iterator[Step]:
    wire = request.wire
    if what == "reasoning":
        yield from answer(
            request, [wire.thought("let me "), wire.thought("think"), *_texts(request, *words(3))], 3
        )
        return
    pieces = [wire.call(0, "call_a", "search"), wire.arguments(0, '{"q": '), wire.call(1, "call_b", "now")]
    pieces += [wire.arguments(1, "{}"), wire.arguments(0, '"😀"}')]
    yield Send(CHUNKED + framed(wire.role() + wire.content("t0 ")), tokens=1)
    yield from (Send(framed(piece)) for piece in pieces)
    yield Send(framed(wire.ending(request, 1, "tool_calls")) + END, last=True)


def _error_object(request: Request) -> Iterator[Step]:
    yield from begin(request, 3)
    yield Send(framed(request.wire.error("the model fell over", "server_error")), last=True)


def _refused_object(request: Request) -> Iterator[Step]:
    yield from begin(request, 0)
    yield Send(framed(request.wire.error("no", "invalid_request_error")), last=True)


def _after(request: Request, what: str, count: str) -> Iterator[Step]:
    yield from begin(request, int(count))
    if what == "reset":
        yield Reset()
    elif what == "stall":
        yield Hang()
    elif what == "malformed":
        yield Send(framed(b'data: {"choices": [\n\n') + END, last=True)


def _finish_then_stall(request: Request) -> Iterator[Step]:
    yield from begin(request, 3)
    yield Send(framed(request.wire.finish("stop")), last=True)
    yield Hang()


def _finish_then_signs(request: Request) -> Iterator[Step]:
    yield from begin(request, 3)
    yield Send(framed(request.wire.finish("stop")), last=True)
    while True:
        yield Pause(1.0)
        yield Send(framed(b": still here\n\n"))


def _first(request: Request, what: str) -> Iterator[Step]:
    if request.turn % 2:
        yield from _ok(request, "3", None)
    elif what == "stall":
        yield from begin(request, 0)
        yield Hang()


def _status(request: Request, code: str, then: str | None) -> Iterator[Step]:
    failures = {None: 1, "-then-ok": 1, "-twice-then-ok": 2}[then]
    if then and request.turn % (failures + 1) == failures:
        return _ok(request, "3", None)
    wait = "retry-after-ms: 20\r\n" if then else "Retry-After: 1\r\n"
    return iter([status(request.wire, int(code), head=wait if code in ("429", "503") else "")])


def _dialect(request: Request, name: str) -> Iterator[Step]:
    file = dialect(name)
    back = file.expected.get("second")
    messages = request.body["messages"]
    if not back or len(messages) < len(back) + 1:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {file.content_type}\r\nContent-Length: {len(file.body)}\r\n\r\n"
        yield Send(head.encode() + file.body, last=True)
    elif is_brought_back(messages, back):
        yield from _ok(request, "1", None)
    else:
        yield status(request.wire, 400, f"not what was sent: {json.dumps(messages)}", "invalid_request_error")


def _sent(request: Request, name: str) -> bool:
    messages = request.body["messages"]
    if name == "developer":
        return any(message["role"] == name for message in messages)
    if name == "null_content":
        return any(message["content"] is None for message in messages)
    if name == "long_ids":
        return any(len(message.get("tool_call_id", "123456789")) != 9 for message in messages)
    return name in request.body or any(name in message for message in messages)


_EXTRA = "Extra inputs are not permitted"
_REFUSED: dict[str, tuple[int, str]] = {
    "stream_options": (422, f"body.stream_options.include_usage: {_EXTRA}"),
    "reasoning_content": (422, f"body.messages.1.assistant.reasoning_content: {_EXTRA}"),
    "max_tokens": (400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
    "max_completion_tokens": (400, "Unrecognized request argument supplied: max_completion_tokens"),
    "developer": (400, "developer is not one of ['system', 'assistant', 'user'] - 'messages.[0].role'"),
    "null_content": (400, "content field is a required field, got null"),
    "long_ids": (400, "Tool call id was call_1 but must be a-z, A-Z, 0-9, with a length of 9."),
    "temperature": (400, "Unsupported value: 'temperature' does not support 0.5 with this model."),
}


def _refuses(request: Request, name: str) -> Iterator[Step]:
    code, message = _REFUSED[name]
    if _sent(request, name):
        return iter([status(request.wire, code, message, "invalid_request_error")])
    return _ok(request, "3", None)


def _head_after(request: Request, seconds: str) -> Iterator[Step]:
    yield Pause(float(seconds))
    yield from _ok(request, "3", None)


def _end_after(request: Request, seconds: str) -> Iterator[Step]:
    yield Pause(float(seconds))


def _status_after(request: Request, code: str, seconds: str) -> Iterator[Step]:
    yield Pause(float(seconds))
    yield status(request.wire, int(code), "nothing came in time")


def _quota(request: Request) -> Iterator[Step]:
    return iter([status(request.wire, 429, "you have no money left", "insufficient_quota")])


def _leak_key(request: Request) -> Iterator[Step]:
    message = f"bad key {request.authorization.removeprefix('Bearer ')} in {request.authorization}"
    return iter([status(request.wire, 401, message)])


def _page(request: Request, kind: str) -> Iterator[Step]:
    if kind == "redirect":
        yield status(request.wire, 307, head="Location: https://elsewhere.example/v1\r\n")
        return
    body = b"<html><body>Welcome to nginx</body></html>"
    type_ = "text/html" if kind == "html" else "text/event-stream\r\nContent-Encoding: gzip"
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {type_}\r\nContent-Length: {len(body)}\r\n\r\n"
    yield Send(head.encode() + body, last=True)


def _framing(request: Request, kind: str) -> Iterator[Step]:
    body = whole(request, *words(10))
    if kind == "early-hints":
        yield Send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n")
    length = b"Content-Length: %d\r\n" % len(body) if kind == "length" else b""
    yield Send(STREAM_HEAD + length + b"\r\n")
    yield Send(body, tokens=10, last=True)


def _echo(request: Request, how: str | None) -> Iterator[Step]:
    messages = request.body["messages"]
    if how:
        return answer(request, _texts(request, json.dumps(messages)))
    said = next((m["content"] for m in reversed(messages) if m["role"] == "user"), "")
    said = said if isinstance(said, str) else said[-1]["text"]  # Anthropic's turns may be made of blocks
    return answer(request, _texts(request, *re.findall(r"^\s+|\S+\s*", said)))


CITY = '{"city": "Zürich 😀"}'


def agent(request: Request) -> Iterator[Step]:
    """Calls `weather` and `now` side by side, the arguments in pieces; then tells their results, a token each."""
    wrong = reason_to_refuse(request.body)
    results = _results(request.body["messages"])
    if wrong is not None:
        yield status(request.wire, 400, wrong, "invalid_request_error")
    elif results:
        yield from answer(request, [request.wire.content(f"{result} ") for result in results])
    else:
        wire = request.wire
        yield Send(CHUNKED + framed(wire.role() + wire.content("Let me see. ")), tokens=1)
        yield Send(framed(wire.call(0, "call_a", "weather") + wire.arguments(0, CITY[:9])))
        yield Send(framed(wire.call(1, "call_b", "now") + wire.arguments(0, CITY[9:11])))
        yield Send(framed(wire.arguments(1, "{") + wire.arguments(0, CITY[11:]) + wire.arguments(1, "}")))
        yield Send(framed(wire.ending(request, 1, "tool_calls")) + END, last=True)


def tools_bare(request: Request) -> Iterator[Step]:
    """No text, two calls of one tool, no ids, and not one piece of arguments."""
    wire = request.wire
    yield Send(CHUNKED + framed(wire.role()))
    yield Send(framed(wire.call(0, "", "now") + wire.call(1, "", "now")))
    yield Send(framed(wire.ending(request, 0, "tool_calls")) + END, last=True)


def _results(messages: list[dict[str, Any]]) -> list[str]:
    found = []
    for message in messages:
        if message["role"] == "tool":
            found.append(message["content"])
        elif isinstance(message["content"], list):
            blocks = (block for block in message["content"] if block["type"] == "tool_result")
            found += [block.get("content", "nothing") for block in blocks]
    return found


_BY_NAME: dict[str, Callable[..., Iterator[Step]]] = {
    r"ok-(\d+)(?:-(\d+(?:\.\d+)?))?": _ok,
    r"slow": lambda request: _ok(request, "600", "10"),
    r"packed": _packed,
    r"split": _split,
    r"crlf": _reshaped(lambda body: body.replace(b"\n", b"\r\n")),
    r"comments": _reshaped(lambda body: b": hi\n\n" + body.replace(b"\n\n", b"\n: still here\n\n:\n\n")),
    r"bom": _reshaped(lambda body: b"\xef\xbb\xbf" + body),
    r"multiline": _reshaped(lambda body: body.replace(b', "', b',\ndata: "')),
    r"surrogate": lambda request: answer(request, _texts(request, "a", "\ud83d", "\ude00", "b")),
    r"lone-surrogate": lambda request: answer(request, _texts(request, "\ud83d", "word", "\ud83d")),
    r"nul": lambda request: answer(request, _texts(request, "a\x00", "b")),
    r"invalid-utf8": _invalid_utf8,
    r"empty-content": _empty_content,
    r"(no-done|no-usage|usage-with-finish)": _no_done,
    r"error-object": _error_object,
    r"refused-object": _refused_object,
    r"(cut|reset|malformed|stall)-after-(\d+)": _after,
    r"finish-then-stall": _finish_then_stall,
    r"finish-then-signs": _finish_then_signs,
    r"silent": lambda request: iter([Hang()]),
    r"(drop|stall)-then-ok": _first,
    r"status-(\d{3})(-then-ok|-twice-then-ok)?": _status,
    r"(reasoning|tools)": _beside,
    r"agent": agent,
    r"dialect-(.+)": _dialect,
    r"refuses-([a-z_]+)": _refuses,
    r"head-after-(\d+)": _head_after,
    r"end-after-(\d+)": _end_after,
    r"status-(\d{3})-after-(\d+)": _status_after,
    r"tools-bare": tools_bare,
    r"quota": _quota,
    r"leak-key": _leak_key,
    r"(redirect|html|gzip)": _page,
    r"(until-close|length|early-hints)": _framing,
    r"echo(-history)?": _echo,
}
_SCRIPTS = [(re.compile(pattern), script) for pattern, script in _BY_NAME.items()]
