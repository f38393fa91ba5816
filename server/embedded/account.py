"""The system user that PostgreSQL runs as, and running a program as that user.

Owns the choice (root's PostgreSQL runs as the system user `tokentape`, made when missing; anybody else's as that
user), the clean environment, and the question "may that user enter this folder?", which the kernel answers.
Must not know where the data lies or what PostgreSQL is told.
"""

import fcntl
import grp
import os
import pwd
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .errors import ELSEWHERE, EmbeddedError

SYSTEM_USER = "tokentape"

# Asked of the kernel by a child that is the user in question: mode bits alone know nothing of ACLs or mounts.
# Prints the index of the first path that fails; stops in peace at the first that does not exist.
_PROBE = 'i=0; for p do [ -e "$p" ] || exit 0; [ -{test} "$p" ] || {{ echo $i; exit 1; }}; i=$((i+1)); done'


@dataclass(frozen=True, slots=True)
class Account:
    """Who PostgreSQL runs as. `separate`: this process is root, and so PostgreSQL must be somebody else."""

    name: str
    uid: int
    gid: int
    separate: bool

    def run(self, argv: Sequence[str | Path], *, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Runs a program as this user to its end and returns what it printed; the exit code is the caller's."""
        return subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            cwd="/",  # the server's own folder may be one that this user cannot enter: initdb would refuse to run
            env=_environment(),
            umask=0o077,
            start_new_session=True,  # Ctrl-C in the terminal would kill initdb half-way
            user=self.uid if self.separate else None,
            group=self.gid if self.separate else None,
            extra_groups=[] if self.separate else None,
        )

    def popen(self, argv: Sequence[str | Path], *, log: int) -> subprocess.Popen[str]:
        """Starts a program in a session of its own: stdout a pipe, stderr the file `log`, nothing else open."""
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            encoding="ascii",
            close_fds=True,  # a listening socket handed down would keep its port after a kill -9 of the server
            cwd="/",
            env=_environment(),
            umask=0o077,
            start_new_session=True,
            user=self.uid if self.separate else None,
            group=self.gid if self.separate else None,
            extra_groups=[] if self.separate else None,
        )

    def first_barred(self, paths: Sequence[Path], test: Literal["x", "r"] = "x") -> Path | None:
        """The first of `paths` (outermost first) that this user may not enter or read; None when all is well."""
        try:
            said = self.run(["/bin/sh", "-c", _PROBE.format(test=test), "sh", *paths])
        except PermissionError as failure:  # root in name only, as in a container without CAP_SETUID
            raise EmbeddedError(
                f"PostgreSQL does not run as root, and this process may not become the user {self.name}: "
                "start Tokentape as an ordinary user, or set TOKENTAPE_DATABASE_URL to a PostgreSQL of your own."
            ) from failure
        if said.returncode == 0:
            return None
        if not said.stdout.strip().isdigit():
            raise EmbeddedError(
                f"A program could not be run as the user {self.name}: {said.stderr.strip()}. "
                f"To mend it, {ELSEWHERE}."
            )
        return paths[int(said.stdout)]


def acting_account() -> Account:
    """The account PostgreSQL runs as when started by this process.

    Raises EmbeddedError when root cannot make the system user, or when this user has no entry in /etc/passwd.
    """
    if os.geteuid() == 0:
        return _system_account()
    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        # initdb ends with "could not look up effective user ID", which says nothing of what to do.
        raise EmbeddedError(
            f"The user id {os.geteuid()} has no entry in /etc/passwd, and PostgreSQL's initdb refuses to run "
            "without one. Add an entry, or set TOKENTAPE_DATABASE_URL to a PostgreSQL of your own."
        ) from None
    return Account(name, os.geteuid(), os.getegid(), separate=False)


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user id {uid}"


def _system_account() -> Account:
    try:
        entry = pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        entry = _made_system_user()
    if entry.pw_uid == 0:
        raise EmbeddedError(
            f"The user {SYSTEM_USER} has user id 0, but PostgreSQL does not run as root: rename it."
        )
    return Account(SYSTEM_USER, entry.pw_uid, entry.pw_gid, separate=True)


def _made_system_user() -> pwd.struct_passwd:
    handle = os.open("/etc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        # One at a time: useradd looks for the name before it takes its own lock, and of two at once the second
        # gives the user another id, which no file and no running process of the first has.
        fcntl.flock(handle, fcntl.LOCK_EX)
        complaint = "" if _exists(SYSTEM_USER) else _useradd()
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        raise EmbeddedError(
            f"PostgreSQL does not run as root, and the system user {SYSTEM_USER} could not be made: {complaint}. "
            f"Make it (useradd --system {SYSTEM_USER}), start Tokentape as an ordinary user, "
            "or set TOKENTAPE_DATABASE_URL to a PostgreSQL of your own."
        ) from None
    finally:
        os.close(handle)


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _useradd() -> str:
    """Runs it, and returns what it complained of."""
    argv = ["useradd", "--system", "--no-create-home", "--home-dir=/nonexistent", "--shell=/usr/sbin/nologin"]
    try:
        grp.getgrnam(SYSTEM_USER)
        argv.append(f"--gid={SYSTEM_USER}")
    except KeyError:
        argv.append("--user-group")
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    try:
        done = subprocess.run(
            [*argv, SYSTEM_USER],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env={**_environment(), "PATH": path},
        )
    except OSError as failure:
        return f"useradd: {failure.strerror}"
    return done.stderr.strip().rstrip(".")


def _environment() -> Mapping[str, str]:
    """No PG… variable of the server's environment gets through: PGOPTIONS or PGDATA would bend initdb and psql."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return {"PATH": os.defpath, **kept, "LC_ALL": "C", "PGCLIENTENCODING": "UTF8", "PGCONNECT_TIMEOUT": "10"}
