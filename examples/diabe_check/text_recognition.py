"""The text on a picture, by the program Tesseract. Knows neither labels nor workflows.

Pillow makes the picture upright, grey and not too large; Tesseract reads it in a process of its own, which can be
ended. https://tesseract-ocr.github.io/
"""

import os
import shutil
import subprocess
from io import BytesIO

import trio
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 50_000_000
"""What a phone takes has a quarter of it. Unpacked, a picture may be a thousand times its file."""
MAX_SIDE = 2_500
"""Pixels: finer print than that is read no better, only later."""
SECONDS = 30
AT_ONCE = trio.CapacityLimiter(2)
"""Pictures that are read side by side: each takes a core."""
NOT_INSTALLED = (
    "This server cannot read pictures: the program tesseract is missing. Install it where the server runs: "
    "apt-get install tesseract-ocr"
)


class UnreadablePicture(Exception):
    """There is no text to be had; the error's text is for whoever sent the picture."""


async def read_text(picture: bytes) -> str:
    """The lines of text on a picture, top to bottom. Raises `UnreadablePicture`."""
    program = shutil.which("tesseract")
    if program is None:
        raise UnreadablePicture(NOT_INSTALLED)
    done = None
    async with AT_ONCE:
        prepared = await trio.to_thread.run_sync(prepare, picture)
        with trio.move_on_after(SECONDS):
            done = await trio.run_process(
                [program, "stdin", "stdout", "--psm", "6"],  # 6: one block of text, so that a row stays a line
                stdin=prepared,
                capture_stdout=True,
                stderr=subprocess.DEVNULL,
                check=False,
                env=environment(),
            )
    if done is None:
        raise UnreadablePicture(
            f"Reading this picture takes more than {SECONDS} seconds. Send a smaller part of it."
        )
    if done.returncode != 0:
        raise UnreadablePicture("Tesseract cannot read this picture.")
    lines = (" ".join(line.split()) for line in done.stdout.decode(errors="replace").splitlines())
    text = "\n".join(line for line in lines if line)
    if not text:
        raise UnreadablePicture("There is no text on this picture. Come closer, and hold the camera still.")
    return text


def environment() -> dict[str, str]:
    """What Tesseract needs to know, and not the rest: the server's environment has the keys of its providers."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "TESSDATA_PREFIX") if name in os.environ}
    return {**kept, "OMP_THREAD_LIMIT": "1"}  # else it takes all cores, for no gain


def prepare(picture: bytes) -> bytes:
    """Upright, grey, of good contrast and not too large, as PNG. Raises `UnreadablePicture`."""
    try:
        with Image.open(BytesIO(picture), formats=("PNG", "JPEG", "WEBP", "GIF")) as found:
            if found.width * found.height > MAX_PIXELS:
                size = f"{found.width} by {found.height} pixels"
                raise UnreadablePicture(f"This picture has {size}; {MAX_PIXELS:,} in all are the most.")
            # The camera notes how it was held; the pixels lie as they were read from the sensor.
            upright = ImageOps.exif_transpose(found).convert("L")
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError) as error:
        raise UnreadablePicture("This is no picture that can be read: send a PNG, JPEG, WebP or GIF.") from error
    upright.thumbnail((MAX_SIDE, MAX_SIDE))
    to = BytesIO()
    ImageOps.autocontrast(upright, cutoff=1).save(to, "PNG", compress_level=1)
    return to.getvalue()
