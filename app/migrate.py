"""Bring a database to this release's schema: ``landed migrate``, ``landed up``, the tests.

Tables (schema ``store``) change by numbered revisions in ``sql/migrations/versions``, forward only. What
stands on the tables, the functions of schema ``landed`` and the views of schema ``reporting``, is not
versioned: each upgrade drops both schemas and runs ``sql/functions/*.sql`` and ``sql/views/*.sql`` in name
order, grants included. A file that others depend on gets an earlier name (``10_deliveries.sql`` before
``20_stuck.sql``).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import psycopg
from alembic import command, op
from alembic.config import Config
from alembic.script import Script, ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError

from app.errors import ConfigurationError

ROOT = Path(__file__).resolve().parent.parent
SQL_DIR = ROOT / "sql"
# Schema -> the folder it is built from, in the order of building: views may call functions.
INTERFACES = {"landed": SQL_DIR / "functions", "reporting": SQL_DIR / "views"}
# What pending() calls an interface that was built from other files than this release's.
STALE_INTERFACES = "interfaces"
# Any constant will do, as long as nobody else in the database uses it.
ADVISORY_LOCK = 0x4C414E444544  # "LANDED"

Connection = psycopg.Connection[Any]

_alembic_is_not_thread_safe = Lock()


def migrate(dsn: str) -> None:
    """Apply what is pending to the database at ``dsn`` and rebuild the interfaces; nothing to do is no work.

    Concurrent callers queue. Raises ConfigurationError when the database is newer than this release.
    """
    config = _config()
    config.attributes["dsn"] = dsn
    try:
        with _alembic_is_not_thread_safe:
            command.upgrade(config, "head")
    except (CommandError, RevisionError) as exc:
        raise ConfigurationError(f"cannot migrate: {exc}; is the database newer than this release?") from exc


def pending(dsn: str) -> list[str]:
    """What ``migrate`` would do, oldest first: revision names, then "interfaces"; empty when there is
    nothing.

    A database of a newer release has nothing pending: the previous release keeps running through a deploy.
    """
    with psycopg.connect(dsn, application_name="landed doctor") as connection:
        try:
            revisions = [f"{revision.revision}_{_slug(revision)}" for revision in pending_revisions(connection)]
        except RevisionError:
            return []
        return revisions if interfaces_are_current(connection) else [*revisions, STALE_INTERFACES]


def pending_revisions(connection: Connection) -> list[Script]:
    """Revisions the database has not seen, oldest first."""
    newest_first = _scripts().iterate_revisions("head", _current_revision(connection) or "base")
    return list(newest_first)[::-1]


def become_only_migrator(connection: Connection) -> None:
    """Hold the migrators' lock until the connection closes.

    Polls, because a session that *waits* for a lock holds a snapshot, and CREATE INDEX CONCURRENTLY in the
    session that has the lock would wait for that snapshot to end.
    """
    while True:
        row = connection.execute("SELECT pg_try_advisory_lock(%s)", (ADVISORY_LOCK,)).fetchone()
        if row is not None and row[0]:
            return
        time.sleep(0.1)


# -- for the revisions ---------------------------------------------------------------------------------------


def run_sql_beside(revision_file: str, *, transactional: bool) -> None:
    """Run the ``.sql`` file of the revision's name, in the upgrade's transaction or on its own."""
    sql = Path(revision_file).with_suffix(".sql").read_text()
    if transactional:
        run_sql(sql)
    else:
        run_committed([sql])


def run_sql(sql: str) -> None:
    """Run raw SQL on the driver's connection, where neither ``%`` nor ``:name`` means anything."""
    driver = op.get_bind().connection.driver_connection
    assert driver is not None
    driver.execute(sql)


def run_committed(scripts: Iterable[str]) -> None:
    """Run each script in a transaction of its own; a single statement may be one that refuses them."""
    with op.get_context().autocommit_block():
        for sql in scripts:
            run_sql(sql)


# -- the interfaces ------------------------------------------------------------------------------------------


def drop_interfaces(connection: Connection) -> None:
    """Drop the interface schemas and all in them; refuses to take anything of ``store`` along."""
    before = _store_objects(connection)
    for schema in INTERFACES:
        connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
    lost = before - _store_objects(connection)
    if lost:
        raise ConfigurationError(f"schema store must not depend on landed or reporting: {', '.join(sorted(lost))}")


def build_interfaces(connection: Connection, *, rebuild: bool) -> None:
    """Build the interface schemas, unless they were built from these very files and may stay."""
    if not rebuild and interfaces_are_current(connection):
        return
    drop_interfaces(connection)
    for schema in INTERFACES:
        connection.execute(f"CREATE SCHEMA {schema}")
    for folder in INTERFACES.values():
        for file in sorted(folder.glob("*.sql")):
            _run_file(connection, file)
    for schema in INTERFACES:
        connection.execute(f"COMMENT ON SCHEMA {schema} IS '{_built_from()}'")


def interfaces_are_current(connection: Connection) -> bool:
    rows = connection.execute(
        "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = ANY(%s)",
        (list(INTERFACES),),
    ).fetchall()
    return len(rows) == len(INTERFACES) and all(row[0] == _built_from() for row in rows)


def _run_file(connection: Connection, file: Path) -> None:
    try:
        connection.execute(file.read_text().encode())
    except psycopg.Error as exc:
        exc.add_note(f"in {file}")
        raise


def _built_from() -> str:
    digest = hashlib.sha256()
    for folder in INTERFACES.values():
        for file in sorted(folder.glob("*.sql")):
            digest.update(f"{folder.name}/{file.name}\0".encode() + file.read_bytes() + b"\0")
    return f"Rebuilt by each migration from sql/; sources {digest.hexdigest()[:16]}"


def _store_objects(connection: Connection) -> set[str]:
    """Everything in schema ``store`` that a cascade could take, by PostgreSQL's description of it."""
    rows = connection.execute(
        """
        SELECT pg_describe_object('pg_class'::regclass, c.oid, coalesce(a.attnum, 0))
          FROM pg_class c
          LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         WHERE c.relnamespace = to_regnamespace('store')
        UNION
        SELECT pg_describe_object('pg_proc'::regclass, oid, 0) FROM pg_proc
         WHERE pronamespace = to_regnamespace('store')
        UNION
        SELECT pg_describe_object('pg_type'::regclass, oid, 0) FROM pg_type
         WHERE typnamespace = to_regnamespace('store')
        UNION
        SELECT pg_describe_object('pg_constraint'::regclass, oid, 0) FROM pg_constraint
         WHERE connamespace = to_regnamespace('store')
        UNION
        SELECT pg_describe_object('pg_attrdef'::regclass, d.oid, 0)
          FROM pg_attrdef d JOIN pg_class c ON c.oid = d.adrelid
         WHERE c.relnamespace = to_regnamespace('store')
        UNION
        SELECT pg_describe_object('pg_trigger'::regclass, t.oid, 0)
          FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
         WHERE c.relnamespace = to_regnamespace('store')
        UNION
        SELECT pg_describe_object('pg_policy'::regclass, p.oid, 0)
          FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
         WHERE c.relnamespace = to_regnamespace('store')
        """
    ).fetchall()
    return {row[0] for row in rows}


# -- alembic's bookkeeping -----------------------------------------------------------------------------------


def _config() -> Config:
    return Config(ROOT / "alembic.ini")


@cache
def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _current_revision(connection: Connection) -> str | None:
    found = connection.execute("SELECT to_regclass('store.alembic_version') IS NOT NULL").fetchone()
    if found is None or not found[0]:
        return None
    row = connection.execute("SELECT version_num FROM store.alembic_version").fetchone()
    return None if row is None else str(row[0])


def _slug(revision: Script) -> str:
    return Path(revision.path).stem.removeprefix(f"{revision.revision}_")
