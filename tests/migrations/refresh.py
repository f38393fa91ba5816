"""Writes migrations/schema.sql: `python -m tests.migrations.refresh`, after every new revision.

The file is the pg_dump of a database at the newest revision, without what differs from run to run.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import migrations
from tests.conftest import postgres_folder
from tests.harness.databases import Postgres

SCHEMA = Path(migrations.__file__).with_name("schema.sql")
SCHEMAS = ("-n", "eventstore", "-n", "tokentape_auth", "-n", "tokentape_files")
HEADER = "-- What all revisions together make. Never applied; refresh it: python -m tests.migrations.refresh\n"


def dump_schema(bin_dir: Path, url: str) -> str:
    """The schema of a database, as the file holds it."""
    done = subprocess.run(
        [bin_dir / "pg_dump", "--schema-only", "--no-owner", "--no-privileges", *SCHEMAS, "-d", url],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode != 0:
        raise RuntimeError(f"pg_dump: {done.stderr.strip()}")
    return HEADER + normalise(done.stdout)


def normalise(dump: str) -> str:
    """A dump without blank lines, comments and pg_dump's own settings (a function's comments are indented)."""
    noise = ("--", "SET ", "SELECT pg_catalog.set_config", "\\restrict", "\\unrestrict")
    return "".join(f"{line}\n" for line in dump.splitlines() if line.strip() and not line.startswith(noise))


def main() -> None:
    """Makes a database, dumps it, throws it away."""
    with tempfile.TemporaryDirectory() as private, postgres_folder(Path(private), "schema") as folder:
        postgres = Postgres(folder)
        try:
            with postgres.clone() as database:
                SCHEMA.write_text(dump_schema(postgres.embedded.bin_dir, database.owner_url), encoding="utf-8")
        finally:
            postgres.close()
    sys.stdout.write(f"wrote {SCHEMA}\n")


if __name__ == "__main__":
    main()
