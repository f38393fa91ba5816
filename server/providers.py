"""Which providers this server can ask: made of the settings, and of the environment's proxies.

A provider is there when something of it is set (a key, or an address where none is needed). It knows no wire
format, and no secret leaves it: not in an error, not in a log line.
"""

from collections.abc import Mapping
from typing import TypeVar

from pydantic import ValidationError

from server import logs
from server.config import BadSettings, Settings
from server.upstream import AnthropicSettings, Limits, OpenAISettings, ProxyChoice, Upstreams, proxies_from

P = TypeVar("P", OpenAISettings, AnthropicSettings)

log = logs.get("providers")


def upstreams_from(settings: Settings, env: Mapping[str, str]) -> Upstreams:
    """The upstreams. `env` names the proxies (HTTPS_PROXY, NO_PROXY …).

    Raises `BadSettings`, which names the variable: whoever set it is to blame.
    """
    return Upstreams(
        openai=_provider("openai", OpenAISettings, settings, env, dialect=settings.openai_dialect),
        anthropic=_provider("anthropic", AnthropicSettings, settings, env),
    )


def _provider(name: str, kind: type[P], settings: Settings, env: Mapping[str, str], **more: str) -> P | None:
    if not {f"{name}_base_url", f"{name}_api_key"} & settings.model_fields_set:
        return None
    url = getattr(settings, f"{name}_base_url")
    try:
        choice = proxies_from(env, url)
    except ValueError as error:
        raise BadSettings(f"{name.upper()}_BASE_URL: {error}") from None
    try:
        provider = kind(
            base_url=url,
            api_key=getattr(settings, f"{name}_api_key"),
            limits=Limits(first_byte=settings.upstream_first_byte, idle=settings.upstream_stall),
            proxy=choice.proxy,
            **more,
        )
    except ValidationError as error:
        raise BadSettings("\n".join(_complaint(name, one, choice) for one in error.errors())) from None
    log.info("provider set up", provider=name, through_proxy=choice.proxy is not None, because=choice.why)
    return provider


def _complaint(name: str, problem: Mapping[str, object], choice: ProxyChoice) -> str:
    place = problem["loc"]
    field = str(place[0]) if isinstance(place, tuple) and place else ""
    variable = choice.why if field == "proxy" else f"{name}_{field}".upper()
    return f"{variable}: {str(problem['msg']).removeprefix('Value error, ')}"
