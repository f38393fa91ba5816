"""Unknown setting names, settings that belong together, and secrets that no error shows."""

import traceback
from typing import Any

import pytest

from server.config import BadSettings, Settings, load

URL = "postgresql://me:hunter2@db/tape"


def refusal_text(flags: dict[str, Any] | None = None) -> str:
    """The error message, with everything that a traceback would show."""
    with pytest.raises(BadSettings) as caught:
        load(flags)
    return "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("TOKENTAPE_BND", "did you mean TOKENTAPE_BIND?"),
        ("TOKENTAPE_HEARTBEET", "did you mean TOKENTAPE_HEARTBEAT?"),
        ("TOKENTAPE_DATABASEURL", "did you mean TOKENTAPE_DATABASE_URL?"),
        ("TOKENTAPE_MAX_STREAM", "did you mean TOKENTAPE_MAX_STREAMS?"),
        ("TOKENTAPE_ALLOWED_ORIGIN", "did you mean TOKENTAPE_ALLOWED_ORIGINS?"),
        ("TOKENTAPE_WORKFLOW", "did you mean TOKENTAPE_WORKFLOWS?"),
        ("TOKENTAPE_EPHEMERAL_SECOND", "did you mean TOKENTAPE_EPHEMERAL_SECONDS?"),
        ("TOKENTAPE_STOP_TIMEOUT_SECONDS", "did you mean TOKENTAPE_STOP_TIMEOUT?"),
        # The providers' own variables have no prefix.
        ("TOKENTAPE_OPENAI_API_KEY", "did you mean OPENAI_API_KEY?"),
        ("TOKENTAPE_OPENAI_BASE_URL", "did you mean OPENAI_BASE_URL?"),
        ("TOKENTAPE_ANTHROPIC_API_KEY", "did you mean ANTHROPIC_API_KEY?"),
        ("TOKENTAPE_ANTHROPIC_BASE_URL", "did you mean ANTHROPIC_BASE_URL?"),
        ("tokentape_bnd", "did you mean TOKENTAPE_BIND?"),
        ("TOKENTAPE_XYZZY", "`tokentape serve --help` lists the known ones"),
        ("TOKENTAPE_", "`tokentape serve --help` lists the known ones"),
    ],
)
@pytest.mark.parametrize("value", ["hunter2", ""])
def test_unknown_name_is_refused_with_a_suggestion(
    name: str, hint: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Empty or not: a typo is a typo. Its value may be a secret that was meant for another name."""
    monkeypatch.setenv(name, value)
    said = refusal_text()
    assert f"{name} is not a setting: {hint}" in said
    assert "hunter2" not in said


@pytest.mark.parametrize("name", ["TOKENTAP_BIND", "XTOKENTAPE_BND", "TOKENTAPE"])
def test_variables_of_other_programs_are_ignored(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "x")
    assert load() == Settings()


def test_unknown_flag_raises() -> None:
    assert "--nonsense" in refusal_text({"nonsense": "x"})


@pytest.mark.parametrize("by_flag", [True, False])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("database_url", "mysql://me:hunter2@db/tape"),
        ("database_url", "hunter2"),
        ("database_owner_url", "me:hunter2@db"),
    ],
)
def test_bad_secret_is_refused_without_being_shown(
    name: str, value: str, by_flag: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not by_flag:
        monkeypatch.setenv(f"TOKENTAPE_{name.upper()}", value)
    said = refusal_text({name: value} if by_flag else None)
    assert "(not shown): it has to look like postgresql://user:password@host:5432/database" in said
    assert "hunter2" not in said


@pytest.mark.parametrize("name", ["OPENAI_BASE_URL", "ANTHROPIC_BASE_URL"])
def test_bad_provider_url_is_refused_without_being_shown(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "ftp://me:hunter2@host")
    said = refusal_text()
    assert f"{name} = (not shown): it has to start with http:// or https://" in said
    assert "hunter2" not in said


def test_good_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """However the settings are printed."""
    monkeypatch.setenv("TOKENTAPE_DATABASE_URL", URL)
    monkeypatch.setenv("TOKENTAPE_DATABASE_OWNER_URL", URL)
    for provider in ("OPENAI", "ANTHROPIC"):
        monkeypatch.setenv(f"{provider}_API_KEY", "sk-hunter2")
        monkeypatch.setenv(f"{provider}_BASE_URL", "https://me:hunter2@proxy/v1")
    settings = load()
    assert settings.database_url == settings.database_owner_url == URL
    for text in (repr(settings), str(settings), f"{settings}", repr([settings])):
        assert "hunter2" not in text
        assert "bind='127.0.0.1:8000'" in text


def test_owner_url_needs_the_database_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner of which database?"""
    monkeypatch.setenv("TOKENTAPE_DATABASE_OWNER_URL", URL)
    said = refusal_text()
    assert "TOKENTAPE_DATABASE_OWNER_URL is set but TOKENTAPE_DATABASE_URL is not" in said
    assert "hunter2" not in said
    assert load({"database_url": URL}).database_owner_url == URL
    monkeypatch.setenv("TOKENTAPE_DATABASE_OWNER_URL", "")
    monkeypatch.setenv("TOKENTAPE_DATABASE_URL", URL)
    assert load().database_owner_url is None


def test_settings_are_frozen() -> None:
    settings = load()
    with pytest.raises(ValueError, match="frozen"):
        setattr(settings, "bind", "0.0.0.0:80")  # noqa: B010  # mypy refuses it too
