"""Why an answer ended, in one vocabulary: what providers say, what it is called here, and what is no end at all.

Owns the one table of finish reasons, for every wire format. Data, and one look-up; must not know wire formats.
A word that is not in it is passed on as it is, and counts as an end that was not the model's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["BROKEN", "NOT_YET", "REASONS", "reason_in"]

REASONS: Mapping[str, str] = {
    # The model ended it.
    "stop": "stop",
    "end_turn": "stop",  # Anthropic; gateways in front of it on OpenAI's wire, too
    "stop_sequence": "stop",  # Anthropic
    "eos": "stop",  # Together, text-generation-inference
    "eos_token": "stop",
    "complete": "stop",  # Cohere
    "tool_calls": "tool_calls",
    "tool_call": "tool_calls",
    "tool_use": "tool_calls",  # Anthropic
    "function_call": "tool_calls",  # OpenAI before tools
    # It was cut.
    "length": "length",
    "max_tokens": "length",  # Anthropic, Gemini
    "max_output_tokens": "length",
    "model_length": "length",  # Mistral
    "model_context_window_exceeded": "length",  # Anthropic, GLM
    # It was taken away.
    "content_filter": "content_filter",
    "safety": "content_filter",  # Gemini
    "prohibited_content": "content_filter",  # Gemini
    "recitation": "content_filter",  # Gemini
    "blocklist": "content_filter",  # Gemini
    "sensitive": "content_filter",  # GLM
    "refusal": "refusal",  # Anthropic
}
"""By the provider's word in lower case."""

BROKEN = frozenset(
    {
        "error",  # OpenRouter, Mistral, vLLM
        "abort",  # vLLM and SGLang: the engine was stopped
        "aborted",
        "network_error",  # GLM
        "insufficient_system_resource",  # DeepSeek
        "cancelled",
        "canceled",
    }
)
"""Words for an answer that failed at the provider: no way to end one."""
_FAILED = re.compile(r"(?<![a-z])(error|fail(ed|ure)?|time[d_ -]*out|malformed|exception|unavailable)(?![a-z])")
"""What those words have in common that nobody has listed: `server_error`, `TIMEOUT`, `MALFORMED_FUNCTION_CALL`."""
NOT_YET = frozenset({"", "null", "none"})
"""No reason, though a text stands in its place: some gateways write the null of every chunk like this."""


def reason_in(word: str) -> str | None:
    """Our word for a provider's; None if it says that the answer failed."""
    low = word.lower()
    return None if low in BROKEN or _FAILED.search(low) else REASONS.get(low, word)
