"""The text of a token: the moment it left the upstream, in five characters, about as long as a real token.

Units of 10 µs in base 64, wrapped after three hours. Two tokens of one stream never share a text as long as
they are 10 µs apart, which the upstream sees to; so a text names its token. Pure.
"""

UNIT_NS = 10_000
LENGTH = 5
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_PAIRS = [a + b for a in ALPHABET for b in ALPHABET]


def text_of(stamp_ns: int) -> str:
    """The five characters for a monotonic time in nanoseconds."""
    units = stamp_ns // UNIT_NS
    return ALPHABET[(units >> 24) & 63] + _PAIRS[(units >> 12) & 4095] + _PAIRS[units & 4095]
