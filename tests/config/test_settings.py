"""Each setting from the environment and from a flag: accepted values, refused values and their messages."""

import traceback
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from server.config import OWN, BadSettings, load
from server.config.settings import LISTS

TAKEN: list[tuple[str, str, Any]] = [
    ("bind", "0.0.0.0:80", "0.0.0.0:80"),
    ("bind", "[::1]:0", "[::1]:0"),
    ("bind", "myhost:65535", "myhost:65535"),
    ("database_url", "postgresql://u:p@h:5/d", "postgresql://u:p@h:5/d"),
    ("database_url", "postgres:///d", "postgres:///d"),
    ("migrate", "true", True),
    ("migrate", "no", False),
    ("data_dir", "/var/lib/x y", Path("/var/lib/x y")),
    ("data_dir", "relative", Path("relative")),
    ("allowed_hosts", "a.example", ("a.example",)),
    ("allowed_hosts", " a.example , b,,c, ", ("a.example", "b", "c")),
    ("allowed_origins", "https://a.example,http://b:1", ("https://a.example", "http://b:1")),
    ("public_url", "https://example.org/tape", "https://example.org/tape"),
    ("public_url", "http://127.0.0.1:8000", "http://127.0.0.1:8000"),
    ("require_keys", "true", True),
    ("allow_anonymous", "1", True),
    ("session_seconds", "3600", 3600.0),
    ("jwt_keys", "/etc/tape/keys.json", "/etc/tape/keys.json"),
    ("jwt_keys", "https://app.example/.well-known/jwks.json", "https://app.example/.well-known/jwks.json"),
    ("jwt_keys", "http://127.0.0.1:9/jwks", "http://127.0.0.1:9/jwks"),
    ("workflows", "grading", ("grading",)),
    ("workflows", " app.grading , app.service,, ", ("app.grading", "app.service")),
    ("prices", "prices.toml", Path("prices.toml")),
    ("prices", "/etc/tokentape/prices.toml", Path("/etc/tokentape/prices.toml")),
    ("ephemeral_seconds", "2.5", 2.5),
    ("ephemeral_seconds", "86400", 86_400.0),
    ("tls", "true", True),
    ("tls", "0", False),
    ("log_format", "json", "json"),
    ("log_format", "text", "text"),
    ("log_format", "auto", "auto"),
    ("stop_timeout", "2.5", 2.5),
    ("stop_timeout", "86400", 86_400.0),
    ("stall_timeout", "1e2", 100.0),
    ("stream_max_seconds", "55", 55.0),
    ("heartbeat", "0.1", 0.1),
    ("store_patience", "5", 5.0),
    ("limits", "key.requests=20/s, user.runs=3", "key.requests=20/s, user.runs=3"),
    ("max_runs", "1", 1),
    ("max_runs", " 100000 ", 100_000),
    ("max_streams", "1000000", 1_000_000),
    ("max_connections", "1", 1),
    ("max_connections_per_address", "2000000", 2_000_000),
    ("trusted_proxies", "10.0.0.7, 192.168.0.0/16,::1", ("10.0.0.7", "192.168.0.0/16", "::1")),
    ("keep_alive", "75", 75.0),
    ("max_unsent", "1048576", 1_048_576),
    ("max_body", "1024", 1024),
    ("max_body", "67108864", 67_108_864),
    ("max_file", "1024", 1024),
    ("max_file", "1073741824", 1_073_741_824),
    ("file_unused_seconds", "2592000", 2_592_000.0),
    ("upstream_first_byte", "30", 30.0),
    ("upstream_stall", "30", 30.0),
    ("webhook_allow_private", "yes", True),
    ("webhook_allow_private", "false", False),
    ("webhook_ports", "443", ("443",)),
    ("webhook_ports", "443, 8000-8999", ("443", "8000-8999")),
]
REFUSED = [
    ("bind", "8000", "127.0.0.1:8000"),
    ("bind", ":8000", "127.0.0.1:8000"),
    ("bind", "host", "127.0.0.1:8000"),
    ("bind", "host:", "127.0.0.1:8000"),
    ("bind", "host:http", "127.0.0.1:8000"),
    ("bind", "host:65536", "127.0.0.1:8000"),
    ("bind", "host:-1", "127.0.0.1:8000"),
    ("bind", "host:²", "127.0.0.1:8000"),
    *(("trusted_proxies", text, "10.0.0.0/8") for text in ("proxy", "10.0.0.1/8", "10.0.0.256", "*")),
    ("tls", "perhaps", "boolean"),
    ("require_keys", "perhaps", "boolean"),
    ("allow_anonymous", "perhaps", "boolean"),
    ("session_seconds", "0", "greater than 0"),
    ("migrate", "perhaps", "boolean"),
    ("webhook_allow_private", "perhaps", "boolean"),
    *(("webhook_ports", text, "8000-8999") for text in ("0", "65536", "https", "-1", "1-", "1-65536", "²", "*")),
    ("webhook_ports", "9000-8000", "ends before it begins"),
    ("log_format", "JSON", "'auto', 'json' or 'text'"),
    ("log_format", "logfmt", "'auto', 'json' or 'text'"),
    *((name, "0", "greater than 0") for name in ("stop_timeout", "stall_timeout", "heartbeat", "store_patience")),
    ("upstream_stall", "-1", "greater than 0"),
    ("ephemeral_seconds", "0", "greater than 0"),
    ("ephemeral_seconds", "86401", "less than or equal to 86400"),
    ("ephemeral_seconds", "inf", "finite"),
    ("ephemeral_seconds", "10m", "number"),
    ("stop_timeout", "86401", "less than or equal to 86400"),
    ("stop_timeout", "inf", "finite"),
    ("stop_timeout", "nan", "finite"),
    ("stop_timeout", "10s", "number"),
    ("stream_max_seconds", "0", "greater than 0"),
    ("stream_max_seconds", "inf", "finite"),
    ("stream_max_seconds", "never", "number"),
    ("max_runs", "0", "greater than or equal to 1"),
    ("max_runs", "100001", "less than or equal to 100000"),
    ("max_runs", "1.5", "integer"),
    ("max_runs", "many", "integer"),
    ("max_streams", "0", "greater than or equal to 1"),
    ("max_connections", "0", "greater than or equal to 1"),
    ("max_connections_per_address", "0", "greater than or equal to 1"),
    ("keep_alive", "0", "greater than 0"),
    ("max_unsent", "1048575", "greater than or equal to 1048576"),
    ("max_body", "1023", "greater than or equal to 1024"),
    ("max_body", "67108865", "less than or equal to 67108864"),
    ("max_file", "1023", "greater than or equal to 1024"),
    ("max_file", "1073741825", "less than or equal to 1073741824"),
    ("file_unused_seconds", "0", "greater than 0"),
    ("file_unused_seconds", "2592001", "less than or equal to 2592000"),
]


def variable_name(name: str) -> str:
    """A setting's name in the environment."""
    return f"TOKENTAPE_{name.upper()}"


def refusal_text(flags: dict[str, Any] | None = None) -> str:
    """The error message for invalid settings, as a person would see it."""
    with pytest.raises(BadSettings) as caught:
        load(flags)
    return "".join(traceback.format_exception(caught.value)).split("BadSettings: ", 1)[1].strip()


def test_defaults() -> None:
    settings = load()
    assert settings.model_fields_set == set()
    assert (settings.bind, settings.database_url, settings.data_dir) == ("127.0.0.1:8000", None, None)
    assert (settings.stop_timeout, settings.stall_timeout, settings.heartbeat) == (10.0, 120.0, 15.0)
    assert settings.stream_max_seconds is None
    assert (settings.allowed_hosts, settings.allowed_origins, settings.workflows) == ((), (), ())
    assert settings.ephemeral_seconds == 600.0
    assert settings.openai_base_url == "https://api.openai.com/v1"
    assert settings.openai_api_key is None
    assert settings.anthropic_base_url == "https://api.anthropic.com"
    assert settings.anthropic_api_key is None


def test_tables_cover_every_setting() -> None:
    """Settings that need another one beside them have tests of their own."""
    with_others = {"database_owner_url", "certfile", "keyfile", "jwt_issuer", "jwt_audience"}
    assert {name for name, _, _ in TAKEN} | with_others == set(OWN)


@pytest.mark.parametrize(("name", "text", "value"), TAKEN)
def test_value_from_the_environment(name: str, text: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable_name(name), text)
    settings = load()
    assert getattr(settings, name) == value
    assert settings.model_fields_set == {name}


@pytest.mark.parametrize(("name", "text", "value"), TAKEN)
def test_flag_overrides_the_environment(name: str, text: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also an invalid variable; a flag that was not given is None."""
    assert getattr(load({name: text}), name) == value
    other = next(second for first, second, _ in reversed(TAKEN) if first == name)
    monkeypatch.setenv(variable_name(name), other)
    assert getattr(load({name: text}), name) == value
    assert getattr(load({name: None}), name) == getattr(load({name: other}), name)
    monkeypatch.setenv(variable_name(name), "nonsense:nonsense")
    assert getattr(load({name: text}), name) == value


@pytest.mark.parametrize(("name", "text", "right"), REFUSED)
def test_bad_value_is_refused_with_its_name_and_a_hint(
    name: str, text: str, right: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = f"--{name.replace('_', '-')} = {text!r}: "
    assert refusal_text({name: text}).startswith(flag)
    monkeypatch.setenv(variable_name(name), text)
    said = refusal_text()
    assert said.startswith(f"{variable_name(name)} = {text!r}: ")
    assert right in said
    assert said.count("\n") == 0
    assert refusal_text({name: text}).startswith(flag)


def test_all_errors_are_reported_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENTAPE_BIND", "x")
    monkeypatch.setenv("TOKENTAPE_HEARTBEET", "5")
    monkeypatch.setenv("TOKENTAPE_LOG_LEVEL", "debug")
    said = refusal_text({"max_runs": "0"}).splitlines()
    assert [line.split()[0] for line in said] == [
        "TOKENTAPE_HEARTBEET",
        "TOKENTAPE_LOG_LEVEL",
        "TOKENTAPE_BIND",
        "--max-runs",
    ]


@pytest.mark.parametrize("name", OWN)
def test_empty_variable_counts_as_unset(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable_name(name), "")
    assert load().model_fields_set == set()


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"])
def test_empty_provider_variable_counts_as_unset(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise an empty key would make `openai/…` look configured."""
    monkeypatch.setenv(name, "")
    assert load().model_fields_set == set()


@pytest.mark.parametrize("name", [name for name in OWN if name not in LISTS])
def test_empty_flag_is_refused(name: str) -> None:
    """Above all, it does not mean the current folder."""
    assert refusal_text({name: ""}).startswith(f"--{name.replace('_', '-')} = ")


@pytest.mark.parametrize("name", LISTS)
def test_empty_list_flag_is_an_empty_list(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a flag can take back what the environment allows."""
    monkeypatch.setenv(variable_name(name), "https://a.example")
    assert getattr(load({name: ""}), name) == ()


@pytest.mark.parametrize("name", ["openai", "anthropic"])
def test_provider_variables(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{name.upper()}_API_KEY", "sk-1")
    monkeypatch.setenv(f"{name.upper()}_BASE_URL", "http://localhost:11434/v1")
    settings = load()
    assert getattr(settings, f"{name}_api_key") == SecretStr("sk-1")
    assert getattr(settings, f"{name}_base_url") == "http://localhost:11434/v1"
    assert settings.model_fields_set == {f"{name}_api_key", f"{name}_base_url"}


@pytest.mark.parametrize("name", ["OPENAI_ORG_ID", "ANTHROPIC_AUTH_TOKEN"])
def test_other_provider_variables_are_ignored(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "org-1")
    assert load().model_fields_set == set()
