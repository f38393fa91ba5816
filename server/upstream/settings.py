"""What every provider's settings have in common: where it is, the key, limits and retries.

Owns which values can be used, checked once, when the settings are read. Must not know any provider, nor where
settings come from. Its errors show no input, for people put keys and passwords into the wrong field.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, SecretStr, field_validator

from .address import parse_base_url
from .http import Limits
from .proxy import Proxy, is_excluded, parse_proxy_url
from .retry import RetryPolicy

__all__ = ["ProviderSettings"]


class ProviderSettings(BaseModel):
    """Where the provider is and how to speak to it. Raises pydantic's ValidationError, which shows no input.

    `api_key` may be None (servers on one's own machine). `base_url` is http or https, without user, query or
    fragment; a provider's own class has the default. `proxy`: `http://user:password@host:port`, or None; it is
    used unless `no_proxy`, a list like NO_PROXY, has the address. (`proxies_from` reads the environment.)
    """

    # Without hide_input a typing error would print the key, or a password in the URL, to the log.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    base_url: str
    api_key: SecretStr | None = None
    limits: Limits = Limits()
    retry: RetryPolicy = RetryPolicy()
    proxy: SecretStr | None = None
    no_proxy: str = ""

    @property
    def key(self) -> str | None:
        """The key in clear; for one header, and for striking it out of others' words."""
        return self.api_key.get_secret_value() if self.api_key else None

    def route(self) -> Proxy | None:
        """The proxy to go through, None to go directly."""
        if self.proxy is None or is_excluded(parse_base_url(self.base_url), self.no_proxy):
            return None
        return parse_proxy_url(self.proxy.get_secret_value())

    @field_validator("base_url")
    @classmethod
    def _can_be_reached(cls, url: str) -> str:
        parse_base_url(url)
        return url

    @field_validator("proxy")
    @classmethod
    def _is_a_proxy(cls, url: SecretStr | None) -> SecretStr | None:
        if not url or not url.get_secret_value():
            return None
        parse_proxy_url(url.get_secret_value())
        return url

    @field_validator("api_key")
    @classmethod
    def _fits_a_header(cls, key: SecretStr | None) -> SecretStr | None:
        text = key.get_secret_value().strip() if key else ""  # a key read from a file ends with a line end
        if not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError("must be printable ASCII without spaces")
        return SecretStr(text) if text else None
