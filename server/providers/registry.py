"""The providers of this server, by the name a client asks for.

Owns the prefixes (`demo`, `openai/…`, `anthropic/…`), the making of providers from the settings and the proxies of
the environment, and the text that tells a client which models are available. A provider exists if a setting of it
is given: a key, or an address where no key is needed. Must not know any provider's format. No secret leaves this
file, neither in an error nor in a log line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import trio
from pydantic import ValidationError

from server.config import BadSettings, Settings
from server.http_client.proxy import ProxyChoice, choose_proxy
from server.http_client.streaming_request import Timeouts
from server.observability import logs

from .anthropic import Anthropic, AnthropicSettings
from .demo import Demo
from .http_provider import HttpProvider
from .interface import Provider, UnknownModel
from .openai import OpenAI, OpenAISettings

P = TypeVar("P", OpenAISettings, AnthropicSettings)

log = logs.get("providers")

_HOW_TO_CONFIGURE = {
    "openai": "openai/<name> (set OPENAI_API_KEY, or OPENAI_BASE_URL for a server without keys)",
    "anthropic": "anthropic/<name> (set ANTHROPIC_API_KEY)",
}


class ProviderRegistry:
    """The providers of one server. A provider given as None is not configured; `demo` is always there."""

    def __init__(self, openai: OpenAISettings | None = None, anthropic: AnthropicSettings | None = None) -> None:
        self._builtin: dict[str, Provider] = {"demo": Demo()}
        self._providers: dict[str, HttpProvider] = {}
        if openai is not None:
            self._providers["openai"] = OpenAI(openai)
        if anthropic is not None:
            self._providers["anthropic"] = Anthropic(anthropic)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep idle connections for the next answer, until cancelled; then close them.

        Without this task every answer makes a new connection and closes it.
        """
        async with trio.open_nursery() as nursery:
            for provider in self._providers.values():
                await nursery.start(provider.pool.run)
            task_status.started()

    def unknown(self) -> dict[str, int]:
        """How many messages were not understood so far, by provider."""
        return {name: provider.unknown for name, provider in self._providers.items()}

    def available(self) -> list[str]:
        """The available models as shown to people: `demo`, `openai/<name>`, `anthropic/<name>`."""
        return [*self._builtin, *(f"{prefix}/<name>" for prefix in self._providers)]

    def resolve(self, model: str) -> tuple[Provider, str]:
        """The provider of a model, and the model's name there. Raises `UnknownModel` (the client's fault)."""
        if model in self._builtin:
            return self._builtin[model], model
        prefix, _, name = model.partition("/")
        if name and prefix in self._providers:
            return self._providers[prefix], name
        text = f"unknown model {model[:100]!a}; available: {', '.join(self.available())}"
        missing = [how for prefix, how in _HOW_TO_CONFIGURE.items() if prefix not in self._providers]
        if missing:
            text += f"; not configured: {', '.join(missing)}"
        raise UnknownModel(text)


def providers_from(settings: Settings, env: Mapping[str, str]) -> ProviderRegistry:
    """The registry that the settings describe. `env` names the proxies (HTTPS_PROXY, NO_PROXY …).

    Raises `BadSettings` (the operator's fault), which names the variable.
    """
    return ProviderRegistry(
        openai=_settings_of("openai", OpenAISettings, settings, env, dialect=settings.openai_dialect),
        anthropic=_settings_of("anthropic", AnthropicSettings, settings, env),
    )


def _settings_of(name: str, kind: type[P], settings: Settings, env: Mapping[str, str], **more: str) -> P | None:
    if not {f"{name}_base_url", f"{name}_api_key"} & settings.model_fields_set:
        return None
    url = getattr(settings, f"{name}_base_url")
    try:
        choice = choose_proxy(env, url)
    except ValueError as error:
        raise BadSettings(f"{name.upper()}_BASE_URL: {error}") from None
    try:
        provider_settings = kind(
            base_url=url,
            api_key=getattr(settings, f"{name}_api_key"),
            timeouts=Timeouts(first_byte=settings.upstream_first_byte, idle=settings.upstream_stall),
            proxy=choice.proxy,
            **more,
        )
    except ValidationError as error:
        raise BadSettings("\n".join(_error_line(name, one, choice) for one in error.errors())) from None
    log.info("provider set up", provider=name, through_proxy=choice.proxy is not None, because=choice.why)
    return provider_settings


def _error_line(name: str, error: Mapping[str, object], choice: ProxyChoice) -> str:
    location = error["loc"]
    field = str(location[0]) if isinstance(location, tuple) and location else ""
    variable = choice.why if field == "proxy" else f"{name}_{field}".upper()
    return f"{variable}: {str(error['msg']).removeprefix('Value error, ')}"
