"""`tokentape config`: every setting, its value, and where it comes from (a flag, the environment, the default).

Owns the command, the origin of each setting, and what of a value may be shown: never a password or a key. It must
not know what a setting does.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import click
from pydantic import SecretStr
from rich.table import Table
from rich.text import Text

from server.cli.exit_codes import BAD_USAGE, STATUSES, Failed
from server.cli.main import settings_options
from server.cli.terminal.output import make_console
from server.client.server_url import DEFAULT
from server.config import OWN, BadSettings, Settings, load
from server.config.settings import CLIENTS, PREFIX
from server.unicode_safety import escape_line

_SECRET_QUERY = re.compile(r"(?i)(^|&)([^=&]*(?:pass|secret|key|token)[^=&]*)=[^&]*")
HIDDEN = "(not shown)"


@click.command("config", epilog=STATUSES, short_help="The settings, and where each comes from.")
@settings_options(*OWN)
@click.option("--json", "as_json", is_flag=True, help="one JSON object: settings and complaints")
def command(as_json: bool, **flags: Any) -> None:
    """Show what `tokentape serve` would run with, given the same flags and environment.

    \b
      tokentape config                       the settings, and where each comes from
      tokentape config --bind 0.0.0.0:80     with what a flag would change
      tokentape config --json | jq '.settings[] | select(.from != "default")'

    Passwords in URLs are left out; of keys it says only whether they are set. If settings are wrong, every
    complaint is printed, and the exit status is 2.
    """
    complaints: list[str] = []
    settings = None
    try:
        settings = load(flags)
    except BadSettings as error:
        complaints = str(error).splitlines()
    found = rows(settings, flags, os.environ)
    if as_json:
        shown = {"settings": [row.fields() for row in found], "complaints": complaints}
        click.echo(json.dumps(shown, ensure_ascii=True, indent=2))
    else:
        make_console().print(_table(found))
    if complaints:
        raise Failed(BAD_USAGE, "bad_settings", "\n".join(complaints))


@dataclass(frozen=True, slots=True)
class Row:
    """One setting. `origin`: `default`, `--flag`, or the name of the variable as the environment spells it."""

    name: str
    variable: str
    value: Any
    origin: str

    @property
    def display_text(self) -> str:
        """The value as text, for people."""
        if self.value is None:
            return "not set"
        if isinstance(self.value, bool):
            return "yes" if self.value else "no"
        return escape_line((", ".join(self.value) or "none") if isinstance(self.value, list) else str(self.value))

    def fields(self) -> dict[str, Any]:
        """The fields of the object that `--json` prints."""
        return {"name": self.name, "variable": self.variable, "value": self.value, "from": self.origin}


def rows(settings: Settings | None, flags: Mapping[str, Any], environ: Mapping[str, str]) -> list[Row]:
    """All settings of the server, then the variables that the client commands read.

    `settings`: None if they were refused; then the values are those that were given.
    """
    own = [_server_setting_row(name, settings, flags, environ) for name in Settings.model_fields]
    return [*own, *(_client_setting_row(name, environ) for name in CLIENTS)]


def _client_setting_row(name: str, environ: Mapping[str, str]) -> Row:
    variable = PREFIX + name.upper()
    default = DEFAULT if name == "url" else None
    given = environ.get(variable) or None
    shown = _without_secrets(given or default, secret=name == "key", may_hold_password=False)
    return Row(name, variable, shown, variable if given else "default")


def _server_setting_row(
    name: str, settings: Settings | None, flags: Mapping[str, Any], environ: Mapping[str, str]
) -> Row:
    field = Settings.model_fields[name]
    alias = field.validation_alias
    variable = alias if isinstance(alias, str) else PREFIX + name.upper()
    # As pydantic-settings does: ignore case, and treat an empty variable as unset.
    named = [one for one in environ if one.upper() == variable and environ[one]]
    raw: Any = field.default
    origin = "default"
    if flags.get(name) is not None:
        origin, raw = "--" + name.replace("_", "-"), flags[name]
    elif named:
        origin, raw = named[0], environ[named[0]]
    value = raw if settings is None else getattr(settings, name)
    secret = "SecretStr" in str(field.annotation) or isinstance(value, SecretStr)
    # A field that is left out of the repr is a URL that may contain a password.
    return Row(name, variable, _without_secrets(value, secret=secret, may_hold_password=not field.repr), origin)


def _without_secrets(value: Any, *, secret: bool, may_hold_password: bool) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if secret:
        return "set"
    if isinstance(value, tuple | list):
        return [str(one) for one in value]
    text = str(value)
    return without_password(text) if may_hold_password or "://" in text else text


def without_password(url: str) -> str:
    """A URL with its passwords and keys replaced by `***`; nothing of a URL that cannot be parsed."""
    try:
        parts = urlsplit(url)
        if not parts.scheme or "://" not in url:
            return HIDDEN
        who, at, where = parts.netloc.rpartition("@")
        user, colon, _ = who.partition(":")
        query = _SECRET_QUERY.sub(r"\1\2=***", parts.query)
        # Built by hand: urlunsplit leaves out the slashes of a URL without a host.
        netloc = user + (":***" if colon else "") + at + where
        return f"{parts.scheme}://{netloc}{parts.path}" + (f"?{query}" if query else "")
    except ValueError:
        return HIDDEN


def _table(found: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("variable", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("from", no_wrap=True)
    for row in found:
        given = row.origin != "default"
        style, place = ("bold", "cyan") if given else ("dim", "dim")
        table.add_row(Text(row.variable, style), Text(row.display_text, style), Text(row.origin, place))
    return table
