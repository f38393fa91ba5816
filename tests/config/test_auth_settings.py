"""The settings of authentication: where the keys that verify tokens come from, and settings that conflict."""

import traceback

import pytest

from server.config import BadSettings, load

FILE = "/etc/tape/keys.json"


def refusal(**flags: str) -> str:
    with pytest.raises(BadSettings) as caught:
        load(flags)
    return "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("place", "right"),
    [
        ("ftp://app.example/keys", "https://app.example"),
        ("https://me:hunter2@app.example/keys", "https://app.example"),
        ("https:///keys", "https://app.example"),
        ("http://app.example/keys", "has to be https"),
        ("http://127.0.0.1.app.example/keys", "has to be https"),
        ('{"keys": []}', "not the keys themselves"),
        (' {"kty": "oct", "k": "hunter2"}', "not the keys themselves"),
        ("-----BEGIN PUBLIC KEY-----", "not the keys themselves"),
    ],
)
def test_bad_jwt_keys_location_is_refused_without_being_shown(
    place: str, right: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = refusal(jwt_keys=place)
    assert "--jwt-keys = (not shown): " in said
    assert right in said
    monkeypatch.setenv("TOKENTAPE_JWT_KEYS", place)
    said += refusal()
    assert "TOKENTAPE_JWT_KEYS = (not shown): " in said
    assert "hunter2" not in said


@pytest.mark.parametrize("name", ["jwt_issuer", "jwt_audience"])
def test_issuer_and_audience_need_jwt_keys(name: str) -> None:
    assert getattr(load({name: "https://app.example", "jwt_keys": FILE}), name) == "https://app.example"
    assert f"TOKENTAPE_{name.upper()} is set but TOKENTAPE_JWT_KEYS is not" in refusal(**{name: "x"})


def test_require_keys_and_allow_anonymous_conflict() -> None:
    said = refusal(require_keys="true", allow_anonymous="true")
    assert "TOKENTAPE_REQUIRE_KEYS and TOKENTAPE_ALLOW_ANONYMOUS are both set" in said


def test_bad_switch_is_shown() -> None:
    assert "--require-keys = 'perhaps'" in refusal(require_keys="perhaps")
