"""The interface of a provider: the values that pass between it and a run, the two protocols, and the errors.

Owns `Prompt` with its messages, tools and calls; `Answer`, `Chunk` and `Finish`; and `Provider`, which every
adapter fulfils.

The errors say who is to blame. `BadParameters` and `UnknownModel`: the client. `UpstreamError`: the provider, the
network or this server's settings; its code is one of `CODES`, the one table of the codes that `generation.failed`
carries for them. No message may contain a key. Pure: must not know HTTP, trio, one provider's format or the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from server.message_parts import Content, FilePart, files_of, text_of

TOOL_NAME = r"^[a-zA-Z0-9_-]{1,64}$"
"""The JSON Schema pattern of tool names that every provider accepts. In Python use `re.fullmatch`: with
`re.match`, `$` would also accept a name that ends with a line feed."""


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool that the model may call: `name` matches `TOOL_NAME`, `parameters` is a JSON Schema of an object."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that the model wants called; `arguments` is the text that the model wrote, which may be invalid JSON.

    `carry`: what the provider wants back with this call, as in `Finish`. `whole`: the provider closed the call,
    and `arguments` is the complete text that the model wrote. A call with `whole` False must not run.
    """

    id: str
    name: str
    arguments: str
    carry: Any = None
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of the conversation; `role` is the provider's word (`system`, `user`, `assistant` …).

    `content`: a text, or parts; images and files are in messages of the role `user` alone. `calls`: the tools that
    an assistant's message called, beside its text. `call`: for the role `tool`, the id of the call whose result
    `content` is; None where a client posted the message and it answers no call. `carry`: on an assistant's
    message, the `Finish.carry` of the answer that the message was.
    """

    role: str
    content: Content
    calls: tuple[ToolCall, ...] = ()
    call: str | None = None
    carry: Any = None

    @property
    def text(self) -> str:
        """The content's text, or its texts joined."""
        return text_of(self.content)

    @property
    def files(self) -> tuple[FilePart, ...]:
        """The images and files of the content."""
        return files_of(self.content)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request to a model: its name without the provider's prefix, messages oldest first, and parameters.

    `tools`: what the model may call. The caller makes sure that no two tools have the same name, that every call
    among the messages has its result, and that call ids match `TOOL_NAME`: providers refuse anything else.
    """

    model: str
    messages: tuple[Message, ...]
    parameters: Mapping[str, Any]
    tools: tuple[ToolSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of the model's reasoning; never empty. It is not part of the answer's text."""

    delta: str


@dataclass(frozen=True, slots=True)
class ArgumentsDelta:
    """A piece of a tool call's arguments, while the model writes them; never empty.

    `index`: the call's position in `Finish.tool_calls`, from 0. `name`: the tool's name, as far as it has arrived.
    """

    index: int
    name: str
    delta: str


Chunk = str | Reasoning | ArgumentsDelta
"""What an answer consists of, in order of arrival: text (a `str`), reasoning, and pieces of tool calls."""

ENDED_WELL = frozenset({"stop", "tool_calls"})


@dataclass(frozen=True, slots=True)
class Finish:
    """How an answer ended: the finish reason, and what came beside the text.

    `reason`: one of OpenAI's words wherever the provider's word means the same (`stop`, `length`, `tool_calls` …;
    the table is in `finish_reasons`). `usage`: `input_tokens` and `output_tokens` if the provider sent
    both; where sent, also `cached_input_tokens` and `reasoning_tokens`, which are included in the first two.
    `refusal`: the text with which the model refused. `carry`: what the provider wants back, unchanged, with this
    message in the next request, such as signed reasoning. It is JSON, stored with the message, opaque to
    everything but the adapter that made it, and never sent to a client.
    """

    reason: str
    usage: Mapping[str, int] | None
    tool_calls: tuple[ToolCall, ...] = ()
    refusal: str = ""
    carry: Any = None

    @property
    def ended_well(self) -> bool:
        """Whether the model itself ended the answer. Only then may the answer's tool calls run.

        False: something else ended it (`length`, `content_filter`, `refusal`), or the reason is not a known word.
        """
        return self.reason in ENDED_WELL


class Answer(Protocol):
    """One answer as it arrives. Only one task at a time may wait in `receive`."""

    @property
    def finish(self) -> Finish | None:
        """How the answer ended: set once `receive` has returned an empty sequence, None until then."""

    @property
    def repaired(self) -> int:
        """How many characters were replaced by U+FFFD so far (U+0000, unpaired surrogates, invalid UTF-8)."""

    async def receive(self) -> Sequence[Chunk]:
        """Wait for more of the answer; an empty sequence means that it is finished.

        Returns everything that has arrived by now, in order. Each content string of the provider is one string of
        its own, empty strings included; reasoning and arguments likewise, but without the empty ones. Chunks that
        arrived before a failure are returned first; the next call raises the failure.
        Raises `UpstreamError` (the provider or the connection to it failed). Always a checkpoint.
        """


class Provider(Protocol):
    """A service that answers prompts: an adapter to one LLM API, or the built-in demo."""

    def check(self, prompt: Prompt) -> None:
        """Raise `BadParameters` (the client's fault) if this provider would refuse the prompt. Does no I/O.

        The files of the prompt need no `data` for this.
        """

    def open(self, prompt: Prompt) -> AbstractAsyncContextManager[Answer]:
        """An answer to the prompt, for as long as the context is open.

        Entering does not connect (the first `receive` does); it raises `BadParameters` as `check` does. Leaving
        closes the connection at once, also when cancelled: after the `async with` no socket is left open.
        """


@dataclass(frozen=True, slots=True)
class Code:
    """One error code: whether the same request may succeed later, and what it means, for people."""

    retryable: bool
    meaning: str


CODES: Mapping[str, Code] = {
    "upstream_unauthorized": Code(False, "the provider refused the key (401, 403)"),
    "upstream_rate_limited": Code(True, "too many requests (429); not retryable when the quota is used up"),
    "upstream_bad_request": Code(False, "the provider refuses this request (other 4xx, a redirect)"),
    "upstream_unavailable": Code(True, "no connection, or the provider fails (DNS, refused, TLS, 409, 5xx)"),
    "upstream_cut": Code(True, "the connection ended before the answer did"),
    "upstream_malformed": Code(False, "what came is not the protocol"),
    "upstream_stalled": Code(True, "the answer began, then no byte came for longer than the limit"),
    "upstream_timeout": Code(True, "connecting, sending or the wait for the first byte took too long (408 too)"),
    "upstream_error": Code(True, "the provider reported an error inside the stream; not retryable if it says so"),
}


class UpstreamError(Exception):
    """The provider, the connection to it or its settings failed the run; `code` is a key of `CODES`.

    `retryable`: the same request may succeed later. `retry_after`: seconds that the provider asked to wait, or
    None. `stall`: the provider accepted the request and was then silent until a time limit (ours or a gateway's)
    passed. It may have worked on the request, and may charge for it. `message` is for every reader of the run: it
    may quote the provider, but names no address, host or proxy of the operator. `detail` is for the server's own
    log and may name them; it is empty if it would add nothing. Neither contains a key, U+0000 or an unpaired
    surrogate.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        detail: str = "",
        retryable: bool | None = None,
        retry_after: float | None = None,
        stall: bool = False,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.detail = detail
        self.retryable = CODES[code].retryable if retryable is None else retryable
        self.retry_after = retry_after
        self.stall = stall


class BadParameters(ValueError):
    """The client sent a parameter that the provider would refuse; `message` says what is wrong, and the limit.

    `part`: where it is about a part of a message, the place of the message in the prompt and of the part in it.
    """

    def __init__(self, field: str, message: str, part: tuple[int, int] | None = None) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message
        self.part = part


class UnknownModel(ValueError):
    """The client named a model that no configured provider serves; the text lists the available ones."""
