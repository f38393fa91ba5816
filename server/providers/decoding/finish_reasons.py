"""Finish reasons, in one table for all wire formats.

Owns what each provider's word for the end of an answer is called in the API, the words that mean a failure, and
the words that mean no end at all. A word that is in none of them is passed on as it is, and counts as an end that
was not the model's own. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

FINISH_REASONS: Mapping[str, str] = {
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
    # A limit ended it.
    "length": "length",
    "max_tokens": "length",  # Anthropic, Gemini
    "max_output_tokens": "length",
    "model_length": "length",  # Mistral
    "model_context_window_exceeded": "length",  # Anthropic, GLM
    # A filter ended it, or the model refused.
    "content_filter": "content_filter",
    "safety": "content_filter",  # Gemini
    "prohibited_content": "content_filter",  # Gemini
    "recitation": "content_filter",  # Gemini
    "blocklist": "content_filter",  # Gemini
    "sensitive": "content_filter",  # GLM
    "refusal": "refusal",  # Anthropic
}
"""The finish reasons of the API by the provider's word, in lower case."""

FAILURES = frozenset(
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
"""Reasons that mean that the answer failed at the provider: not an end, but an error."""
_FAILURE = re.compile(r"(?<![a-z])(error|fail(ed|ure)?|time[d_ -]*out|malformed|exception|unavailable)(?![a-z])")
"""Failure words that `FAILURES` does not list: `server_error`, `TIMEOUT`, `MALFORMED_FUNCTION_CALL`."""
NOT_YET = frozenset({"", "null", "none"})
"""Texts that mean "not finished yet": some gateways write the null of every chunk as one of these."""


def finish_reason(word: str) -> str | None:
    """The API's finish reason for a provider's word; None if the word says that the answer failed."""
    low = word.lower()
    return None if low in FAILURES or _FAILURE.search(low) else FINISH_REASONS.get(low, word)
