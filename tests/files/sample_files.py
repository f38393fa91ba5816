"""Files of every type that is told apart, and forms that hold one."""

from collections.abc import Callable

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 2
JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + bytes(200)
GIF = b"GIF89a\x01\x00\x01\x00" + bytes(20)
WEBP = b"RIFF\x24\x00\x00\x00WEBPVP8 " + bytes(24)
PDF = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n"
TEXT = "Grüße, 世界 🎞\r\n".encode()
BINARY = b"\x00\x01\x02\xff\xfe"
SAMPLES = {
    "image/png": PNG,
    "image/jpeg": JPEG,
    "image/gif": GIF,
    "image/webp": WEBP,
    "application/pdf": PDF,
    "text/plain": TEXT,
    "application/octet-stream": BINARY,
}
"""One file of each type."""
BOUNDARY = "----a-boundary:of(27)"
FORM = {"Content-Type": f'multipart/form-data; boundary="{BOUNDARY}"'}


def form(data: bytes, head: str = 'name="file"; filename="x.bin"\r\nContent-Type: image/png') -> bytes:
    """A form with one field. `head`: behind `Content-Disposition: form-data;`."""
    begin = f"--{BOUNDARY}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode()
    return begin + data + f"\r\n--{BOUNDARY}--\r\n".encode()


FORMS: dict[str, tuple[dict[str, str], Callable[[bytes], bytes]]] = {
    "raw": ({"Content-Type": "application/octet-stream"}, lambda data: data),
    "raw, said to be a page": ({"Content-Type": "text/html"}, lambda data: data),
    "raw, of no type": ({}, lambda data: data),
    "form": (FORM, form),
    "form, without a file's name": (FORM, lambda data: form(data, 'name="file"')),
}
"""Ways to send a file: the headers, and what makes the body."""


def cut(body: bytes, size: int) -> list[bytes]:
    """The body in parts of that size."""
    return [body[start : start + size] for start in range(0, len(body), size)]
