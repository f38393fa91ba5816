"""Names of models, settings, and what a client is told that asked for something else."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from server.upstream import OpenAISettings, UnknownModel, Upstreams
from server.upstream.demo import Demo
from server.upstream.openai import OpenAI


def test_demo_is_always_there() -> None:
    upstream, name = Upstreams().resolve("demo")
    assert isinstance(upstream, Demo)
    assert name == "demo"


@pytest.mark.parametrize("name", ["gpt-x", "meta/llama-3:8b", "openai/x"])
def test_a_prefix_is_taken_off_once(name: str) -> None:
    upstream, rest = Upstreams(openai=OpenAISettings(api_key=SecretStr("k"))).resolve(f"openai/{name}")
    assert isinstance(upstream, OpenAI)
    assert rest == name


@pytest.mark.parametrize("name", ["", "gpt-x", "demo/x", "openai", "openai/", "anthropic/x", "DEMO", "x" * 10_000])
def test_an_unknown_model_lists_what_there_is(name: str) -> None:
    with pytest.raises(UnknownModel, match=r"available: demo, openai/<name>$") as caught:
        Upstreams(openai=OpenAISettings()).resolve(name)
    assert len(str(caught.value)) < 200


def test_what_is_not_configured_says_how_to() -> None:
    with pytest.raises(UnknownModel, match=r"available: demo; not configured: .*OPENAI_API_KEY.*OPENAI_BASE_URL"):
        Upstreams().resolve("openai/gpt-x")
    assert Upstreams().available() == ["demo"]


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
def test_bad_settings_are_refused_without_being_shown(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        OpenAISettings.model_validate(settings)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(("given", "key"), [(None, None), ("", None), (" \n", None), (" sk-1\n", "sk-1")])
def test_a_key_is_trimmed_and_an_empty_one_is_none(given: str | None, key: str | None) -> None:
    settings = OpenAISettings.model_validate({"api_key": given})
    assert (settings.api_key and settings.api_key.get_secret_value()) == key
    assert "sk-1" not in repr(settings)
