"""The secret that signs webhooks: read as the signing library reads it, refused otherwise, and never shown."""

import base64
import traceback

import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook

from server.config import OWN, BadSettings, load

NAME = "TOKENTAPE_WEBHOOK_SECRET"


def valid_secret(size: int) -> str:
    """A valid secret of this number of bytes."""
    return "whsec_" + base64.b64encode(bytes(range(size))).decode()


@pytest.mark.parametrize(
    "text", [valid_secret(24), valid_secret(32), valid_secret(64), valid_secret(25).rstrip("="), valid_secret(26)]
)
def test_valid_secrets(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, text)
    found = load().webhook_secret
    assert found == SecretStr(text)
    size = len(base64.b64decode(text.removeprefix("whsec_") + "=="))
    assert Webhook(text)._whsecret == bytes(range(size))


@pytest.mark.parametrize(
    "text",
    [
        valid_secret(32).removeprefix("whsec_"),
        valid_secret(23),
        valid_secret(65),
        "whsec_",
        "whsec_hunter2!" + "A" * 40,
        valid_secret(32) + "!",
        valid_secret(32).replace("A", " ", 1),
        "whsec_" + valid_secret(32),
        "hunter2",
        "whsec_" + "ü" * 40,
    ],
)
def test_invalid_secrets(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library would accept most of these, and sign with something else."""
    monkeypatch.setenv(NAME, text)
    with pytest.raises(BadSettings) as caught:
        load()
    said = "".join(traceback.format_exception(caught.value))
    assert f"{NAME} = (not shown): it has to be whsec_ and the base64 of 24 to 64 random bytes" in said
    assert "hunter2" not in said
    if len(text) > 10:
        assert text not in said


def test_empty_secret_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "")
    assert load().webhook_secret is None


def test_secret_is_not_shown_and_has_no_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody on the machine can read a command line."""
    monkeypatch.setenv(NAME, valid_secret(32))
    settings = load()
    for text in (repr(settings), str(settings), f"{settings.webhook_secret}", settings.model_dump_json()):
        assert valid_secret(32).removeprefix("whsec_") not in text
    assert "webhook_secret" not in OWN


def test_misspelt_name_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENTAPE_WEBHOOKS_SECRET", "hunter2")
    with pytest.raises(BadSettings, match=r"did you mean TOKENTAPE_WEBHOOK_SECRET\?") as caught:
        load()
    assert "hunter2" not in str(caught.value)
