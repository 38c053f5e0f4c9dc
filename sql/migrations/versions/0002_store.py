"""The tables: notifications, deliveries, attempts, events, and what they need to be right."""

from app.migrate import run_sql_beside

revision = "0002"
down_revision = "0001"
transactional = True


def upgrade() -> None:
    run_sql_beside(__file__, transactional=transactional)
