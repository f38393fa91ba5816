"""The two signatures of a message: `v1` with the secret, `v1a` with each key pair; also by known values."""

import base64
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import SecretStr
from standardwebhooks import Webhook

from server.config.webhook_signing_keys import MAX_KEYS, new_signing_key, parse_signing_keys
from server.webhooks import webhook_messages
from server.webhooks.retry_schedule import WebhookOptions

from .webhook_process import SECRET

PRIVATE = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
PUBLIC = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
MESSAGE, AT, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}'
V1A = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
"""The known values of Standard Webhooks, as other libraries for it check them."""


def signatures(options: WebhookOptions, message: str = MESSAGE, at: int = AT, body: bytes = BODY) -> list[str]:
    """What `webhook-signature` has."""
    headers = webhook_messages.headers(options, message, datetime.fromtimestamp(at, UTC), body)
    assert headers["webhook-id"] == message
    assert headers["webhook-timestamp"] == str(at)
    return headers["webhook-signature"].split(" ")


def test_the_known_signature() -> None:
    (key,) = parse_signing_keys(PRIVATE)
    assert (key.private_text, key.public_text) == (PRIVATE, PUBLIC)
    assert signatures(WebhookOptions(keys=(key,))) == [V1A]


@pytest.mark.parametrize("secret", [None, SecretStr(SECRET)])
@pytest.mark.parametrize("keys", [0, 1, 2])
def test_secret_alone_keys_alone_and_both(secret: SecretStr | None, keys: int) -> None:
    """Each signature is checked by its own key, and by no other."""
    options = WebhookOptions(secret=secret, keys=tuple(new_signing_key() for _ in range(keys)))
    assert options.can_sign is (secret is not None or keys > 0)
    if not options.can_sign:
        return
    now = int(datetime.now(UTC).timestamp())
    found = signatures(options, at=now)
    assert [one.partition(",")[0] for one in found] == ["v1"] * (secret is not None) + ["v1a"] * keys
    headers = {"webhook-id": MESSAGE, "webhook-timestamp": str(now), "webhook-signature": " ".join(found)}
    if secret is not None:
        assert Webhook(SECRET).verify(BODY, headers) == {"test": 2432232314}
    content = f"{MESSAGE}.{now}.".encode() + BODY
    given = [base64.b64decode(one.removeprefix("v1a,"), validate=True) for one in found if one.startswith("v1a,")]
    for place, key in enumerate(options.keys):
        public = Ed25519PublicKey.from_public_bytes(base64.b64decode(key.public_text.removeprefix("whpk_")))
        public.verify(given[place], content)
        for other, signature in enumerate(given):
            if other != place:
                with pytest.raises(InvalidSignature):
                    public.verify(signature, content)
        with pytest.raises(InvalidSignature):
            public.verify(given[place], content + b" ")


def test_text_beyond_ascii_is_signed_as_the_bytes_that_are_sent() -> None:
    (key,) = parse_signing_keys(PRIVATE)
    options = WebhookOptions(secret=SecretStr(SECRET), keys=(key,))
    body = '{"name":"é\u2028🎈"}'.encode()
    now = int(datetime.now(UTC).timestamp())
    v1, v1a = signatures(options, at=now, body=body)
    headers = {"webhook-id": MESSAGE, "webhook-timestamp": str(now), "webhook-signature": v1}
    assert Webhook(SECRET).verify(body, headers) == {"name": "é\u2028🎈"}
    public = Ed25519PublicKey.from_public_bytes(key.public)
    public.verify(base64.b64decode(v1a.removeprefix("v1a,")), f"{MESSAGE}.{now}.".encode() + body)


def test_a_key_is_never_shown() -> None:
    key = new_signing_key()
    assert key.public_text in repr(key)
    assert key.private_text not in repr(WebhookOptions(keys=(key,)))
    assert repr(key.private) not in repr(WebhookOptions(keys=(key,)))


def test_several_keys_are_written_with_commas() -> None:
    keys = [new_signing_key() for _ in range(MAX_KEYS)]
    assert parse_signing_keys(" , ".join(key.private_text for key in keys)) == tuple(keys)


A, B = new_signing_key(), new_signing_key()
CROSSED = "whsk_" + base64.b64encode(A.private + B.public).decode()
SEED = "whsk_" + base64.b64encode(A.private).decode()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (A.public_text, "key 1 is a public key"),
        (f"{A.private_text},{B.public_text}", "key 2 is a public key"),
        ("", "key 1 has to be whsk_"),
        ("whsk_", "key 1 has to be whsk_"),
        (SEED, "64 bytes"),
        (SECRET, "key 1 has to be whsk_"),
        (A.private_text[5:], "key 1 has to be whsk_"),
        (A.private_text[:-1], "64 bytes"),
        (A.private_text.replace("whsk_", "whsk_!"), "64 bytes"),
        ("whsk_" + "ü" * 88, "64 bytes"),
        (CROSSED, "key 1 is damaged"),
        (f"{A.private_text},", "key 2 has to be"),
        (f"{A.private_text},{A.private_text}", "the same key twice"),
        (",".join(new_signing_key().private_text for _ in range(MAX_KEYS + 1)), f"at most {MAX_KEYS}"),
    ],
    ids=range(14),  # new keys in each process: their text is no name of a test
)
def test_invalid_keys(text: str, why: str) -> None:
    """The message says which key and what is wrong, and repeats nothing of it."""
    with pytest.raises(ValueError, match=why) as caught:
        parse_signing_keys(text)
    said = str(caught.value)
    for secret in (A.private_text, B.private_text, CROSSED, SEED, A.private_text[5:40]):
        assert secret[5:] not in said


def test_options_without_anything_sign_nothing() -> None:
    assert not replace(WebhookOptions(), keys=()).can_sign
