"""What type a file is, however its bytes come."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.files.file_types import TypeDetector
from tests.files.sample_files import JPEG, PNG, SAMPLES, TEXT, cut

MORE = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\xff\xd8": "application/octet-stream",
    b"GIF87a": "image/gif",
    b"GIF88a": "text/plain",
    b"RIFF....WEBPVP8 ": "image/webp",
    b"RIFF....WAVEfmt ": "text/plain",
    b"%PDF-": "application/pdf",
    b"%PDF": "text/plain",
    b" %PDF-1.7": "text/plain",
    b"<html><script>": "text/plain",
    b"\xef\xbb\xbfwith a byte order mark": "text/plain",
    b"a\x1b[31mred": "text/plain",
    b"a\x00b": "application/octet-stream",
    b"a\x7fb": "application/octet-stream",
    b"a\x08b": "application/octet-stream",
    b"latin \xe9": "application/octet-stream",
    b"an end in the middle of a character \xe4\xb8": "application/octet-stream",
    b"a surrogate \xed\xa0\x80": "application/octet-stream",
    "UTF-16".encode("utf-16"): "application/octet-stream",
    TEXT + PNG: "application/octet-stream",
    PNG[:7]: "application/octet-stream",
    PNG[:8]: "image/png",
    JPEG + TEXT: "image/jpeg",
}


def detect(parts: list[bytes]) -> str:
    detector = TypeDetector()
    for part in parts:
        detector.feed(part)
    return detector.media_type()


@pytest.mark.parametrize(
    ("data", "media_type"), [*MORE.items(), *((data, kind) for kind, data in SAMPLES.items())]
)
def test_the_type_however_the_bytes_come(data: bytes, media_type: str) -> None:
    for size in (1, 2, 3, 5, 13, 14, 15, len(data)):
        assert detect(cut(data, size)) == media_type, size


@given(st.binary(max_size=60), st.integers(1, 60))
def test_parts_change_nothing(data: bytes, size: int) -> None:
    assert detect(cut(data, size)) == detect([data])


@given(
    st.text(st.characters(min_codepoint=0x20, exclude_characters="\x7f", exclude_categories=["Cs"]), min_size=1)
)
def test_every_text_is_text(text: str) -> None:
    if not text.startswith("%PDF-") and not text.startswith("GIF8"):
        assert detect([text.encode()]) == "text/plain"
