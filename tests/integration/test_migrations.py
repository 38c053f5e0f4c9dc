from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import psycopg
import pytest

from app import migrate as migrations
from app.errors import ConfigurationError
from app.migrate import STALE_INTERFACES, migrate, pending

# What a schema is made of, as text that does not depend on the schema's name or on the order of creation.
SHAPE = """
SELECT 'column', c.table_name, c.column_name, c.data_type, c.udt_name, c.is_nullable, c.column_default
  FROM information_schema.columns c WHERE c.table_schema = 'procrastinate'
UNION ALL
SELECT 'function', p.proname, pg_get_function_identity_arguments(p.oid), pg_get_function_result(p.oid),
       p.prosrc, p.provolatile::text, NULL
  FROM pg_proc p WHERE p.pronamespace = 'procrastinate'::regnamespace
UNION ALL
SELECT 'index', i.tablename, i.indexname, i.indexdef, NULL, NULL, NULL
  FROM pg_indexes i WHERE i.schemaname = 'procrastinate'
UNION ALL
SELECT 'trigger', t.tgrelid::regclass::text, t.tgname, pg_get_triggerdef(t.oid), NULL, NULL, NULL
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
 WHERE c.relnamespace = 'procrastinate'::regnamespace AND NOT t.tgisinternal
UNION ALL
SELECT 'constraint', o.conrelid::regclass::text, o.conname, pg_get_constraintdef(o.oid), NULL, NULL, NULL
  FROM pg_constraint o WHERE o.connamespace = 'procrastinate'::regnamespace
UNION ALL
SELECT 'label', t.typname, e.enumlabel, NULL, NULL, NULL, NULL
  FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid WHERE t.typnamespace = 'procrastinate'::regnamespace
UNION ALL
SELECT 'attribute', t.typname, a.attname, format_type(a.atttypid, a.atttypmod), NULL, NULL, NULL
  FROM pg_type t JOIN pg_attribute a ON a.attrelid = t.typrelid
 WHERE t.typnamespace = 'procrastinate'::regnamespace AND t.typtype = 'c'
   AND a.attnum > 0 AND NOT a.attisdropped
"""


def shape(dsn: str) -> set[tuple]:
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(SHAPE).fetchall()
    return {tuple(" ".join(value.split()) if isinstance(value, str) else value for value in row) for row in rows}


def test_replaying_procrastinates_migrations_gives_its_packaged_schema(dsn: str, empty_dsn: str):
    packaged = (files("procrastinate") / "sql" / "schema.sql").read_text()
    with psycopg.connect(empty_dsn) as connection:
        connection.execute("CREATE SCHEMA procrastinate")
        connection.execute("SET search_path TO procrastinate")
        connection.execute(packaged.encode())
    replayed, fresh = shape(dsn), shape(empty_dsn)
    assert replayed - fresh == set()
    assert fresh - replayed == set()


def test_nothing_is_pending_after_migrating_and_everything_before(empty_dsn: str):
    before = pending(empty_dsn)
    assert before[0] == "0001_procrastinate"
    assert before[-1] == STALE_INTERFACES
    migrate(empty_dsn)
    assert pending(empty_dsn) == []


def test_a_database_of_a_newer_release_is_left_alone(dsn: str):
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE store.alembic_version SET version_num = '9999'")
    assert pending(dsn) == []
    with pytest.raises(ConfigurationError, match="newer"):
        migrate(dsn)


def test_migrators_that_start_together_queue(empty_dsn: str):
    script = "import sys; from app.migrate import migrate; migrate(sys.argv[1])"
    command = [sys.executable, "-c", script, empty_dsn]
    together = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for migrator in together:
        _, errors = migrator.communicate()
        assert migrator.returncode == 0, errors
    assert pending(empty_dsn) == []


def test_procrastinate_is_begun_again_when_it_was_cut_short(empty_dsn: str):
    with psycopg.connect(empty_dsn) as connection:
        connection.execute("CREATE SCHEMA procrastinate")
        connection.execute("CREATE TABLE procrastinate.procrastinate_jobs (half int)")
    migrate(empty_dsn)
    assert pending(empty_dsn) == []


def test_a_procrastinate_schema_that_holds_jobs_is_not_dropped(empty_dsn: str):
    with psycopg.connect(empty_dsn) as connection:
        connection.execute("CREATE SCHEMA procrastinate")
        connection.execute("CREATE TABLE procrastinate.procrastinate_jobs AS SELECT 1 AS id")
    with pytest.raises(psycopg.errors.RaiseException, match="holds jobs"):
        migrate(empty_dsn)


# -- against a tree of migrations, functions and views of the test's own -------------------------------------

REVISION = """
from app.migrate import run_sql_beside
revision = {name!r}
down_revision = {after!r}
transactional = {transactional}
def upgrade():
    run_sql_beside(__file__, transactional=transactional)
"""


class Tree:
    """A project's ``sql`` directory with nothing in it but what the test writes."""

    def __init__(self, root: Path) -> None:
        self.sql = root / "sql"
        self.last: str | None = None
        (self.sql / "migrations" / "versions").mkdir(parents=True)
        for folder in ("functions", "views"):
            (self.sql / folder).mkdir()
        (self.sql / "migrations" / "env.py").write_text((migrations.SQL_DIR / "migrations" / "env.py").read_text())
        (root / "alembic.ini").write_text((migrations.ROOT / "alembic.ini").read_text())

    def revision(self, name: str, sql: str, *, transactional: bool = True) -> None:
        versions = self.sql / "migrations" / "versions"
        (versions / f"{name}_x.sql").write_text(sql)
        source = REVISION.format(name=name, after=self.last, transactional=transactional)
        (versions / f"{name}_x.py").write_text(source)
        self.last = name
        migrations._scripts.cache_clear()

    def view(self, name: str, sql: str) -> None:
        (self.sql / "views" / name).write_text(sql)

    def function(self, name: str, sql: str) -> None:
        (self.sql / "functions" / name).write_text(sql)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tree]:
    made = Tree(tmp_path)
    monkeypatch.setattr(migrations, "ROOT", tmp_path)
    interfaces = {"landed": made.sql / "functions", "reporting": made.sql / "views"}
    monkeypatch.setattr(migrations, "INTERFACES", interfaces)
    migrations._scripts.cache_clear()
    yield made
    migrations._scripts.cache_clear()


def rows(dsn: str, query: str) -> list[tuple]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(query.encode()).fetchall()


def test_raw_sql_means_what_it_says(empty_dsn: str, tree: Tree):
    tree.revision("0001", "CREATE TABLE store.t AS SELECT '50% :off %s'::text AS label; SELECT 7 % 4;")
    migrate(empty_dsn)
    assert rows(empty_dsn, "SELECT label FROM store.t") == [("50% :off %s",)]


def test_a_view_does_not_block_the_column_it_shows(empty_dsn: str, tree: Tree):
    tree.revision("0001", "CREATE TABLE store.t (old int)")
    tree.view("t.sql", "CREATE VIEW reporting.t AS SELECT old FROM store.t")
    migrate(empty_dsn)
    tree.revision("0002", "ALTER TABLE store.t DROP COLUMN old, ADD COLUMN new int")
    tree.view("t.sql", "CREATE VIEW reporting.t AS SELECT new FROM store.t")
    migrate(empty_dsn)
    assert rows(empty_dsn, "SELECT new FROM reporting.t") == []


def test_a_failed_upgrade_leaves_the_dashboards_standing(empty_dsn: str, tree: Tree):
    tree.revision("0001", "CREATE TABLE store.t AS SELECT 1 AS x")
    tree.view("t.sql", "CREATE VIEW reporting.t AS SELECT x FROM store.t")
    migrate(empty_dsn)
    tree.revision("0002", "CREATE TABLE store.half (x int)")
    tree.revision("0003", "SELECT 1/0")
    with pytest.raises(psycopg.errors.DivisionByZero):
        migrate(empty_dsn)
    assert rows(empty_dsn, "SELECT x FROM reporting.t") == [(1,)]
    assert rows(empty_dsn, "SELECT to_regclass('store.half')") == [(None,)]
    assert pending(empty_dsn) == ["0002_x", "0003_x"]


def test_views_are_built_in_name_order_and_rebuilt_when_only_they_changed(empty_dsn: str, tree: Tree):
    tree.revision("0001", "CREATE TABLE store.t AS SELECT 1 AS x")
    tree.view("20_outer.sql", "CREATE VIEW reporting.outer AS SELECT x + 1 AS y FROM reporting.inner")
    tree.view("10_inner.sql", "CREATE VIEW reporting.inner AS SELECT x FROM store.t")
    migrate(empty_dsn)
    assert pending(empty_dsn) == []
    tree.view("10_inner.sql", "CREATE VIEW reporting.inner AS SELECT x + 10 AS x FROM store.t")
    assert pending(empty_dsn) == [STALE_INTERFACES]
    migrate(empty_dsn)
    assert rows(empty_dsn, "SELECT y FROM reporting.outer") == [(12,)]


def test_a_broken_view_names_its_file_and_changes_nothing(empty_dsn: str, tree: Tree):
    tree.revision("0001", "CREATE TABLE store.t (x int)")
    tree.view("t.sql", "CREATE VIEW reporting.t AS SELECT no_such FROM store.t")
    with pytest.raises(psycopg.errors.UndefinedColumn) as failure:
        migrate(empty_dsn)
    assert "t.sql" in "".join(failure.value.__notes__)
    assert rows(empty_dsn, "SELECT to_regclass('store.t')") == [(None,)]


def test_an_interface_that_store_depends_on_is_never_dropped(empty_dsn: str, tree: Tree):
    tree.revision("0001", "CREATE TABLE store.t (x int)")
    tree.function("one.sql", "CREATE FUNCTION landed.one() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    migrate(empty_dsn)
    with psycopg.connect(empty_dsn) as connection:
        connection.execute("ALTER TABLE store.t ALTER COLUMN x SET DEFAULT landed.one()")
    tree.revision("0002", "CREATE TABLE store.u (x int)")
    with pytest.raises(ConfigurationError, match="default value for column x of table store.t"):
        migrate(empty_dsn)
    assert pending(empty_dsn) == ["0002_x"]


def test_an_index_is_built_concurrently_while_the_interfaces_stand(empty_dsn: str, tree: Tree):
    tree.revision("0001", "CREATE TABLE store.t AS SELECT 1 AS x")
    tree.view("t.sql", "CREATE VIEW reporting.t AS SELECT x FROM store.t")
    migrate(empty_dsn)
    # The index build itself records what stood at that moment.
    tree.revision(
        "0002",
        "CREATE FUNCTION store.witness(int) RETURNS int IMMUTABLE LANGUAGE sql"
        " AS $$ SELECT CASE WHEN to_regclass('reporting.t') IS NULL THEN 0 ELSE 1 END $$",
    )
    tree.revision("0003", "CREATE INDEX CONCURRENTLY t_x ON store.t (store.witness(x))", transactional=False)
    migrate(empty_dsn)
    assert rows(empty_dsn, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'store.t_x'::regclass") == [(True,)]
    with psycopg.connect(empty_dsn) as connection:
        connection.execute("SET enable_seqscan = off")
        found = connection.execute("SELECT count(*) FROM store.t WHERE store.witness(x) = 1").fetchone()
    assert found == (1,)


def test_the_alembic_command_works_on_the_database_of_the_environment(empty_dsn: str):
    alembic = [str(Path(sys.executable).with_name("alembic")), "-c", str(migrations.ROOT / "alembic.ini")]
    ran = subprocess.run(
        [*alembic, "upgrade", "head"],
        env={**os.environ, "LANDED_DATABASE_URL": empty_dsn},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert pending(empty_dsn) == []
    ran = subprocess.run([*alembic, "-x", f"dsn={empty_dsn}", "current"], capture_output=True, text=True, check=True)
    assert "(head)" in ran.stdout
