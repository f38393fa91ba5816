"""Providers made from the settings: which there are, through which proxy, and refusals that name only the
variable.
"""

import traceback

import pytest

from server.config import BadSettings, load
from server.providers import ProviderRegistry, Timeouts
from server.providers.http_provider import HttpProvider
from server.providers.registry import providers_from

PROVIDERS = ["openai", "anthropic"]


def registry_from(env: dict[str, str] | None = None) -> ProviderRegistry:
    """The providers of the current environment, with these proxy variables."""
    return providers_from(load(), env or {})


def provider(name: str, env: dict[str, str] | None = None) -> HttpProvider:
    """The provider that serves `name/x`."""
    found, model = registry_from(env).resolve(f"{name}/x")
    assert isinstance(found, HttpProvider)
    assert model == "x"
    return found


def refusal_text(env: dict[str, str] | None = None) -> str:
    """Everything that a person would see of the error."""
    with pytest.raises(BadSettings) as caught:
        registry_from(env)
    return "".join(traceback.format_exception(caught.value)).split("BadSettings: ", 1)[1].strip()


def test_demo_is_the_only_default_provider() -> None:
    assert registry_from({"HTTPS_PROXY": "nonsense://"}).available() == ["demo"]


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize(("what", "value"), [("API_KEY", "sk-1"), ("BASE_URL", "http://127.0.0.1:9/v1")])
def test_one_variable_configures_a_provider(
    name: str, what: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{name.upper()}_{what}", value)
    assert registry_from().available() == ["demo", f"{name}/<name>"]


def test_both_providers_can_be_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROVIDERS:
        monkeypatch.setenv(f"{name.upper()}_API_KEY", "sk-1")
    assert registry_from().available() == ["demo", "openai/<name>", "anthropic/<name>"]


@pytest.mark.parametrize("name", PROVIDERS)
def test_bad_key_is_refused_without_being_shown(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{name.upper()}_API_KEY", "hunter2 hunter2")
    assert refusal_text() == f"{name.upper()}_API_KEY: must be printable ASCII without spaces"


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("url", ["https://me:hunter2@host", "https://", "https://host/?key=hunter2"])
def test_bad_base_url_is_refused_without_being_shown(name: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{name.upper()}_BASE_URL", url)
    said = refusal_text()
    assert said.startswith(f"{name.upper()}_BASE_URL: ")
    assert "hunter2" not in said


@pytest.mark.parametrize("name", PROVIDERS)
def test_bad_proxy_is_refused_by_its_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{name.upper()}_API_KEY", "sk-1")
    said = refusal_text({"HTTPS_PROXY": "socks5://me:hunter2@proxy"})
    assert said.startswith("HTTPS_PROXY: ")
    assert "http://" in said
    assert "hunter2" not in said


@pytest.mark.parametrize("name", PROVIDERS)
def test_proxy_of_the_environment_is_used_unless_excluded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{name.upper()}_API_KEY", "sk-1")
    env = {"HTTPS_PROXY": "http://proxy.example:3128"}
    through = provider(name, env)._settings.route()
    assert through is not None
    assert through.url.host == "proxy.example"
    domain = {"openai": "openai.com", "anthropic": "anthropic.com"}[name]
    assert provider(name, env | {"NO_PROXY": domain})._settings.route() is None
    assert provider(name, {"HTTP_PROXY": "http://proxy.example:3128"})._settings.route() is None


@pytest.mark.parametrize("name", PROVIDERS)
def test_timeouts_follow_the_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{name.upper()}_API_KEY", "sk-1")
    assert provider(name)._settings.timeouts == Timeouts()
    monkeypatch.setenv("TOKENTAPE_UPSTREAM_STALL", "7")
    monkeypatch.setenv("TOKENTAPE_UPSTREAM_FIRST_BYTE", "8")
    assert provider(name)._settings.timeouts == Timeouts(idle=7.0, first_byte=8.0)


def test_unknown_dialect_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_DIALECT", "mistral")
    assert registry_from().available() == ["demo", "openai/<name>"]
    monkeypatch.setenv("OPENAI_DIALECT", "klingon")
    assert refusal_text().startswith("OPENAI_DIALECT: must be one of generic, openai, azure, mistral")
