"""The operating system user that PostgreSQL runs as, and running a program as that user.

PostgreSQL refuses to run as root. When this process is root, every PostgreSQL program runs as the system user
`tokentape`, which is created when it is missing. Otherwise the programs run as the user of this process.
`EmbeddedError` stands here because every other module of this package imports this one. This module must not know
where the data is or what PostgreSQL is told to do.
"""

import errno
import fcntl
import os
import pwd
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SYSTEM_USER = "tokentape"

OWN_DATABASE = "set TOKENTAPE_DATABASE_URL to a PostgreSQL of your own"
ELSEWHERE = f"set TOKENTAPE_DATA_DIR to another folder, or {OWN_DATABASE}"
"""The next step in an error message where another folder or another database would help."""


class EmbeddedError(Exception):
    """The embedded PostgreSQL cannot be used. The text says what is wrong, with which path, and the next step.

    The machine or its operator is to blame, never the calling code: show the text without a traceback.
    """


@dataclass(frozen=True, slots=True)
class OsUser:
    """The user that PostgreSQL runs as. `separate` is true when this process is root and the user is not."""

    name: str
    uid: int
    gid: int
    separate: bool

    def run(self, argv: Sequence[str | Path], *, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Runs a program as this user, waits for its end and returns its output. The caller checks the exit code.

        Raises OSError when the program cannot be started, and EmbeddedError when root may not change its user.
        """
        with self._start(argv, subprocess.PIPE, subprocess.PIPE, subprocess.PIPE) as process:
            stdout, stderr = process.communicate(stdin)
        return subprocess.CompletedProcess(argv, process.returncode, stdout, stderr)

    def popen(self, argv: Sequence[str | Path], *, log: int) -> subprocess.Popen[str]:
        """Starts a program that may outlive this process. Its output goes to the descriptor `log`."""
        return self._start(argv, subprocess.DEVNULL, log, log)

    def may_execute(self, path: Path) -> bool:
        """Whether this user may run the program `path`, or enter the folder `path`; with all folders above it.

        A child process with this user's rights asks the kernel: mode bits alone ignore ACLs and mount options.
        """
        return self.run(["/bin/sh", "-c", '[ -x "$1" ]', "sh", path]).returncode == 0

    def _start(self, argv: Sequence[str | Path], stdin: int, stdout: int, stderr: int) -> subprocess.Popen[str]:
        try:
            return subprocess.Popen(
                argv,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                encoding="utf-8",
                errors="replace",
                close_fds=True,  # an inherited listening socket would keep its port after kill -9 of the server
                cwd="/",  # initdb refuses to start in a folder that its user cannot enter
                env=_environment(),
                umask=0o077,
                start_new_session=True,  # Ctrl-C in the server's terminal must not reach initdb or PostgreSQL
                user=self.uid if self.separate else None,
                group=self.gid if self.separate else None,
                extra_groups=[] if self.separate else None,
            )
        except PermissionError as failure:
            if failure.errno != errno.EPERM:  # EPERM: a container without CAP_SETUID
                raise
            raise EmbeddedError(
                f"PostgreSQL does not run as root, and this process may not switch to the user {self.name}. "
                f"Start Tokentape as an ordinary user, or {OWN_DATABASE}."
            ) from failure


def postgres_os_user() -> OsUser:
    """The user that PostgreSQL runs as when this process starts it.

    Raises EmbeddedError when root cannot create the system user, or when the user has no entry in /etc/passwd.
    """
    uid = os.geteuid()
    if uid == 0:
        entry = _find_or_create_system_user()
        return OsUser(entry.pw_name, entry.pw_uid, entry.pw_gid, separate=True)
    try:
        return OsUser(pwd.getpwuid(uid).pw_name, uid, os.getegid(), separate=False)
    except KeyError:  # initdb's own message, "could not look up effective user ID", names no next step
        raise EmbeddedError(
            f"The user id {uid} has no entry in /etc/passwd, and PostgreSQL's initdb needs one. "
            f"Add an entry, or {OWN_DATABASE}."
        ) from None


def _find_or_create_system_user() -> pwd.struct_passwd:
    options = ("--system", "--user-group", "--no-create-home", "--home-dir=/nonexistent")
    environment = {**_environment(), "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}
    complaint = ""
    # The lock prevents two entries with different ids: 1. two servers see no such user; 2. both run useradd,
    # which looks for the name before it locks /etc/passwd; 3. the files of the first server belong to an id that
    # the name no longer stands for.
    lock = os.open("/etc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with suppress(KeyError):
            return pwd.getpwnam(SYSTEM_USER)
        useradd = ["useradd", *options, "--shell=/usr/sbin/nologin", SYSTEM_USER]
        complaint = subprocess.run(useradd, env=environment, capture_output=True, text=True, check=False).stderr
        return pwd.getpwnam(SYSTEM_USER)
    except (OSError, KeyError) as failure:
        raise EmbeddedError(
            f"PostgreSQL does not run as root, and the system user {SYSTEM_USER} could not be created: "
            f"{complaint.strip() or failure}. Create it (useradd --system {SYSTEM_USER}), start Tokentape as an "
            f"ordinary user, or {OWN_DATABASE}."
        ) from failure
    finally:
        os.close(lock)


def _environment() -> dict[str, str]:
    """Drops the PG… variables of the server's environment: PGOPTIONS or PGDATA would change what initdb does."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return {"PATH": os.defpath, **kept, "LC_ALL": "C", "PGCLIENTENCODING": "UTF8", "PGCONNECT_TIMEOUT": "10"}
