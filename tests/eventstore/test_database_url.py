"""Database URLs as hosting providers give them: accepted as they are, or refused with what to write instead."""

from pathlib import Path

import asyncpg
import pytest
from asyncpg.connect_utils import _parse_connect_arguments  # type: ignore[attr-defined]

from eventstore.postgres.database_url import BadDatabaseUrl, parse_database_url

SECRET = "s3cr3t"
Host = tuple[str, int]

PROVIDERS: dict[str, tuple[str, list[Host], str | None, str]] = {
    "Neon": (
        f"postgresql://own:{SECRET}@ep-a-1.eu-central-1.aws.neon.tech/neondb?sslmode=require&channel_binding=require",
        [("ep-a-1.eu-central-1.aws.neon.tech", 5432)],
        "own",
        "neondb",
    ),
    "Neon, for clients without SNI": (
        f"postgres://own:{SECRET}@ep-a-1.neon.tech/neondb?options=endpoint%3Dep-a-1&sslmode=require",
        [("ep-a-1.neon.tech", 5432)],
        "own",
        "neondb",
    ),
    "Supabase, direct": (
        f"postgresql://postgres:{SECRET}@db.abcd.supabase.co:5432/postgres",
        [("db.abcd.supabase.co", 5432)],
        "postgres",
        "postgres",
    ),
    "Supabase, session pooler": (
        f"postgresql://postgres.abcd:{SECRET}@aws-0-eu-central-1.pooler.supabase.com:5432/postgres",
        [("aws-0-eu-central-1.pooler.supabase.com", 5432)],
        "postgres.abcd",
        "postgres",
    ),
    "RDS": (
        f"postgresql://app:{SECRET}@mine.abc.eu-west-1.rds.amazonaws.com:5432/app?sslmode=require&connect_timeout=10",
        [("mine.abc.eu-west-1.rds.amazonaws.com", 5432)],
        "app",
        "app",
    ),
    "Heroku": (
        f"postgres://u1:{SECRET}@ec2-1-2-3-4.compute-1.amazonaws.com:5432/d1",
        [("ec2-1-2-3-4.compute-1.amazonaws.com", 5432)],
        "u1",
        "d1",
    ),
    "Azure, single server": (
        f"postgresql://me%40mine:{SECRET}@mine.postgres.database.azure.com:5432/app?sslmode=require",
        [("mine.postgres.database.azure.com", 5432)],
        "me@mine",
        "app",
    ),
    "Fly": (
        f"postgres://app:{SECRET}@app-db.flycast:5432/app?sslmode=disable",
        [("app-db.flycast", 5432)],
        "app",
        "app",
    ),
    "Aiven": (
        f"postgres://avnadmin:{SECRET}@pg-1.a.aivencloud.com:12691/defaultdb?sslmode=require",
        [("pg-1.a.aivencloud.com", 12691)],
        "avnadmin",
        "defaultdb",
    ),
    "DigitalOcean": (
        f"postgresql://doadmin:{SECRET}@db-1.b.db.ondigitalocean.com:25060/defaultdb?sslmode=require",
        [("db-1.b.db.ondigitalocean.com", 25060)],
        "doadmin",
        "defaultdb",
    ),
    "Cloud SQL, by its socket": (
        f"postgresql://app:{SECRET}@/app?host=/cloudsql/p:r:i",
        [("/cloudsql/p:r:i", 5432)],
        "app",
        "app",
    ),
    "Patroni, all its members": (
        f"postgresql://app:{SECRET}@a.example:5432,b.example:5433,c.example/app?target_session_attrs=read-write",
        [("a.example", 5432), ("b.example", 5433), ("c.example", 5432)],
        "app",
        "app",
    ),
    "hosts and ports in the query": (
        "postgresql:///app?host=a.example,b.example&port=5433&user=me&target_session_attrs=primary",
        [("a.example", 5433), ("b.example", 5433)],
        "me",
        "app",
    ),
    "CloudNativePG": (
        f"postgresql://app:{SECRET}@cluster-rw.default:5432/app?application_name=chat&keepalives=1&gssencmode=disable",
        [("cluster-rw.default", 5432)],
        "app",
        "app",
    ),
    "an IPv6 address": (f"postgresql://app:{SECRET}@[::1]:5433/app", [("::1", 5433)], "app", "app"),
    "a password with an @": (f"postgresql://app:{SECRET}@x@h.example/app", [("h.example", 5432)], "app", "app"),
    "an @ in a user's name behind the ?": (
        "postgresql://h.example/app?user=me@mine&password=x",
        [("h.example", 5432)],
        "me@mine",
        "app",
    ),
    "nothing but a scheme": ("postgresql://", [], None, ""),
}


@pytest.mark.parametrize("name", PROVIDERS)
def test_urls_of_providers_are_accepted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url, hosts, user, database = PROVIDERS[name]
    address = parse_database_url(url)
    assert list(address.hosts) == hosts
    assert address.user == user
    # And what the driver makes of the rest: nothing is left over that a server would not know.
    for variable in ("PGHOST", "PGUSER", "PGDATABASE", "PGSSLMODE", "PGSERVICE"):
        monkeypatch.delenv(variable, raising=False)
    for host in address.in_order():
        addresses, found, _ = _parse_connect_arguments(
            dsn=address.dsn,
            **{"host": host[0], "port": host[1]} if host else {"host": None, "port": None},
            **dict.fromkeys(("user", "password", "passfile", "database", "command_timeout", "ssl", "direct_tls")),
            **dict.fromkeys(("target_session_attrs", "krbsrvname", "gsslib", "service", "servicefile")),
            statement_cache_size=100,
            max_cached_statement_lifetime=0,
            max_cacheable_statement_size=0,
            server_settings={"application_name": "x"},
        )
        assert len(addresses) == (1 if host else len(addresses))
        if user is not None:
            assert found.user == user
            assert found.database == database
        if SECRET in url:
            assert found.password in (SECRET, f"{SECRET}@x")
        assert set(found.server_settings) <= {"application_name", "options"}
        if "sslmode=require" in url:
            assert found.sslmode.name == "require"


def test_parameters_are_kept() -> None:
    assert parse_database_url("postgresql://h/d?application_name=chat").program == "chat"
    assert parse_database_url("postgresql://h/d?connect_timeout=10").connect_timeout == 10.0
    assert parse_database_url("postgresql://h/d?connect_timeout=1").connect_timeout == 2.0  # as libpq
    assert parse_database_url("postgresql://h/d?connect_timeout=0").connect_timeout is None
    assert "sslmode=require" in parse_database_url("postgresql://h/d?requiressl=1").dsn
    system = parse_database_url("postgresql://h/d?sslrootcert=system").dsn
    assert "sslmode=verify-full" in system
    assert "sslrootcert=system" not in system


def test_last_good_host_is_tried_first() -> None:
    address = parse_database_url("postgresql://one,two,three/order")
    assert [host and host[0] for host in address.in_order()] == ["one", "two", "three"]
    address.found(("two", 5432))
    assert [host and host[0] for host in parse_database_url("postgresql://one,two,three/order").in_order()] == [
        *("two", "three", "one")
    ]


REFUSED: dict[str, tuple[str, str]] = {
    "another database": ("mysql://h/d", "postgresql://"),
    "no URL": ("host=h dbname=d", "postgresql://"),
    "SQLAlchemy's": ("postgresql+asyncpg://h/d", "write postgresql://"),
    "JDBC's": ("jdbc:postgresql://h/d", "postgresql://"),
    "a pooler in transaction mode, by Prisma's name": (
        f"postgresql://postgres.abcd:{SECRET}@x.pooler.supabase.com:6543/postgres?pgbouncer=true",
        "session mode",
    ),
    "a standby": ("postgresql://h/d?target_session_attrs=standby", "takes no writes"),
    "a standby rather": ("postgresql://h/d?target_session_attrs=prefer-standby", "takes no writes"),
    "a server that is read only": ("postgresql://h/d?target_session_attrs=read-only", "takes no writes"),
    "nonsense": ("postgresql://h/d?target_session_attrs=fastest", "leave it out"),
    "an unknown parameter": ("postgresql://h/d?sslmod=require", "did you mean sslmode?"),
    "Prisma's": ("postgresql://h/d?connection_limit=1", "connection_limit"),
    "a setting of the server": ("postgresql://h/d?statement_timeout=5s", "options=-c"),
    "another encoding": ("postgresql://h/d?client_encoding=latin1", "UTF8"),
    "GSS encryption": ("postgresql://h/d?gssencmode=require", "sslmode=verify-full"),
    "replication": ("postgresql://h/d?replication=database", "leave it out"),
    "an address beside the host": ("postgresql://h/d?hostaddr=10.0.0.1", "as the host"),
    "the owner of a socket": ("postgresql:///d?host=/tmp&requirepeer=postgres", "leave it out"),
    "a time that is none": ("postgresql://h/d?connect_timeout=soon", "seconds"),
    "a slash in the password": (f"postgresql://app:{SECRET}/x@h/d", "%2F"),
    "a colon and an @ in the password": (f"postgresql://app:x@{SECRET}:y@h:z/d", "%3A"),
    "a # in the password": (f"postgresql://app:{SECRET}#x@h/d", "%23"),
    "a bracket in the password": (f"postgresql://app:{SECRET}[x@h/d", "%40"),
    "a ? in the password": (f"postgresql://app:x?{SECRET}@h/d", "%40"),
    "a ? and a = in the password": (f"postgresql://app:x?{SECRET}=@h/d", "%3F"),
    "a wide colon in the password": (f"postgresql://app:{SECRET}：x@h/d", "%40"),
    "no // behind the scheme": (f"postgresql:app:{SECRET}@h/d", "postgresql://"),
    "a port that is none": ("postgresql://h:70000/d", "65535"),
    "too few ports": ("postgresql:///d?host=a,b,c&port=1,2", "as many ports as hosts"),
    "half an address in brackets": ("postgresql://%5B::1/d", "brackets"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unusable_url_is_refused_with_a_hint(name: str) -> None:
    url, hint = REFUSED[name]
    with pytest.raises(BadDatabaseUrl) as refusal:
        parse_database_url(url)
    assert hint in str(refusal.value)
    assert SECRET not in str(refusal.value)
    assert SECRET[:4] not in str(refusal.value)


def test_driver_knows_every_passed_parameter() -> None:
    """It would send an unknown parameter to the server, which refuses the connection."""
    from eventstore.postgres import database_url

    source = Path(asyncpg.__file__).with_name("connect_utils.py").read_text(encoding="utf-8")
    unknown = [name for name in database_url._PASSED_ON if f"'{name}'" not in source and name != "options"]
    assert unknown == []
