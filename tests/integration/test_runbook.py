"""The runbook's queries are typed in at bad moments: each of them runs."""

import re
from pathlib import Path

import pytest

RUNBOOK = Path(__file__).resolve().parents[2] / "docs" / "runbook.md"
STATEMENTS = [
    statement.strip()
    for block in re.findall(r"```sql\n(.*?)```", RUNBOOK.read_text(), re.DOTALL)
    for statement in block.split(";")
    if statement.strip()
]


@pytest.mark.parametrize("statement", STATEMENTS)
async def test_query_of_the_runbook_runs(conn, statement):
    await conn.execute(statement)


def test_runbook_names_only_scripts_that_exist():
    root = RUNBOOK.parents[1]
    assert all((root / script).exists() for script in re.findall(r"sql/ops/\w+\.sql", RUNBOOK.read_text()))
