"""A server's hold on the embedded PostgreSQL: acquire it, release it, and (for tests) restart it.

Owns the order of steps and the rule "the first one in starts it, the last one out stops it", safe against servers
that come, go and are killed at the same time. Must not know how each step is done, nor anything of trio: every
function here blocks, and is run in a thread.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from . import binaries, socket_folder
from .account import acting_account
from .cluster import SUPERUSER, ensure_cluster
from .errors import EmbeddedError, explain
from .folder import default_data_dir, prepare
from .locks import Seat, exclusive
from .pid_file import clear_stale, read_pid_file
from .postmaster import START_LIMIT_S, Mode, Site, StillStarting, await_ready, halt, start
from .processes import pid_namespace
from .roles import APP, DATABASE, OWNER, ensure_roles, url

NO_SETTINGS: Mapping[str, str] = MappingProxyType({})

_LOCK_LIMIT_S = START_LIMIT_S + 120.0
_RELEASE_LIMIT_S = 10.0


def _silent(_: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Embedded:
    """A hold on a running PostgreSQL: while it lives, no other process's release stops the database.

    The three URLs go through a Unix socket: `owner_url` for migrations, `app_url` for the server, `superuser_url`
    for tests that clone databases. They stay the same when PostgreSQL is restarted.
    """

    owner_url: str
    app_url: str
    superuser_url: str
    bin_dir: Path
    data_dir: Path
    _site: Site = field(repr=False, compare=False)
    _socket_dir: Path = field(repr=False, compare=False)
    _seat: Seat = field(repr=False, compare=False)

    @property
    def pid(self) -> int:
        """The pid of PostgreSQL's main process, at this moment. Raises EmbeddedError when it is not running."""
        pid = self._site.postmaster()
        if pid is None:
            raise EmbeddedError(f"No PostgreSQL runs on {self._site.layout.cluster}: see {self._site.layout.log}.")
        return pid

    def release(self) -> None:
        """Gives the hold up; the last one out stops PostgreSQL (fast) and waits until it has gone. Blocks.

        A second call does nothing. Raises EmbeddedError when PostgreSQL does not stop; the hold is gone even then.
        """
        if self._seat.vacant:
            return
        with _explained(self.data_dir), ExitStack() as held:
            held.callback(self._seat.vacate)
            try:
                held.enter_context(exclusive(self._site.layout.start_lock, _silent, _RELEASE_LIMIT_S))
            except EmbeddedError:
                return  # whoever is at it that long starts PostgreSQL for its own use: this was not the last
            # Before the start lock is let go: the next server must not meet this seat, now exclusive.
            held.callback(self._seat.vacate)
            _stop_if_last(self._site, self._seat)


def acquire(
    data_dir: Path | None = None,
    *,
    progress: Callable[[str], None] = _silent,
    settings: Mapping[str, str] = NO_SETTINGS,
) -> Embedded:
    """Brings the embedded PostgreSQL up, if it is not, and holds it. Blocks, for seconds the first time.

    `data_dir`: made if missing; None means `default_data_dir()`. `progress` is told what is being waited for,
    about once a second; it may raise to give up, and all is put back. `settings` are PostgreSQL's, for tests, and
    count only if this call is the one that starts it. Raises EmbeddedError when machine or folder are not fit.
    """
    if sys.platform != "linux":
        raise EmbeddedError("The embedded PostgreSQL runs on Linux only: set TOKENTAPE_DATABASE_URL.")
    wanted = default_data_dir() if data_dir is None else data_dir
    with _explained(wanted):
        return _acquire(wanted, progress, settings)


def restart(embedded: Embedded, mode: Mode = "fast") -> None:
    """Stops PostgreSQL under all its users and starts it again; starts it when it was stopped. For tests. Blocks.

    "fast" as in a planned restart, "immediate" as in a crash; the settings are this handle's. Raises EmbeddedError
    when it does not come back.
    """
    site = embedded._site
    with _explained(embedded.data_dir), exclusive(site.layout.start_lock, _silent, _LOCK_LIMIT_S):
        halt(site, mode, _silent)
        start(site, embedded._socket_dir, _silent)


def stop(embedded: Embedded, mode: Mode = "fast") -> None:
    """Stops PostgreSQL under all its users; holds stay, and `restart` starts it again. For tests. Blocks.

    Raises EmbeddedError when it does not stop.
    """
    site = embedded._site
    with _explained(embedded.data_dir), exclusive(site.layout.start_lock, _silent, _LOCK_LIMIT_S):
        halt(site, mode, _silent)


def _acquire(wanted: Path, progress: Callable[[str], None], settings: Mapping[str, str]) -> Embedded:
    account = acting_account()
    layout = prepare(wanted, account)
    with exclusive(layout.start_lock, progress, _LOCK_LIMIT_S), ExitStack() as undo:
        seat = Seat(layout.users_lock)
        undo.callback(seat.vacate)
        bin_dir = binaries.ready(layout, account, progress)
        ensure_cluster(layout, account, bin_dir, durable=settings.get("fsync") != "off", progress=progress)
        site = Site(layout, account, bin_dir, dict(settings))
        undo.callback(_stop_if_last, site, seat)
        try:
            socket_dir = _serve(site, progress, alone=seat.alone)
        except StillStarting:
            undo.pop_all()
            seat.vacate()
            raise
        undo.pop_all()
    return Embedded(
        owner_url=url(OWNER, DATABASE, socket_dir),
        app_url=url(APP, DATABASE, socket_dir),
        superuser_url=url(SUPERUSER, "postgres", socket_dir),
        bin_dir=bin_dir,
        data_dir=layout.data_dir,
        _site=site,
        _socket_dir=socket_dir,
        _seat=seat,
    )


def _serve(site: Site, progress: Callable[[str], None], *, alone: bool) -> Path:
    """A running PostgreSQL with its roles and database; returns the folder of its socket."""
    for last in (False, False, True):
        socket_dir = _bring_up(site, progress, alone=alone)
        try:
            ensure_roles(site.account, site.bin_dir, socket_dir)
            break
        except EmbeddedError:
            # Killed since it was found; or the psql of a server killed half-way was still doing the same work.
            if last:
                raise
    return socket_dir


def _bring_up(site: Site, progress: Callable[[str], None], *, alone: bool) -> Path:
    """Uses the PostgreSQL that runs, or starts one; returns the folder of its socket."""
    pid = site.postmaster()
    if pid is not None and await_ready(site, pid, progress):
        found = _socket_dir(site)
        if found is not None and socket_folder.socket_in(found).exists():
            return found
        if not alone:
            raise EmbeddedError(
                f"PostgreSQL (pid {pid}) runs on {site.layout.cluster}, but its socket in {found} is gone or "
                "hidden (a cleaner of /tmp, or a service with a private /tmp). Stop the Tokentape that uses it, "
                "and start again."
            )
        progress(f"restarting PostgreSQL, as its socket in {found} is gone")
        halt(site, "fast", progress)
    if not alone:
        _refuse_another_container(site)
    site.layout.started_in.write_text(pid_namespace(), "ascii")
    made = socket_folder.claim(site.layout.data_dir, site.account)
    try:
        start(site, made, progress)
    except BaseException:
        if site.postmaster() is None and clear_stale(site.layout.cluster):
            socket_folder.discard(made)
        raise
    return made


def _refuse_another_container(site: Site) -> None:
    """Two containers on one volume do not see each other's processes: a second PostgreSQL would ruin the data."""
    started_in = site.layout.started_in
    if started_in.exists() and started_in.read_text("ascii") != pid_namespace():
        raise EmbeddedError(
            f"The data folder {site.layout.data_dir} is in use by a Tokentape in another container, and an "
            "embedded PostgreSQL cannot be shared between containers. Give each its own folder, or set "
            "TOKENTAPE_DATABASE_URL for all of them."
        )


def _stop_if_last(site: Site, seat: Seat) -> None:
    if seat.is_last():
        found = _socket_dir(site)
        halt(site, "fast", _silent)
        if clear_stale(site.layout.cluster) and found is not None:
            socket_folder.discard(found)


def _socket_dir(site: Site) -> Path | None:
    noted = read_pid_file(site.layout.cluster)
    return noted.socket_dir if noted is not None else None


@contextmanager
def _explained(data_dir: Path) -> Iterator[None]:
    """No bare OSError leaves this room: it would say neither which database nor what to do."""
    try:
        yield
    except OSError as failure:
        raise explain(failure, data_dir) from failure
