"""The one error of this room, and how an operating system error becomes it.

Owns the words an operator reads when the embedded PostgreSQL cannot be used: what was wrong, which path, how to
mend it. Must not know how PostgreSQL is started, nor import anything else of this room.
"""

import errno
from pathlib import Path

ELSEWHERE = "set TOKENTAPE_DATA_DIR to another folder, or TOKENTAPE_DATABASE_URL to a PostgreSQL of your own"

_CURES = {
    errno.ENOSPC: f"The disk is full: free some space, {ELSEWHERE}.",
    errno.EDQUOT: f"The disk quota is used up: free some space, {ELSEWHERE}.",
    errno.EROFS: f"The file system is read-only: {ELSEWHERE}.",
    errno.EACCES: f"Give this user the right to write there, {ELSEWHERE}.",
    errno.EPERM: f"This process lacks the right to do that: {ELSEWHERE}.",
    errno.ENOTDIR: f"Something on that path is no folder: {ELSEWHERE}.",
    errno.ENAMETOOLONG: f"The path is too long for the file system: {ELSEWHERE}.",
}


class EmbeddedError(Exception):
    """The embedded PostgreSQL cannot be used; the text says what was wrong, which path, and how to mend it.

    The machine or its operator is to blame, never the caller's code: show the text and end, no traceback needed.
    """


def explain(failure: OSError, data_dir: Path) -> EmbeddedError:
    """Turns a failed system call on the way to the database in `data_dir` into an EmbeddedError."""
    what = failure.strerror or str(failure)
    where = f" ({failure.filename})" if failure.filename else ""
    cure = _CURES.get(failure.errno or 0, f"Mend that, {ELSEWHERE}.")
    return EmbeddedError(f"The embedded PostgreSQL in {data_dir} cannot be used: {what}{where}. {cure}")


def cure_for(output: str) -> str:
    """A sentence on how to mend what a PostgreSQL program complained of, or "" where its words must do."""
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        if _SAID[number] in output:
            return " " + _CURES[number]
    return ""


# PostgreSQL's programs run with LC_ALL=C, so what the C library says is English whatever the operator speaks.
_SAID = {
    errno.ENOSPC: "No space left on device",
    errno.EDQUOT: "Disk quota exceeded",
    errno.EROFS: "Read-only file system",
}
