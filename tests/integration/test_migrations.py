from __future__ import annotations

from importlib.resources import files

import psycopg
import pytest

from app import migrate as migrations
from app.migrate import migrate, pending

# What a schema is made of, as text that does not depend on the schema's name or on the order of creation.
SHAPE = """
SELECT 'column', c.table_name, c.column_name, c.data_type, c.udt_name, c.is_nullable, c.column_default
  FROM information_schema.columns c WHERE c.table_schema = 'procrastinate'
UNION ALL
SELECT 'function', p.proname, pg_get_function_identity_arguments(p.oid), pg_get_function_result(p.oid), p.prosrc,
       p.provolatile::text, NULL
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
 WHERE t.typnamespace = 'procrastinate'::regnamespace AND t.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped
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
