"""Every named statement is one that PostgreSQL understands against the schema as it is."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest
from psycopg import pq

from app.store._queries import ROOT, load

STATEMENTS = [(file.stem, name) for file in sorted(ROOT.glob("*.sql")) for name in load(file.stem)]
PARAMETER = re.compile(r"%\((\w+)\)s")


def as_postgres_writes_it(statement: str) -> bytes:
    """``%(name)s`` becomes ``$n``, one number for a name however often it is used."""
    names = list(dict.fromkeys(PARAMETER.findall(statement)))
    numbered = PARAMETER.sub(lambda found: f"${names.index(found[1]) + 1}", statement)
    return numbered.replace("%%", "%").encode()


@pytest.fixture(scope="module")
def connection(shared_dsn: str):
    with psycopg.connect(shared_dsn) as conn:
        yield conn


@pytest.mark.parametrize(("file", "name"), STATEMENTS, ids=[f"{file}.{name}" for file, name in STATEMENTS])
def test_every_named_statement_prepares(connection: psycopg.Connection, file: str, name: str):
    statement = as_postgres_writes_it(load(file)[name].as_string())
    prepared = connection.pgconn.prepare(b"", statement)
    failed = prepared.status != pq.ExecStatus.COMMAND_OK
    connection.rollback()
    assert not failed, prepared.error_message.decode()


def test_there_are_statements_to_prepare():
    assert len(STATEMENTS) > 50
    assert {file for file, _ in STATEMENTS} == {file.stem for file in Path(ROOT).iterdir()}
