"""A recipient's slots may lie ahead, after one of a template, and leave the time before them free for others."""

from app.migrate import run_sql_beside

revision = "0007"
down_revision = "0006"
transactional = True


def upgrade() -> None:
    run_sql_beside(__file__, transactional=transactional)
