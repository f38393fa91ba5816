"""The Dockerfile's properties, and its health check; test_image_steps.py carries its steps out."""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from importlib.metadata import distribution
from pathlib import Path

import pytest
import trustme
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from server.config import load
from tests.harness.databases import TestDatabase
from tests.harness.servers import ROOT, free_port, running

from .dockerfile import Stage, read
from .stack import Stack

BASE, BUILD, FINAL = range(3)


@pytest.fixture
def stages() -> list[Stage]:
    """Base, build, final."""
    return read()


def test_base_image_is_pinned_and_shared(stages: list[Stage]) -> None:
    """One version of Python for all stages, to the patch; a slim one, which has no compiler."""
    assert re.fullmatch(r"python:3\.11\.\d+-slim-trixie", stages[BASE].base)
    assert [(stage.base, stage.name) for stage in stages[BUILD:]] == [("base", "build"), ("base", "")]
    required = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    assert required == ">=3.11"


def test_final_stage_only_copies(stages: list[Stage]) -> None:
    """Nothing is installed there; of the tree only the health check gets in without the wheel."""
    final = stages[FINAL]
    assert final.all("RUN") == []
    copied = [re.sub(r"--chmod=\S+ ", "", rest) for rest in final.all("COPY")]
    assert copied == [
        "--from=build /opt/tokentape /opt/tokentape",
        "deploy/healthcheck.py /opt/tokentape/healthcheck.py",
    ]
    assert final.all("ADD") == []


def test_final_image_runs_as_a_numbered_unprivileged_user(stages: list[Stage]) -> None:
    """A fixed number that is not root's (a name could not be checked by runAsNonRoot); told to stop by SIGTERM."""
    final = stages[FINAL]
    uid, _, gid = final.one("USER").partition(":")
    assert int(uid) >= 10_000
    assert int(gid) >= 10_000
    assert final.one("STOPSIGNAL") == "SIGTERM"
    assert json.loads(final.one("ENTRYPOINT")) == ["tokentape"]
    assert json.loads(final.one("CMD")) == ["serve"]
    assert final.one("EXPOSE") == "8000"
    words = [word for word, _ in final.instructions]
    assert words.index("USER") > max(index for index, word in enumerate(words) if word == "COPY")


def test_dependencies_are_wheels_at_locked_versions(stages: list[Stage]) -> None:
    """No sdist is built, so no compiler is missed; every install is held by the lock."""
    for rest in stages[BUILD].all("RUN"):
        for command in rest.split("&&"):
            if " install " in command:
                assert "--only-binary :all:" in command
                assert "--constraint requirements.lock" in command
    for stage in stages:
        assert not re.search(r"apt|curl|wget|gcc|latest", str(stage.instructions))


def test_every_dependency_is_locked() -> None:
    """A constraint holds only what it names: a dependency of a dependency that the lock lacks would float."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked = {canonicalize_name(line.split("==")[0]) for line in text.splitlines() if "==" in line}
    needed: set[str] = set()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    _gather([*project["dependencies"], *extras["tls"], *extras["embedded"]], needed)
    assert len(needed) > 20
    assert needed - locked == set()
    assert "hatchling" in locked


def _gather(requirements: Iterable[str], needed: set[str]) -> None:
    for text in requirements:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        extras = requirement.extras or {""}
        if any(requirement.marker is None or requirement.marker.evaluate({"extra": extra}) for extra in extras):
            known = name in needed
            needed.add(name)
            if not known or requirement.extras:
                for further in distribution(name).requires or []:
                    marker = Requirement(further).marker
                    if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                        _gather([further.partition(";")[0]], needed)


def test_dockerignore_lets_copied_files_pass(stages: list[Stage]) -> None:
    """All is shut out but what the image is made of; no secret or repository can slip into a layer."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    copied: set[str] = set()
    for stage in stages:
        for rest in stage.all("COPY"):
            words = [word for word in rest.split() if not word.startswith("--")]
            if "--from" not in rest:
                copied |= set(words[:-1])
    assert copied == let_in - {"deploy"}
    assert all((ROOT / path).exists() for path in let_in)


def test_health_check_needs_only_python(stages: list[Stage]) -> None:
    """No shell, no curl; the file it runs is the one that is copied."""
    rest = stages[FINAL].one("HEALTHCHECK")
    options, _, command = rest.partition("CMD ")
    assert json.loads(command) == ["python", "/opt/tokentape/healthcheck.py"]
    timeout = re.search(r"--timeout=(\d+)s", options)
    assert timeout is not None
    source = (ROOT / "deploy" / "healthcheck.py").read_text(encoding="utf-8")
    assert f"SECONDS = {int(timeout[1]) - 1}.0" in source, "it would be killed before it can say why"


async def test_health_check_asks_the_server(up: Stack) -> None:
    """0 while it serves, whatever proxy is set for upstreams; 1 with a reason when it is gone."""
    server = up.servers[0]
    assert _health(f"0.0.0.0:{server.port}") == (0, "")
    assert _health(f"127.0.0.1:{server.port}") == (0, "")
    await server.kill()
    status, said = _health(f"0.0.0.0:{server.port}")
    assert status == 1
    assert "no answer from 127.0.0.1" in said
    assert _health(f"[::]:{free_port()}")[0] == 1


@pytest.mark.parametrize("setting", ["TOKENTAPE_TLS", "TOKENTAPE_CERTFILE"])
async def test_health_check_uses_https_where_tls_is_on(
    setting: str, database: TestDatabase, tmp_path: Path
) -> None:
    """Whoever made the certificate. Asked by HTTP, the port answers 400: the container would never be healthy."""
    env = {"TOKENTAPE_DATA_DIR": str(tmp_path / "data"), "TOKENTAPE_ALLOWED_HOSTS": "chat.example.org"}
    if setting == "TOKENTAPE_TLS":
        env[setting] = "true"
    else:
        own = trustme.CA().issue_cert("chat.example.org")
        for name, blob in (("CERTFILE", own.cert_chain_pems[0]), ("KEYFILE", own.private_key_pem)):
            blob.write_to_path(tmp_path / name)
            env[f"TOKENTAPE_{name}"] = str(tmp_path / name)
    async with running(database.app_url, env) as server:
        assert _health(f"0.0.0.0:{server.port}", env) == (0, "")
        assert _health(f"0.0.0.0:{server.port}") == (1, "/healthz answered 400\n")
        await server.kill()
        assert _health(f"0.0.0.0:{server.port}", env)[0] == 1


@pytest.mark.parametrize("value", ["", "0", "false", "False", "no", "off", "n", "f"])
async def test_health_check_uses_http_where_tls_is_off(value: str, up: Stack) -> None:
    """In every spelling that the settings take for no."""
    if value:
        assert load({"tls": value}).tls is False
    assert _health(f"0.0.0.0:{up.servers[0].port}", {"TOKENTAPE_TLS": value}) == (0, "")


def _health(bind: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, str(Path(ROOT, "deploy", "healthcheck.py"))],
        env={
            "http_proxy": "http://127.0.0.1:9",
            "HTTP_PROXY": "http://127.0.0.1:9",
            "HTTPS_PROXY": "http://127.0.0.1:9",
            **(env or {}),
            "TOKENTAPE_BIND": bind,
        },
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return done.returncode, done.stderr
