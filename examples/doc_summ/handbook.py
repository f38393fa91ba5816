"""Makes the PDF that this example summarises where nobody sent another: a harbour's handbook of 50 pages.

`python -m doc_summ.handbook handbook.pdf` writes it to a file, to send it as people send theirs. 47 pages have
text, and three are empty, as the backs of title pages are. Your app has its users' documents here.
"""

import sys
import zlib
from pathlib import Path
from random import Random
from textwrap import wrap

TOPICS = [
    line.split("|") for line in Path(__file__).with_name("handbook_topics.txt").read_text("utf-8").splitlines()
]
EMPTY = (2, 26, 49)
"""The pages without text, counted from 1."""
REMARKS = (
    "This page is read again in {month}, and whoever finds a mistake tells the office.",
    "The rule is older than the north pier, and it was last changed {years} years ago.",
    "A copy hangs behind glass beside the door of the office.",
    "The night watch knows it by heart, and new crews are asked about it.",
    "Questions about it were asked {count} times last year.",
    "It holds in summer and in winter, for guests as well as for those who stay.",
    "In the year of the long winter it was suspended for {count} days.",
    "The entry in the ledger has the number {count}.",
    "Neighbouring harbours do it in another way, and that is their own affair.",
)
MONTHS = ("March", "April", "May", "June", "September")


def write_handbook() -> bytes:
    """The whole PDF; the same text each time."""
    topics = iter(enumerate(TOPICS, 1))
    count = len(TOPICS) + len(EMPTY)
    pages = [
        2 * number + 2 for number in range(1, count + 1)
    ]  # the numbers of their objects; contents follow each
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Count %d /Kids [%s] >>" % (count, b" ".join(b"%d 0 R" % page for page in pages)),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for number, page in enumerate(pages, 1):
        drawn = b""
        if number not in EMPTY:
            section, (title, fact) = next(topics)
            drawn = zlib.compress(_drawn(f"{section}. {title}", _sentences(section, fact)))
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents %d 0 R"
            b" /Resources << /Font << /F1 3 0 R >> >> >>" % (page + 1)
        )
        packed = b" /Filter /FlateDecode" if drawn else b""
        objects.append(b"<< /Length %d%s >>\nstream\n%s\nendstream" % (len(drawn), packed, drawn))
    return _file(objects)


def _sentences(section: int, fact: str) -> str:
    """The fact of a page, somewhere among remarks that say little."""
    random = Random(section)
    sentences = random.sample(REMARKS, 6)
    sentences.insert(random.randrange(4), fact)
    text = " ".join(sentences)
    return text.format(month=random.choice(MONTHS), years=random.randint(3, 60), count=random.randint(2, 400))


def _drawn(title: str, text: str) -> bytes:
    """The title and the text as operators of a page's content (PDF 32000-1, 9.4)."""
    lines = [f"({line}) Tj T*" for line in wrap(text, 88)]  # no line has a bracket or a backslash
    shown = [f"BT /F1 18 Tf 56 760 Td ({title}) Tj ET", "BT /F1 11 Tf 16 TL 56 720 Td", *lines, "ET"]
    return "\n".join(shown).encode("latin-1")


def _file(objects: list[bytes]) -> bytes:
    """The objects, numbered from 1, with the table of where each begins (PDF 32000-1, 7.5)."""
    out = bytearray(b"%PDF-1.4\n")
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    trailer = b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (size, len(out))
    return bytes(out) + b"xref\n0 %d\n0000000000 65535 f \n%s%s" % (size, table, trailer)


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(write_handbook())
