"""Draws the label that this example reads where nobody sent a picture: a pack of oat biscuits, as a phone sees it.

`python -m diabe_check.label label.png` writes it to a file; `label.png`, which the page shows, was made so. Your
app has its users' pictures here.
"""

import sys
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIZE = (900, 760)
INK, CARD = 40, 236
TITLE = "Oat Biscuits"
ROWS = (
    ("Typical values", "per 100 g", "per biscuit"),
    ("Energy", "1902 kJ", "238 kJ"),
    ("", "454 kcal", "57 kcal"),
    ("Fat", "18.2 g", "2.3 g"),
    ("of which saturates", "8.1 g", "1.0 g"),
    ("Carbohydrate", "63.5 g", "7.9 g"),
    ("of which sugars", "21.4 g", "2.7 g"),
    ("Fibre", "5.6 g", "0.7 g"),
    ("Protein", "6.8 g", "0.9 g"),
    ("Salt", "0.73 g", "0.09 g"),
)


def draw_label() -> bytes:
    """The picture, as PNG; a little askew, as from a hand."""
    label = Image.new("L", SIZE, CARD)
    draw = ImageDraw.Draw(label)
    draw.text((60, 40), TITLE, INK, ImageFont.load_default(48))
    font = ImageFont.load_default(32)
    for number, row in enumerate(ROWS):
        y = 130 + 58 * number
        draw.line([(60, y - 8), (840, y - 8)], INK, 2)
        for x, text in zip((60, 420, 640), row, strict=True):
            draw.text((x, y), text, INK, font)
    label = label.rotate(0.6, resample=Image.Resampling.BICUBIC, fillcolor=CARD)
    to = BytesIO()
    label.quantize(16).save(to, "PNG", optimize=True)
    return to.getvalue()


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(draw_label())
