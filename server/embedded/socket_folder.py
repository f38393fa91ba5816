"""The short private folder that holds PostgreSQL's Unix socket.

Short, because a socket's path is at most 107 bytes and a data folder's may be longer. Private (0700, owned by
PostgreSQL's user), because whoever reaches the socket is trusted. Its name comes from the data folder, so that a
PostgreSQL that is started again is found where it was. Must not know who connects.
"""

import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path

from .account import Account
from .errors import EmbeddedError

PORT = 5432  # only part of the socket's name; nothing listens on TCP
_PLACES = {True: ("/run", "/tmp", "/dev/shm"), False: ("/tmp", "/dev/shm")}  # by whether this process is root
_TRIES = 4


def mark(data_dir: Path) -> str:
    """A name for this data folder: short, plain ASCII, the same for every server that uses it.

    Device and inode are part of it because two containers can share /tmp and both call their folder the same.
    """
    found = data_dir.stat()
    key = b"%d:%d:%s" % (found.st_dev, found.st_ino, os.fsencode(data_dir))
    return f"tokentape-{hashlib.sha256(key).hexdigest()[:12]}"


def claim(data_dir: Path, account: Account) -> Path:
    """The folder for the socket, made if need be. Raises EmbeddedError when there is no place for one."""
    places = _PLACES[account.separate]
    # Several names: anybody may make folders in /tmp, and one who took the first must not keep us from starting.
    names = [mark(data_dir) + (f"-{number}" if number else "") for number in range(_TRIES)]
    for folder in (Path(place, name) for place in places for name in names):
        if _claimed(folder, account):
            return folder
    raise EmbeddedError(
        f"No folder for PostgreSQL's socket could be made in {', '.join(places)}: each is missing or read-only, "
        f"or {names[0]} there belongs to somebody else. Make one of them writable, or remove that folder."
    )


def discard(folder: Path) -> None:
    """Removes the folder, with what is left in it. Call it only when no PostgreSQL runs there."""
    with suppress(OSError):  # whatever stays is taken over by the next start
        clear(folder)
        folder.rmdir()


def clear(folder: Path) -> None:
    """Removes what a killed PostgreSQL left: as with its pid file, the next one would take a reused pid for it."""
    socket = socket_in(folder)
    for left in (socket, socket.with_name(socket.name + ".lock")):
        left.unlink(missing_ok=True)


def socket_in(folder: Path) -> Path:
    return folder / f".s.PGSQL.{PORT}"


def _claimed(folder: Path, account: Account) -> bool:
    with suppress(OSError):  # exists, or cannot be made: the next lines tell
        folder.mkdir(mode=0o700)
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        found = os.fstat(handle)
        if found.st_uid not in (account.uid, os.geteuid()):
            return False  # laid out by somebody who waits for us to put our socket into his folder
        if found.st_uid != account.uid:
            os.fchown(handle, account.uid, account.gid)
        if stat.S_IMODE(found.st_mode) != 0o700:
            os.fchmod(handle, 0o700)
    finally:
        os.close(handle)
    return True
