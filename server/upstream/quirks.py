"""What servers of OpenAI's wire format want otherwise than OpenAI: one table, by the server's name and address.

Owns which dialect a base URL speaks, unless a setting names it, and what is sent in it. Data: a row is a server, a
field a difference; what no row says is as `Quirks` has it. What a server refuses beyond that is found out when it
says so (`fallback`). Sources: the providers' own documentation, and what their users report of refused requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["DIALECTS", "SIGNED", "TAKEN_BACK", "Quirks", "dialect_of", "is_public"]

SIGNED = ("extra_content", "provider_specific_fields")
"""Opaque fields of a call: Gemini's, and LiteLLM's name for the same."""
TAKEN_BACK = ("reasoning_content", "reasoning", "reasoning_details", *SIGNED)
"""Fields of an assistant's message and of its calls that go back to the server that sent them."""


@dataclass(frozen=True, slots=True)
class Quirks:
    """One dialect. The defaults suit a server that nobody knows.

    `hosts`: host names that speak it; a leading dot stands for any name below. `public`: they are known to
    everybody, and no secret of the operator's. `asks_usage`: takes `stream_options`. `max_tokens`: what the
    parameter of that name, or of the other, is called here; empty: as the client wrote it. `developer`: knows the
    role; else it is `system`. `null_content`: takes null beside calls; else an empty text. `blank_messages`: takes
    messages of nothing; else they are left out. `call_ids`: "short" for exactly nine letters and digits.
    `takes_back`: the fields of `TAKEN_BACK` that it takes. `key_header`: the header that holds the key, bare;
    empty: `Authorization: Bearer`.
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
    key_header: str = ""


DIALECTS: Mapping[str, Quirks] = {
    "generic": Quirks(public=False),
    "openai": Quirks(
        hosts=("api.openai.com", ".api.openai.com"),
        max_tokens="max_completion_tokens",  # its reasoning models refuse `max_tokens`
        developer=True,
        blank_messages=True,
    ),
    "azure": Quirks(
        hosts=(".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com"),
        public=False,  # the name is the customer's resource
        developer=True,
        key_header="api-key",
    ),
    "mistral": Quirks(
        # Refuses every field that it does not know (422 `extra_forbidden`), and ids of calls that are not its own.
        hosts=("api.mistral.ai", "codestral.mistral.ai"),
        asks_usage=False,  # it tells the usage unasked
        max_tokens="max_tokens",
        null_content=False,
        call_ids="short",
        takes_back=(),
    ),
    "gemini": Quirks(hosts=("generativelanguage.googleapis.com", ".aiplatform.googleapis.com")),
    "openrouter": Quirks(hosts=("openrouter.ai",)),
    "groq": Quirks(hosts=("api.groq.com",)),
    "deepseek": Quirks(hosts=("api.deepseek.com",), max_tokens="max_tokens"),
    "kimi": Quirks(
        hosts=("api.moonshot.ai", "api.moonshot.cn", "api.kimi.com"), max_tokens="max_tokens", null_content=False
    ),
    "glm": Quirks(hosts=("api.z.ai", "open.bigmodel.cn"), max_tokens="max_tokens", null_content=False),
    "dashscope": Quirks(
        hosts=("dashscope.aliyuncs.com", "dashscope-intl.aliyuncs.com", "dashscope-us.aliyuncs.com"),
        max_tokens="max_tokens",
        null_content=False,
    ),
    # Servers on one's own machines have no address that would tell them; these are names for the setting.
    "vllm": Quirks(public=False),
    "ollama": Quirks(public=False, max_tokens="max_tokens", null_content=False),
    "llamacpp": Quirks(public=False, max_tokens="max_tokens"),
    "lmstudio": Quirks(public=False, max_tokens="max_tokens", null_content=False),
    "koboldcpp": Quirks(public=False, max_tokens="max_tokens", null_content=False),
    "litellm": Quirks(public=False, developer=True),
}


def dialect_of(host: str) -> str:
    """The dialect that the server of this name speaks, `generic` if nobody knows."""
    name = host.rstrip(".")
    for dialect, quirks in DIALECTS.items():
        if any(name.endswith(each) if each.startswith(".") else name == each for each in quirks.hosts):
            return dialect
    return "generic"


def is_public(host: str) -> bool:
    """Whether the host is a provider that everybody knows, and thus no secret of the operator's."""
    return host == "api.anthropic.com" or DIALECTS[dialect_of(host)].public
