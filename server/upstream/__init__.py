"""The upstream room: a small, fast streaming client to the providers of answers.

Owns everything between a prompt and its text: providers' wire formats, HTTP, retries before the first token, and
the built-in `demo`. One adapter a provider. Must not know the log, the web or settings' sources; imports nothing
else of the server.
"""

from .anthropic import AnthropicSettings
from .errors import CODES, BadParameters, UnknownModel, UpstreamError
from .http import Limits
from .model import (
    TOOL_NAME,
    Answer,
    ArgumentsDelta,
    Chunk,
    Finish,
    Message,
    Prompt,
    Reasoning,
    ToolCall,
    ToolSpec,
    Upstream,
)
from .openai import OpenAISettings
from .proxy import ProxyChoice, proxies_from
from .registry import Upstreams
from .retry import RetryPolicy

__all__ = [
    "CODES",
    "TOOL_NAME",
    "Answer",
    "AnthropicSettings",
    "ArgumentsDelta",
    "BadParameters",
    "Chunk",
    "Finish",
    "Limits",
    "Message",
    "OpenAISettings",
    "Prompt",
    "ProxyChoice",
    "Reasoning",
    "RetryPolicy",
    "ToolCall",
    "ToolSpec",
    "UnknownModel",
    "Upstream",
    "UpstreamError",
    "Upstreams",
    "proxies_from",
]
