"""What OpenAI-compatible servers want otherwise than OpenAI: vLLM, Ollama, Mistral, Azure and many more.

Owns one table, `DIALECTS`, with a row per server and a field per difference; which row belongs to a base URL,
unless a setting names it; and the retry of a request that a server refused (400 or 422) because of one field. Such
a retry changes a field of `Quirks`, at most once per answer for each change, and what helped is remembered for
that server and model. A parameter that the client gave may be renamed, but is never left out. Sources: the
providers' documentation, and their users' reports of refused requests. Pure: must not know sockets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from .interface import Prompt
from .request_encoding import GIF, JPEG, PNG, WEBP, ProviderRequest

SIGNED = ("extra_content", "provider_specific_fields")
"""Opaque fields of a tool call, with its signature: Gemini's, and LiteLLM's name for the same."""
TAKEN_BACK = ("reasoning_content", "reasoning", "reasoning_details", *SIGNED)
"""Fields of an assistant's message and of its tool calls that are sent back to the server that sent them."""


@dataclass(frozen=True, slots=True)
class Quirks:
    """How one dialect differs. The defaults suit an unknown server.

    `hosts`: host names of the servers that speak it; a leading dot stands for any name below that domain.
    `public`: those names are public knowledge, so error messages may show them to readers. `asks_usage`: the
    server accepts `stream_options`. `max_tokens`: the server's name for the limit of an answer, sent whichever of
    the two names the client used; empty: the client's name is sent. `developer`: the server knows this role;
    otherwise `system` is sent. `null_content`: the server accepts null as the content beside tool calls; otherwise
    an empty text is sent. `blank_messages`: the server accepts messages without text; otherwise they are left out.
    `call_ids`: "short" if call ids must be exactly nine letters and digits. `takes_back`: which fields of
    `TAKEN_BACK` the server accepts. `images`: the media types of images that it accepts; empty: it accepts text
    alone. `pdfs`: it accepts a PDF as a part of the type `file`. `key_header`: the header for the bare key; empty:
    `Authorization: Bearer`.
    """

    hosts: tuple[str, ...] = ()
    public: bool = True
    asks_usage: bool = True
    max_tokens: Literal["", "max_tokens", "max_completion_tokens"] = ""
    developer: bool = False
    null_content: bool = True
    blank_messages: bool = False
    call_ids: Literal["any", "short"] = "any"
    takes_back: tuple[str, ...] = TAKEN_BACK
    images: tuple[str, ...] = (PNG, JPEG, WEBP, GIF)
    pdfs: bool = False
    key_header: str = ""


DIALECTS: Mapping[str, Quirks] = {
    "generic": Quirks(public=False, pdfs=True),  # it may be a gateway to a provider that takes them
    "openai": Quirks(
        hosts=("api.openai.com", ".api.openai.com"),
        max_tokens="max_completion_tokens",  # its reasoning models refuse `max_tokens`
        developer=True,
        blank_messages=True,
        pdfs=True,  # https://developers.openai.com/api/docs/guides/file-inputs
    ),
    "azure": Quirks(
        hosts=(".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com"),
        public=False,  # the host name is the customer's resource
        developer=True,
        key_header="api-key",
    ),
    "mistral": Quirks(
        # Refuses every unknown field (422 `extra_forbidden`), and call ids that are not in its own form.
        hosts=("api.mistral.ai", "codestral.mistral.ai"),
        asks_usage=False,  # it sends the usage without being asked
        max_tokens="max_tokens",
        null_content=False,
        call_ids="short",
        takes_back=(),
    ),
    "gemini": Quirks(
        hosts=("generativelanguage.googleapis.com", ".aiplatform.googleapis.com"),
        images=(PNG, JPEG, WEBP),  # https://ai.google.dev/gemini-api/docs/image-understanding
    ),
    "openrouter": Quirks(
        hosts=("openrouter.ai",),
        pdfs=True,  # https://openrouter.ai/docs/features/multimodal/pdfs
    ),
    "groq": Quirks(hosts=("api.groq.com",)),
    "deepseek": Quirks(
        hosts=("api.deepseek.com",),
        max_tokens="max_tokens",
        images=(),  # https://github.com/rikkahub/rikkahub/issues/1433
    ),
    "kimi": Quirks(
        hosts=("api.moonshot.ai", "api.moonshot.cn", "api.kimi.com"), max_tokens="max_tokens", null_content=False
    ),
    "glm": Quirks(hosts=("api.z.ai", "open.bigmodel.cn"), max_tokens="max_tokens", null_content=False),
    "dashscope": Quirks(
        hosts=("dashscope.aliyuncs.com", "dashscope-intl.aliyuncs.com", "dashscope-us.aliyuncs.com"),
        max_tokens="max_tokens",
        null_content=False,
    ),
    # Servers on the operator's machines have no known host name: these rows apply only if the setting names them.
    "vllm": Quirks(public=False),
    "ollama": Quirks(public=False, max_tokens="max_tokens", null_content=False),
    "llamacpp": Quirks(public=False, max_tokens="max_tokens", images=(PNG, JPEG, GIF)),  # what stb_image decodes
    "lmstudio": Quirks(public=False, max_tokens="max_tokens", null_content=False),
    "koboldcpp": Quirks(public=False, max_tokens="max_tokens", null_content=False),
    "litellm": Quirks(
        public=False,
        developer=True,
        pdfs=True,  # https://docs.litellm.ai/docs/completion/document_understanding
    ),
}


def dialect_of(host: str) -> str:
    """The dialect of the server with this host name, `generic` if it is unknown."""
    name = host.rstrip(".")
    for dialect, quirks in DIALECTS.items():
        if any(name.endswith(each) if each.startswith(".") else name == each for each in quirks.hosts):
            return dialect
    return "generic"


def is_public(host: str) -> bool:
    """Whether the host name is a well-known provider's: it reveals nothing about the operator's network."""
    return host == "api.anthropic.com" or DIALECTS[dialect_of(host)].public


MAX_MODELS = 1_000  # clients choose the names of models, so the memory for them is bounded
MAX_REVISIONS = 4  # per answer
_UNKNOWN_FIELD = re.compile(
    r"unsupported|not supported|unknown|unrecogni[sz]ed|extra|not permitted|unexpected", re.IGNORECASE
)
_NULL_CONTENT = re.compile(r"\bcontent\b.{0,120}(null|none|nil|required|string|empty)", re.IGNORECASE | re.DOTALL)
_SHORT_IDS = re.compile(r"tool.?call.?id.{0,120}\b9\b", re.IGNORECASE | re.DOTALL)


class LearnedQuirks:
    """The quirks of one server: the row of the table, and per model what refused requests have taught."""

    def __init__(self, quirks: Quirks) -> None:
        self.quirks = quirks
        self._found: dict[str, Quirks] = {}

    def for_model(self, model: str) -> Quirks:
        """The quirks to use for this model."""
        return self._found.get(model, self.quirks)

    def remember(self, model: str, quirks: Quirks) -> None:
        """Use these quirks for this model from now on."""
        self._found.pop(model, None)
        self._found[model] = quirks
        if len(self._found) > MAX_MODELS:
            del self._found[next(iter(self._found))]


class ChatCompletionsRequest(ProviderRequest):
    """A chat completions request that can be sent again without the field that the server refused."""

    def __init__(self, learned: LearnedQuirks, prompt: Prompt, encode: Callable[[Prompt, Quirks], bytes]) -> None:
        """Raises `BadParameters` as `encode` does."""
        self._learned = learned
        self._prompt = prompt
        self._encode = encode
        self._quirks = learned.for_model(prompt.model)
        self._revisions = 0
        super().__init__(encode(prompt, self._quirks))
        self._sent_bodies = {hash(self.body)}

    def revise(self, status: int, response_body: bytes) -> bool:
        if status not in (400, 422) or self._revisions >= MAX_REVISIONS:
            return False
        quirks = _without_refused(self._quirks, response_body.decode(errors="replace"), self._prompt)
        body = self._encode(self._prompt, quirks)
        if hash(body) in self._sent_bodies:
            return False  # the refusal names no field that was sent, or one that was changed before
        self._revisions += 1
        self._sent_bodies.add(hash(body))
        self._quirks, self.body = quirks, body
        return True

    def accepted(self) -> None:
        if self._revisions:
            self._learned.remember(self._prompt.model, self._quirks)


def _without_refused(quirks: Quirks, message: str, prompt: Prompt) -> Quirks:
    """The quirks changed for each field that the refusal names; unchanged if it names none that can be changed."""
    if _names(message, "stream_options") and "stream_options" not in prompt.parameters:
        quirks = replace(quirks, asks_usage=False)
    kept = tuple(name for name in quirks.takes_back if name not in TAKEN_BACK or not _names(message, name))
    quirks = replace(quirks, takes_back=kept)
    if _names(message, "developer"):
        quirks = replace(quirks, developer=False)
    quirks = _with_limit_renamed(quirks, message, prompt)
    if _NULL_CONTENT.search(message):
        quirks = replace(quirks, null_content=False)
    if _SHORT_IDS.search(message):
        quirks = replace(quirks, call_ids="short")
    return quirks


def _with_limit_renamed(quirks: Quirks, message: str, prompt: Prompt) -> Quirks:
    """The quirks with the other name for the limit of an answer, if the name was refused and not its value."""
    given = next((name for name in ("max_tokens", "max_completion_tokens") if name in prompt.parameters), None)
    sent = given and (quirks.max_tokens or given)
    if sent is None or not _names(message, sent):
        return quirks
    other = "max_completion_tokens" if sent == "max_tokens" else "max_tokens"
    other_name_wanted = _names(message, other) or _UNKNOWN_FIELD.search(message)
    return replace(quirks, max_tokens=other) if other_name_wanted else quirks  # type: ignore[arg-type]


def _names(message: str, field: str) -> bool:
    return re.search(rf"(?<!\w){field}(?!\w)", message) is not None
