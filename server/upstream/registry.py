"""Which upstreams there are, by the name a client asks for.

Owns the prefixes (`demo`, `openai/…`) and the text that tells a client what it could have asked for. Must not know
how an upstream works, nor read the environment: settings are handed in.
"""

from __future__ import annotations

from .demo import Demo
from .errors import UnknownModel
from .model import Upstream
from .openai import OpenAI, OpenAISettings

__all__ = ["Upstreams"]


class Upstreams:
    """The upstreams of one server. `openai=None`: not configured; `demo` is always there."""

    def __init__(self, openai: OpenAISettings | None = None) -> None:
        self._whole: dict[str, Upstream] = {"demo": Demo()}
        self._prefixed: dict[str, Upstream] = {}
        self._missing: list[str] = []
        if openai is not None:
            self._prefixed["openai"] = OpenAI(openai)
        else:
            self._missing.append(
                "openai/<name> (set OPENAI_API_KEY, or OPENAI_BASE_URL for a server without keys)"
            )

    def available(self) -> list[str]:
        """The models one can ask for, as shown to people: `demo`, `openai/<name>`."""
        return [*self._whole, *(f"{prefix}/<name>" for prefix in self._prefixed)]

    def resolve(self, model: str) -> tuple[Upstream, str]:
        """The upstream for a model and the model's name there. Raises `UnknownModel` (the client's fault)."""
        if model in self._whole:
            return self._whole[model], model
        prefix, _, name = model.partition("/")
        if name and prefix in self._prefixed:
            return self._prefixed[prefix], name
        text = f"unknown model {model[:100]!a}; available: {', '.join(self.available())}"
        if self._missing:
            text += f"; not configured: {', '.join(self._missing)}"
        raise UnknownModel(text)
