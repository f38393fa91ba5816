"""The registry: names of models, settings, and the message for an unknown model."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from server.providers import AnthropicSettings, OpenAISettings, ProviderRegistry, UnknownModel
from server.providers.anthropic import Anthropic
from server.providers.demo import Demo
from server.providers.http_provider import ProviderSettings
from server.providers.openai import OpenAI


def test_demo_is_always_available() -> None:
    provider, name = ProviderRegistry().resolve("demo")
    assert isinstance(provider, Demo)
    assert name == "demo"


BOTH = ProviderRegistry(openai=OpenAISettings(api_key=SecretStr("k")), anthropic=AnthropicSettings())


@pytest.mark.parametrize("name", ["gpt-x", "meta/llama-3:8b", "openai/x", "anthropic/x"])
@pytest.mark.parametrize(("prefix", "kind"), [("openai", OpenAI), ("anthropic", Anthropic)])
def test_prefix_is_removed_once(prefix: str, kind: type, name: str) -> None:
    provider, rest = BOTH.resolve(f"{prefix}/{name}")
    assert isinstance(provider, kind)
    assert rest == name


NAMES = ["", "gpt-x", "demo/x", "openai", "openai/", "anthropic/", "nobody/x", "DEMO", "x" * 10_000]


@pytest.mark.parametrize("name", NAMES)
def test_unknown_model_lists_the_available_ones(name: str) -> None:
    with pytest.raises(UnknownModel, match=r"available: demo, openai/<name>, anthropic/<name>$") as caught:
        BOTH.resolve(name)
    assert len(str(caught.value)) < 200


def test_unknown_model_explains_how_to_configure_its_provider() -> None:
    both = (
        r"available: demo; not configured: openai/.*OPENAI_API_KEY.*OPENAI_BASE_URL.*anthropic/.*ANTHROPIC_API_KEY"
    )
    with pytest.raises(UnknownModel, match=both):
        ProviderRegistry().resolve("openai/gpt-x")
    with pytest.raises(UnknownModel, match=r"available: demo, openai/<name>; not configured: anthropic/<name>"):
        ProviderRegistry(openai=OpenAISettings()).resolve("anthropic/x")
    with pytest.raises(UnknownModel, match=r"available: demo, anthropic/<name>; not configured: openai/<name>"):
        ProviderRegistry(anthropic=AnthropicSettings()).resolve("openai/x")
    assert ProviderRegistry().available() == ["demo"]
    assert BOTH.available() == ["demo", "openai/<name>", "anthropic/<name>"]


@pytest.mark.parametrize("kind", [OpenAISettings, AnthropicSettings])
@pytest.mark.parametrize(
    "settings",
    [
        {"base_url": "https://me:hunter2@host/v1"},
        {"base_url": "host?hunter2"},
        {"api_key": "hunter2\r\nX-Evil: 1"},
        {"api_key": "hunter2 hunter2"},
        {"api_key": "hünter2 hunter2"},
        {"api_key": ["hunter2"]},
        {"api_kye": "hunter2"},
    ],
)
def test_bad_settings_are_refused_without_being_shown(
    kind: type[ProviderSettings], settings: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(settings)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(("given", "key"), [(None, None), ("", None), (" \n", None), (" sk-1\n", "sk-1")])
def test_key_is_trimmed_and_an_empty_one_is_none(given: str | None, key: str | None) -> None:
    settings = OpenAISettings.model_validate({"api_key": given})
    assert (settings.api_key and settings.api_key.get_secret_value()) == key
    assert "sk-1" not in repr(settings)


@pytest.mark.parametrize(
    "settings", [{"version": ""}, {"version": "hunter2 x"}, {"version": "hunter2\n"}, {"max_tokens": 0}]
)
def test_bad_anthropic_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        AnthropicSettings.model_validate(settings)
    assert "hunter2" not in str(caught.value)
