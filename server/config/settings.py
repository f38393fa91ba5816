"""The settings: names, defaults, units, bounds. An unknown name or a bad value is refused at start.

Owns the table of settings and their messages. Every `TOKENTAPE_…` variable must be a known one, because a typo
that is ignored at start is found in production. A secret's value is never shown. It must not know what the
settings do.
"""

import base64
import difflib
import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.sources import EnvSettingsSource

from eventstore.postgres.database_url import parse_database_url
from server.config.web_addresses import PublicUrl, check_key_place, parse_host, parse_origin
from server.config.webhook_signing_keys import SigningKey, parse_signing_keys

PREFIX = "TOKENTAPE_"
LISTS = ("allowed_hosts", "allowed_origins", "trusted_proxies", "workflows", "webhook_ports")
"""Settings that hold several values, written with commas."""
PROVIDERS = ("openai_", "anthropic_")
"""Prefixes of the settings that are read from a provider's own variable (`OPENAI_API_KEY`): these have no flag."""
SECRETS = ("webhook_secret", "webhook_signing_key")
"""Tokentape's own settings without a flag: every user of a machine can read its processes' command lines."""


class BadSettings(Exception):
    """The settings are wrong; the operator is to blame. The message names each setting, its value and what is
    right."""


def _postgres_url(value: str) -> str:
    if not value.startswith("postgres"):
        raise ValueError("it has to look like postgresql://user:password@host:5432/database")
    parse_database_url(value)  # raises a ValueError that says what is wrong with it
    return value


def _http_url(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("it has to start with http:// or https://")
    return value


def _bind(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise ValueError("it has to look like 127.0.0.1:8000 or [::1]:8000; port 0 takes a free one")
    return value


def _folder(value: Any) -> Any:
    if value == "":  # Path('') is the current folder
        raise ValueError("it has to name a folder")
    return value


def _file(value: Any) -> Any:
    if value == "":
        raise ValueError("it has to name a file")
    return value


def _signing_secret(value: SecretStr) -> SecretStr:
    # Validated strictly: the signing library skips characters that are no base64 and signs with the rest.
    text = value.get_secret_value()
    rest = text.removeprefix("whsec_")
    try:
        size = len(base64.b64decode(rest + "=" * (-len(rest) % 4), validate=True))
    except ValueError:
        size = 0
    if rest == text or not 24 <= size <= 64:
        raise ValueError(
            "it has to be whsec_ and the base64 of 24 to 64 random bytes, as from: "
            "echo whsec_$(head -c 32 /dev/urandom | base64)"
        )
    return value


def _ports(value: str) -> str:
    first, dash, last = value.partition("-")
    for port in (first, last) if dash else (first,):
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
            raise ValueError("it has to be a port or a range of ports, such as 443 or 8000-8999")
    if dash and int(first) > int(last):
        raise ValueError("the range ends before it begins")
    return value


def _key_place(value: str) -> str:
    check_key_place(value)
    return value


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value)
    except ValueError as error:
        raise ValueError(f"{error}; it has to look like 10.0.0.7 or 10.0.0.0/8, with commas between") from None
    return value


def _names(value: Any) -> Any:
    return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


def _public_url(value: str) -> str:
    PublicUrl(value)
    return value


def _signing_keys(value: SecretStr) -> SecretStr:
    parse_signing_keys(value.get_secret_value())  # raises a ValueError that says what is wrong with which key
    return value


PostgresUrl = Annotated[str, AfterValidator(_postgres_url)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
Names = Annotated[tuple[str, ...], NoDecode, Field(default=())]
Hosts = Annotated[tuple[Annotated[str, AfterValidator(parse_host)], ...], NoDecode, Field(default=())]
Origins = Annotated[tuple[Annotated[str, AfterValidator(parse_origin)], ...], NoDecode, Field(default=())]
Ports = Annotated[tuple[Annotated[str, AfterValidator(_ports)], ...], NoDecode, Field(default=())]
Networks = Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], NoDecode, Field(default=())]
File = Annotated[Path, BeforeValidator(_file)]
KeyPlace = Annotated[str, AfterValidator(_key_place)]
Text = Annotated[str, Field(min_length=1)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


class Settings(BaseSettings):
    """All settings of `tokentape serve`. Each is `TOKENTAPE_` plus its name, or a flag of the same name.

    An empty variable counts as unset: that is how compose files and shells leave one out.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", validate_default=True
    )

    bind: Annotated[str, AfterValidator(_bind)] = Field(
        "127.0.0.1:8000", description="address and port to listen on"
    )
    # repr=False: a URL may hold a password, and settings are printed in errors and logs.
    database_url: PostgresUrl | None = Field(
        None, repr=False, description="the Postgres to use; default: an embedded one"
    )
    database_owner_url: PostgresUrl | None = Field(
        None, repr=False, description="the same database as the role that owns the tables (migrations, retention)"
    )
    migrate: bool = Field(False, description="bring --database-url to this version's schema first, then serve")
    data_dir: Annotated[Path | None, BeforeValidator(_folder)] = Field(
        None, description="where the embedded database lives; may not exist yet"
    )
    allowed_hosts: Hosts = Field((), description="names clients may call this server by, besides the bind address")
    allowed_origins: Origins = Field(
        (), description="origins of web pages that may post and read, besides the server's own"
    )
    public_url: Annotated[str, AfterValidator(_public_url)] | None = Field(
        None, description="where clients find this server, behind a proxy: https://example.org/tape"
    )
    require_keys: bool = Field(False, description="ask callers for a key or a token although no key was ever made")
    allow_anonymous: bool = Field(
        False, description="listen on the network although anybody who reaches the port may do everything"
    )
    session_seconds: Seconds = Field(43_200.0, description="seconds that a browser stays signed in")
    jwt_keys: KeyPlace | None = Field(
        None, description="file or URL of the keys that sign the tokens of your app's users"
    )
    jwt_issuer: Text | None = Field(None, description="what `iss` of such a token has to be")
    jwt_audience: Text | None = Field(None, description="what `aud` of such a token has to name")
    workflows: Names = Field((), description="modules with workflows and tools to load: package.module")
    ephemeral_seconds: Seconds = Field(600.0, description="seconds that ephemeral results live after their end")
    tls: bool = Field(False, description="HTTPS and HTTP/2, with a certificate made for this machine")
    certfile: File | None = Field(None, description="HTTPS and HTTP/2, with the certificate in this file")
    keyfile: File | None = Field(None, description="the private key of --certfile")
    log_format: Literal["auto", "json", "text"] = Field("auto", description="log lines as JSON or for people")
    stop_timeout: Seconds = Field(10.0, description="seconds from SIGTERM to the end, at most")
    stall_timeout: Seconds = Field(120.0, description="seconds after which a client that takes no byte is cut off")
    stream_max_seconds: Seconds | None = Field(None, description="ends streams cleanly after this many seconds")
    heartbeat: Seconds = Field(15.0, description="seconds between signs of life on a quiet stream")
    store_patience: Seconds = Field(30.0, description="seconds to wait for a database that is away")
    limits: Text | None = Field(
        None, description="what callers may use: key.requests=20/s,user.runs=3,tenant.tokens=1000000/day"
    )
    max_runs: int = Field(500, ge=1, le=100_000, description="generations running in this process at once")
    max_streams: int = Field(10_000, ge=1, le=1_000_000, description="open streams and WebSockets of this process")
    max_connections: int | None = Field(
        None, ge=1, le=2_000_000, description="open connections; default: a quarter more than streams, and 100"
    )
    max_connections_per_address: int = Field(
        1_000, ge=1, le=2_000_000, description="open connections from one address, this machine's excepted"
    )
    trusted_proxies: Networks = Field(
        (), description="addresses and networks that bring many clients' connections: 10.0.0.0/8"
    )
    keep_alive: Seconds = Field(75.0, description="seconds that a connection stays open between two requests")
    max_unsent: int = Field(
        64 * 1_048_576,
        ge=1_048_576,
        le=1 << 40,
        description="bytes of answers held for slow clients, at most",
    )
    max_body: int = Field(1_048_576, ge=1_024, le=64 * 1_048_576, description="bytes of a request body, at most")
    max_file: int = Field(32 * 1_048_576, ge=1_024, le=1 << 30, description="bytes of an uploaded file, at most")
    file_unused_seconds: Annotated[float, Field(gt=0, le=30 * 86_400, allow_inf_nan=False)] = Field(
        86_400.0, description="seconds that an uploaded file is kept before a conversation uses it"
    )
    upstream_first_byte: Seconds = Field(600.0, description="seconds until an upstream has to begin to answer")
    upstream_stall: Seconds = Field(600.0, description="seconds of silence after which an upstream is given up")
    prices: File | None = Field(None, description="what models cost, for budgets and usage: a TOML file")
    webhook_secret: Annotated[SecretStr, AfterValidator(_signing_secret)] | None = Field(
        None, description="signs webhooks (v1); without it and without a signing key none is taken"
    )
    webhook_signing_key: Annotated[SecretStr, AfterValidator(_signing_keys)] | None = Field(
        None, description="signs webhooks so that receivers need no secret (v1a): whsk_…, several with commas"
    )
    webhook_allow_private: bool = Field(False, description="webhooks may go to addresses that are not public")
    webhook_ports: Ports = Field(
        (),
        description="ports that webhooks may go to: 443,8000-8999; default: 80,443,8080,8443, and any port where "
        "addresses that are not public are allowed",
    )
    openai_base_url: HttpUrl = Field("https://api.openai.com/v1", repr=False, validation_alias="OPENAI_BASE_URL")
    openai_api_key: SecretStr | None = Field(None, validation_alias="OPENAI_API_KEY")
    openai_dialect: str = Field("", validation_alias="OPENAI_DIALECT")
    anthropic_base_url: HttpUrl = Field(
        "https://api.anthropic.com", repr=False, validation_alias="ANTHROPIC_BASE_URL"
    )
    anthropic_api_key: SecretStr | None = Field(None, validation_alias="ANTHROPIC_API_KEY")

    @property
    def webhook_signing_keys(self) -> tuple[SigningKey, ...]:
        """The key pairs that sign webhooks; while keys are changed there are several."""
        given = self.webhook_signing_key
        return () if given is None else parse_signing_keys(given.get_secret_value())

    @property
    def connections(self) -> int:
        """The limit of open connections: more than of streams, because polls and commands need connections too."""
        if self.max_connections is None:
            return self.max_streams + self.max_streams // 4 + 100
        return self.max_connections

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags before the environment; no files are read."""
        return init_settings, _Environment(settings_cls)


class _Environment(EnvSettingsSource):
    """The environment, in which lists are written with commas."""

    def prepare_field_value(self, field_name: str, field: Any, value: Any, value_is_complex: bool) -> Any:
        if field_name in LISTS:
            return _names(value)
        return super().prepare_field_value(field_name, field, value, value_is_complex)


OWN = tuple(name for name in Settings.model_fields if not name.startswith((*PROVIDERS, *SECRETS)))
"""The names of Tokentape's own settings: those that have a flag."""

CLIENTS = ("url", "cacert", "key")
"""`TOKENTAPE_URL`, `TOKENTAPE_CACERT` and `TOKENTAPE_KEY` are read by the commands that talk to a server."""


def load(flags: Mapping[str, Any] | None = None) -> Settings:
    """The settings from `flags`, where None means not given, and from the environment. Raises `BadSettings`."""
    known = {PREFIX + name.upper() for name in (*OWN, *SECRETS, *CLIENTS)}
    # In any case of letters, as pydantic-settings reads them.
    named = sorted(name for name in os.environ if name.upper().startswith(PREFIX))
    complaints = [_unknown(name) for name in named if name.upper() not in known]
    given = {name: _names(value) if name in LISTS else value for name, value in (flags or {}).items()}
    settings = None
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        complaints += [_complaint(problem, given) for problem in error.errors()]
    if complaints or settings is None:
        raise BadSettings("\n".join(complaints))
    if settings.database_url is None and settings.database_owner_url is not None:
        raise BadSettings(
            "TOKENTAPE_DATABASE_OWNER_URL is set but TOKENTAPE_DATABASE_URL is not: set both, or neither"
        )
    if (settings.certfile is None) != (settings.keyfile is None):
        one, other = ("CERTFILE", "KEYFILE") if settings.keyfile is None else ("KEYFILE", "CERTFILE")
        raise BadSettings(f"TOKENTAPE_{one} is set but TOKENTAPE_{other} is not: set both, or neither")
    if settings.require_keys and settings.allow_anonymous:
        raise BadSettings("TOKENTAPE_REQUIRE_KEYS and TOKENTAPE_ALLOW_ANONYMOUS are both set: leave out one")
    for name in ("jwt_issuer", "jwt_audience"):
        if getattr(settings, name) is not None and settings.jwt_keys is None:
            raise BadSettings(
                f"{PREFIX}{name.upper()} is set but TOKENTAPE_JWT_KEYS is not: no token is taken without keys"
            )
    if settings.tls and settings.certfile is not None:
        raise BadSettings(
            "TOKENTAPE_TLS and TOKENTAPE_CERTFILE are both set: leave out TOKENTAPE_TLS to serve with your "
            "certificate, or TOKENTAPE_CERTFILE and TOKENTAPE_KEYFILE to have one made"
        )
    return settings


def _unknown(name: str) -> str:
    own = {field.upper(): PREFIX + field.upper() for field in (*Settings.model_fields, *CLIENTS)}
    own |= {field: field for field in own if field.lower().startswith(PROVIDERS)}
    close = difflib.get_close_matches(name.upper().removeprefix(PREFIX), own, n=1)
    hint = f"did you mean {own[close[0]]}?" if close else "`tokentape serve --help` lists the known ones"
    return f"{name} is not a setting: {hint}"


def _complaint(problem: Any, flags: Mapping[str, Any]) -> str:
    place = str(problem["loc"][0])
    name = place if place.isupper() else PREFIX + place.upper()
    if flags.get(place) is not None:
        name = "--" + place.replace("_", "-")
    secret = (
        ("key" in place.lower() and place not in ("keyfile", "require_keys"))
        or "url" in place.lower()
        or place in SECRETS
    )
    value = "(not shown)" if secret else repr(problem["input"])
    return f"{name} = {value}: {problem['msg'].removeprefix('Value error, ')}"
