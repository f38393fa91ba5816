"""The key pairs that sign webhooks (`v1a`): how they are written, made, and used.

The form is that of Standard Webhooks 1.0, "Signature scheme": Ed25519 (RFC 8032); a private key is `whsk_` and the
base64 of its 32 bytes and the 32 of its public key, a public key is `whpk_` and the base64 of 32 bytes. So a
receiver needs nothing secret to check who signed. Must not know what is signed, or who receives it.

The cryptography library is imported when there is a key: most servers have none.
"""

import base64
import hmac
from dataclasses import dataclass
from typing import Final

PRIVATE, PUBLIC = "whsk_", "whpk_"
KEY_BYTES: Final = 32
MAX_KEYS: Final = 8
"""Keys that sign side by side: each adds 93 characters to a header, and a receiver may check them all."""


@dataclass(frozen=True, slots=True, repr=False)
class SigningKey:
    """One key pair. `private`: the 32 secret bytes; `public`: the 32 that everybody may know."""

    private: bytes
    public: bytes

    @property
    def private_text(self) -> str:
        """The private key as a setting holds it: `whsk_…`."""
        return PRIVATE + base64.b64encode(self.private + self.public).decode()

    @property
    def public_text(self) -> str:
        """The public key as receivers get it: `whpk_…`."""
        return PUBLIC + base64.b64encode(self.public).decode()

    def sign(self, content: bytes) -> bytes:
        """The 64 bytes of the signature."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self.private).sign(content)

    def __repr__(self) -> str:
        return f"SigningKey({self.public_text!r})"


def new_signing_key() -> SigningKey:
    """A new key pair, from the operating system's random numbers."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return _pair(Ed25519PrivateKey.generate().private_bytes_raw())


def parse_signing_keys(text: str) -> tuple[SigningKey, ...]:
    """The keys of a setting, `whsk_…` with commas between them.

    Raises `ValueError`, whose text repeats nothing of a key.
    """
    keys = tuple(_parse(number, one.strip()) for number, one in enumerate(text.split(","), 1))
    if len(keys) > MAX_KEYS:
        raise ValueError(f"it has {len(keys)} keys, and at most {MAX_KEYS} sign side by side")
    if len(set(keys)) < len(keys):
        raise ValueError("it has the same key twice")
    return keys


def _parse(number: int, text: str) -> SigningKey:
    if text.startswith(PUBLIC):
        raise ValueError(f"key {number} is a public key ({PUBLIC}…), which is for receivers; here goes {PRIVATE}…")
    try:
        found = base64.b64decode(text.removeprefix(PRIVATE), validate=True)
    except ValueError:
        found = b""
    if not text.startswith(PRIVATE) or len(found) != 2 * KEY_BYTES:
        raise ValueError(
            f"key {number} has to be {PRIVATE} and the base64 of 64 bytes; `tokentape webhooks new-key` makes one"
        )
    pair = _pair(found[:KEY_BYTES])
    if not hmac.compare_digest(pair.public, found[KEY_BYTES:]):
        raise ValueError(f"key {number} is damaged: its second half is not the public key of its first half")
    return pair


def _pair(private: bytes) -> SigningKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return SigningKey(private, Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw())
