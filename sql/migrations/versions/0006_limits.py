"""Limits on what one recipient gets and on what one template sends."""

from app.migrate import run_sql_beside

revision = "0006"
down_revision = "0005"
transactional = True


def upgrade() -> None:
    run_sql_beside(__file__, transactional=transactional)
