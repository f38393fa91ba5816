"""Which upstreams there are, by the name a client asks for.

Owns the prefixes (`demo`, `openai/…`, `anthropic/…`) and the text that tells a client what there is to ask for.
Must not know how an upstream works, nor read the environment: settings are handed in.
"""

from __future__ import annotations

import trio

from .anthropic import Anthropic, AnthropicSettings
from .demo import Demo
from .errors import UnknownModel
from .model import Upstream
from .openai import OpenAI, OpenAISettings
from .provider import Provider

__all__ = ["Upstreams"]

_HOW = {
    "openai": "openai/<name> (set OPENAI_API_KEY, or OPENAI_BASE_URL for a server without keys)",
    "anthropic": "anthropic/<name> (set ANTHROPIC_API_KEY)",
}


class Upstreams:
    """The upstreams of one server. None: not configured; `demo` is always there."""

    def __init__(self, openai: OpenAISettings | None = None, anthropic: AnthropicSettings | None = None) -> None:
        self._whole: dict[str, Upstream] = {"demo": Demo()}
        self._providers: dict[str, Provider] = {}
        if openai is not None:
            self._providers["openai"] = OpenAI(openai)
        if anthropic is not None:
            self._providers["anthropic"] = Anthropic(anthropic)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep connections from one answer for the next, until cancelled; then close all that are idle.

        Whoever does not run this has a new connection for every answer, and none between two of them.
        """
        async with trio.open_nursery() as nursery:
            for provider in self._providers.values():
                await nursery.start(provider.pool.run)
            task_status.started()

    def unknown(self) -> dict[str, int]:
        """How many messages nobody understood, by provider."""
        return {name: provider.unknown for name, provider in self._providers.items()}

    def available(self) -> list[str]:
        """The models one can ask for, as shown to people: `demo`, `openai/<name>`, `anthropic/<name>`."""
        return [*self._whole, *(f"{prefix}/<name>" for prefix in self._providers)]

    def resolve(self, model: str) -> tuple[Upstream, str]:
        """The upstream for a model and the model's name there. Raises `UnknownModel` (the client's fault)."""
        if model in self._whole:
            return self._whole[model], model
        prefix, _, name = model.partition("/")
        if name and prefix in self._providers:
            return self._providers[prefix], name
        text = f"unknown model {model[:100]!a}; available: {', '.join(self.available())}"
        missing = [how for prefix, how in _HOW.items() if prefix not in self._providers]
        if missing:
            text += f"; not configured: {', '.join(missing)}"
        raise UnknownModel(text)
