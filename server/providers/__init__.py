"""The providers of answers: a small, fast streaming client for OpenAI, Anthropic and compatible servers, and a
demo.

Owns everything between a prompt and the chunks of its answer: request bodies, retries before the first token,
decoding, error mapping. One adapter per provider. Must not know the log or the web.
"""

from server.http_client.proxy import ProxyChoice, choose_proxy
from server.http_client.streaming_request import Timeouts
from server.message_parts import Content, FilePart, ImagePart, Part, TextPart

from .anthropic import AnthropicSettings
from .interface import (
    CODES,
    TOOL_NAME,
    Answer,
    ArgumentsDelta,
    BadParameters,
    Chunk,
    Finish,
    Message,
    Prompt,
    Provider,
    Reasoning,
    ToolCall,
    ToolSpec,
    UnknownModel,
    UpstreamError,
)
from .openai import OpenAISettings
from .registry import ProviderRegistry
from .retry_policy import RetryPolicy

__all__ = [
    "CODES",
    "TOOL_NAME",
    "Answer",
    "AnthropicSettings",
    "ArgumentsDelta",
    "BadParameters",
    "Chunk",
    "Content",
    "FilePart",
    "Finish",
    "ImagePart",
    "Message",
    "OpenAISettings",
    "Part",
    "Prompt",
    "Provider",
    "ProviderRegistry",
    "ProxyChoice",
    "Reasoning",
    "RetryPolicy",
    "TextPart",
    "Timeouts",
    "ToolCall",
    "ToolSpec",
    "UnknownModel",
    "UpstreamError",
    "choose_proxy",
]
