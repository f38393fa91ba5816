"""compose.yaml: what it publishes, what it pins, who depends on whom, and that its parts fit each other."""

import re
from collections.abc import Mapping
from typing import Any

import pytest

from server.config import Settings, load
from server.http import HttpOptions
from server.web.transports.read_params import MAX_WAIT
from server.web.upload_body import MAX_FORM_OVERHEAD
from tests.harness.servers import ROOT

from . import composed, passwords

NAMES = passwords.example_env_values()
SERVERS = ("server-1", "server-2")
ONCE = ("migrate", "first-key")
"""Services that end, each before the next one starts."""


@pytest.fixture
def services() -> Mapping[str, Any]:
    """With passwords and nothing else set."""
    found: Mapping[str, Any] = composed.read(NAMES)["services"]
    return found


def test_services_of_compose(services: Mapping[str, Any]) -> None:
    """Two servers, and both the same."""
    assert set(services) == {"db", "migrate", "first-key", "server-1", "server-2", "nginx"}
    assert services["server-1"] == services["server-2"]


def test_images_are_pinned(services: Mapping[str, Any]) -> None:
    """To a whole version; ours is built here."""
    for name, service in services.items():
        if service["image"] == "tokentape:local":
            assert service["build"] == "."
        else:
            assert re.fullmatch(r"(postgres|nginx):\d+\.\d+(\.\d+)?-\w+", service["image"]), name
    assert services["db"]["image"].startswith("postgres:18.")


def test_only_nginx_is_published_on_loopback(services: Mapping[str, Any]) -> None:
    """Unless somebody says otherwise."""
    assert [name for name, service in services.items() if "ports" in service] == ["nginx"]
    assert services["nginx"]["ports"] == ["127.0.0.1:8000:8080"]
    opened = composed.read({**NAMES, "PUBLISH": "0.0.0.0:443"})["services"]["nginx"]["ports"]
    assert opened == ["0.0.0.0:443:8080"]
    assert not any("network_mode" in service or service.get("privileged") for service in services.values())


@pytest.mark.parametrize("name", passwords.NAMES)
def test_no_password_has_a_default(name: str) -> None:
    """Without one it does not start, and none stands in the file."""
    with pytest.raises(composed.Unset, match=name):
        composed.read({other: value for other, value in NAMES.items() if other != name})
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    for line in text.splitlines():
        if "PASSWORD" in line and not line.lstrip().startswith("#"):
            assert re.search(r"\$\{DB_\w+_PASSWORD:\?[^}]+\}", line), line


def test_server_has_only_the_serving_role(services: Mapping[str, Any]) -> None:
    """Not the owner's password, not the superuser's; the database gets only what its script asks for."""
    for name in SERVERS:
        held = " ".join(services[name]["environment"].values())
        assert NAMES["DB_APP_PASSWORD"] in held
        assert NAMES["DB_OWNER_PASSWORD"] not in held
        assert NAMES["DB_SUPERUSER_PASSWORD"] not in held
    assert not any(value in str(services["nginx"]) for value in NAMES.values())
    script = (ROOT / "deploy" / "postgres" / "roles.sql").read_text(encoding="utf-8")
    asked = set(re.findall(r"^\\getenv \w+ (\w+)", script, re.MULTILINE))
    assert asked == set(services["db"]["environment"]) - {"POSTGRES_PASSWORD"}
    roles = set(re.findall(r"postgresql://(\w+):", str(services)))
    assert roles == set(re.findall(r"ALTER ROLE (\w+)", script))


@pytest.mark.parametrize("name", [*ONCE, *SERVERS])
def test_every_setting_is_known_to_tokentape(
    services: Mapping[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A typo would be refused at start; here it is refused before. Optional ones left out count as unset."""
    for variable, value in services[name]["environment"].items():
        monkeypatch.setenv(variable, value)
    settings = load()
    assert settings.database_url is not None
    assert (settings.database_owner_url is not None) == (name in ONCE)
    assert settings.allowed_hosts == ()
    assert settings.stream_max_seconds is None
    if name not in ONCE:
        assert _seconds(services[name]["stop_grace_period"]) > settings.stop_timeout + 5


OURS_TO_SAY = {
    "bind": "the image's: all addresses of the container",
    "database_url": "made of the password in .env",
    "database_owner_url": "a server does not hold it; `migrate` does",
    "migrate": "the service `migrate` does it, with the owner's login",
    "data_dir": "the database is a service; servers keep nothing",
    "tls": "nginx is what browsers reach, and has the certificate",
    "certfile": "as tls",
    "keyfile": "as tls",
    "stop_timeout": "goes with stop_grace_period",
}
"""Settings that .env cannot change, each with its reason."""


def test_compose_passes_every_setting_on() -> None:
    """A new one has to be passed on, or be put into the list above: else .env has it, and nothing happens."""
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    passed = dict(re.findall(r"^    (\w+): \$\{\1:-([\w./,]*)\}$", text, re.MULTILINE))
    fields = Settings.model_fields
    variables = {
        name: str(field.validation_alias or f"TOKENTAPE_{name.upper()}") for name, field in fields.items()
    }
    assert OURS_TO_SAY.keys() <= fields.keys()
    missing = {name for name, variable in variables.items() if variable not in passed} - OURS_TO_SAY.keys()
    assert missing == set(), "neither in compose.yaml nor in OURS_TO_SAY"
    assert not {variables[name] for name in OURS_TO_SAY} & passed.keys()
    others = set(passed) - set(variables.values())
    assert others == {"HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"}
    assert {name: default for name, default in passed.items() if default} == {
        "TOKENTAPE_LOG_FORMAT": "json",
        "TOKENTAPE_TRUSTED_PROXIES": "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16",
    }


def test_values_in_env_file_reach_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each variable's value arrives whole, on both servers."""
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    names = set(re.findall(r"\$\{(\w+):-", text)) - {"PUBLISH"}
    values = {name: f"<{name}>" for name in names}
    services = composed.read({**NAMES, **values})["services"]
    for server in SERVERS:
        got = services[server]["environment"]
        assert {name: got[name] for name in names} == values


def test_services_start_after_their_dependencies(services: Mapping[str, Any]) -> None:
    """Database, then migration, then the first key, then servers, then nginx."""
    needs = {name: service.get("depends_on", {}) for name, service in services.items()}
    healthy, done = {"condition": "service_healthy"}, {"condition": "service_completed_successfully"}
    assert needs == {
        "db": {},
        "migrate": {"db": healthy},
        "first-key": {"db": healthy, "migrate": done},
        "server-1": {"db": healthy, "migrate": done, "first-key": done},
        "server-2": {"db": healthy, "migrate": done, "first-key": done},
        "nginx": {"server-1": healthy, "server-2": healthy},
    }
    for name in ONCE:
        assert services[name]["restart"] == "no"
        assert services[name]["healthcheck"] == {"disable": True}
    assert services["migrate"]["command"] == ["migrate"]
    assert services["first-key"]["command"][:3] == ["keys", "create", "--if-none"]
    assert "--host=127.0.0.1" in services["db"]["healthcheck"]["test"], "by the socket it is up too early"
    assert services["nginx"]["healthcheck"]["test"][-1].endswith(":8080/readyz")
    for name in SERVERS:
        assert "healthcheck" not in services[name], "the image's own"


def test_volume_is_mounted_at_postgres_data_directory(services: Mapping[str, Any]) -> None:
    """Mounted on …/data, as before 18, the data would be in an anonymous volume and gone with the container."""
    whole = composed.read(NAMES)
    mounts = dict(volume.split(":")[:2] for volume in services["db"]["volumes"])
    assert mounts["postgres"] == "/var/lib/postgresql"
    assert set(whole["volumes"]) == {"postgres"}


def test_mounted_files_exist_and_are_read_only(services: Mapping[str, Any]) -> None:
    """A path that does not exist would be made, as an empty folder."""
    for service in services.values():
        for volume in service.get("volumes", []):
            source, _, *mode = volume.split(":")
            if source.startswith("."):
                assert (ROOT / source).exists()
                assert mode == ["ro"]


def test_nginx_upstreams_are_the_services(services: Mapping[str, Any]) -> None:
    """At the port the image binds; and it reads the file that is mounted."""
    config = (ROOT / "deploy" / "nginx" / "tokentape.conf").read_text(encoding="utf-8")
    assert re.findall(r"^    server (\S+) resolve", config, re.MULTILINE) == [f"{name}:8000" for name in SERVERS]
    assert "TOKENTAPE_BIND=0.0.0.0:8000" in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "TOKENTAPE_BIND" not in services["server-1"]["environment"]
    assert re.findall(r"^    listen (\d+);", config, re.MULTILINE) == ["8080"]
    assert services["nginx"]["volumes"] == ["./deploy/nginx:/etc/tokentape:ro"]
    assert "/etc/tokentape/nginx.conf" in services["nginx"]["command"]


def test_nginx_timeouts_exceed_those_of_the_server() -> None:
    """Each time-out on the side where it does no harm."""
    config = (ROOT / "deploy" / "nginx" / "tokentape.conf").read_text(encoding="utf-8")

    def said(name: str) -> str:
        (value,) = re.findall(rf"^ +{name} (\S+);", config, re.MULTILINE)
        return str(value)

    settings = Settings.model_fields
    assert _seconds(said("keepalive_timeout")) < HttpOptions().keep_alive, "a POST would meet the server's close"
    assert _seconds(said("proxy_read_timeout")) > max(settings["heartbeat"].default, MAX_WAIT) + 15
    assert _seconds(said("send_timeout")) >= settings["stall_timeout"].default
    body, file = re.findall(r"^ +client_max_body_size (\d+)m;", config, re.MULTILINE)
    assert int(body) * 2**20 > settings["max_body"].default
    assert int(file) * 2**20 > settings["max_file"].default + MAX_FORM_OVERHEAD


def test_networks_connect_only_neighbours(services: Mapping[str, Any]) -> None:
    """nginx never the database; the database nothing outside; the servers both, and their upstreams."""
    whole = composed.read(NAMES)
    assert whole["networks"]["data"] == {"internal": True}
    reached = {name: set(service["networks"]) for name, service in services.items()}
    assert reached["nginx"] == {"web"}
    assert reached["db"] == reached["migrate"] == reached["first-key"] == {"data"}
    assert reached["server-1"] == {"data", "web"}


@pytest.mark.parametrize("name", [*ONCE, *SERVERS, "nginx"])
def test_containers_cannot_write_or_gain_privileges(services: Mapping[str, Any], name: str) -> None:
    """Read-only but for /tmp, no capability, no way to gain one; restarted but for the migration."""
    service = services[name]
    assert service["read_only"] is True
    assert [path.split(":")[0] for path in service["tmpfs"]] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert name in ONCE or service["restart"] == "unless-stopped"
    if name == "nginx":
        assert service["user"] == "101:101"


def _seconds(text: str) -> int:
    assert text.endswith("s")
    return int(text[:-1])
