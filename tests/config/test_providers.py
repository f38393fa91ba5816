"""From settings to providers: which are there, through which proxy, and refusals that name the variable only."""

import traceback

import pytest

from server.config import BadSettings, load
from server.providers import ProviderRegistry, Timeouts
from server.providers.http_provider import HttpProvider
from server.providers.registry import providers_from

PROVIDERS = ["openai", "anthropic"]


def made(env: dict[str, str] | None = None) -> ProviderRegistry:
    """The upstreams of the present environment, with these proxies."""
    return providers_from(load(), env or {})


def provider(name: str, env: dict[str, str] | None = None) -> HttpProvider:
    """The provider that serves `name/x`."""
    found, model = made(env).resolve(f"{name}/x")
    assert isinstance(found, HttpProvider)
    assert model == "x"
    return found


def refusal(env: dict[str, str] | None = None) -> str:
    """All that a person would see of it."""
    with pytest.raises(BadSettings) as caught:
        made(env)
    return "".join(traceback.format_exception(caught.value)).split("BadSettings: ", 1)[1].strip()


def test_without_settings_there_is_demo_alone() -> None:
    assert made({"HTTPS_PROXY": "nonsense://"}).available() == ["demo"]


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize(("what", "value"), [("API_KEY", "sk-1"), ("BASE_URL", "http://127.0.0.1:9/v1")])
def test_one_variable_makes_a_provider(name: str, what: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{name.upper()}_{what}", value)
    assert made().available() == ["demo", f"{name}/<name>"]


def test_both_are_there_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROVIDERS:
        monkeypatch.setenv(f"{name.upper()}_API_KEY", "sk-1")
    assert made().available() == ["demo", "openai/<name>", "anthropic/<name>"]


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_bad_key_is_refused_by_name_and_not_shown(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{name.upper()}_API_KEY", "hunter2 hunter2")
    assert refusal() == f"{name.upper()}_API_KEY: must be printable ASCII without spaces"


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("url", ["https://me:hunter2@host", "https://", "https://host/?key=hunter2"])
def test_so_is_a_bad_address(name: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{name.upper()}_BASE_URL", url)
    said = refusal()
    assert said.startswith(f"{name.upper()}_BASE_URL: ")
    assert "hunter2" not in said


@pytest.mark.parametrize("name", PROVIDERS)
def test_and_a_bad_proxy_by_its_own_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{name.upper()}_API_KEY", "sk-1")
    said = refusal({"HTTPS_PROXY": "socks5://me:hunter2@proxy"})
    assert said.startswith("HTTPS_PROXY: ")
    assert "http://" in said
    assert "hunter2" not in said


@pytest.mark.parametrize("name", PROVIDERS)
def test_the_environments_proxy_is_taken_unless_it_is_told_not_to_be(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{name.upper()}_API_KEY", "sk-1")
    env = {"HTTPS_PROXY": "http://proxy.example:3128"}
    through = provider(name, env)._settings.route()
    assert through is not None
    assert through.url.host == "proxy.example"
    domain = {"openai": "openai.com", "anthropic": "anthropic.com"}[name]
    assert provider(name, env | {"NO_PROXY": domain})._settings.route() is None
    assert provider(name, {"HTTP_PROXY": "http://proxy.example:3128"})._settings.route() is None


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_stall_is_what_was_set(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{name.upper()}_API_KEY", "sk-1")
    assert provider(name)._settings.timeouts == Timeouts()
    monkeypatch.setenv("TOKENTAPE_UPSTREAM_STALL", "7")
    monkeypatch.setenv("TOKENTAPE_UPSTREAM_FIRST_BYTE", "8")
    assert provider(name)._settings.timeouts == Timeouts(idle=7.0, first_byte=8.0)


def test_a_dialect_is_taken_and_one_that_nobody_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_DIALECT", "mistral")
    assert made().available() == ["demo", "openai/<name>"]
    monkeypatch.setenv("OPENAI_DIALECT", "klingon")
    assert refusal().startswith("OPENAI_DIALECT: must be one of generic, openai, azure, mistral")
