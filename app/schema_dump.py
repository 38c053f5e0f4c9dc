"""Write ``sql/schema.sql``, what the migrations produce, for people to read in reviews: ``make schema``.

With ``--check`` nothing is written; the command fails, showing the difference, when the file is out of date.
"""

from __future__ import annotations

import difflib
import re
import subprocess
from collections.abc import Iterable, Sequence

import click
import psycopg

from app.embedded import EmbeddedPostgres, scratch_postgres
from app.migrate import SQL_DIR, migrate

SCHEMA_FILE = SQL_DIR / "schema.sql"
HEADER = "-- Made by `make schema` from the migrations, for reading. Without the partitions of the day.\n"
# The versions of the tools and a nonce per dump say nothing about the schema.
VOLATILE = ("-- Dumped from database version", "-- Dumped by pg_dump version", "\\restrict ", "\\unrestrict ")


@click.command()
@click.option("--check", is_flag=True, help="Fail when sql/schema.sql is not what the migrations produce.")
def main(check: bool) -> None:
    """Write sql/schema.sql, or check it."""
    produced = produced_schema()
    if not check:
        SCHEMA_FILE.write_text(produced)
        return
    written = SCHEMA_FILE.read_text() if SCHEMA_FILE.exists() else ""
    if written != produced:
        click.echo(_diff(written, produced), err=True)
        raise click.ClickException("sql/schema.sql is not what the migrations produce; run `make schema`")
    click.echo("sql/schema.sql is what the migrations produce")


def produced_schema() -> str:
    """The schema of a database that was just migrated, as stable text."""
    with scratch_postgres({"fsync": "off"}) as server:
        migrate(server.dsn())
        return _stable(_dump(server, without=_partitions(server.dsn())))


def _partitions(dsn: str) -> Sequence[str]:
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            """
            SELECT format('%I.%I', n.nspname, c.relname)
              FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relispartition AND c.relkind = 'r'
            """
        ).fetchall()
    return [row[0] for row in rows]


def _dump(server: EmbeddedPostgres, *, without: Iterable[str]) -> str:
    excluded = [f"--exclude-table={name}" for name in without]
    command = [str(server.psql.with_name("pg_dump")), "--schema-only", "--no-owner", *excluded, server.dsn()]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _stable(dump: str) -> str:
    dump = re.sub(r"; sources [0-9a-f]{16}'", "'", dump)  # a comment in a function's file changes no schema
    kept = [line for line in dump.splitlines() if not line.startswith(VOLATILE)]
    squeezed = [line for line, before in zip(kept, ["", *kept], strict=False) if line or before]
    return HEADER + "\n".join(squeezed).strip("\n") + "\n"


def _diff(written: str, produced: str) -> str:
    lines = difflib.unified_diff(
        written.splitlines(),
        produced.splitlines(),
        "sql/schema.sql",
        "what the migrations produce",
        lineterm="",
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
