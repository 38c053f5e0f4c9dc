"""Loads named statements from sql/queries/<file>.sql: ``-- name: claim_due`` begins one, the next name ends it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, LiteralString, cast

from psycopg.sql import SQL

ROOT = Path(__file__).resolve().parents[2] / "sql" / "queries"
NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)


def load(file: str) -> dict[str, SQL]:
    """The statements of one file by name. Raises ValueError on a name given twice, KeyError (at import of the module
    that asks) on a name that is not there: a misspelt statement stops the start."""
    text = (ROOT / f"{file}.sql").read_text(encoding="utf-8")
    parts = NAME.split(text)[1:]
    names, bodies = parts[::2], parts[1::2]
    if len(set(names)) != len(names):
        raise ValueError(f"{file}.sql names a statement twice")
    # The text comes from our own files, never from input: it may be called literal.
    return {name: SQL(cast(LiteralString, body.strip())) for name, body in zip(names, bodies, strict=True)}


def columns(rows: Iterable[object], **names: str) -> dict[str, list[Any]]:
    """Turns rows into the column arrays a set-based statement unnests: parameter name -> attribute of each row."""
    rows = list(rows)
    return {parameter: [getattr(row, attribute) for row in rows] for parameter, attribute in names.items()}
