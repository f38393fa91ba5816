"""Where each setting comes from, and what of its value may be shown. Reads nothing by itself."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from server.cli.terminal_escape import clean_line
from server.client.address import DEFAULT
from server.config import Settings
from server.config.settings import CLIENTS, PREFIX

_SECRET_QUERY = re.compile(r"(?i)(^|&)([^=&]*(?:pass|secret|key|token)[^=&]*)=[^&]*")
HIDDEN = "(not shown)"


@dataclass(frozen=True, slots=True)
class Row:
    """One setting. `origin`: `default`, `--flag`, or the variable's name as it stands in the environment."""

    name: str
    variable: str
    value: Any
    origin: str

    @property
    def shown(self) -> str:
        """The value for people."""
        if self.value is None:
            return "not set"
        if isinstance(self.value, bool):
            return "yes" if self.value else "no"
        return clean_line((", ".join(self.value) or "none") if isinstance(self.value, list) else str(self.value))

    def fields(self) -> dict[str, Any]:
        """For `--json`."""
        return {"name": self.name, "variable": self.variable, "value": self.value, "from": self.origin}


def rows(settings: Settings | None, flags: Mapping[str, Any], environ: Mapping[str, str]) -> list[Row]:
    """All settings. Without `settings`, which were refused then, values are shown as they were given.

    With them the two variables that the commands for clients read.
    """
    own = [_row(name, settings, flags, environ) for name in Settings.model_fields]
    return [*own, *(_client_row(name, environ) for name in CLIENTS)]


def _client_row(name: str, environ: Mapping[str, str]) -> Row:
    variable = PREFIX + name.upper()
    default = DEFAULT if name == "url" else None
    given = environ.get(variable) or None
    shown = _harmless(given or default, secret=False, guarded=False)
    return Row(name, variable, shown, variable if given else "default")


def _row(name: str, settings: Settings | None, flags: Mapping[str, Any], environ: Mapping[str, str]) -> Row:
    field = Settings.model_fields[name]
    alias = field.validation_alias
    variable = alias if isinstance(alias, str) else PREFIX + name.upper()
    # pydantic-settings heeds no case, and takes an empty variable as unset.
    named = [one for one in environ if one.upper() == variable and environ[one]]
    raw: Any = field.default
    origin = "default"
    if flags.get(name) is not None:
        origin, raw = "--" + name.replace("_", "-"), flags[name]
    elif named:
        origin, raw = named[0], environ[named[0]]
    value = raw if settings is None else getattr(settings, name)
    secret = "SecretStr" in str(field.annotation) or isinstance(value, SecretStr)
    # What is left out of a repr may hold a password in its middle.
    return Row(name, variable, _harmless(value, secret=secret, guarded=not field.repr), origin)


def _harmless(value: Any, *, secret: bool, guarded: bool) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if secret:
        return "set"
    if isinstance(value, tuple | list):
        return [str(one) for one in value]
    text = str(value)
    return without_password(text) if guarded or "://" in text else text


def without_password(url: str) -> str:
    """An address as it may be shown; where it cannot be read, nothing of it."""
    try:
        parts = urlsplit(url)
        if not parts.scheme or "://" not in url:
            return HIDDEN
        who, at, where = parts.netloc.rpartition("@")
        user, colon, _ = who.partition(":")
        query = _SECRET_QUERY.sub(r"\1\2=***", parts.query)
        # By hand: urlunsplit leaves out the slashes of an address without a host.
        netloc = user + (":***" if colon else "") + at + where
        return f"{parts.scheme}://{netloc}{parts.path}" + (f"?{query}" if query else "")
    except ValueError:
        return HIDDEN
